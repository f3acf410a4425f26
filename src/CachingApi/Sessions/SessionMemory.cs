using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;
using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Sessions;

/// <summary>Taken by a read of a session before it asks Redis: memory serves its result only if no session has ended since.</summary>
/// <param name="Epoch">How often memory has been cleared.</param>
/// <param name="Ends">How often sessions of the user have ended, as far as this process has received it.</param>
internal readonly record struct SessionTicket(long Epoch, long Ends);

/// <summary>
/// Live sessions in the memory of this process (<see cref="SessionPolicy.MemoryTtl"/>). It is trusted only while
/// <see cref="SessionBackplane"/> receives its heartbeats, because all processes publish there which sessions have ended.
/// </summary>
/// <remarks>
/// A reader may still hold a session when the message about its end arrives:
/// 1. a reader asks Redis, which answers with the session;
/// 2. another process ends the session, and the message arrives: there is nothing here to remove;
/// 3. the reader keeps the session, which no message would ever remove.
/// So a session is kept with the ticket that its reader took before step 1, and is served only while that is the current one. An end
/// makes the tickets of its user void, which costs the user's other sessions one question to Redis each.
/// </remarks>
internal sealed class SessionMemory(IOptions<SessionPolicy> policy)
{
    private const int Capacity = 10_000;

    /// <summary>Users of one stripe disturb each other: if a session of one ends, Redis is asked for those of the others, too.</summary>
    private const int Stripes = 4096;

    private readonly ConcurrentLfu<TokenHash, Kept> _sessions =
        new(concurrencyLevel: 1, Capacity, new ThreadPoolScheduler(), EqualityComparer<TokenHash>.Default);

    private readonly long[] _ends = new long[Stripes];
    private long _epoch;
    private long _trustedUntil = long.MinValue;

    /// <summary>Whether sessions are kept here.</summary>
    public bool IsOn => policy.Value.MemoryTtl > TimeSpan.Zero;

    /// <summary>Whether every end of a session that was counted until 0.75 s ago has been received.</summary>
    public bool IsTrusted => Moment.Now.Milliseconds < Volatile.Read(ref _trustedUntil);

    /// <summary>How many sessions take room, those that are no longer served included.</summary>
    public int Held => _sessions.Count;

    public Session? Find(SessionToken token) =>
        IsTrusted
        && _sessions.TryGet(token.Digest, out var kept)
        && Moment.Now.Milliseconds < kept.Until.Milliseconds
        && kept.Ticket == Ticket(token.UserId)
            ? kept.Session
            : null;

    public SessionTicket Ticket(Guid userId) => new(Volatile.Read(ref _epoch), Volatile.Read(ref _ends[Stripe(userId)]));

    /// <param name="ticket">Taken before Redis was asked.</param>
    /// <param name="asked">When Redis was asked.</param>
    /// <param name="most">After which time Redis must be asked again.</param>
    public void Keep(SessionToken token, Session session, SessionTicket ticket, Moment asked, TimeSpan most)
    {
        if (IsOn)
        {
            var lifetime = most < policy.Value.MemoryTtl ? most : policy.Value.MemoryTtl;
            _sessions.AddOrUpdate(
                token.Digest, new(session, ticket, new(asked.Milliseconds + (long)lifetime.TotalMilliseconds)));
        }
    }

    /// <summary>Sessions of a user have ended or changed: none that was read before is served.</summary>
    public void Ended(Guid userId) => Interlocked.Increment(ref _ends[Stripe(userId)]);

    /// <summary>Messages may have been lost: no session that was read before is served.</summary>
    public void Clear() => Interlocked.Increment(ref _epoch);

    public void TrustUntil(Moment until) => Volatile.Write(ref _trustedUntil, until.Milliseconds);

    private static int Stripe(Guid userId) => (int)((uint)userId.GetHashCode() % Stripes);

    private sealed record Kept(Session Session, SessionTicket Ticket, Moment Until);
}
