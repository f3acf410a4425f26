using System.Diagnostics;
using CachingApi.Caching;
using CachingApi.Redis;
using CachingApi.Users;

namespace CachingApi.Experiments;

/// <summary>A stampede: the entry of one user is evicted, and then many callers read it at the same time.</summary>
internal sealed class Stampede(LabUser user, UserService users, Cache<User> cache)
{
    /// <exception cref="UnavailableException">Redis is away, so the entry cannot be evicted.</exception>
    public async Task<StampedeResult> RunAsync(int callers, CancellationToken cancel)
    {
        var id = await user.FindAsync(cancel);
        await cache.EvictAsync(id.ToString(), cancel);

        // Each call runs until it waits, so all callers have asked before the first one is answered.
        var answers = await Task.WhenAll(Enumerable.Range(0, callers).Select(_ => ReadAsync(id, cancel)));

        var times = answers.Select(answer => answer.Milliseconds).Order().ToArray();
        var kinds = answers.CountBy(answer => KindOf(answer.Result)).ToDictionary();
        return new()
        {
            Callers = callers,
            Loads = kinds.GetValueOrDefault(Kind.Load),
            Shared = kinds.GetValueOrDefault(Kind.Shared),
            Hits = kinds.GetValueOrDefault(Kind.Hit),
            Refused = kinds.GetValueOrDefault(Kind.Refused),
            P50 = times[times.Length / 2],
            P99 = times[times.Length * 99 / 100],
        };
    }

    private static Kind KindOf(CacheResult? result) => result switch
    {
        null => Kind.Refused,
        { Collapsed: true } => Kind.Shared,
        { Outcome: CacheOutcome.MemoryHit or CacheOutcome.RedisHit } => Kind.Hit,
        _ => Kind.Load,
    };

    private async Task<(CacheResult? Result, double Milliseconds)> ReadAsync(Guid id, CancellationToken cancel)
    {
        var begun = Stopwatch.GetTimestamp();
        CacheResult? result;
        try
        {
            result = (await users.FindAsync(id, cancel)).Untyped;
        }
        catch (UnavailableException)
        {
            result = null;
        }

        return (result, Math.Round(Stopwatch.GetElapsedTime(begun).TotalMilliseconds, 3));
    }

    private enum Kind
    {
        Load,
        Shared,
        Hit,
        Refused,
    }
}
