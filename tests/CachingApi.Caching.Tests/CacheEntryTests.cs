using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Caching.Tests;

public sealed class CacheEntryTests
{
    private static readonly DateTimeOffset Now = new(2026, 1, 2, 3, 4, 5, TimeSpan.Zero);
    private static readonly EntryKey Key = new("service:things:g1:1");

    [Fact]
    public void An_entry_reads_as_it_was_written()
    {
        var cache = Cache(new() { Ttl = TimeSpan.FromMinutes(10), StaleFor = TimeSpan.FromMinutes(5), Jitter = 0 });

        var entry = CacheEntry.Parse(Key, CacheEntry.Of(Key, cache, new Thing("it", 7), TimeSpan.FromMilliseconds(12.5), Now).Bytes)!;

        Assert.Equal(EntryKind.Value, entry.Kind);
        Assert.Equal(7, entry.Version);
        Assert.Equal(Now, entry.Created);
        Assert.Equal(Now.AddMinutes(10), entry.FreshUntil);
        Assert.Equal(Now.AddMinutes(15), entry.UsableUntil);
        Assert.Equal(TimeSpan.FromMilliseconds(12.5), entry.LoadTime);
        Assert.Equal("""{"Name":"it","Version":7}""", System.Text.Encoding.UTF8.GetString(entry.Body.Span));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(63)]
    public void A_cut_off_entry_is_a_miss(int length) =>
        Assert.Null(CacheEntry.Parse(Key, Entry().Bytes[..length]));

    [Theory]
    [InlineData(0)] // magic
    [InlineData(1)] // format
    [InlineData(2)] // kind
    [InlineData(2, 1)] // kind: negative
    [InlineData(4)] // hash of the key
    [InlineData(12)] // version
    [InlineData(27)] // fence
    [InlineData(28)] // created
    [InlineData(43)] // fresh until
    [InlineData(51)] // usable until
    [InlineData(52)] // checksum
    [InlineData(64)] // body
    public void An_entry_with_a_foreign_header_is_a_miss(int offset, byte change = 0xFF)
    {
        var bytes = Entry().Bytes.ToArray();
        bytes[offset] ^= change;
        Assert.Null(CacheEntry.Parse(Key, bytes));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)] // A tombstone has no checksum.
    public void An_entry_of_another_format_is_a_miss_and_still_ordered(bool isTombstone)
    {
        var bytes = (isTombstone ? CacheEntry.Tombstone(Key, new(7, 0), Now) : Entry()).Bytes.ToArray();
        bytes[1] = 1;
        Assert.Null(CacheEntry.Parse(Key, bytes));
        Assert.Equal(new(7, 0), CacheEntry.RevisionOf(Key, bytes));
        Assert.Null(CacheEntry.RevisionOf(new("service:things:g1:2"), bytes));
    }

    [Fact]
    public void A_body_of_another_shape_is_a_miss_and_still_ordered()
    {
        var renamed = TestCache.Of(Services, "things", new(), ThingJson.Default.RenamedThing, thing => thing.Version);
        Assert.NotEqual(renamed.Shape, Cache(new()).Shape);
        var key = Key with { Shape = renamed.Shape };

        var bytes = CacheEntry.Of(key, renamed, new("it", 7), TimeSpan.Zero, Now).Bytes;

        Assert.NotNull(CacheEntry.Parse(key, bytes));
        Assert.Null(CacheEntry.Parse(Key with { Shape = Cache(new()).Shape }, bytes));
        Assert.Equal(new(7, 0), CacheEntry.RevisionOf(Key, bytes.Span));
    }

    [Theory]
    [InlineData(1, 5, 2, 0, true)]
    [InlineData(2, 1, 2, 2, true)]
    [InlineData(2, 2, 2, 2, false)]
    [InlineData(3, 0, 2, 9, false)]
    public void Revisions_are_ordered_by_version_then_by_fence(long version, long fence, long otherVersion, long otherFence, bool older) =>
        Assert.Equal(older, new Revision(version, fence) < new Revision(otherVersion, otherFence));

    [Fact]
    public void A_reply_that_was_meant_for_another_key_is_a_miss() =>
        Assert.Null(CacheEntry.Parse(new("service:things:g1:2"), Entry().Bytes));

    [Fact]
    public void Lifetimes_are_shortened_at_random_by_the_jitter_at_most()
    {
        var cache = Cache(new() { Ttl = TimeSpan.FromSeconds(100), Jitter = 0.1 });
        var lifetimes = Enumerable.Range(0, 1000)
            .Select(_ => (CacheEntry.Of(Key, cache, new Thing("it", 1), TimeSpan.Zero, Now).FreshUntil - Now).TotalSeconds)
            .ToArray();

        Assert.All(lifetimes, lifetime => Assert.InRange(lifetime, 90, 100));
        // Of 1,000 draws from 10 seconds, each outer quarter contains at least one, except with a probability of 1 in 10^125.
        Assert.Contains(lifetimes, lifetime => lifetime < 92.5);
        Assert.Contains(lifetimes, lifetime => lifetime > 97.5);
    }

    [Fact]
    public void A_tombstone_is_never_an_answer()
    {
        var tombstone = CacheEntry.Tombstone(Key, new(5), Now);
        Assert.False(tombstone.IsFresh(Now.AddDays(-1)));
        Assert.False(tombstone.IsUsable(Now.AddDays(-1)));
    }

    private static CacheEntry Entry() => CacheEntry.Of(Key, Cache(new()), new Thing("it", 7), TimeSpan.Zero, Now);

    private static Cache<Thing> Cache(CacheOptions options) =>
        TestCache.Of(Services, "things", options, ThingJson.Default.Thing, thing => thing.Version);

    private static ServiceProvider Services { get; } =
        new ServiceCollection().AddLogging().AddCaching(caching => caching.Redis = "127.0.0.1:1").Services.BuildServiceProvider();
}
