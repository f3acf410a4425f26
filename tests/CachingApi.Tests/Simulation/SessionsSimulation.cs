using CachingApi.Caching.Tests.Simulation;
using CachingApi.Redis;
using CachingApi.Sessions;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;

namespace CachingApi.Tests.Simulation;

/// <summary>Sessions of one user: clients log in, use sessions, and end them in all ways that the service has.</summary>
internal sealed class SessionsSimulation : ServiceSimulation
{
    private static readonly int[][] Pauses = [[0, 0, 1], [0, 1, 30, 300, 900, 1200]];

    private readonly Dictionary<Node, SessionStore> _stores = [];
    private readonly List<SessionToken> _sessions = [];

    /// <summary>The id of each session, which a session keeps when it gets another token.</summary>
    private readonly Dictionary<SessionToken, Guid> _ids = [];
    private readonly SessionPromises _promises;
    private readonly Guid _user = new(7, 0, 0, new byte[8]);
    private readonly int _calls;
    private readonly int[] _pauses;
    private readonly bool _hasUses;

    public SessionsSimulation(Choices choices, bool isTraced) : base(choices, isTraced)
    {
        _promises = new(World);
        _calls = 1 + choices.Next(6);
        _pauses = Pauses[choices.Next(Pauses.Length)];
        _hasUses = choices.Next(4) < 3;
    }

    protected override void StartProcess(Node node)
    {
        var (redis, policy) = (Connect(), Options.Create(new SessionPolicy()));
        var memory = new SessionMemory(policy);
        var backplane = new SessionBackplane(redis, memory, NullLogger<SessionBackplane>.Instance);
        _ = ((IHostedService)backplane).StartAsync(CancellationToken.None);
        _stores[node] = new(redis, new(redis), memory, backplane, policy, node.Time);
    }

    protected override async Task CallAsync(Node node)
    {
        for (var left = _calls; left > 0; left--)
        {
            await PauseAsync(node, _pauses);
            var call = Choices.Next(_hasUses ? 8 : 4);
            try
            {
                if (_sessions.Count == 0 || call == 3)
                {
                    await LogInAsync(node);
                }
                else
                {
                    await CallAsync(node, call, _sessions[Choices.Next(_sessions.Count)]);
                }
            }
            catch (UnavailableException unavailable)
            {
                World.Note(node, $"the call fails: {unavailable.Message}");
            }
        }
    }

    /// <summary>Every session that has not ended is accepted, and every other one refused.</summary>
    protected override async Task LookAsync(Node node)
    {
        foreach (var token in _sessions.ToArray())
        {
            await UseAsync(node, token);
        }
    }

    private async Task LogInAsync(Node node)
    {
        var revocations = _promises.Revocations;
        var (token, session) = await _stores[node].CreateAsync(
            _user, "user", SessionTransport.Bearer, "a device", isShort: false, CancellationToken.None);
        Began(token, session.Id, revocations);
        World.Note(node, $"session {_sessions.Count} has begun");
    }

    private void Began(SessionToken token, Guid id, int revocations)
    {
        _sessions.Add(token);
        _ids[token] = id;
        _promises.Began(token, revocations);
    }

    private async Task CallAsync(Node node, int call, SessionToken token)
    {
        var (store, number) = (_stores[node], _sessions.IndexOf(token) + 1);
        switch (call)
        {
            case 0:
                if (Choices.Next(2) == 0)
                {
                    await EndAsync(
                        node, [token], isAll: false, $"session {number} ends", () => store.EndAsync(token, CancellationToken.None));
                }
                else
                {
                    // A session that is just getting another token ends, too.
                    SessionToken[] same = [.. _sessions.Where(each => _ids[each] == _ids[token])];
                    await EndAsync(
                        node,
                        same,
                        isAll: true,
                        $"session {number} ends by its id",
                        () => store.EndAsync(_user, _ids[token], CancellationToken.None));
                }

                break;
            case 1:
                await EndAsync(
                    node, [.. _sessions], isAll: true, "all sessions end", () => store.EndAllAsync(_user, CancellationToken.None));
                break;
            case 2:
                var next = Choices.Next(2) == 0 ? token : SessionToken.New(_user);
                var (goesOn, revocations) = (false, _promises.Revocations);
                SessionToken[] others = [.. _sessions.Where(each => each != token || next != token)];
                await EndAsync(
                    node,
                    others,
                    isAll: true,
                    next == token ? $"all sessions but {number} end" : $"all sessions but {number} end, which gets another token",
                    async () => goesOn = await store.EndOthersAsync(token, next, always: true, CancellationToken.None));
                if (goesOn && next != token)
                {
                    Began(next, _ids[token], revocations + 2); // this call has begun and ended
                }

                break;
            default:
                await UseAsync(node, token);
                break;
        }
    }

    private async Task EndAsync(Node node, SessionToken[] tokens, bool isAll, string what, Func<Task> end)
    {
        World.Note(node, $"a client calls: {what}");
        Array.ForEach(tokens, _promises.MayEnd);
        if (isAll)
        {
            _promises.MayEndAll();
        }

        await end();
        if (isAll)
        {
            _promises.EndedAll();
        }

        Array.ForEach(tokens, token => _promises.Ended(node, token));
        World.Note(node, $"is acknowledged: {what}");
    }

    private async Task UseAsync(Node node, SessionToken token)
    {
        var mustRefuse = _promises.Begin(node, token);
        var accepted = await _stores[node].UseAsync(token, SessionTransport.Bearer, CancellationToken.None) is not null;
        World.Note(node, $"session {_sessions.IndexOf(token) + 1} is {(accepted ? "accepted" : "refused")}");
        _promises.End(node, token, mustRefuse, accepted);
    }
}
