using System.Net;
using System.Net.Http.Json;
using CachingApi.Caching;
using CachingApi.ChangeCapture;
using CachingApi.Orders;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Orders;

/// <summary>A further cached entity, declared as in docs/add-a-cache.md, in the running service.</summary>
public sealed class OrdersTests(TestServers servers)
{
    [Fact]
    public async Task A_declared_cache_appears_in_administration_and_metrics()
    {
        await using var api = await StartAsync();
        var orders = api.Services.GetRequiredService<OrderService>();
        using var admin = await api.AdminAsync();
        await orders.CreateAsync("1", "ada", 2, CancellationToken.None);
        await orders.CreateAsync("2", "ada", 3, CancellationToken.None);
        Assert.Equal(2, (await orders.FindAsync("1", CancellationToken.None)).Value!.Quantity);

        var stats = await (await admin.GetAsync("/cache/stats")).JsonAsync();
        var names = stats.GetProperty("caches").EnumerateArray().Select(cache => cache.GetProperty("cache").GetString()).ToArray();
        Assert.Superset(new HashSet<string?> { "users", "user-lists", "weather", "geocoding", "orders", "order-lists" }, names.ToHashSet());
        Assert.Equal(1, await api.MetricAsync("cache_loads_total", ("cache", "orders"), ("outcome", "loaded")));

        var stored = await (await admin.GetAsync("/cache/entries?key=orders:1")).JsonAsync();
        Assert.Equal("fresh", stored.GetProperty("redis").GetProperty("state").GetString());
        Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync("/cache/entries?key=orders:1")).StatusCode);
        Assert.Equal(CacheOutcome.Miss, (await orders.FindAsync("1", CancellationToken.None)).Outcome);

        Assert.Equal(HttpStatusCode.NoContent, (await admin.DeleteAsync("/cache/namespaces/orders")).StatusCode);
        Assert.Equal(HttpStatusCode.Accepted, (await admin.PostAsJsonAsync("/cache/warm", new { cache = "orders", top = 10 })).StatusCode);
        await Eventually.TrueAsync(async () => await api.MetricAsync("cache_loads_total", ("cache", "orders"), ("outcome", "loaded")) == 4);
        Assert.True((await orders.FindAsync("2", CancellationToken.None)).Outcome is CacheOutcome.MemoryHit or CacheOutcome.RedisHit);
    }

    [Theory]
    [InlineData(WriteStrategy.WriteThrough, WriteOutcome.Committed)]
    [InlineData(WriteStrategy.Invalidate, WriteOutcome.Committed)]
    [InlineData(WriteStrategy.WriteBehind, WriteOutcome.Accepted)]
    public async Task A_write_is_read_at_once_and_clears_the_list(WriteStrategy strategy, WriteOutcome outcome)
    {
        await using var api = await StartAsync();
        var orders = api.Services.GetRequiredService<OrderService>();
        await orders.CreateAsync("1", "ada", 2, CancellationToken.None);
        await orders.FindAsync("1", CancellationToken.None);
        Assert.Equal(2, Assert.Single(await QuantitiesAsync(orders)));

        var written = await orders.UpdateAsync("1", 7, strategy, CancellationToken.None);

        Assert.Equal((outcome, 7, 2), (written.Outcome, written.Value!.Quantity, written.Value.Version));
        Assert.Equal(7, (await orders.FindAsync("1", CancellationToken.None)).Value!.Quantity);
        await Eventually.TrueAsync(async () => await api.SqlAsync<int>("SELECT quantity FROM orders") == 7);
        await Eventually.TrueAsync(async () => await QuantitiesAsync(orders) is [7]);

        Assert.Equal(WriteOutcome.Committed, (await orders.DeleteAsync("1", CancellationToken.None)).Outcome);
        Assert.False((await orders.FindAsync("1", CancellationToken.None)).Found);
        Assert.Empty(await QuantitiesAsync(orders));
        Assert.Equal(WriteOutcome.NotFound, (await orders.UpdateAsync("1", 8, strategy, CancellationToken.None)).Outcome);
    }

    [Fact]
    public async Task A_change_in_psql_is_read_soon()
    {
        await using var api = await StartAsync(new() { ["Database:ChangeCapture"] = "true" });
        var orders = api.Services.GetRequiredService<OrderService>();
        await orders.CreateAsync("1", "ada", 2, CancellationToken.None);
        await orders.FindAsync("1", CancellationToken.None);
        await QuantitiesAsync(orders);

        await api.SqlAsync("UPDATE orders SET quantity = 9, version = version + 1");

        await Eventually.TrueAsync(async () => (await orders.FindAsync("1", CancellationToken.None)).Value!.Quantity == 9);
        await Eventually.TrueAsync(async () => await QuantitiesAsync(orders) is [9]);

        await api.SqlAsync("DELETE FROM orders");
        await Eventually.TrueAsync(async () => !(await orders.FindAsync("1", CancellationToken.None)).Found);
    }

    [Fact]
    public async Task Each_cache_has_its_own_queue_bound_and_dead_letters()
    {
        await using var api = await StartAsync(new() { ["WriteBehind:Capacity"] = "2", ["WriteBehind:MaxAttempts"] = "1" });
        var orders = api.Services.GetRequiredService<OrderService>();
        using var admin = await api.AdminAsync();
        var user = await api.CreateUserAsync();
        for (var id = 1; id <= 3; id++)
        {
            await orders.CreateAsync($"{id}", "ada", 1, CancellationToken.None);
        }

        await using (await RowLock.TakeAsync(api, "SELECT * FROM orders FOR UPDATE"))
        {
            Assert.Equal(
                WriteOutcome.Accepted, (await orders.UpdateAsync("1", 5, WriteStrategy.WriteBehind, CancellationToken.None)).Outcome);
            Assert.Equal(
                WriteOutcome.Accepted, (await orders.UpdateAsync("2", 5, WriteStrategy.WriteBehind, CancellationToken.None)).Outcome);
            var third = orders.UpdateAsync("3", 5, WriteStrategy.WriteBehind, CancellationToken.None); // the queue of orders is full
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(admin, user, "Behind")).StatusCode);
            await Eventually.TrueAsync(
                async () => await api.SqlAsync<string>($"SELECT display_name FROM users WHERE id = '{user.Id}'") == "Behind");
            Assert.False(third.IsCompleted);
        }

        await Eventually.TrueAsync(async () => await api.SqlAsync<long>("SELECT count(*) FROM orders WHERE quantity = 5") == 3);
        var queue = api.Services.GetRequiredKeyedService<WriteBehind>("orders").Queue;
        await Eventually.TrueAsync(async () => (await queue.StateAsync(CancellationToken.None)).Length == 0, "the queue to be empty");

        // The database refuses this write by an exception of a trigger.
        await api.SqlAsync("""
            CREATE FUNCTION no_debts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no debts'; END $$;
            CREATE TRIGGER no_debts BEFORE UPDATE ON orders FOR EACH ROW WHEN (NEW.quantity < 0) EXECUTE FUNCTION no_debts();
            """);
        Assert.Equal(WriteOutcome.Accepted, (await orders.UpdateAsync("1", -1, WriteStrategy.WriteBehind, CancellationToken.None)).Outcome);
        await Eventually.TrueAsync(async () => (await (await admin.GetAsync("/cache/dead-letters")).JsonAsync()).GetArrayLength() == 1);
        var letter = (await (await admin.GetAsync("/cache/dead-letters")).JsonAsync())[0];
        Assert.Equal(("orders", "1"), (letter.GetProperty("cache").GetString(), letter.GetProperty("key").GetString()));
        await Eventually.TrueAsync(async () => (await orders.FindAsync("1", CancellationToken.None)).Value!.Quantity == 5);
        Assert.Equal(1, await api.MetricAsync("write_behind_writes_total", ("cache", "orders"), ("outcome", "dead")));
        Assert.Equal(HttpStatusCode.NoContent,
            (await admin.DeleteAsync($"/cache/dead-letters/{letter.GetProperty("id").GetString()}?cache=orders")).StatusCode);
    }

    [Fact]
    public async Task Writes_of_two_caches_by_every_strategy_at_once_end_in_their_own_rows_in_order()
    {
        await using var one = await StartAsync();
        await using var other = await StartAsync(nodeOf: one);
        using var admin = await one.AdminAsync();
        var user = await one.CreateUserAsync();
        await one.Services.GetRequiredService<OrderService>().CreateAsync("1", "ada", 1, CancellationToken.None);
        var (seed, last) = (Random.Shared.Next(), 0);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);

        for (var round = 1; round <= 40; round++)
        {
            var (node, strategy) = (random.Next(2) == 0 ? one : other, (WriteStrategy)random.Next(3));
            var orders = node.Services.GetRequiredService<OrderService>();
            last = round + 1;
            var order = orders.UpdateAsync("1", last, strategy, CancellationToken.None);
            var put = PutAsync(admin, user, $"Name {last}");
            Assert.True((await order).Outcome is WriteOutcome.Committed or WriteOutcome.Accepted);
            Assert.True((await put).IsSuccessStatusCode);
            Assert.Equal(last, (await orders.FindAsync("1", CancellationToken.None)).Value!.Quantity);
        }

        await Eventually.TrueAsync(async () => await one.SqlAsync<int>("SELECT quantity FROM orders") == last
            && await one.SqlAsync<string>($"SELECT display_name FROM users WHERE id = '{user.Id}'") == $"Name {last}");
        Assert.Equal(0, (await (await admin.GetAsync("/cache/dead-letters")).JsonAsync()).GetArrayLength());
    }

    private async Task<ApiNode> StartAsync(Dictionary<string, string>? settings = null, ApiNode? nodeOf = null)
    {
        var all = new Dictionary<string, string>(settings ?? []);
        if (nodeOf is null)
        {
            all["ConnectionStrings:Postgres"] = await servers.CreateDatabaseAsync();
            await using var postgres = Npgsql.NpgsqlDataSource.Create(all["ConnectionStrings:Postgres"]);
            await using var command = postgres.CreateCommand(OrderRepository.Schema);
            await command.ExecuteNonQueryAsync();
        }

        return await ApiNode.StartAsync(
            servers, all, nodeOf, services: services => services.AddCaching().AddOrders(cache => cache.TrackTable("orders")));
    }

    private static Task<HttpResponseMessage> PutAsync(HttpClient admin, User user, string name) =>
        admin.PutAsJsonAsync($"/users/{user.Id}?strategy=write-behind", new { email = user.Email, displayName = name });

    private static async Task<int[]> QuantitiesAsync(OrderService orders) =>
        [.. (await orders.ListAsync("ada", CancellationToken.None)).Value!.Orders.Select(order => order.Quantity)];
}
