using System.Collections.Concurrent;
using System.Globalization;
using System.Text.RegularExpressions;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>When the backplane is trusted; the loss of a message is detected.</summary>
public sealed partial class BackplaneTests(TestServers servers)
{
    private static readonly CacheOptions InMemory = new() { MemoryTtl = TimeSpan.FromMinutes(5), EarlyRefresh = false };

    [Fact]
    public async Task Each_message_is_received_once_if_redis_was_away_at_the_start()
    {
        await using var redis = await RedisServer.StartAsync();
        await redis.KillAsync();
        await using var node = await CacheNode.StartAsync(
            servers, CacheNode.On(redis.ConnectionString), log: LogLevel.Debug, whenTrusted: false);
        await Eventually.TrueAsync(() =>
            node.Log.Count(line => line.Contains("heartbeat could not be sent", StringComparison.Ordinal)) >= 8);

        await redis.StartAgainAsync();

        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        Assert.Equal(Enumerable.Range(1, 100).Select(number => (long)number), await ReceivedAsync(node, redis.ConnectionString, 100));
    }

    [Fact]
    public async Task Messages_are_received_in_order()
    {
        await using var node = await CacheNode.StartAsync(servers);
        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        Of(node).Received += message => Thread.SpinWait(message.Number % 7 == 0 ? 20_000 : 1);

        Assert.Equal(Enumerable.Range(1, 2000).Select(number => (long)number), await ReceivedAsync(node, servers.Redis, 2000));
    }

    /// <remarks>
    /// Found by a simulation: 1. Redis loses all keys; 2. a process asks for the generation, and the script begins a new one; 3. the reply
    /// misses its deadline. Without its own message, the process would go on reading the old generation, in which no process writes.
    /// </remarks>
    [Fact]
    public async Task A_process_learns_its_own_new_generation_from_the_message_too()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var redis = node.Services.GetRequiredService<RedisConnections>();
        var space = node.Services.GetRequiredService<Namespaces>().Of("things");
        await new Engine(node.Services).KnowGenerationAsync();

        var moved = space.Highest + 1;
        var message = Of(node).Message(BackplaneEvent.Cleared, "things", "", string.Create(CultureInfo.InvariantCulture, $"{moved}"));
        await redis.Cache.PublishAsync(RedisChannel.Literal(Of(node).Channel), message);

