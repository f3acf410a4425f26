using BitFaster.Caching.Lfu;
using BitFaster.Caching.Scheduler;
using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Sessions;

/// <summary>A read of a session takes a ticket before it asks Redis. Memory serves its result only if no session has ended since.</summary>
/// <param name="Epoch">The number of times that memory has been cleared.</param>
/// <param name="Ends">The number of ends of the user's sessions that this process has received.</param>
internal readonly record struct SessionTicket(long Epoch, long Ends);

/// <summary>
/// Live sessions in the memory of this process (<see cref="SessionPolicy.MemoryTtl"/>). Memory is trusted only while
/// <see cref="SessionBackplane"/> receives its heartbeats, because all processes publish the ends of sessions there.
/// </summary>
/// <remarks>
/// A reader may still hold a session when the message about its end arrives:
/// 1. a reader asks Redis, which answers with the session;
/// 2. another process ends the session, and the message arrives: memory has nothing to remove;
/// 3. the reader keeps the session, which no later message would remove.
/// So a session is kept with the ticket that its reader took before step 1, and is served only while that ticket is current. An end
/// invalidates the tickets of its user, which costs each of the user's other sessions one call to Redis.
/// </remarks>
internal sealed class SessionMemory(IOptions<SessionPolicy> policy)
{
    private const int Capacity = 10_000;

    /// <summary>
    /// The users of one stripe share a counter: if a session of one user ends, the sessions of the others are read again, too.
    /// </summary>
    private const int Stripes = 4096;

    private readonly ConcurrentLfu<TokenHash, Kept> _sessions =
        new(concurrencyLevel: 1, Capacity, new ThreadPoolScheduler(), EqualityComparer<TokenHash>.Default);

    private readonly long[] _ends = new long[Stripes];
    private long _epoch;
    private long _trustedUntil = long.MinValue;

    /// <summary>Whether sessions are kept in memory.</summary>
    public bool IsOn => policy.Value.MemoryTtl > TimeSpan.Zero;

    /// <summary>Whether this process has received every end of a session that was counted until 0.75 s ago.</summary>
    public bool IsTrusted => Moment.Now.Ticks < Volatile.Read(ref _trustedUntil);

    /// <summary>How many sessions use memory, including those that are no longer served.</summary>
    public int Held => _sessions.Count;

    public Session? Find(SessionToken token) =>
        IsTrusted
        && _sessions.TryGet(token.Digest, out var kept)
        && Moment.Now.Ticks < kept.Until.Ticks
        && kept.Ticket == Ticket(token.UserId)
            ? kept.Session
            : null;

    public SessionTicket Ticket(Guid userId) => new(Volatile.Read(ref _epoch), Volatile.Read(ref _ends[Stripe(userId)]));

    /// <param name="ticket">The ticket from before Redis was asked.</param>
    /// <param name="asked">When Redis was asked.</param>
    /// <param name="most">The time after which Redis must be asked again.</param>
    public void Keep(SessionToken token, Session session, SessionTicket ticket, Moment asked, TimeSpan most)
    {
        if (IsOn)
        {
            var lifetime = most < policy.Value.MemoryTtl ? most : policy.Value.MemoryTtl;
            _sessions.AddOrUpdate(
                token.Digest, new(session, ticket, asked.Plus(lifetime)));
        }
    }

    /// <summary>Called when sessions of a user have ended or changed: sessions that were read before are no longer served.</summary>
    public void Ended(Guid userId) => Interlocked.Increment(ref _ends[Stripe(userId)]);

    /// <summary>Called when messages may have been lost: sessions that were read before are no longer served.</summary>
    public void Clear() => Interlocked.Increment(ref _epoch);

    public void TrustUntil(Moment until) => Volatile.Write(ref _trustedUntil, until.Ticks);

    private static int Stripe(Guid userId) => (int)((uint)userId.GetHashCode() % Stripes);

    private sealed record Kept(Session Session, SessionTicket Ticket, Moment Until);
}
