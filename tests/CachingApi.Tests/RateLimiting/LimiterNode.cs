using System.Buffers.Binary;
using System.Diagnostics.Metrics;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Tests.RateLimiting;

/// <summary>The limiter of a process, without a web host. Two on one prefix are two processes.</summary>
internal sealed class LimiterNode : IAsyncDisposable
{
    private readonly ServiceProvider _services = new ServiceCollection().AddMetrics().BuildServiceProvider();
    private readonly RedisConnections _connections;

    public LimiterNode(string redis, string prefix, TimeProvider? time = null)
    {
        time ??= TimeProvider.System;
        _connections = new(
            Options.Create(new RedisOptions { Cache = redis, KeyPrefix = prefix, StateDeadline = TimeSpan.FromSeconds(5) }),
            NullLogger<RedisConnections>.Instance);
        Redis = new(_connections, new(_connections), time, NullLogger<RedisLimits>.Instance);
        Leases = new(Redis, time);
        Rejections = new(time);
        Limiter = new(
            Redis, Leases, new(time), Rejections, new(_services.GetRequiredService<IMeterFactory>()), time);
    }

    public RedisLimits Redis { get; }

    public PermitLeases Leases { get; }

    public RejectionCache Rejections { get; }

    public RedisRateLimiter Limiter { get; }

    public IDatabase State => _connections.State;

    public string KeyPrefix => _connections.KeyPrefix;

    public static string NewPrefix() => $"test-{Guid.NewGuid():N}";

    public static RateLimitPolicy NewPolicy(
        string algorithm, int limit, TimeSpan window, string name = "it", string onStoreFailure = StoreFailure.Local) =>
        new(name, new() { Algorithm = algorithm, Limit = limit, Window = window, OnStoreFailure = onStoreFailure });

    public PermitRequest Request(RateLimitPolicy policy, string partition = "ip:203.0.113.7", int cost = 1) =>
        new(policy, policy.Key(KeyPrefix, partition), cost);

    /// <summary>Decides as the middleware does.</summary>
    public Task<Decision> DecideAsync(params PermitRequest[] requests) =>
        requests.Select(Limiter.Recall).OfType<Decision>().FirstOrDefault() is { } rejection
            ? Task.FromResult(rejection)
            : Limiter.DecideAsync(requests, CancellationToken.None);

    /// <summary>Permits that Redis counts as used in the current window or bucket, rounded to whole ones.</summary>
    public async Task<long> UsedAsync(RateLimitPolicy policy, string partition = "ip:203.0.113.7")
    {
        var state = (byte[]?)await State.StringGetAsync(policy.Key(KeyPrefix, partition)) ?? new byte[24];
        return policy.Algorithm is Algorithm.TokenBucket
            ? (BinaryPrimitives.ReadInt64BigEndian(state) + policy.WindowMilliseconds / 2) / policy.WindowMilliseconds
            : BinaryPrimitives.ReadInt64BigEndian(state.AsSpan(8));
    }

    /// <summary>How many scripts its Redis has run.</summary>
    public Task<int> CallsAsync() => RateLimitTests.CallsAsync(State.Multiplexer);

    /// <summary>Sends requests one after the other until the process holds a lease, which the last of them used.</summary>
    public async Task<int> BecomeHotAsync(PermitRequest request)
    {
        for (var sent = 1; sent < 10_000; sent++)
        {
            if (Leases.TryAcquire([request]) is not null)
            {
                return sent;
            }

            Assert.True((await DecideAsync(request)).Allowed);
        }

        throw new InvalidOperationException("The partition got no lease.");
    }

    /// <summary>Closes the connections and refunds nothing.</summary>
    public ValueTask CrashAsync() => _connections.DisposeAsync();

    public async ValueTask DisposeAsync()
    {
        await Leases.DisposeAsync();
        await _connections.DisposeAsync();
        await _services.DisposeAsync();
    }
}

/// <summary>The system's clock, whose wall time can be set, and whose timers stop when the process crashes.</summary>
internal sealed class NodeClock : TimeProvider
{
    private volatile bool _crashed;

    public TimeSpan Skew { get; set; }

    public override DateTimeOffset GetUtcNow() => base.GetUtcNow() + Skew;

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period) =>
        base.CreateTimer(
            argument =>
            {
                if (!_crashed)
                {
                    callback(argument);
                }
            },
            state,
            dueTime,
            period);

    public void Crash() => _crashed = true;
}
