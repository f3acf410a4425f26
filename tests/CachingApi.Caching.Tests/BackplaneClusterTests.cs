using System.Globalization;
using System.Net;
using System.Text.RegularExpressions;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>As <see cref="BackplaneTests"/>, on the tests' own clusters: the loss of a message from any master is detected.</summary>
public sealed partial class BackplaneClusterTests(TestServers servers)
{
    private static readonly CacheOptions InMemory = new() { MemoryTtl = TimeSpan.FromMinutes(5), EarlyRefresh = false };

    [Theory]
    [InlineData("that it is subscribed at")]
    [InlineData("other than that it is subscribed at")]
    public async Task A_frozen_master_ends_trust_and_it_is_back_when_that_runs_again(string master)
    {
        await using var cluster = await RedisCluster.StartAsync();
        await using var node = await CacheNode.StartAsync(
            servers, CacheNode.On(cluster.ConnectionString, deadline: TimeSpan.FromMilliseconds(200)));
        var (engine, backplane, subscribed) = (new Engine(node.Services, InMemory), Of(node), SubscribedAt(node));
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
        var settings = CacheNode.On(cluster.ConnectionString);
        var node = await CacheNode.StartAsync(servers, settings);
        // Everything except the subscription is on a master that runs, including the generation.
        int origin;
        while ((origin = MasterOf(node, $"{node.KeyPrefix}:things:generation")) == SubscribedAt(node))
        {
            await node.DisposeAsync();
            node = await CacheNode.StartAsync(servers, settings);
        }

        await using var reader = node;
        await using var writer = await CacheNode.StartAsync(servers, settings, nodeOf: node);
        var subscribed = SubscribedAt(node);
        var (here, there) = (new Engine(writer.Services, InMemory), new Engine(node.Services, InMemory));
        var id = await IdOnAsync(node, origin);
        await Eventually.TrueAsync(async () => (await there.GetAsync(new Thing("old", 1), id)).Outcome is CacheOutcome.MemoryHit);

        // The origin cannot send its messages to the frozen node. When there are too many, it drops the link and the messages in it.
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

        await CacheNode.TrustedAsync(node, writer);
        Assert.Equal("new", Engine.Read(await there.GetAsync(Never, id))!.Name);
    }

    [Fact]
    public async Task A_master_that_has_failed_ends_trust_even_if_the_cluster_goes_on_without_it()
    {
        await using var cluster = await RedisCluster.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(cluster.ConnectionString));
        await Eventually.TrueAsync(() => Of(node).IsTrusted);
        var subscribed = SubscribedAt(node);
        // Not the first one, because the client asks it for the others.
        var failed = cluster.Ports.Last(port => port != subscribed);
        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{cluster.ConnectionString},allowAdmin=true");
        await ForEachAsync(connection, server => server.ExecuteAsync("CONFIG", "SET", "cluster-node-timeout", 500));
        await ForEachAsync(connection, server => server.ExecuteAsync("CONFIG", "SET", "cluster-require-full-coverage", "no"));
        var other = connection.GetServer($"127.0.0.1:{subscribed}");
        await cluster.PauseAsync(failed);
        await Eventually.TrueAsync(async () =>
            ((string)(await other.ExecuteAsync("CLUSTER", "NODES"))!).Contains("master,fail ", StringComparison.Ordinal));

