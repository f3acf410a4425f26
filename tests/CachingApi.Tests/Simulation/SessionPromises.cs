using CachingApi.Caching.Tests.Simulation;
using CachingApi.Sessions;

namespace CachingApi.Tests.Simulation;

/// <summary>The promises of docs/guarantees.md about sessions, checked while a run goes on.</summary>
internal sealed class SessionPromises(World world)
{
    public const string LogoutCounts = "A logout counts";
    public const string StaysLoggedIn = "A session that no client has ended is accepted";

    private const long BoundMicros = 1_000_000;

    private readonly HashSet<SessionToken> _live = [];
    private readonly Dictionary<SessionToken, List<(Node Node, long At)>> _ended = [];

    /// <summary>How many calls to end all sessions were not acknowledged, so that Redis may still execute them.</summary>
    private int _open;

    /// <summary>How many calls to end all sessions have begun, and how many were acknowledged.</summary>
    public int Revocations { get; private set; }

    /// <summary>A login was answered.</summary>
    /// <param name="revocations">The number of revocations when it began.</param>
    public void Began(SessionToken token, int revocations)
    {
        if (revocations == Revocations && _open == 0)
        {
            _live.Add(token);
        }
    }

    /// <summary>A client asks to end all sessions, among them those that are just beginning.</summary>
    public void MayEndAll()
    {
        Revocations++;
        _open++;
    }

    /// <summary>That was acknowledged: Redis may have executed it after the beginning of a login that is under way.</summary>
    public void EndedAll()
    {
        Revocations++;
        _open--;
    }

    /// <summary>A client asks to end a session, so it may have ended.</summary>
    public void MayEnd(SessionToken token) => _live.Remove(token);

    /// <summary>The end of a session was acknowledged by a process.</summary>
    public void Ended(Node node, SessionToken token)
    {
        if (!_ended.TryGetValue(token, out var ends))
        {
            _ended[token] = ends = [];
        }

        ends.Add((node, world.Micros));
    }

    /// <summary>A session is used: whether the process must refuse it.</summary>
    public bool Begin(Node node, SessionToken token) => _ended.TryGetValue(token, out var ends)
        && ends.Exists(end => end.Node == node || end.At + BoundMicros <= world.Micros);

    /// <summary>A process has decided about the use of a session.</summary>
    public void End(Node node, SessionToken token, bool mustRefuse, bool accepted)
    {
        if (mustRefuse && accepted)
        {
            throw new BrokenPromiseException(LogoutCounts, $"{node.Name} accepts a session that has ended");
        }

        if (!accepted && _live.Contains(token))
        {
            throw new BrokenPromiseException(StaysLoggedIn, $"{node.Name} refuses a session that no client has ended");
        }
    }
}
