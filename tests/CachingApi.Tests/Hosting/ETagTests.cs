using CachingApi.Hosting;

namespace CachingApi.Tests.Hosting;

public sealed class ETagTests
{
    private const ulong Contract = 1;
    private const ulong Other = 2;

    [Fact]
    public void A_body_of_another_shape_has_another_tag()
    {
        var (contract, other) = (ETags.Shape(Contract, Contract), ETags.Shape(Other, Contract));

        Assert.Equal("\"v5\"", ETags.Of(5, contract));
        Assert.Equal("\"v5-0000000000000002\"", ETags.Of(5, other));
        Assert.False(ETags.Matches("\"v5\"", ETags.Of(5, other)));
        Assert.False(ETags.Matches("\"v5-0000000000000002\"", ETags.Of(5, contract)));
    }

    [Theory]
    [InlineData(Contract, "\"v5\"", 5)]
    [InlineData(Contract, "\"v5-0000000000000002\"", null)]
    [InlineData(Other, "\"v5-0000000000000002\"", 5)]
    [InlineData(Other, "\"v5\"", null)]
    [InlineData(Other, "\"v5-0000000000000003\"", null)]
    public void A_precondition_with_a_tag_of_another_shape_is_not_met(ulong shape, string ifMatch, int? allowed) =>
        Assert.Equal(allowed is { } version ? [version] : [], ETags.Versions(ifMatch, ETags.Shape(shape, Contract)));
}
