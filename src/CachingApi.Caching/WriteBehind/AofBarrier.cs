using CachingApi.Redis;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Waits by WAITAOF (Redis 7.2) until the writes that Redis has taken are on its disk, and on the disks of
/// <see cref="WriteBehindOptions.WaitForReplicas"/> replicas, if the server has the command and keeps an append-only file. That takes up
/// to a second with <c>appendfsync everysec</c>, and no time with <c>always</c>.
/// </summary>
/// <remarks>
/// WAITAOF blocks its connection, and waits only for writes of that connection. So it has its own connection, over which it first writes a
/// mark. Callers that arrive while a wait is under way share the next one (group commit).
/// </remarks>
internal sealed class AofBarrier(RedisConnections redis, WriteBehindQueue queue, IOptions<WriteBehindOptions> options) : IAsyncDisposable
{
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(5);

    private readonly Lock _lock = new();
    private ConnectionMultiplexer? _connection;
    private Task _current = Task.CompletedTask;
    private Task? _next;

    /// <summary>Whether the server can wait for its disk.</summary>
    public bool IsSupported { get; private set; }

    /// <summary>Finds out whether the server supports it.</summary>
    public async Task InspectAsync(CancellationToken cancel)
    {
        if (!options.Value.WaitForDisk)
        {
            return;
        }

        var server = redis.State.Multiplexer.GetServer(queue.Key);
        var persistence = await redis.OnStateAsync(_ => server.InfoAsync("persistence"), cancel);
        var command = await redis.OnStateAsync(_ => server.ExecuteAsync("COMMAND", "INFO", "WAITAOF"), cancel);
        IsSupported = persistence.SelectMany(section => section).Any(line => line is { Key: "aof_enabled", Value: "1" })
            && !command[0].IsNull;
    }

    /// <summary>Ends when all writes that Redis has taken until now are on its disk.</summary>
    /// <exception cref="UnavailableException">The writes were not on the disk in time.</exception>
    public Task WaitForFsyncAsync(CancellationToken cancel)
    {
        if (!IsSupported)
        {
            return Task.CompletedTask;
        }

        lock (_lock)
        {
            return (_next ??= AfterAsync(_current)).WaitAsync(cancel);
        }
    }

    public ValueTask DisposeAsync() => _connection?.DisposeAsync() ?? default;

    private async Task AfterAsync(Task current)
    {
        await current.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing | ConfigureAwaitOptions.ForceYielding);
        lock (_lock)
        {
            (_current, _next) = (_next!, null);
        }

        var replicas = options.Value.WaitForReplicas;
        try
        {
            _connection ??= await redis.ConnectToStateAsync("disk", Timeout);
            var mark = _connection.GetDatabase().StringSetAsync(queue.DiskMark, "1", Timeout);
            var result = (long[])(await _connection.GetServer(queue.DiskMark).ExecuteAsync(
                "WAITAOF", 1, replicas, (long)Timeout.TotalMilliseconds / 2))!;
            await mark;
            if (result[0] < 1 || result[1] < replicas)
            {
                throw new UnavailableException(result[0] < 1 ? "The disk of Redis" : "A replica of Redis");
            }
        }
        catch (Exception error) when (RedisConnections.IsOutage(error))
        {
            throw new UnavailableException("Redis", error);
        }
    }
}
