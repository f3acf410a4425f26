using System.Diagnostics.Metrics;
using CachingApi.Caching.Tests.Simulation;
using CachingApi.RateLimiting;
using Microsoft.Extensions.Logging.Abstractions;

namespace CachingApi.Tests.Simulation;

/// <summary>Rate limits: all processes share the permits of one partition, which is so hot that they lease permits.</summary>
internal sealed class LimitsSimulation : ServiceSimulation
{
    /// <summary>The counters of all processes: those of their own would stay registered when a run has ended.</summary>
    private static readonly RateLimitMetrics Metrics = new(new Meters());

    private readonly Dictionary<Node, RedisRateLimiter> _limiters = [];
    private readonly RateLimitPolicy _policy;
    private readonly LimitPromises _promises;
    private readonly bool _isRefunds;
    private readonly bool _isDenials;
    private readonly int _calls;
    private readonly int[] _pauses;
    private int _underWay;
    private bool _hasGivenUp;

    /// <param name="isRefunds">Whether the limit is never reached, so that all that counts is what Redis counts at last.</param>
    /// <param name="isDenials">
    /// Whether the limit is reached without leases, in a window that does not end: then a permit that is not used can be acquired.
    /// </param>
    public LimitsSimulation(string algorithm, bool isRefunds, bool isDenials, Choices choices, bool isTraced) : base(choices, isTraced)
    {
        (_isRefunds, _isDenials) = (isRefunds, isDenials);
        _policy = new("it", new()
        {
            Algorithm = algorithm,
            Limit = isRefunds ? 100_000 : 20 + (20 * choices.Next(4)),
            Window = isRefunds || isDenials ? TimeSpan.FromDays(20) : TimeSpan.FromSeconds(1),
            OnStoreFailure = isDenials ? StoreFailure.Closed : StoreFailure.Open,
        });
        _calls = 10 + choices.Next(50);
        _pauses = choices.Next(3) switch { 0 => [0], 1 => [0, 1, 2], _ => [0, 0, 0, 1, 20, 60] };
        _promises = new(_policy);
        if (isRefunds || isDenials)
        {
            choices.MaxHold = TimeSpan.FromMilliseconds(5); // a refund that misses its deadline is lost
        }
    }

    protected override bool HasFaults => !_isRefunds && !_isDenials;

    protected override void StartProcess(Node node)
    {
        var connections = Connect();
        var redis = new RedisLimits(connections, new(connections), node.Time, NullLogger<RedisLimits>.Instance);
        _limiters[node] = new(redis, new(redis, node.Time), new(node.Time), new(node.Time), Metrics, node.Time);
    }

    protected override async Task CallAsync(Node node)
    {
        var limiter = _limiters[node];
        await PauseAsync(node, 0, 200, 400, 450, 480, 490);
        for (var left = _calls; left > 0; left--)
        {
            await PauseAsync(node, _pauses);
            var request = new PermitRequest(_policy, _policy.Key("shop", "ip:203.0.113.7"), 1 + (Choices.OneIn(8) ? 1 : 0));
            if (limiter.Recall(request) is not null)
            {
                continue;
            }

            _underWay++;
            var deciding = limiter.DecideAsync([request], CancellationToken.None);
            // A lease decides at once, and its permits are used now. Redis decides when it executes the script.
            var isLeased = deciding.IsCompleted;
            var decision = (await deciding).Policies[0];
            _underWay--;
            _hasGivenUp |= decision.By is RateLimitMetrics.Fallback;
            if (decision.By is RateLimitMetrics.Denied)
            {
                _promises.Denied(request.Cost);
            }

            if (decision is { Outcome: PermitOutcome.Allowed, By: RateLimitMetrics.Allowed })
            {
                _promises.Used(isLeased ? World.Micros / 1000 : decision.Permits!.Value.Grant.Time, request.Cost);
                World.Note(node, isLeased ? "uses leased permits" : "gets permits from Redis");
            }
        }
    }

    protected override void CheckAtLast()
    {
        _promises.Check();
        if ((_isRefunds || _isDenials) && _underWay == 0 && !_hasGivenUp)
        {
            byte[][] get = [.. new[] { "GET", _policy.Key("shop", "ip:203.0.113.7") }.Select(RedisModel.Bytes)];
            _promises.CheckCounted((byte[]?)World.Servers["state"].Model.Execute(get, World.Micros));
        }
    }

    private sealed class Meters : IMeterFactory
    {
        public Meter Create(MeterOptions options) => new(options);

        public void Dispose()
        {
            // The meters have no listeners.
        }
    }
}
