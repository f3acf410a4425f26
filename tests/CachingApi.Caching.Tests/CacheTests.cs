using System.Collections.Concurrent;
using CachingApi.Caching.Operations;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching.Tests;

/// <summary>The cache as a feature injects it, with and without a Redis.</summary>
public sealed class CacheTests(TestServers servers)
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task It_reads_writes_invalidates_deletes_and_clears(bool withRedis)
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis);
        var items = node.Services.GetRequiredService<Cache<Item>>();
        async Task<(CacheOutcome, string?)> ReadAsync() =>
            await items.GetAsync("1", CancellationToken.None) is var read ? (read.Outcome, read.Value?.Name) : default;

        Assert.Equal((CacheOutcome.Miss, "first"), await ReadAsync());
        Assert.Equal((CacheOutcome.MemoryHit, "first"), await ReadAsync());

        foreach (var strategy in new[] { WriteStrategy.WriteThrough, WriteStrategy.Invalidate, WriteStrategy.WriteBehind })
        {
            var written = await items.WriteAsync("1", new Rename($"{strategy}"), versions: null, strategy, CancellationToken.None);
            Assert.Equal(
                strategy is WriteStrategy.WriteBehind && withRedis ? WriteOutcome.Accepted : WriteOutcome.Committed, written.Outcome);
            Assert.Equal($"{strategy}", (await items.GetAsync("1", CancellationToken.None)).Value!.Name);
        }

        await Eventually.TrueAsync(() => shelf["1"].Name == "WriteBehind");
        Assert.Equal(
            WriteOutcome.VersionMismatch,
            (await items.WriteAsync("1", new Rename("late"), [1], WriteStrategy.WriteThrough, CancellationToken.None)).Outcome);

        shelf["1"] = new("outside", 100) { Fence = shelf["1"].Fence };
        await items.InvalidateAsync("1", shelf["1"], CancellationToken.None);
        Assert.Equal((CacheOutcome.Miss, "outside"), await ReadAsync());

        shelf["1"] = shelf["1"] with { Name = "unversioned" };
        await items.InvalidateAsync("1", CancellationToken.None);
        Assert.Equal((CacheOutcome.Miss, "unversioned"), await ReadAsync());
        await items.ClearAsync(CancellationToken.None);
        Assert.Equal((CacheOutcome.Miss, "unversioned"), await ReadAsync());

        Assert.Equal(
            WriteOutcome.Committed, (await items.DeleteAsync("1", (_, _) => shelf.DeleteAsync("1"), CancellationToken.None)).Outcome);
        Assert.Null((await ReadAsync()).Item2);
        Assert.Equal(CacheOutcome.NotCached, (await items.TryGetAsync("2", CancellationToken.None)).Outcome);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_slow_load_does_not_stay_after_a_write(bool withRedis)
    {
        var shelf = new Shelf { ["1"] = new("old", 1) };
        await using var node = await StartAsync(shelf, withRedis);
        var items = node.Services.GetRequiredService<Cache<Item>>();
        var (read, gate) = (new TaskCompletionSource(), new TaskCompletionSource());

        // 1. A load reads version 1; 2. version 2 is written; 3. the load ends.
        var slow = items.GetAsync(
            "1",
            async _ =>
            {
                var row = shelf["1"];
                read.SetResult();
                await gate.Task;
                return row;
            },
            CancellationToken.None).AsTask();
        await read.Task;
        await items.WriteAsync("1", new Rename("new"), versions: null, WriteStrategy.WriteThrough, CancellationToken.None);
        gate.SetResult();
        await slow;

        Assert.Equal("new", (await items.GetAsync("1", CancellationToken.None)).Value!.Name);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_late_write_through_does_not_bring_the_old_value_back(bool withRedis)
    {
        var shelf = new Shelf { ["1"] = new("third", 3) };
        await using var node = await StartAsync(shelf, withRedis);
        var items = node.Services.GetRequiredService<Cache<Item>>();
        var writes = node.Services.GetRequiredService<WriteThrough>();
        await items.GetAsync("2", CancellationToken.None); // the generation is known
        var began = Redis.Moment.Now;
        await Eventually.TrueAsync(() => Redis.Moment.Now.Milliseconds > began.Milliseconds);

        // An invalidation of version 3 came first, or a deletion as of version 3.
        await items.ApplyAsync(new("1", new(3)), CancellationToken.None);
        await items.ApplyAsync(new("2", new(3), IsDeletion: true), CancellationToken.None);
        foreach (var id in new[] { "1", "2" })
        {
            await writes.PutAsync(items.Key(id), new("second", 2), Redis.Moment.Now, CancellationToken.None);
        }

        Assert.Equal("third", (await items.GetAsync("1", CancellationToken.None)).Value!.Name);
        Assert.False((await items.GetAsync("2", CancellationToken.None)).Found);
    }

    [Fact]
    public async Task A_memory_hit_allocates_nothing()
    {
        await using var node = await StartAsync(new Shelf { ["1"] = new("it", 1) }, withRedis: false);
        var items = node.Services.GetRequiredService<Cache<Item>>();
        await items.GetAsync("1", CancellationToken.None);

        long Allocated()
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var hit = 0; hit < 20; hit++)
            {
#pragma warning disable CA2012 // Only completed tasks are expected.
                Assert.True(items.GetAsync("1", CancellationToken.None).IsCompletedSuccessfully);
#pragma warning restore CA2012
            }

            return GC.GetAllocatedBytesForCurrentThread() - before;
        }

        Allocated();
        Assert.Equal(0, Enumerable.Range(0, 50).Min(_ => Allocated()));
    }

    [Fact]
    public async Task A_write_that_was_accepted_anew_does_not_take_the_place_of_a_later_one()
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis: true);
        var (items, consumer) = await StopConsumerAsync(node);

        // 1. Writes 2 and 3 wait, the row gets a foreign fence, and the database refuses write 3.
        await items.WriteAsync("1", new Rename("second"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);
        await items.WriteAsync("1", new Rename("third"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);
        var ahead = TimeProvider.System.GetUtcNow().AddMinutes(5) - DateTimeOffset.UnixEpoch;
        shelf["1"] = shelf["1"] with { Fence = ahead.Ticks / TimeSpan.TicksPerMicrosecond };
        shelf.Refused.Add("third");
        await consumer.StartAsync(CancellationToken.None);

        // 2. Write 2 is accepted anew, under a token later than that of write 3, and persisted.
        await Eventually.TrueAsync(() => shelf["1"].Name == "second");
        shelf.Refused.Clear();

        // 3. Write 3 is still persisted.
        await Eventually.TrueAsync(() => shelf["1"].Name == "third");
        Assert.Empty(await items.DeadLetters!.ListAsync(10, CancellationToken.None));
    }

    /// <remarks>Found by a simulation.</remarks>
    [Fact]
    public async Task A_write_that_was_persisted_does_not_come_back_after_a_later_one_was_given_up()
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis: true);
        var (items, consumer) = await StopConsumerAsync(node);
        var queue = node.Services.GetRequiredKeyedService<WriteBehind>("items").Queue;

        // 1. A consumer persists write 2, and dies before it has finished it.
        await items.WriteAsync("1", new Rename("second"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);
        var second = Assert.Single(await queue.ReadAsync(10, CancellationToken.None));
        await shelf.PersistAsync(
            [new("1", new("second"), second.Version, second.Token, second.Over)], CancellationToken.None);

        // 2. Another one persists write 3; 3. the database refuses write 4, whose token becomes the row's fence.
        await items.WriteAsync("1", new Rename("third"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);
        await items.WriteAsync("1", new Rename("fourth"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);
        shelf.Refused.Add("fourth");
        await consumer.StartAsync(CancellationToken.None);
        await Eventually.TrueAsync(async () => (await items.DeadLetters!.ListAsync(10, CancellationToken.None)).Count == 1);
        await consumer.StopAsync(CancellationToken.None);
        Assert.Equal("third", shelf["1"].Name);

        // 4. Write 2 is claimed. The row has write 3, which is later.
        Assert.Equal(
            FencedWrite.Superseded,
            await queue.ReacceptAsync(second, shelf["1"].Fence, shelf["1"].Version, CancellationToken.None));
    }

    /// <remarks>Found by seed 559 of the simulation "write-behind without capture".</remarks>
    [Fact]
    public async Task A_write_between_two_that_are_given_up_at_the_same_time_is_not_lost()
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis: true);
        var queue = node.Services.GetRequiredKeyedService<WriteBehind>("items").Queue;
        var (second, third, fourth) = await ThreeWaitingWritesAsync(node);

        // 1. One consumer gives up write 4, and another one write 2: both have read the row; 2. the row gets the later token of the two.
        await queue.GiveUpAsync(fourth, new(1), CancellationToken.None);
        await queue.GiveUpAsync(second, new(1), CancellationToken.None);
        await shelf.BumpVersionAsync("1", new(fourth.Version, fourth.Token), CancellationToken.None);
        await shelf.BumpVersionAsync("1", new(second.Version, second.Token), CancellationToken.None);

        // 3. The row has no write that is later than write 3.
        Assert.Equal(
            FencedWrite.Reaccepted,
            await queue.ReacceptAsync(third, shelf["1"].Fence, shelf["1"].Version, CancellationToken.None));
    }

    /// <remarks>Found by seed 7125 of the simulation "write-behind".</remarks>
    [Fact]
    public async Task Of_two_writes_that_are_accepted_anew_the_earlier_one_does_not_supersede_the_later_one()
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis: true);
        var queue = node.Services.GetRequiredKeyedService<WriteBehind>("items").Queue;
        var (second, third, fourth) = await ThreeWaitingWritesAsync(node);

        // 1. Write 4 is given up, and the row gets its token and a later version.
        await queue.GiveUpAsync(fourth, new(1), CancellationToken.None);
        await shelf.BumpVersionAsync("1", new(fourth.Version, fourth.Token), CancellationToken.None);
        await queue.FinishAsync([new(fourth, shelf["1"].Version, "refused")], CancellationToken.None);

        // 2. Write 3 is accepted anew, and the database refuses it for now; 3. write 2 is accepted anew and persisted.
        Assert.Equal(FencedWrite.Reaccepted, await DecideAsync(third));
        Assert.Equal(FencedWrite.Reaccepted, await DecideAsync(second));
        var anew = await queue.ReadAsync(10, CancellationToken.None);
        (third, second) = (anew[0], anew[1]);
        await shelf.PersistAsync([new("1", new("second"), second.Version, second.Token, second.Over)], CancellationToken.None);
        await queue.FinishAsync([new(second, shelf["1"].Version)], CancellationToken.None);

        // 4. Write 3 is tried again.
        Assert.Equal(FencedWrite.Reaccepted, await DecideAsync(third));

        Task<FencedWrite> DecideAsync(QueuedWrite write) =>
            queue.ReacceptAsync(write, shelf["1"].Fence, shelf["1"].Version, CancellationToken.None);
    }

    /// <remarks>Found by seed 9404 of the simulation "write-behind without capture".</remarks>
    [Fact]
    public async Task The_entry_of_a_write_that_is_given_up_is_invalidated_before_the_write_leaves_the_queue()
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis: true);
        var (items, consumer) = await StopConsumerAsync(node);
        var queue = node.Services.GetRequiredKeyedService<WriteBehind>("items").Queue;
        await items.WriteAsync("1", new Rename("refused"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);

        // The row is loaded before the write is given up, and to invalidate the entry. If the consumer then dies, another one claims
        // the write.
        var waiting = new ConcurrentQueue<long>();
        shelf.Refused.Add("refused");
        shelf.BeforeLoad = async () => waiting.Enqueue((await queue.StateAsync(CancellationToken.None)).Length);
        await consumer.StartAsync(CancellationToken.None);

        await Eventually.TrueAsync(async () => (await items.DeadLetters!.ListAsync(10, CancellationToken.None)).Count == 1);
        await Eventually.TrueAsync(() => waiting.Count == 2);
        Assert.Equal([1, 1], waiting);
    }

    [Fact]
    public async Task A_write_whose_consumer_dies_while_it_gives_it_up_becomes_a_dead_letter()
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis: true);
        var (items, consumer) = await StopConsumerAsync(node);
        var queue = node.Services.GetRequiredKeyedService<WriteBehind>("items").Queue;

        // 1. A consumer gives the write's token to the row; 2. it dies before the write is a dead letter.
        await items.WriteAsync("1", new Rename("refused"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);
        var refused = Assert.Single(await queue.ReadAsync(10, CancellationToken.None));
        await queue.GiveUpAsync(refused, new(1), CancellationToken.None);
        await shelf.BumpVersionAsync("1", new(refused.Version, refused.Token), CancellationToken.None);

        // 3. Another one claims the write, and finds its token in the row.
        await consumer.StartAsync(CancellationToken.None);
        await Eventually.TrueAsync(async () => (await items.DeadLetters!.ListAsync(10, CancellationToken.None)).Count == 1);
        Assert.Equal("first", shelf["1"].Name);
        Assert.Equal("first", (await items.GetAsync("1", CancellationToken.None)).Value!.Name);
    }

    [Fact]
    public async Task A_write_that_is_persisted_during_a_load_is_not_missed()
    {
        var shelf = new Shelf { ["1"] = new("first", 1) };
        await using var node = await StartAsync(shelf, withRedis: true);
        var (items, consumer) = await StopConsumerAsync(node);
        await items.WriteAsync("1", new Rename("second"), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);

        // 1. The load reads the row; 2. the write is persisted and no longer pending; 3. the load goes on with the row of step 1.
        var loaded = await items.LoadAsync(
            "1",
            async cancel =>
            {
                var row = shelf["1"];
                await consumer.StartAsync(cancel);
                var queue = node.Services.GetRequiredKeyedService<WriteBehind>("items").Queue;
                await Eventually.TrueAsync(async () => (await queue.StateAsync(cancel)).Length == 0);
                return row;
            },
            CancellationToken.None);

        Assert.Equal("second", loaded!.Name);
    }

    [Fact]
    public async Task An_invalid_declaration_is_refused_and_named()
    {
        await using var node = await StartAsync(new Shelf(), withRedis: false);
        var items = node.Services.GetRequiredService<Cache<Item>>();
        await Assert.ThrowsAsync<ArgumentException>(() => items.WriteAsync(
            "1", WriteStrategy.WriteBehind, (_, _) => Task.FromResult<WriteResult<Item>>(WriteOutcome.NotFound), CancellationToken.None));
        var noWriter = await Assert.ThrowsAsync<InvalidOperationException>(() => items.WriteAsync(
            "1", new Thing("it", 1), versions: null, WriteStrategy.WriteThrough, CancellationToken.None));
        Assert.Contains("Thing", noWriter.Message, StringComparison.Ordinal);

        var caching = new ServiceCollection().AddLogging().AddCaching();
        Assert.Throws<ArgumentException>(() => caching.AddCache<Item>("No capitals", _ => { }));
        caching.AddCache<Item>("items", cache => cache.Json(ItemJson.Default.Item).Configure(options => options.Ttl = TimeSpan.Zero));
        Assert.Throws<InvalidOperationException>(() => caching.AddCache<Item>("items-too", _ => { }));
        await using var provider = caching.Services.BuildServiceProvider();
        Assert.Contains(
            "Ttl",
            Assert.Throws<OptionsValidationException>(provider.GetRequiredService<Cache<Item>>).Message,
            StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Readers_share_the_object_of_an_entry_if_the_values_are_immutable_and_only_then(bool immutable)
    {
        await using var services = new ServiceCollection().AddLogging()
            .AddSingleton(new Shelf { ["1"] = new("it", 1) })
            .AddCaching()
            .AddCache<Item>("items", cache =>
            {
                cache.Json(ItemJson.Default.Item).LoadWith<Shelf>((from, id, _) => from.FindAsync(id));
                if (immutable)
                {
                    cache.Immutable();
                }
            })
            .Services.BuildServiceProvider();
        var items = services.GetRequiredService<Cache<Item>>();
        await items.GetAsync("1", CancellationToken.None);

        var (first, second) = (await items.GetAsync("1", CancellationToken.None), await items.GetAsync("1", CancellationToken.None));

        Assert.Equal((CacheOutcome.MemoryHit, CacheOutcome.MemoryHit), (first.Outcome, second.Outcome));
        Assert.Equal("it", first.Value!.Name);
        Assert.Equal(immutable, ReferenceEquals(first.Value, second.Value));
    }

    [Fact]
    public async Task Without_a_redis_the_log_reports_that_once()
    {
        await using var node = await StartAsync(new Shelf(), withRedis: false);
        Assert.Single(node.Log, line => line.Contains("No Redis is configured", StringComparison.Ordinal));
    }

    /// <summary>Nothing is persisted until the consumer is started again.</summary>
    private static async Task<(Cache<Item> Items, WriteBehindConsumer Consumer)> StopConsumerAsync(CacheNode node)
    {
        var consumer = node.Services.GetServices<IHostedService>().OfType<WriteBehindConsumer>().Single();
        await consumer.StopAsync(CancellationToken.None);
        return (node.Services.GetRequiredService<Cache<Item>>(), consumer);
    }

    /// <summary>Queues three writes of an entity and takes them off the queue, as a consumer that does not persist them yet.</summary>
    private static async Task<(QueuedWrite Second, QueuedWrite Third, QueuedWrite Fourth)> ThreeWaitingWritesAsync(CacheNode node)
    {
        var (items, _) = await StopConsumerAsync(node);
        foreach (var name in new[] { "second", "third", "fourth" })
        {
            await items.WriteAsync("1", new Rename(name), versions: null, WriteStrategy.WriteBehind, CancellationToken.None);
        }

        var queue = node.Services.GetRequiredKeyedService<WriteBehind>("items").Queue;
        var waiting = await queue.ReadAsync(10, CancellationToken.None);
        return (waiting[0], waiting[1], waiting[2]);
    }

    private Task<CacheNode> StartAsync(Shelf shelf, bool withRedis) => CacheNode.StartAsync(
        servers,
        options => (options.Redis, options.RedisState) = withRedis ? (options.Redis, options.RedisState) : (null, null),
        services: services =>
        {
            services.AddSingleton(shelf);
            services.AddCaching().AddCache<Item>("items", cache => cache
                .Configure(options => options.EarlyRefresh = false)
                .Json(ItemJson.Default.Item)
                .Version(item => item.Version)
                .Fence(item => item.Fence)
                .LoadWith<Shelf>((from, id, _) => from.FindAsync(id))
                .WriteBehindWith<Shelf, Rename>(ItemJson.Default.Rename));
        },
        log: LogLevel.Information);
}
