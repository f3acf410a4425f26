using CachingApi.Storage;

namespace CachingApi.Caching;

/// <summary>
/// Leases (Nishtala et al., NSDI 2013): across all processes, one at a time has the right to load an entry and to keep what it
/// loaded. The others are woken when it is done. A lease ends by itself soon after its holder has died, and a write breaks it.
/// </summary>
internal sealed class Leases(RedisTier tier, Backplane backplane, TimeProvider time)
{
    /// <summary>How long a lease outlives its holder; it is renewed while its holder loads.</summary>
    public static TimeSpan Duration { get; } = TimeSpan.FromSeconds(1);

    /// <summary>How often one that waits looks for itself, in case the message was lost or the holder died.</summary>
    private static readonly TimeSpan LookEvery = TimeSpan.FromMilliseconds(250);

    /// <summary>Takes the lease, unless the entry needs no load. While another holds it: waits, or has what is fresh still.</summary>
    /// <param name="freshBeyond">What is fresh beyond this time needs no load.</param>
    /// <exception cref="UnavailableException">The load that was waited for has failed: to try again at once would help nobody.</exception>
    public async Task<Lease> TakeAsync(string cache, string id, EntryKey key, DateTimeOffset freshBeyond, CancellationToken cancel)
    {
        var token = Guid.NewGuid().ToString("N");
        while (true)
        {
            var over = backplane.Expect(cache, id);
            try
            {
                var read = await tier.ReadOrLeaseAsync(key, token, Duration, freshBeyond, cancel);
                if (read.State is not LeaseState.Held || read.Entry?.IsFresh(time.GetUtcNow()) == true)
                {
                    return new(tier, cache, id, key, token, read);
                }

                if (!await over.WaitAsync(LookEvery, cancel))
                {
                    throw new UnavailableException("The source, as another process has just found,");
                }
            }
            catch (TimeoutException)
            {
                // Nothing was heard: look again.
            }
            finally
            {
                backplane.ExpectNoMore(cache, id, over);
            }
        }
    }
}

/// <summary>What was found in an entry's place, and the right to load it where <see cref="Granted"/>.</summary>
internal sealed class Lease : IAsyncDisposable
{
    private readonly RedisTier _tier;
    private readonly (string Cache, string Id) _thing;
    private readonly EntryKey _key;
    private readonly Timer? _renewal;

    public Lease(RedisTier tier, string cache, string id, EntryKey key, string token, LeaseRead read)
    {
        (_tier, _thing, _key, Token, Read) = (tier, (cache, id), key, token, read);
        if (Granted)
        {
            var every = Leases.Duration / 3;
            _renewal = new(_ => _ = tier.RenewAsync(key, token, Leases.Duration, CancellationToken.None), null, every, every);
        }
    }

    public string Token { get; }

    public LeaseRead Read { get; }

    public bool Granted => Read.State is LeaseState.Granted;

    /// <summary>Whether the load went well: those that wait go on, else they fail with it.</summary>
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
            await _tier.GiveBackAsync(_key, Token, _thing.Cache, _thing.Id, Loaded, CancellationToken.None);
        }
    }
}
