using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Text.RegularExpressions;
using CachingApi.Caching;
using CachingApi.Storage;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Tests.Caching;

/// <summary>When the backplane is trusted, and that no message is lost unnoticed.</summary>
public sealed partial class BackplaneTests(TestServers servers)
{
    private static readonly CacheSettings InMemory = new() { MemoryTtl = TimeSpan.FromMinutes(5), EarlyRefresh = false };

    [Fact]
    public async Task Each_message_is_received_once_if_redis_was_away_at_the_start()
    {
        await using var redis = await RedisServer.StartAsync();
        await redis.KillAsync();
        var settings = Settings(redis.ConnectionString);
        settings["Serilog:MinimumLevel:Override:CachingApi.Caching.Backplane"] = "Debug";
        await using var node = await ApiNode.StartAsync(servers, settings);
        await Eventually.TrueAsync(() =>
            node.Log.Count(line => line.Contains("heartbeat could not be sent", StringComparison.Ordinal)) >= 8);

        await redis.StartAgainAsync();

        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        Assert.Equal(Enumerable.Range(1, 100).Select(number => (long)number), await ReceivedAsync(node, redis.ConnectionString, 100));
    }

    [Fact]
    public async Task Messages_are_received_in_order()
    {
        await using var node = await ApiNode.StartAsync(servers);
        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        Of(node).Received += message => Thread.SpinWait(message.Number % 7 == 0 ? 20_000 : 1);

        Assert.Equal(Enumerable.Range(1, 2000).Select(number => (long)number), await ReceivedAsync(node, servers.Redis, 2000));
    }

    [Fact]
    public async Task A_message_that_cannot_be_handled_ends_neither_the_messages_nor_trust_for_good()
    {
        await using var node = await ApiNode.StartAsync(servers);
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

        // What the message said is not applied, so memory may be wrong.
        await Eventually.TrueAsync(() => backplane.IsTrusted && interrupted > 0);
    }

    [Fact]
    public async Task A_message_that_is_lost_between_the_connection_and_its_subscription_leaves_nothing_stale()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(redis.Port);
        await using var writer = await ApiNode.StartAsync(servers, Settings(redis.ConnectionString));
        await using var reader = await ApiNode.StartAsync(servers, Settings(proxy.ConnectionString), nodeOf: writer);
        await MemoryTierTests.TrustedAsync(writer, reader);
        var (here, there) = (new Engine(writer, InMemory), new Engine(reader, InMemory));
        await here.PutAsync(here.Key(), new("old", 1), CancellationToken.None);
        await Eventually.TrueAsync(async () => (await there.GetAsync(Never)).Outcome is CacheOutcome.MemoryHit);
        var (backplane, connection) = (Of(reader), reader.Services.GetRequiredService<Redis>().Cache.Multiplexer);
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
        await using var node = await ApiNode.StartAsync(servers, Settings(redis.ConnectionString));
        await MemoryTierTests.TrustedAsync(node);
        var (engine, backplane) = (new Engine(node, InMemory), Of(node));
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
        await using var node = await ApiNode.StartAsync(servers, Settings(proxy.ConnectionString));
        var backplane = Of(node);
        await Eventually.TrueAsync(() => backplane.IsTrusted);

        // Each way, so that a heartbeat takes longer than a second. They go on coming, four per second.
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
        await using var node = await ApiNode.StartAsync(servers, Settings(proxy.ConnectionString));
        var backplane = Of(node);
        await using var connection = await ConnectionMultiplexer.ConnectAsync(redis.ConnectionString);
        var (channel, subscriber) = (RedisChannel.Literal(backplane.Channel), connection.GetSubscriber());
        var heartbeats = new ConcurrentQueue<string>();
        await subscriber.SubscribeAsync(channel, (_, text) => heartbeats.Enqueue(text.ToString()));
        await Eventually.TrueAsync(() => backplane.IsTrusted && !heartbeats.IsEmpty);

        // From now on the node's own heartbeats do not reach Redis.
        await proxy.HoldAsync(":heartbeat\r\n").WaitAsync(TimeSpan.FromSeconds(30));
        var restored = new TaskCompletionSource();
        node.Services.GetRequiredService<Redis>().Cache.Multiplexer.ConnectionRestored += (_, _) => restored.TrySetResult();
        await ExecuteAsync(redis.ConnectionString, "CLIENT", "KILL", "TYPE", "pubsub");
        await restored.Task;
        await Eventually.TrueAsync(() => !backplane.IsTrusted);

        // As the last one that came back, but later: one that was under way meanwhile.
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
        await using var node = await ApiNode.StartAsync(servers, Settings(redis.ConnectionString));
        await Eventually.TrueAsync(() => Of(node).IsTrusted);

