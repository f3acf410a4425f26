using CachingApi.Redis;

namespace CachingApi.Caching;

/// <summary>An entry that makes a load unnecessary: fresh beyond a time, and accepted by the reader.</summary>
/// <param name="FreshBeyond">The reader's time; for an early refresh, the expiry of the entry that it refreshes.</param>
/// <param name="Check">Fetches the data that <paramref name="Accepts"/> needs to check an entry.</param>
internal readonly record struct Wanted(DateTimeOffset FreshBeyond, Func<CacheEntry, bool> Accepts, EntryCheck? Check = null)
{
    public bool Is(CacheEntry? entry) => entry is { Kind: not EntryKind.Tombstone } && entry.FreshUntil > FreshBeyond && Accepts(entry);
}

/// <summary>
/// Leases (Nishtala et al., NSDI 2013): across all processes, one at a time has the right to load an entry and to keep the value.
/// A message wakes the others when the lease ends. A lease expires soon after its holder has died, and a write breaks it.
/// </summary>
internal sealed class Leases(RedisTier tier, Backplane backplane)
{
    /// <summary>How long a lease outlives its holder. While its holder loads, it renews the lease.</summary>
    public static TimeSpan Duration { get; } = TimeSpan.FromSeconds(1);

    /// <summary>For how long after a failed load no other load begins, if a stale entry can be served.</summary>
    public static TimeSpan BackOff { get; } = TimeSpan.FromSeconds(1);

    /// <summary>How often a waiting process polls, because a message may be lost and a holder may die.</summary>
    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(250);

    /// <summary>Takes the lease, unless the entry needs no load. While another process holds the lease, it waits.</summary>
    /// <exception cref="UnavailableException">
    /// Loads of two other processes have failed while this one waited. After the first failure, this process tries the load itself, because
    /// the fault may lie in the other process.
    /// </exception>
    public async Task<Lease> TakeAsync(string cache, string id, EntryKey key, Wanted wanted, CancellationToken cancel)
    {
        var token = Guid.NewGuid().ToString("N");
        var isRefused = false;
        for (var failures = 0; ;)
        {
            var over = backplane.WaitForLoad(cache, id);
            try
            {
                var read = await tier.ReadOrLeaseAsync(key, token, Duration, isRefused ? null : wanted.FreshBeyond, cancel);
                if (read.Entry is { } found && wanted.Check is { } check)
                {
                    await check.LearnAsync(found, cancel);
                }

                if (!isRefused && (read.State is LeaseState.Fresh && !wanted.Is(read.Entry)
                    || read.State is LeaseState.BackingOff && read.Entry is { } usable && !wanted.Accepts(usable)))
                {
                    // The script considers the entry fresh, but this build cannot read it, or this process has served a newer one.
                    isRefused = true;
                    continue;
                }

                // The holder of the lease may fill in another entry.
                isRefused = false;

                if (read.State is not LeaseState.Held || wanted.Is(read.Entry))
                {
                    return new(tier, cache, id, key, token, read);
                }

                if (!await over.WaitAsync(PollInterval, cancel) && ++failures == 2)
                {
                    throw new UnavailableException("The source, as other processes have just found,");
                }
            }
            catch (TimeoutException)
            {
                // No message has arrived: ask again.
            }
            finally
            {
                backplane.CancelWait(cache, id, over);
            }
        }
    }
}

/// <summary>The entry that is held, and the right to load it if <see cref="Granted"/>.</summary>
internal sealed class Lease : IAsyncDisposable
{
    private readonly RedisTier _tier;
    private readonly (string Cache, string Id) _entity;
    private readonly EntryKey _key;
    private readonly Timer? _renewal;

    public Lease(RedisTier tier, string cache, string id, EntryKey key, string token, LeaseRead read)
    {
        (_tier, _entity, _key, Token, Read) = (tier, (cache, id), key, token, read);
        if (Granted)
        {
            var every = Leases.Duration / 3;
            _renewal = new(_ => _ = tier.RenewAsync(key, token, Leases.Duration, CancellationToken.None), null, every, every);
        }
    }

    public string Token { get; }

    public LeaseRead Read { get; }

    public bool Granted => Read.State is LeaseState.Granted;

    /// <summary>Whether the load has succeeded. If so, the waiting processes go on; if not, they fail with it.</summary>
    public bool Loaded { get; set; }

    /// <summary>Whether the fill, which ends the lease, has taken place.</summary>
    public bool Ended { get; set; }

    public async ValueTask DisposeAsync()
    {
        if (_renewal is null)
        {
            return;
        }

        await _renewal.DisposeAsync();
        if (!Ended)
        {
            var backOff = Loaded ? TimeSpan.Zero : Leases.BackOff;
            await _tier.ReleaseAsync(_key, Token, _entity.Cache, _entity.Id, Loaded, backOff, CancellationToken.None);
        }
    }
}
