using CachingApi.Caching.Operations;

namespace CachingApi.Caching.Tests;

public sealed class HotKeysTests
{
    private static readonly DateTimeOffset Start = new(2026, 1, 1, 0, 0, 0, TimeSpan.Zero);

    private readonly HotKeys _keys = new();

    [Fact]
    public void The_most_read_keys_come_first_with_their_rates()
    {
        Read("rare", 10, Start);
        Read("hot", 100, Start);
        Read("warm", 30, Start);

        var top = _keys.Top(2, Start.AddSeconds(10));

        Assert.Equal([new HotKey("hot", 10), new HotKey("warm", 3)], top);
    }

    [Fact]
    public void A_sampled_hit_stands_for_all_hits_since_the_sampled_one_before()
    {
        Read("a", 1, Start);
        _keys.CountSampledHit("a", hits: 100, Start);
        _keys.CountSampledHit("b", hits: 400, Start);
        _keys.CountSampledHit("a", hits: 500, Start);

        Assert.Equal([new HotKey("b", 30), new HotKey("a", 20.1)], _keys.Top(10, Start.AddSeconds(10)));
    }

    [Fact]
    public void A_key_that_is_no_longer_read_is_forgotten_after_a_minute()
    {
        Read("old", 60, Start);
        Read("new", 6, Start.AddSeconds(31));

        Assert.Equal(["old", "new"], _keys.Top(10, Start.AddSeconds(32)).Select(key => key.Id));
        Assert.Equal(["new"], _keys.Top(10, Start.AddSeconds(62)).Select(key => key.Id));
        Assert.Empty(_keys.Top(10, Start.AddSeconds(200)));
    }

    [Fact]
    public void After_a_long_pause_the_keys_from_before_it_are_forgotten()
    {
        Read("old", 60, Start);

        Read("new", 60, Start.AddSeconds(100));

        Assert.Equal([new HotKey("new", 6)], _keys.Top(10, Start.AddSeconds(110)));
    }

    [Fact]
    public void A_hot_key_is_found_among_more_keys_than_there_are_counters()
    {
        for (var key = 0; key < 10_000; key++)
        {
            Read($"{key}", 1, Start);
            if (key > 1000 && key % 5 == 0)
            {
                Read("hot", 2, Start);
            }
        }

        var top = _keys.Top(1000, Start.AddSeconds(10));

        Assert.Equal("hot", top[0].Id);
        Assert.InRange(top[0].PerSecond, 350, 380);
        Assert.InRange(top.Count, 1, 100);
    }

    private void Read(string id, int times, DateTimeOffset now)
    {
        for (var time = 0; time < times; time++)
        {
            _keys.CountMiss(id, now);
        }
    }
}