        await ExecuteAsync(redis.ConnectionString, "ACL", "SETUSER", "default", "resetchannels");
        // Of both channels that the library subscribes to: it does not try again.
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis.ConnectionString},allowAdmin=true");
        var server = connection.GetServers()[0];
        await Eventually.TrueAsync(async () =>
            RefusedSubscriptions().IsMatch((string)(await server.ExecuteAsync("INFO", "commandstats"))!) && !Of(node).IsTrusted);
        await ExecuteAsync(redis.ConnectionString, "ACL", "SETUSER", "default", "allchannels");

        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        Assert.Equal(new long[] { 1, 2, 3 }, await ReceivedAsync(node, redis.ConnectionString, 3));
    }

    [Theory]
    [InlineData("that it is subscribed at")]
    [InlineData("other than that it is subscribed at")]
    public async Task A_frozen_master_ends_trust_and_it_is_back_when_that_runs_again(string master)
    {
        await using var cluster = await RedisCluster.StartAsync();
        var settings = Settings(cluster.ConnectionString);
        settings["Cache:RedisDeadline"] = "00:00:00.200";
        await using var node = await ApiNode.StartAsync(servers, settings);
        await MemoryTierTests.TrustedAsync(node);
        var (engine, backplane, subscribed) = (new Engine(node, InMemory), Of(node), SubscribedAt(node));
        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("it", 1))).Outcome is CacheOutcome.MemoryHit);

        var frozen = master == "that it is subscribed at" ? subscribed : cluster.Ports.First(port => port != subscribed);
        await cluster.PauseAsync(frozen);
        await Eventually.TrueAsync(() => !backplane.IsTrusted);
        Assert.NotEqual(CacheOutcome.MemoryHit, (await engine.GetAsync(new Thing("it", 1))).Outcome);

        await cluster.ResumeAsync(frozen);
        await Eventually.TrueAsync(() => backplane.IsTrusted);
        await Eventually.TrueAsync(async () => (await engine.GetAsync(new Thing("it", 1))).Outcome is CacheOutcome.MemoryHit);
    }

    [Fact]
    public async Task A_message_that_is_lost_between_two_masters_leaves_nothing_stale()
    {
        await using var cluster = await RedisCluster.StartAsync();
        var settings = Settings(cluster.ConnectionString);
        var node = await ApiNode.StartAsync(servers, settings);
        await MemoryTierTests.TrustedAsync(node);
        // Everything but the subscription is at a master that runs: the generation, too.
        int origin;
        while ((origin = MasterOf(node, $"{node.KeyPrefix}:things:generation")) == SubscribedAt(node))
        {
            await node.DisposeAsync();
            node = await ApiNode.StartAsync(servers, settings);
            await MemoryTierTests.TrustedAsync(node);
        }

        await using var reader = node;
        await using var writer = await ApiNode.StartAsync(servers, settings, nodeOf: node);
        await MemoryTierTests.TrustedAsync(writer);
        var subscribed = SubscribedAt(node);
        var (here, there) = (new Engine(writer, InMemory), new Engine(node, InMemory));
        var id = await IdOnAsync(node, origin);
        await Eventually.TrueAsync(async () => (await there.GetAsync(new Thing("old", 1), id)).Outcome is CacheOutcome.MemoryHit);

        // The origin cannot send its messages to the frozen node. When they are too many, it gives up the link and the messages in it.
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"127.0.0.1:{origin},allowAdmin=true");
        var server = connection.GetServer($"127.0.0.1:{origin}");
        await cluster.PauseAsync(subscribed);
        for (var message = 0; message < 32; message++)
        {
            await server.ExecuteAsync("PUBLISH", "filling", new byte[1024 * 1024]);
        }

        await here.PutAsync(here.Key(id), new("new", 2), CancellationToken.None);
        // Two nodes send them, in turn.
        await HeartbeatsAsync(server, 6);
        await server.ExecuteAsync("CONFIG", "SET", "cluster-link-sendbuf-limit", 1024 * 1024);
        await Eventually.TrueAsync(async () => LinkGivenUp().IsMatch((string)(await server.ExecuteAsync("CLUSTER", "INFO"))!));
        await server.ExecuteAsync("CONFIG", "SET", "cluster-link-sendbuf-limit", 0);
        await Eventually.TrueAsync(() => !Of(node).IsTrusted);
        await cluster.ResumeAsync(subscribed);

        await MemoryTierTests.TrustedAsync(node, writer);
        Assert.Equal("new", Engine.Read(await there.GetAsync(Never, id))!.Name);
    }

    [Fact]
    public async Task A_master_that_has_failed_ends_trust_even_if_the_cluster_goes_on_without_it()
    {
        await using var cluster = await RedisCluster.StartAsync();
        await using var node = await ApiNode.StartAsync(servers, Settings(cluster.ConnectionString));
        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        var subscribed = SubscribedAt(node);
        // Not the first one, which is asked for the others.
        var failed = cluster.Ports.Last(port => port != subscribed);
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{cluster.ConnectionString},allowAdmin=true");
        await ForEachAsync(connection, server => server.ExecuteAsync("CONFIG", "SET", "cluster-node-timeout", 500));
        await ForEachAsync(connection, server => server.ExecuteAsync("CONFIG", "SET", "cluster-require-full-coverage", "no"));
        var other = connection.GetServer($"127.0.0.1:{subscribed}");
        await cluster.PauseAsync(failed);
        await Eventually.TrueAsync(async () =>
            ((string)(await other.ExecuteAsync("CLUSTER", "NODES"))!).Contains("master,fail ", StringComparison.Ordinal));

        // More than a second, in which the masters are looked up anew.
        await HeartbeatsAsync(other, 8);
        Assert.False(Of(node).IsTrusted);
        await cluster.ResumeAsync(failed);
        await Eventually.TrueAsync(() => Of(node).IsTrusted);
    }

    [Fact]
    public async Task A_master_that_has_handed_over_its_slots_is_no_longer_needed_for_trust()
    {
        await using var cluster = await RedisCluster.StartAsync();
        await using var node = await ApiNode.StartAsync(servers, Settings(cluster.ConnectionString));
        await MemoryTierTests.TrustedAsync(node);
        var (backplane, subscribed) = (Of(node), SubscribedAt(node));
        var emptied = cluster.Ports.First(port => port != subscribed);
        var interrupted = 0;
        backplane.Interrupted += () => Interlocked.Increment(ref interrupted);

        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{cluster.ConnectionString},allowAdmin=true");
        await connection.GetServer($"127.0.0.1:{emptied}").ExecuteAsync("FLUSHALL");
        var nodes = connection.GetServer($"127.0.0.1:{emptied}").ClusterConfiguration!.Nodes;
        var heir = nodes.Single(each => ((IPEndPoint)each.EndPoint!).Port == subscribed).NodeId;
        var slots = nodes.Single(each => ((IPEndPoint)each.EndPoint!).Port == emptied).Slots.Single();
        await ForEachAsync(connection, server => Task.WhenAll(Enumerable.Range(slots.From, slots.To - slots.From + 1)
            .Select(slot => server.ExecuteAsync("CLUSTER", "SETSLOT", slot, "NODE", heir))));

        // Messages of the master that is gone may have been lost.
        await Eventually.TrueAsync(() => interrupted > 0 && backplane.IsTrusted);
        await cluster.PauseAsync(emptied);
        await HeartbeatsAsync(connection.GetServer($"127.0.0.1:{subscribed}"), 8);
        Assert.True(backplane.IsTrusted);
        await cluster.ResumeAsync(emptied);
    }

    private static Backplane Of(ApiNode node) => node.Services.GetRequiredService<Backplane>();

    private static Task<Thing?> Never(CancellationToken stop) => throw new InvalidOperationException("It is cached.");

    private static int SubscribedAt(ApiNode node) => ((IPEndPoint)node.Services.GetRequiredService<Redis>().Cache.Multiplexer
        .GetSubscriber().SubscribedEndpoint(RedisChannel.Literal(Of(node).Channel))!).Port;

    private static int MasterOf(ApiNode node, string key) =>
        ((IPEndPoint)node.Services.GetRequiredService<Redis>().Cache.Multiplexer.GetServer(new RedisKey(key)).EndPoint).Port;

    /// <summary>An id whose entry is at a master.</summary>
    private static async Task<string> IdOnAsync(ApiNode node, int master)
    {
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var generation = (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation!.Value;
        return Enumerable.Range(0, int.MaxValue).Select(id => $"{id}")
            .First(id => MasterOf(node, namespaces.Key("things", generation, id).Text) == master);
    }

    /// <summary>Waits until so many more heartbeats have been published at a master.</summary>
    private static async Task HeartbeatsAsync(IServer master, int count)
    {
        async Task<int> PublishedAsync()
        {
            var statistics = (string)(await master.ExecuteAsync("INFO", "commandstats"))!;
            return int.Parse(Publishes().Match(statistics).Groups["calls"].Value, CultureInfo.InvariantCulture);
        }

        var before = await PublishedAsync();
        await Eventually.TrueAsync(async () => await PublishedAsync() >= before + count);
    }

    private static Task ForEachAsync(ConnectionMultiplexer connection, Func<IServer, Task> action) =>
        Task.WhenAll(connection.GetServers().Select(action));

    /// <summary>What a node has received when so many messages have been published, and the last of them has been received.</summary>
    private static async Task<long[]> ReceivedAsync(ApiNode node, string redis, int count)
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
    private static Task<RedisResult> PublishAsync(ApiNode node, ConnectionMultiplexer connection, int number) =>
        connection.GetServers()[0].ExecuteAsync("PUBLISH", Of(node).Channel, $"another {(int)BackplaneEvent.Changed} things {number} 1");

    private static async Task ExecuteAsync(string redis, string command, params object[] arguments)
    {
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{redis},allowAdmin=true");
        await connection.GetServers()[0].ExecuteAsync(command, arguments);
    }

    [GeneratedRegex("buffer_limit_exceeded:[1-9]")]
    private static partial Regex LinkGivenUp();

    [GeneratedRegex("cmdstat_publish:calls=(?<calls>[0-9]+)")]
    private static partial Regex Publishes();

    [GeneratedRegex("cmdstat_subscribe:.*rejected_calls=[2-9]")]
    private static partial Regex RefusedSubscriptions();

    private Dictionary<string, string> Settings(string redis) => new()
    {
        ["ConnectionStrings:Redis"] = redis,
        ["ConnectionStrings:RedisState"] = servers.Redis,
    };
}
