using CachingApi.Redis;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Waits until what Redis has taken is on its disk, and on those of <see cref="WriteBehindOptions.WaitForReplicas"/> replicas: WAITAOF
/// (Redis 7.2), where the server has it and keeps an append-only file. With <c>appendfsync everysec</c> that takes up to a second, with
/// <c>always</c> no time.
/// </summary>
/// <remarks>
/// WAITAOF holds up the connection that it is sent over, and counts what was written over that one. So it has a connection of its
/// own, over which it writes a mark first. Callers that come while one is under way share the next (group commit).
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

    /// <summary>Looks what the server can do.</summary>
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

    /// <summary>Ends when all that Redis has taken until now is on its disk.</summary>
    /// <exception cref="UnavailableException">It did not come to that in time.</exception>
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