        await Eventually.TrueAsync(() => space.Current.Generation == moved);
    }

    [Fact]
    public async Task A_message_that_cannot_be_handled_ends_neither_the_messages_nor_trust_for_good()
    {
        await using var node = await CacheNode.StartAsync(servers);
        var backplane = Of(node);
        await Eventually.TrueAsync(() => backplane.IsTrusted);
        var interrupted = 0;
        backplane.Interrupted += () => Interlocked.Increment(ref interrupted);
        backplane.Received += message =>
        {
            if (message.Number == 1)
            {
                throw new InvalidDataException("Not this one.");
            }
        };

        Assert.Equal(new long[] { 2 }, await ReceivedAsync(node, servers.Redis, 2));

        // The message was not applied, so memory may be wrong.
        await Eventually.TrueAsync(() => backplane.IsTrusted && interrupted > 0);
    }

    [Fact]
    public async Task A_message_that_is_lost_between_the_connection_and_its_subscription_leaves_nothing_stale()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var writer = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        await using var reader = await CacheNode.StartAsync(servers, CacheNode.On(proxy.ConnectionString), nodeOf: writer);
        var (here, there) = (new Engine(writer.Services, InMemory), new Engine(reader.Services, InMemory));
        await here.PutAsync(here.Key(), new("old", 1), CancellationToken.None);
        await Eventually.TrueAsync(async () => (await there.GetAsync(Never)).Outcome is CacheOutcome.MemoryHit);
        var (backplane, connection) = (Of(reader), reader.Services.GetRequiredService<RedisConnections>().Cache.Multiplexer);
        var interrupted = 0;
        backplane.Interrupted += () =>
        {
            Assert.False(backplane.IsTrusted);
            Interlocked.Increment(ref interrupted);
        };
        var restored = new TaskCompletionSource();
        connection.ConnectionRestored += (_, _) => restored.TrySetResult();

        var held = proxy.HoldAsync($"SUBSCRIBE\r\n${backplane.Channel.Length}\r\n{backplane.Channel}\r\n");
        await ExecuteAsync(redis.ConnectionString, "CLIENT", "KILL", "TYPE", "pubsub");
        await Task.WhenAll(held, restored.Task);
        Assert.False(backplane.IsTrusted);
        await there.GetAsync(Never);
        await there.GetAsync(Never);
        await here.PutAsync(here.Key(), new("new", 2), CancellationToken.None);
        proxy.Release();

        await Eventually.TrueAsync(() => backplane.IsTrusted);
        // A reader that read version 1 meanwhile must not keep it.
        Assert.NotEqual(0, interrupted);
        Assert.Equal("new", Engine.Read(await there.GetAsync(Never))!.Name);
        Assert.Equal("new", Engine.Read(await there.GetAsync(Never))!.Name);
    }

    [Fact]
    public async Task Late_heartbeats_suspend_trust_and_memory_is_kept()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        var (engine, backplane) = (new Engine(node.Services, InMemory), Of(node));
        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("it", 1))).Outcome is CacheOutcome.MemoryHit);
        var interrupted = 0;
        backplane.Interrupted += () => Interlocked.Increment(ref interrupted);

        await redis.PauseAsync();
        await Eventually.TrueAsync(() => !backplane.IsTrusted);
        await redis.ResumeAsync();
        await Eventually.TrueAsync(() => backplane.IsTrusted);

        Assert.Equal(0, interrupted);
        Assert.Equal(CacheOutcome.MemoryHit, (await engine.GetAsync(Never)).Outcome);
    }

    [Fact]
    public async Task A_channel_that_delivers_everything_late_is_not_trusted()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(proxy.ConnectionString));
        var backplane = Of(node);
        await Eventually.TrueAsync(() => backplane.IsTrusted);

        // In each direction, so that a heartbeat takes longer than a second. Heartbeats still arrive, four per second.
        proxy.Delay = TimeSpan.FromMilliseconds(600);
        await Eventually.TrueAsync(() => !backplane.IsTrusted);
        var trusted = new ConcurrentQueue<bool>();
        backplane.Received += _ => trusted.Enqueue(backplane.IsTrusted);
        await using var connection = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        for (var number = 1; number <= 8; number++)
        {
            await PublishAsync(node, connection, number);
            await Eventually.TrueAsync(() => trusted.Count == number);
        }

        Assert.DoesNotContain(true, trusted);
        proxy.Delay = TimeSpan.Zero;
        await Eventually.TrueAsync(() => backplane.IsTrusted);
    }

    [Fact]
    public async Task A_heartbeat_of_an_earlier_epoch_does_not_restore_trust()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(proxy.ConnectionString));
        var backplane = Of(node);
        await using var connection = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        var (channel, subscriber) = (RedisChannel.Literal(backplane.Channel), connection.GetSubscriber());
        var heartbeats = new ConcurrentQueue<string>();
        await subscriber.SubscribeAsync(channel, (_, text) => heartbeats.Enqueue(text.ToString()));
        await Eventually.TrueAsync(() => backplane.IsTrusted && !heartbeats.IsEmpty);

        // From now on the node's own heartbeats do not reach Redis.
        await proxy.HoldAsync(":heartbeat\r\n").WaitAsync(TimeSpan.FromSeconds(30));
        var restored = new TaskCompletionSource();
        node.Services.GetRequiredService<RedisConnections>().Cache.Multiplexer.ConnectionRestored += (_, _) => restored.TrySetResult();
        await ExecuteAsync(redis.ConnectionString, "CLIENT", "KILL", "TYPE", "pubsub");
        await restored.Task;
        await Eventually.TrueAsync(() => !backplane.IsTrusted);

        // Like the last heartbeat that came back, but later: a heartbeat that was under way meanwhile.
        var parts = heartbeats.Last().Split(' ');
        var (epoch, number) = (parts[2].Split('/')[0], long.Parse(parts[3], CultureInfo.InvariantCulture) + 1);
        var late = $"{parts[0]} {parts[1]} {epoch}/{Environment.TickCount64} {number} {parts[4]}";
        await Eventually.TrueAsync(async () => await subscriber.PublishAsync(channel, late) == 2);
        Assert.Equal(new long[] { 1 }, await ReceivedAsync(node, redis.ConnectionString, 1));
        Assert.False(backplane.IsTrusted);

        proxy.Release();
        await Eventually.TrueAsync(() => backplane.IsTrusted);
    }

    [Fact]
    public async Task A_subscription_that_redis_refused_is_replaced_by_one_that_receives_each_message_once()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(redis.ConnectionString));
        await Eventually.TrueAsync(() => Of(node).IsTrusted);

        await ExecuteAsync(redis.ConnectionString, "ACL", "SETUSER", "default", "resetchannels");
        // For both channels that the library subscribes to. The library does not try again.
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        var server = connection.GetServers()[0];
        await Eventually.TrueAsync(async () =>
            RefusedSubscriptions().IsMatch((string)(await server.ExecuteAsync("INFO", "commandstats"))!) && !Of(node).IsTrusted);
        await ExecuteAsync(redis.ConnectionString, "ACL", "SETUSER", "default", "allchannels");

        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        Assert.Equal(new long[] { 1, 2, 3 }, await ReceivedAsync(node, redis.ConnectionString, 3));
    }

    private static Backplane Of(CacheNode node) => node.Services.GetRequiredService<Backplane>();

    private static Task<Thing?> Never(CancellationToken stop) => throw new InvalidOperationException("It is cached.");

    /// <summary>Publishes this many messages; returns those that a node has received when the last of them has arrived.</summary>
    private static async Task<long[]> ReceivedAsync(CacheNode node, string redis, int count)
    {
        var received = new ConcurrentQueue<long>();
        void Receive(BackplaneMessage message) => received.Enqueue(message.Number);
        Of(node).Received += Receive;
        await using var connection = await ConnectionMultiplexer.ConnectAsync(redis);
        await Task.WhenAll(Enumerable.Range(1, count).Select(number => PublishAsync(node, connection, number)));
        await Eventually.TrueAsync(() => received.Contains(count));
        return [.. received];
    }

    /// <summary>A message of another process.</summary>
    private static Task<RedisResult> PublishAsync(CacheNode node, ConnectionMultiplexer connection, int number) =>
        connection.GetServers()[0].ExecuteAsync(
            "PUBLISH", Of(node).Channel, $"another {(int)BackplaneEvent.Invalidated} things {number} 1");

    private static async Task ExecuteAsync(string redis, string command, params object[] arguments)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis},allowAdmin=true");
        await connection.GetServers()[0].ExecuteAsync(command, arguments);
    }

    [GeneratedRegex("cmdstat_subscribe:.*rejected_calls=[2-9]")]
    private static partial Regex RefusedSubscriptions();
}