        // More than a second, so that the masters are looked up again.
        await HeartbeatsAsync(other, 8);
        Assert.False(Of(node).IsTrusted);
        await cluster.ResumeAsync(failed);
        await Eventually.TrueAsync(() => Of(node).IsTrusted);
    }

    [Fact]
    public async Task A_master_that_has_handed_over_its_slots_is_no_longer_needed_for_trust()
    {
        await using var cluster = await RedisCluster.StartAsync();
        await using var node = await CacheNode.StartAsync(servers, CacheNode.On(cluster.ConnectionString));
        var (backplane, subscribed) = (Of(node), SubscribedAt(node));
        var emptied = cluster.Ports.First(port => port != subscribed);
        var interrupted = 0;
        backplane.Interrupted += () => Interlocked.Increment(ref interrupted);

        await using var connection = await ConnectionMultiplexer.ConnectAsync($"{cluster.ConnectionString},allowAdmin=true");
        // Otherwise it becomes a replica when it learns from its heir that no slot is left, and refuses the commands for the other slots.
        await ForEachAsync(connection, server => server.ExecuteAsync("CONFIG", "SET", "cluster-allow-replica-migration", "no"));
        var nodes = connection.GetServer($"127.0.0.1:{emptied}").ClusterConfiguration!.Nodes;
        var heir = nodes.Single(each => ((IPEndPoint)each.EndPoint!).Port == subscribed).NodeId;
        var slots = nodes.Single(each => ((IPEndPoint)each.EndPoint!).Port == emptied).Slots.Single();
        // First the owner itself, which would otherwise claim the slots again; in one batch, because its heartbeats are writes.
        var owner = connection.GetServer($"127.0.0.1:{emptied}");
        var numbers = Enumerable.Range(slots.From, slots.To - slots.From + 1);
        var flushed = owner.ExecuteAsync("FLUSHALL");
        await Task.WhenAll(numbers.Select(slot => AssignAsync(owner, slot, heir)));
        await flushed;
        await ForEachAsync(connection, server => Task.WhenAll(numbers.Select(slot => AssignAsync(server, slot, heir))));

        // Messages of the removed master may have been lost.
        await Eventually.TrueAsync(() => interrupted > 0 && backplane.IsTrusted);
        await cluster.PauseAsync(emptied);
        await HeartbeatsAsync(connection.GetServer($"127.0.0.1:{subscribed}"), 8);
        Assert.True(backplane.IsTrusted);
        await cluster.ResumeAsync(emptied);
    }

    private static async Task AssignAsync(IServer server, int slot, string heir)
    {
        while (true)
        {
            try
            {
                await server.ExecuteAsync("CLUSTER", "SETSLOT", slot, "NODE", heir);
                return;
            }
            catch (RedisServerException refusal) when (refusal.Message.Contains("still hold keys", StringComparison.Ordinal))
            {
                await server.ExecuteAsync("FLUSHALL"); // a heartbeat has come meanwhile
            }
        }
    }

    private static Backplane Of(CacheNode node) => node.Services.GetRequiredService<Backplane>();

    private static Task<Thing?> Never(CancellationToken stop) => throw new InvalidOperationException("It is cached.");

    private static int SubscribedAt(CacheNode node) => ((IPEndPoint)node.Services.GetRequiredService<RedisConnections>().Cache.Multiplexer
        .GetSubscriber().SubscribedEndpoint(RedisChannel.Literal(Of(node).Channel))!).Port;

    private static int MasterOf(CacheNode node, string key) =>
        ((IPEndPoint)node.Services.GetRequiredService<RedisConnections>().Cache.Multiplexer.GetServer(new RedisKey(key)).EndPoint).Port;

    /// <summary>An id whose entry is on this master.</summary>
    private static async Task<string> IdOnAsync(CacheNode node, int master)
    {
        var namespaces = node.Services.GetRequiredService<Namespaces>();
        var generation = (await namespaces.CurrentAsync("things", CancellationToken.None))!.Generation!.Value;
        return Enumerable.Range(0, int.MaxValue).Select(id => $"{id}")
            .First(id => MasterOf(node, namespaces.Key("things", generation, id).Text) == master);
    }

    /// <summary>Waits until this many further heartbeats have been published on a master.</summary>
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

    [GeneratedRegex("buffer_limit_exceeded:[1-9]")]
    private static partial Regex LinkGivenUp();

    [GeneratedRegex("cmdstat_publish:calls=(?<calls>[0-9]+)")]
    private static partial Regex Publishes();
}
