using CachingApi.Sessions;

namespace CachingApi.Tests.Sessions;

public sealed class PreferredChecksTests
{
    [Fact]
    public async Task Only_a_few_passwords_of_one_account_are_preferred_at_once()
    {
        var (checks, busy, other) = (new PreferredChecks(), Guid.NewGuid(), Guid.NewGuid());
        var ends = new TaskCompletionSource();

        async Task<bool> CheckAsync(Guid account) => await checks.RunAsync(account, async preferred =>
        {
            await ends.Task;
            return preferred;
        });

        var all = Enumerable.Repeat(busy, PreferredChecks.MaxOfOne + 2).Append(other).Select(CheckAsync).ToArray();
        ends.SetResult();
        var preferred = await Task.WhenAll(all);

        Assert.Equal([.. Enumerable.Repeat(true, PreferredChecks.MaxOfOne), false, false, true], preferred);
        await Assert.ThrowsAsync<InvalidOperationException>(
            () => checks.RunAsync<bool>(busy, _ => throw new InvalidOperationException()));
        all = [.. Enumerable.Repeat(busy, PreferredChecks.MaxOfOne).Select(CheckAsync)];
        Assert.All(await Task.WhenAll(all), Assert.True);
    }
}
