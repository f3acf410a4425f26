using System.ComponentModel.DataAnnotations;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text.Json;
using CachingApi.Caching;
using CachingApi.Caching.Operations;
using CachingApi.Tests.Api;
using CachingApi.Tests.Caching;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.Extensions.DependencyInjection;
using Npgsql;
using StackExchange.Redis;

namespace CachingApi.Tests.Users;

/// <summary>Write-behind: a write is acknowledged from a durable queue, served at once, in the database soon, and never lost.</summary>
public sealed class WriteBehindTests(TestServers servers)
{
    [Fact]
    public async Task A_write_is_answered_202_is_shown_at_once_on_every_node_and_the_row_follows()
    {
        var memory = new Dictionary<string, string> { ["Cache:Users:MemoryTtl"] = "00:01:00" };
        await using var first = await ApiNode.StartAsync(servers, memory);
        await using var second = await ApiNode.StartAsync(servers, memory, nodeOf: first);
        await MemoryTierTests.TrustedAsync(first, second);
        var user = await first.CreateUserAsync();
        var (here, there) = (await first.AdminAsync(), await second.AdminAsync());
        await there.GetAsync($"/users/{user.Id}");

        await using (await TableLock.TakeAsync(first))
        {
            var answer = await PutAsync(here, user, "Behind");
            Assert.Equal(HttpStatusCode.Accepted, answer.StatusCode);
            Assert.Equal("\"v2\"", answer.ETag().Tag);
            Assert.Equal($"/users/{user.Id}", answer.Headers.Location!.ToString());
            var shown = (await answer.Content.ReadFromJsonAsync<User>())!;
            Assert.Equal(user with { DisplayName = "Behind", Version = 2, UpdatedAt = shown.UpdatedAt }, shown);
            Assert.True(shown.UpdatedAt > user.UpdatedAt);

            Assert.Equal(shown, await here.GetFromJsonAsync<User>($"/users/{user.Id}"));
            await Eventually.TrueAsync(
                async () => shown == await there.GetFromJsonAsync<User>($"/users/{user.Id}"), "the other node to receive the message");
            Assert.Equal("Ada Lovelace", (await RowAsync(first, user)).Name);

            // If nothing is cached, a load does not return the row without the pending write either.
            foreach (var (client, node) in new[] { (here, first), (there, second) })
            {
                await EmptyCacheAsync(node);
                var loaded = await client.GetAsync($"/users/{user.Id}");
                Assert.Contains("uri-miss", loaded.CacheStatus(), StringComparison.Ordinal);
                Assert.Equal(shown, await loaded.Content.ReadFromJsonAsync<User>());
            }
        }

        await PersistedAsync(first, user, "Behind", 2);
        await EmptyCacheAsync(first);
        Assert.Equal("\"v2\"", (await here.GetAsync($"/users/{user.Id}")).ETag().Tag);
        await Eventually.TrueAsync(async () => await first.MetricAsync("write_behind_queue_length") == 0, "the queue to be seen empty");
        await using (var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis))
        {
            Assert.NotNull(await redis.GetDatabase().KeyTimeToLiveAsync($"{{{first.KeyPrefix}:write-behind}}:thing:{user.Id}"));
        }

        Assert.Equal(1, await BothAsync("write_behind_writes_total", ("outcome", "persisted"), first, second));
    }

    /// <summary>If the load read the row before it asked for the pending write, it would find neither.</summary>
    [Fact]
    public async Task A_load_never_misses_a_write_that_is_persisted_meanwhile()
    {
        await using var state = await RedisServer.StartAsync();
        await using var proxy = new FaultProxy(state.Port);
        await using var writer = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = state.ConnectionString });
        await using var reader = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = proxy.ConnectionString }, nodeOf: writer);
        var user = await writer.CreateUserAsync();
        using var client = await writer.AdminAsync();

        Task<CacheResult<User>> load;
        await using (await TableLock.TakeAsync(writer))
        {
            await PutAsync(client, user, "Behind");
            await EmptyCacheAsync(writer);
            var asked = proxy.HoldAsync("HMGET");
            load = reader.Services.GetRequiredService<UserService>().FindAsync(user.Id, CancellationToken.None).AsTask();
            await asked;
        }

        await PersistedAsync(writer, user, "Behind", 2);
        await QueueEmptyAsync(writer);
        proxy.Release();

        Assert.Equal(2, (await load).Entry.Version);
    }

    [Fact]
    public async Task Several_writes_of_one_user_are_folded_into_the_last()
    {
        const int Writes = 50;
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        await using (await TableLock.TakeAsync(node))
        {
            for (var write = 1; write <= Writes; write++)
            {
                Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, $"Name {write}")).StatusCode);
            }
        }

        await PersistedAsync(node, user, $"Name {Writes}", Writes + 1);
        await Eventually.TrueAsync(
            async () => await node.MetricAsync("write_behind_writes_total", ("outcome", "persisted"))
                + await node.MetricAsync("write_behind_writes_total", ("outcome", "folded")) == Writes,
            "every write to be counted");
        Assert.InRange(await node.MetricAsync("write_behind_writes_total", ("outcome", "persisted")), 1, 3);
    }

    [Fact]
    public async Task The_consumer_invalidates_the_entry_if_the_writer_has_not_updated_it()
    {
        await using var first = await ApiNode.StartAsync(servers);
        await using var second = await ApiNode.StartAsync(servers, nodeOf: first);
        var user = await first.CreateUserAsync();
        HttpClient[] clients = [await first.AdminAsync(), await second.AdminAsync()];
        foreach (var client in clients)
        {
            await client.GetAsync($"/users/{user.Id}");
        }

        var change = JsonSerializer.SerializeToUtf8Bytes(
            new UserChange(user.Email, user.Email, "Behind", user.UpdatedAt), UserJson.Default.UserChange);
        await first.Services.GetRequiredKeyedService<WriteBehind>("users").AcceptAsync(
            $"{user.Id}", new(1), null, change, CancellationToken.None);

        await PersistedAsync(first, user, "Behind", 2);
        foreach (var client in clients)
        {
            await Eventually.TrueAsync(
                async () => (await client.GetAsync($"/users/{user.Id}")).ETag().Tag == "\"v2\"", "the write to be shown");
        }
    }

    [Fact]
    public async Task Lists_follow_the_row()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        async Task<string> NameAsync() =>
            (await client.GetFromJsonAsync<UserPage>("/users?limit=100"))!.Items.Single(item => item.Id == user.Id).DisplayName;

        Assert.Equal(user.DisplayName, await NameAsync());
        await PutAsync(client, user, "Behind");
        await Eventually.TrueAsync(async () => await NameAsync() == "Behind", "the list to be loaded anew");
    }

    [Fact]
    public async Task A_write_that_cannot_be_persisted_becomes_a_dead_letter_and_the_row_is_served_again()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["Serilog:MinimumLevel:Default"] = "Error" });
        var (user, bystander) = (await node.CreateUserAsync(), await node.CreateUserAsync());
        using var client = await node.AdminAsync();
        await PoisonAsync(node, "NEW.display_name = 'Thief'", "P0001");

        await using (await TableLock.TakeAsync(node))
        {
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "First")).StatusCode);
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Thief")).StatusCode);
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, bystander, "In the same batch")).StatusCode);
            Assert.Equal("Thief", (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
        }

        // Another acknowledged write of the same batch is not lost with the failed one.
        await PersistedAsync(node, bystander, "In the same batch", 2);
        var letter = (await DeadAsync(client, 1))[0];
        Assert.Equal("The database refuses the change (P0001).", letter.GetProperty("reason").GetString());
        Assert.Equal(user.Id.ToString(), letter.GetProperty("key").GetString());
        Assert.Equal(3, letter.GetProperty("version").GetInt64());
        Assert.Equal("Thief", letter.GetProperty("value").GetProperty("displayName").GetString());
        Assert.True(letter.GetProperty("acceptedAt").GetDateTime() < letter.GetProperty("diedAt").GetDateTime());
        await Eventually.TrueAsync(
            async () => await client.GetFromJsonAsync<User>($"/users/{user.Id}") is { DisplayName: "First", Version: > 3 } shown
                && shown.Email == user.Email,
            "the row to be served, as a newer version");
        Assert.Equal("First", (await RowAsync(node, user)).Name);
        Assert.Equal(1, await node.MetricAsync("write_behind_writes_total", ("outcome", "dead")));
        Assert.Equal(4, await node.MetricAsync("write_behind_writes_total", ("outcome", "retried")));
        Assert.Contains(
            node.Log,
            line => line.Contains(user.Id.ToString(), StringComparison.Ordinal)
                && line.Contains("is a dead letter", StringComparison.Ordinal));
        Assert.DoesNotContain(node.Log, line => line.Contains(user.Email, StringComparison.Ordinal));
        await Eventually.TrueAsync(async () => await node.MetricAsync("write_behind_dead_letters") == 1, "it to be measured");

        // A retry is a new write: it fails again while nothing has changed, and succeeds when the database accepts it.
        Assert.Equal(
            HttpStatusCode.Accepted, (await client.PostAsync($"/cache/dead-letters/{letter.GetProperty("id")}/retry", null)).StatusCode);
        var again = (await DeadAsync(client, 1, not: letter.GetProperty("id").GetString()))[0];
        await node.SqlAsync("DROP TRIGGER poison ON users");
        Assert.Equal(
            HttpStatusCode.Accepted, (await client.PostAsync($"/cache/dead-letters/{again.GetProperty("id")}/retry", null)).StatusCode);
        await Eventually.TrueAsync(async () => (await RowAsync(node, user)).Name == "Thief", "the retried write to be persisted");
        Assert.Equal("Thief", (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
        Assert.Empty((await (await client.GetAsync("/cache/dead-letters")).JsonAsync()).EnumerateArray());
        Assert.Equal(
            HttpStatusCode.NotFound, (await client.PostAsync($"/cache/dead-letters/{again.GetProperty("id")}/retry", null)).StatusCode);
    }

    [Fact]
    public async Task A_write_of_a_user_who_is_deleted_meanwhile_becomes_a_dead_letter_that_can_be_dropped()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        await using (var table = await TableLock.TakeAsync(node))
        {
            await PutAsync(client, user, "Too late");
            await table.SqlAsync($"DELETE FROM users WHERE id = '{user.Id}'");
        }

        var letter = (await DeadAsync(client, 1))[0];
        Assert.Equal("The entity does not exist.", letter.GetProperty("reason").GetString());
        await Eventually.TrueAsync(
            async () => (await client.GetAsync($"/users/{user.Id}")).StatusCode is HttpStatusCode.NotFound, "the user to be gone");
        Assert.Equal(
            HttpStatusCode.Conflict, (await client.PostAsync($"/cache/dead-letters/{letter.GetProperty("id")}/retry", null)).StatusCode);
        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync($"/cache/dead-letters/{letter.GetProperty("id")}")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await client.DeleteAsync($"/cache/dead-letters/{letter.GetProperty("id")}")).StatusCode);
        Assert.Equal(HttpStatusCode.BadRequest, (await client.DeleteAsync("/cache/dead-letters/not-an-id")).StatusCode);
    }

    [Fact]
    public async Task A_write_that_the_writer_s_own_code_cannot_persist_becomes_a_dead_letter_and_delays_no_other()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:MaxAttempts"] = "1" });
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        var change = JsonSerializer.SerializeToUtf8Bytes(
            new UserChange("a@b.org", "a@b.org", "Nobody", user.UpdatedAt), UserJson.Default.UserChange);

        await using (await TableLock.TakeAsync(node))
        {
            await node.Services.GetRequiredKeyedService<WriteBehind>("users").AcceptAsync(
                "no-guid", new(1), null, change, CancellationToken.None);
            await PutAsync(client, user, "Behind");
        }

        await PersistedAsync(node, user, "Behind", 2);
        Assert.Equal("no-guid", (await DeadAsync(client, 1))[0].GetProperty("key").GetString());
    }

    [Fact]
    public async Task The_deletion_of_an_account_drops_its_dead_letters_and_its_queued_writes_make_none()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:MaxAttempts"] = "1" });
        var (user, other) = (await node.CreateUserAsync(), await node.CreateUserAsync());
        using var client = await node.AdminAsync();
        await PoisonAsync(node, "NEW.display_name LIKE 'Refused%'", "P0001");
        await PutAsync(client, user, "Refused");
        await PutAsync(client, other, "Refused, too");
        await DeadAsync(client, 2);

        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync($"/users/{user.Id}")).StatusCode);

        var left = Assert.Single(await DeadAsync(client, 1));
        Assert.Equal($"{other.Id}", left.GetProperty("key").GetString());

        // Only now does a consumer give up a write of the user.
        var queue = node.Services.GetRequiredKeyedService<WriteBehind>("users").Queue;
        var writeBehind = node.Services.GetRequiredKeyedService<WriteBehind>("users");
        await writeBehind.AcceptAsync($"{user.Id}", new(1), null, "{}"u8.ToArray(), CancellationToken.None);
        await Eventually.TrueAsync(async () => (await queue.StateAsync(CancellationToken.None)).Length == 0, "the queue to be empty");
        await DeadAsync(client, 1);
    }

    [Fact]
    public async Task A_user_has_so_many_dead_letters_and_displaces_no_other_user_s()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:MaxAttempts"] = "1" });
        var (user, other) = (await node.CreateUserAsync(), await node.CreateUserAsync());
        using var client = await node.AdminAsync();
        await PoisonAsync(node, "NEW.display_name LIKE 'Refused%'", "P0001");
        async Task DieAsync(User whose, string name)
        {
            await PutAsync(client, whose, name);
            await Eventually.TrueAsync(async () => (await NamesAsync()).FirstOrDefault() == name, $"{name} to be a dead letter");
        }

        async Task<List<string>> NamesAsync() =>
        [
            .. (await (await client.GetAsync("/cache/dead-letters")).JsonAsync()).EnumerateArray()
                .Select(letter => letter.GetProperty("value").GetProperty("displayName").GetString()!),
        ];

        await DieAsync(other, "Refused, of another user");
        for (var number = 1; number <= WriteBehindQueue.MaxDeadLettersOfOne + 2; number++)
        {
            await DieAsync(user, $"Refused {number}");
        }

        var kept = Enumerable.Range(3, WriteBehindQueue.MaxDeadLettersOfOne).Reverse().Select(number => $"Refused {number}");
        Assert.Equal([.. kept, "Refused, of another user"], await NamesAsync());

        // If an administrator drops a dead letter, the bound still holds.
        var first = (await (await client.GetAsync("/cache/dead-letters")).JsonAsync())[0].GetProperty("id");
        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync($"/cache/dead-letters/{first}")).StatusCode);
        await DieAsync(user, "Refused once more");
        Assert.Equal(WriteBehindQueue.MaxDeadLettersOfOne + 1, (await NamesAsync()).Count);
    }

    [Fact]
    public async Task A_change_that_cannot_be_read_is_a_dead_letter_and_delays_no_other()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await using (var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis))
        {
            await redis.GetDatabase().StreamAddAsync(
                $"{{{node.KeyPrefix}:write-behind}}:queue",
                [new("id", $"{Guid.NewGuid()}"), new("version", 2), new("value", "not JSON")],
                messageId: "5-0");
        }

        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "After it")).StatusCode);

        await PersistedAsync(node, user, "After it", 2);
        var letter = (await DeadAsync(client, 1))[0];
        Assert.Equal("The queued change cannot be read.", letter.GetProperty("reason").GetString());
        Assert.Equal("not JSON", letter.GetProperty("value").GetString());
    }

    [Theory]
    [InlineData("write-through")]
    [InlineData("invalidate")]
    public async Task A_synchronous_write_that_comes_after_stays_whatever_was_pending_before_it(string strategy)
    {
        await using var first = await ApiNode.StartAsync(servers);
        await using var second = await ApiNode.StartAsync(servers, nodeOf: first);
        var user = await first.CreateUserAsync();
        var (here, there) = (await first.AdminAsync(), await second.AdminAsync());

        Task<HttpResponseMessage> after;
        await using (var table = await TableLock.TakeAsync(first))
        {
            await PutAsync(here, user, "Before");
            after = PutAsync(there, user, "After", strategy);
            await Eventually.TrueAsync(async () => await table.WaitersAsync() >= 2, "both to wait for the row");
        }

        Assert.Equal("\"v3\"", (await after).ETag().Tag);
        await QueueEmptyAsync(first);
        Assert.Equal(("After", 3), await RowAsync(first, user));
        foreach (var client in new[] { here, there })
        {
            Assert.Equal("After", (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
        }

        // A write-behind after that is the last write.
        Assert.Equal("\"v4\"", (await PutAsync(here, user, "Last")).ETag().Tag);
        await PersistedAsync(first, user, "Last", 4);
    }

    [Fact]
    public async Task Versions_have_no_gaps_if_strategies_take_turns()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        string[] strategies = ["write-through", "write-behind", "invalidate", "write-behind", "write-behind", "write-through"];
        foreach (var (strategy, version) in strategies.Zip(Enumerable.Range(2, strategies.Length)))
        {
            Assert.Equal($"\"v{version}\"", (await PutAsync(client, user, strategy, strategy)).ETag().Tag);
        }
    }

    [Fact]
    public async Task A_row_changed_in_sql_is_overwritten_and_served_with_its_later_version()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        await using (var table = await TableLock.TakeAsync(node))
        {
            await PutAsync(client, user, "Behind");
            await table.SqlAsync($"UPDATE users SET display_name = 'By hand', version = 7 WHERE id = '{user.Id}'");
        }

        await PersistedAsync(node, user, "Behind", 8);
        await Eventually.TrueAsync(
            async () => (await client.GetAsync($"/users/{user.Id}")).ETag().Tag == "\"v8\"", "the version to be shown");
    }

    [Fact]
    public async Task If_match_compares_with_the_pending_write()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        Task<HttpResponseMessage> wrong, right;
        await using (var table = await TableLock.TakeAsync(node))
        {
            Assert.Equal(HttpStatusCode.PreconditionFailed, (await PutAsync(client, user, "No", "write-behind", "\"v7\"")).StatusCode);
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Yes", "write-behind", "\"v1\"")).StatusCode);
            Assert.Equal(HttpStatusCode.PreconditionFailed, (await PutAsync(client, user, "No", "write-behind", "\"v1\"")).StatusCode);
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Yes again", "write-behind", "\"v2\"")).StatusCode);
            Assert.Equal(0, await node.MetricAsync("write_behind_fallbacks_total"));

            wrong = PutAsync(client, user, "No", "write-through", "\"v1\"");
            await Eventually.TrueAsync(async () => await table.WaitersAsync() >= 2, "it to wait");
            right = PutAsync(client, user, "Yes at last", "write-through", "\"v3\"");
            await Eventually.TrueAsync(async () => await table.WaitersAsync() >= 3, "it to wait too");
        }

        Assert.Equal(HttpStatusCode.PreconditionFailed, (await wrong).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await right).StatusCode);
        await QueueEmptyAsync(node);
        Assert.Equal("Yes at last", (await RowAsync(node, user)).Name);
    }

    [Fact]
    public async Task A_conditional_write_asks_the_database_while_a_synchronous_write_is_under_way()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        Task<HttpResponseMessage> synchronous, behind;
        await using (var table = await TableLock.TakeAsync(node))
        {
            synchronous = PutAsync(client, user, "Synchronous", "write-through", "\"v1\"");
            await Eventually.TrueAsync(async () => await table.WaitersAsync() == 1, "it to wait");
            behind = PutAsync(client, user, "Unseen", "write-behind", "\"v1\"");
            await Eventually.TrueAsync(async () => await table.WaitersAsync() == 2, "the other to fall back");
        }

        Assert.Equal(
            [HttpStatusCode.OK, HttpStatusCode.PreconditionFailed],
            new[] { (await synchronous).StatusCode, (await behind).StatusCode }.Order());
        Assert.Equal(1, await node.MetricAsync("write_behind_fallbacks_total", ("reason", "contended")));
    }

    [Fact]
    public async Task A_write_behind_leaves_room_for_the_version_of_a_synchronous_write_under_way()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        Task<HttpResponseMessage> synchronous;
        await using (var table = await TableLock.TakeAsync(node))
        {
            synchronous = PutAsync(client, user, "Synchronous", "write-through");
            await Eventually.TrueAsync(async () => await table.WaitersAsync() == 1, "it to wait");
            Assert.Equal("\"v3\"", (await PutAsync(client, user, "Behind")).ETag().Tag);
        }

        // Either write may reach the row first. If the synchronous write is superseded, it acquires another token.
        var version = (await synchronous).ETag().Tag;
        await QueueEmptyAsync(node);
        Assert.Equal(version == "\"v2\"" ? ("Behind", 3) : ("Synchronous", 4), await RowAsync(node, user));
        Assert.Contains(version, new[] { "\"v2\"", "\"v4\"" });
    }

    /// <summary>
    /// A state server whose clock was ahead, or an operator, has left the row with a fence that is later than any new token.
    /// </summary>
    [Fact]
    public async Task A_foreign_fence_does_not_hide_a_write_that_was_acknowledged()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        var foreign = await ForeignFenceAsync(node, user);

        await using (await TableLock.TakeAsync(node))
        {
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "First")).StatusCode);
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Second")).StatusCode);

            // A load applies the pending write to the row.
            await EmptyCacheAsync(node);
            Assert.Equal("\"v3\"", (await client.GetAsync($"/users/{user.Id}")).ETag().Tag);
        }

        await PersistedAsync(node, user, "Second", 3);
        await QueueEmptyAsync(node);
        Assert.True(await node.SqlAsync<long>($"SELECT fence FROM users WHERE id = '{user.Id}'") > foreign);
        Assert.Equal("Second", (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
        Assert.Equal(0, await node.MetricAsync("write_behind_dead_letters"));
    }

    [Fact]
    public async Task If_match_compares_with_the_pending_write_under_a_foreign_fence_too()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await Consumer(node).StopAsync(CancellationToken.None);
        Assert.Equal("\"v2\"", (await PutAsync(client, user, "Behind")).ETag().Tag);
        await ForeignFenceAsync(node, user);

        Assert.Equal(HttpStatusCode.PreconditionFailed, (await PutAsync(client, user, "No", "write-through", "\"v1\"")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await PutAsync(client, user, "Yes", "write-through", "\"v2\"")).StatusCode);
        await Consumer(node).StartAsync(CancellationToken.None);
        await QueueEmptyAsync(node);
        Assert.Equal("Yes", (await RowAsync(node, user)).Name);
        Assert.Empty(await DeadAsync(client, 0));
    }

    [Theory]
    [InlineData("extract(epoch FROM now() + interval '5 minutes') * 1000000")]
    [InlineData("9223372036854775807")]
    public async Task A_foreign_fence_does_not_stop_any_kind_of_write(string fence)
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        foreach (var (strategy, name) in new[]
        {
            ("write-through", "1"),
            ("write-behind", "2"),
            ("invalidate", "3"),
            ("write-behind", "4"),
        })
        {
            await node.SqlAsync($"UPDATE users SET fence = {fence} WHERE id = '{user.Id}'");
            var answer = await PutAsync(client, user, name, strategy);
            Assert.True(answer.IsSuccessStatusCode);
            await Eventually.TrueAsync(
                async () => answer.ETag().Tag == $"\"v{(await RowAsync(node, user)).Version}\"", "the write to be persisted");
            Assert.Equal(name, (await RowAsync(node, user)).Name);
        }

        await node.SqlAsync($"UPDATE users SET fence = {fence} WHERE id = '{user.Id}'");
        Assert.Equal(HttpStatusCode.NoContent, (await client.DeleteAsync($"/users/{user.Id}")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await client.GetAsync($"/users/{user.Id}")).StatusCode);
    }

    /// <summary>
    /// 1. A write waits, and the row has a foreign fence. 2. A synchronous writer takes a token later than that. 3. The write is accepted
    /// anew, under a token later still. 4. The synchronous writer commits, or does not.
    /// </summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_write_that_is_accepted_anew_overwrites_no_write_that_came_after_it(bool commits)
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        var (queue, writeBehind) = (
            node.Services.GetRequiredKeyedService<WriteBehind>("users").Queue, node.Services.GetRequiredKeyedService<WriteBehind>("users"));
        await Consumer(node).StopAsync(CancellationToken.None);

        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Behind")).StatusCode);
        var foreign = await ForeignFenceAsync(node, user);
        var turn = await writeBehind.AcquireFenceAsync($"{user.Id}", foreign, CancellationToken.None);
        var write = Assert.Single(await queue.ReadAsync(10, CancellationToken.None));
        Assert.True(write.Token < foreign && foreign < turn.Token);

        // Two consumers hold the write; one of them accepts it anew.
        Assert.Equal(
            [FencedWrite.Reaccepted, FencedWrite.Gone],
            (await Task.WhenAll(
                Enumerable.Range(0, 2).Select(_ => queue.ReacceptAsync(write, foreign, 1, CancellationToken.None)))).Order());
        Assert.Equal(1, (await queue.StateAsync(CancellationToken.None)).Length);
        var pending = (await writeBehind.PendingAsync($"{user.Id}", CancellationToken.None))!;
        Assert.Equal((2, foreign), (pending.Version, pending.Over));
        Assert.True(pending.Token > turn.Token);

        if (commits)
        {
            var change = new UserChange(user.Email, user.Email, "Synchronous", user.UpdatedAt);
            var written = await node.Services.GetRequiredService<UserRepository>().UpdateAsync(
                user.Id, change, null, turn, CancellationToken.None);
            Assert.Equal(WriteOutcome.Committed, written.Outcome);
        }

        await EmptyCacheAsync(node);
        var last = commits ? "Synchronous" : "Behind";
        Assert.Equal(last, (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
        await Consumer(node).StartAsync(CancellationToken.None);
        await QueueEmptyAsync(node);
        Assert.Equal((last, commits ? 3 : 2), await RowAsync(node, user));
        Assert.Empty(await DeadAsync(client, 0));
    }

    [Fact]
    public async Task An_earlier_write_that_is_accepted_anew_does_not_take_the_place_of_a_later_one()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:MaxAttempts"] = "2" });
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await PoisonAsync(node, "NEW.display_name = 'Poison'", "P0001");
        await ForeignFenceAsync(node, user);

        await using (await TableLock.TakeAsync(node))
        {
            await PutAsync(client, user, "First");
            await PutAsync(client, user, "Poison");
        }

        Assert.Equal("Poison", (await DeadAsync(client, 1))[0].GetProperty("value").GetProperty("displayName").GetString());
        await QueueEmptyAsync(node);
        Assert.Equal("First", (await RowAsync(node, user)).Name);
    }

    /// <summary>The state server may have lost a later write, so the waiting write must neither undo that nor be lost.</summary>
    [Fact]
    public async Task A_write_is_a_dead_letter_if_it_is_not_known_whether_the_row_has_a_later_one()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await Consumer(node).StopAsync(CancellationToken.None);
        await PutAsync(client, user, "Behind");
        await ForeignFenceAsync(node, user);
        await node.SqlAsync($"UPDATE users SET display_name = 'Elsewhere', version = 9 WHERE id = '{user.Id}'");
        await Consumer(node).StartAsync(CancellationToken.None);

        var letter = (await DeadAsync(client, 1))[0];
        Assert.Equal(
            "The row has a later version, under a fence that the state server did not issue.", letter.GetProperty("reason").GetString());
        Assert.Equal(("Elsewhere", 9), await RowAsync(node, user));
        await Eventually.TrueAsync(async () => (await client.GetAsync($"/users/{user.Id}")).ETag().Tag == "\"v9\"", "the row to be shown");

        Assert.Equal(
            HttpStatusCode.Accepted, (await client.PostAsync($"/cache/dead-letters/{letter.GetProperty("id")}/retry", null)).StatusCode);
        await PersistedAsync(node, user, "Behind", 10);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_write_is_superseded_by_a_later_one_even_if_the_state_of_the_user_has_expired(bool expired)
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await Consumer(node).StopAsync(CancellationToken.None);
        await PutAsync(client, user, "Behind");
        Assert.Equal(HttpStatusCode.OK, (await PutAsync(client, user, "Synchronous", "write-through")).StatusCode);
        if (expired)
        {
            await using var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis);
            Assert.True(await redis.GetDatabase().KeyDeleteAsync($"{{{node.KeyPrefix}:write-behind}}:thing:{user.Id}"));
        }

        await Consumer(node).StartAsync(CancellationToken.None);
        await QueueEmptyAsync(node);
        Assert.Equal(("Synchronous", 3), await RowAsync(node, user));
        Assert.Empty(await DeadAsync(client, 0));
    }

    [Fact]
    public async Task A_token_is_later_than_the_fence_that_the_caller_has_seen_unless_that_is_absurd()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        var writeBehind = node.Services.GetRequiredKeyedService<WriteBehind>("users");
        await Consumer(node).StopAsync(CancellationToken.None);
        var change = JsonSerializer.SerializeToUtf8Bytes(
            new UserChange(user.Email, user.Email, "Known", user.UpdatedAt), UserJson.Default.UserChange);
        var foreign = await ForeignFenceAsync(node, user);

        async Task<long> TokenAsync(long knownFence)
        {
            await writeBehind.AcceptAsync($"{user.Id}", new(1, knownFence), null, change, CancellationToken.None);
            return (await writeBehind.PendingAsync($"{user.Id}", CancellationToken.None))!.Token;
        }

        Assert.Equal(
            [foreign + 1, foreign + 2, foreign + 3], [await TokenAsync(foreign), await TokenAsync(long.MaxValue), await TokenAsync(0)]);
        await Consumer(node).StartAsync(CancellationToken.None);
        await QueueEmptyAsync(node);
        Assert.Equal(("Known", 4), await RowAsync(node, user));
        Assert.Equal(foreign + 3, await node.SqlAsync<long>($"SELECT fence FROM users WHERE id = '{user.Id}'"));
        Assert.Equal(0, await node.MetricAsync("write_behind_writes_total", ("outcome", "retried")));
    }

    /// <summary>With one attempt, a SQLSTATE that counts as a fault of the data makes a dead letter at once.</summary>
    [Theory]
    [InlineData("P0001", true)]
    [InlineData("42501", false)]
    public async Task A_permanent_refusal_makes_a_dead_letter_and_a_transient_failure_does_not(string state, bool dead)
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:MaxAttempts"] = "1" });
        var (poison, other) = (await node.CreateUserAsync(), await node.CreateUserAsync());
        using var client = await node.AdminAsync();
        await PoisonAsync(node, "NEW.display_name = 'Poison'", state);
        await using (await TableLock.TakeAsync(node))
        {
            await PutAsync(client, poison, "Poison");
            await PutAsync(client, other, "Other");
        }

        if (dead)
        {
            await PersistedAsync(node, other, "Other", 2);
            Assert.Equal($"The database refuses the change ({state}).", (await DeadAsync(client, 1))[0].GetProperty("reason").GetString());
        }
        else
        {
            await Eventually.TrueAsync(
                async () => await node.MetricAsync("write_behind_writes_total", ("outcome", "retried")) >= 2, "it to be tried again");
            await node.SqlAsync("DROP TRIGGER poison ON users");
            await PersistedAsync(node, poison, "Poison", 2);
            Assert.Empty(await DeadAsync(client, 0));
        }
    }

    [Fact]
    public void Only_the_named_states_are_transient()
    {
        static bool IsTransient(string state) => TransientFailures.Includes(new PostgresException("", "ERROR", "ERROR", state));

        Assert.All(
            ["08006", "25006", "28000", "3D000", "40001", "40P01", "42501", "42P01", "53300", "55P03", "57014", "57P01", "58030"],
            state => Assert.True(IsTransient(state)));
        Assert.All(
            ["0A000", "21000", "22001", "23505", "23514", "42703", "42883", "P0001", "XX000"], state => Assert.False(IsTransient(state)));
    }

    [Fact]
    public async Task A_row_that_refuses_every_change_holds_up_no_other_row()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:MaxAttempts"] = "1" });
        var (poison, other) = (await node.CreateUserAsync(), await node.CreateUserAsync());
        using var client = await node.AdminAsync();
        await PoisonAsync(node, $"NEW.id = '{poison.Id}'", "P0001");

        await PutAsync(client, poison, "Refused");
        await DeadAsync(client, 1);
        await PutAsync(client, other, "Other");
        await PersistedAsync(node, other, "Other", 2);
    }

    /// <remarks>A consumer that was frozen in the middle of its statement still has the write.</remarks>
    [Fact]
    public async Task A_write_that_was_given_up_is_not_persisted_afterwards()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        var client = await node.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        var (queue, users) = (
            node.Services.GetRequiredKeyedService<WriteBehind>("users").Queue, node.Services.GetRequiredService<UserRepository>());
        await Consumer(node).StopAsync(CancellationToken.None);
        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Earlier")).StatusCode);
        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Given up")).StatusCode);
        var (earlier, given) = (await queue.ReadAsync(10, CancellationToken.None)) is [var first, var second] ? (first, second) : default;

        await queue.GiveUpAsync(given!, new(1), CancellationToken.None);
        var version = (await users.BumpVersionAsync(user.Id, new(given!.Version, given.Token), CancellationToken.None))!.Value.Version;
        await queue.FinishAsync([new(given, version, "refused")], CancellationToken.None);

        async Task<bool> PersistAsync(QueuedWrite write)
        {
            var change = new UserChange(user.Email, user.Email, "Persisted", user.UpdatedAt);
            return (await users.PersistAsync(
                [new($"{user.Id}", change, write.Version, write.Token, write.Over)], CancellationToken.None)).Single().Written;
        }

        Assert.False(await PersistAsync(given));
        Assert.Equal("Ada Lovelace", (await RowAsync(node, user)).Name);

        // The fence of a write that was given up does not supersede an earlier write, which is accepted anew.
        Assert.False(await PersistAsync(earlier!));
        Assert.Equal(FencedWrite.Reaccepted, await queue.ReacceptAsync(earlier!, given.Token, version, CancellationToken.None));
        Assert.True(await PersistAsync(Assert.Single(await queue.ReadAsync(10, CancellationToken.None))));
    }

    [Fact]
    public async Task A_precondition_is_compared_with_the_row()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["Database:ChangeCapture"] = "false" });
        var user = await node.CreateUserAsync();
        var client = await node.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        await node.SqlAsync($"UPDATE users SET display_name = 'By hand' WHERE id = '{user.Id}'");

        Assert.Equal(HttpStatusCode.PreconditionFailed, (await PutAsync(client, user, "Behind", ifMatch: "\"v1\"")).StatusCode);
        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Behind", ifMatch: "\"v2\"")).StatusCode);
        await PersistedAsync(node, user, "Behind", 3);
    }

    [Fact]
    public async Task A_locked_row_holds_up_no_other_row()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:BatchSize"] = "2" });
        var (locked, other) = (await node.CreateUserAsync(), await node.CreateUserAsync());
        using var client = await node.AdminAsync();

        await using (var connection = new NpgsqlConnection(node.Database))
        {
            await connection.OpenAsync();
            await using var transaction = await connection.BeginTransactionAsync();
            await using (var command = new NpgsqlCommand($"SELECT FROM users WHERE id = '{locked.Id}' FOR UPDATE", connection, transaction))
            {
                await command.ExecuteNonQueryAsync();
            }

            // More writes than a batch holds.
            foreach (var name in new[] { "1", "2", "3" })
            {
                Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, locked, name)).StatusCode);
            }

            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, other, "Other")).StatusCode);
            await PersistedAsync(node, other, "Other", 2);
            await transaction.RollbackAsync();
        }

        await PersistedAsync(node, locked, "3", 4);
        Assert.Empty(await DeadAsync(client, 0));
    }

    [Fact]
    public async Task A_cached_body_that_cannot_be_read_fails_no_write()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");
        await using (var redis = await ConnectionMultiplexer.ConnectAsync(servers.Redis))
        {
            var key = $"{node.KeyPrefix}:{(await node.KeysAsync()).Single(name => name.EndsWith($"{user.Id}", StringComparison.Ordinal))}";
            var bytes = (byte[])(await redis.GetDatabase().StringGetAsync(key))!;
            await redis.GetDatabase().StringSetAsync(key, (byte[])[.. bytes[..CacheEntry.HeaderSize], .. "{\"id\":\"x\"}"u8]);
        }

        // The body counts as a miss: the value that the write changes is loaded first.
        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Behind")).StatusCode);
        Assert.Equal("Behind", (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
        await Eventually.TrueAsync(async () => await RowAsync(node, user) == ("Behind", 2));
    }

    [Fact]
    public async Task The_entry_of_a_writer_is_a_hit_when_the_write_is_persisted()
    {
        await using var first = await ApiNode.StartAsync(servers);
        await using var second = await ApiNode.StartAsync(servers, nodeOf: first);
        var user = await first.CreateUserAsync();
        HttpClient[] clients = [await first.AdminAsync(), await second.AdminAsync()];

        await PutAsync(clients[0], user, "Behind");
        await QueueEmptyAsync(first);
        foreach (var client in clients)
        {
            var shown = await client.GetAsync($"/users/{user.Id}");
            Assert.Contains("; hit", shown.CacheStatus(), StringComparison.Ordinal);
            Assert.Equal("Behind", (await shown.Content.ReadFromJsonAsync<User>())!.DisplayName);
        }
    }

    [Fact]
    public async Task A_full_queue_falls_back_to_a_synchronous_write_and_counts_it()
    {
        await using var node = await ApiNode.StartAsync(servers, new() { ["WriteBehind:Capacity"] = "2" });
        var users = new List<User>();
        for (var i = 0; i < 3; i++)
        {
            users.Add(await node.CreateUserAsync());
        }

        using var client = await node.AdminAsync();
        Task<HttpResponseMessage> third;
        await using (var table = await TableLock.TakeAsync(node))
        {
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, users[0], "1")).StatusCode);
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, users[1], "2")).StatusCode);
            third = PutAsync(client, users[2], "3");
            await Eventually.TrueAsync(
                async () => await node.MetricAsync("write_behind_fallbacks_total", ("reason", "full")) == 1, "it to be counted");
            Assert.False(third.IsCompleted);
        }

        Assert.Equal(HttpStatusCode.OK, (await third).StatusCode);
        await PersistedAsync(node, users[2], "3", 2);
        await QueueEmptyAsync(node);
        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, users[2], "4")).StatusCode);
    }

    [Fact]
    public async Task Without_postgres_writes_are_taken_until_the_queue_is_full_and_drain_when_it_is_back()
    {
        await using var postgres = await PostgresServer.StartDurableAsync();
        await using var node = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:Postgres"] = postgres.ConnectionString, ["WriteBehind:Capacity"] = "3" });
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        await client.GetAsync($"/users/{user.Id}");

        await postgres.StopAsync();
        for (var write = 1; write <= 3; write++)
        {
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, $"Name {write}")).StatusCode);
        }

        var refused = await PutAsync(client, user, "One too many");
        Assert.Equal(HttpStatusCode.ServiceUnavailable, refused.StatusCode);
        Assert.NotEmpty(refused.Header("Retry-After"));
        Assert.Equal("Name 3", (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!.DisplayName);
        await Eventually.TrueAsync(async () => await node.MetricAsync("write_behind_lag_seconds") > 0, "the lag to be measured");
        await Eventually.TrueAsync(async () => await node.MetricAsync("write_behind_queue_length") == 3, "the queue to be measured");

        await postgres.StartAgainAsync();
        NpgsqlConnection.ClearAllPools();
        await PersistedAsync(node, user, "Name 3", 4);
        await QueueEmptyAsync(node);
        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "After")).StatusCode);
    }

    [Fact]
    public async Task The_writes_of_a_frozen_process_are_claimed_by_another_and_not_done_twice()
    {
        await using var proxy = new FaultProxy(new NpgsqlConnectionStringBuilder(servers.Postgres).Port);
        await using var first = await ApiNode.StartAsync(servers, new() { ["WriteBehind:BatchSize"] = "5" });
        var throughProxy = new NpgsqlConnectionStringBuilder(first.Database) { Host = "127.0.0.1", Port = proxy.Port };
        await using var cutOff = await ApiNode.StartAsync(
            servers,
            new() { ["ConnectionStrings:Postgres"] = throughProxy.ConnectionString, ["WriteBehind:BatchSize"] = "5" },
            nodeOf: first);
        var users = new List<User>();
        for (var i = 0; i < 20; i++)
        {
            users.Add(await first.CreateUserAsync());
        }

        // The writes that one of the nodes takes now stay with it, because its commands to the database are discarded.
        using var client = await cutOff.AdminAsync();
        foreach (var user in users)
        {
            await client.GetAsync($"/users/{user.Id}");
        }

        proxy.Swallows = true;
        await Task.WhenAll(
            users.Select(async user => Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "Claimed")).StatusCode)));

        foreach (var user in users)
        {
            await PersistedAsync(first, user, "Claimed", 2);
        }

        proxy.Swallows = false;
        proxy.Cut();
        proxy.Mend();
        await QueueEmptyAsync(cutOff);
        foreach (var user in users)
        {
            Assert.Equal(("Claimed", 2), await RowAsync(first, user));
        }
    }

    /// <summary>CACHINGAPI_KILLS sets the number of repetitions.</summary>
    [Fact]
    public async Task A_process_killed_at_any_moment_loses_no_acknowledged_write_and_does_none_twice()
    {
        await using var node = await ApiNode.StartAsync(servers);
        var writers = new List<Writer>();
        using (var client = await node.AdminAsync())
        {
            for (var i = 0; i < 8; i++)
            {
                writers.Add(new(await node.CreateUserAsync("0"), client.DefaultRequestHeaders.Authorization!));
            }
        }

        var settings = node.SettingsWith(new() { ["WriteBehind:BatchSize"] = "20" });
        await node.Services.GetRequiredService<Microsoft.Extensions.Hosting.IHost>().StopAsync();
        var kills = int.TryParse(
            Environment.GetEnvironmentVariable("CACHINGAPI_KILLS"), System.Globalization.CultureInfo.InvariantCulture, out var given)
            ? given
            : 3;
        for (var kill = 1; kill <= kills; kill++)
        {
            using var process = await ApiProcess.StartAsync(settings);
            var before = writers.Sum(writer => writer.Acknowledged);
            var load = Task.WhenAll(writers.Select(writer => writer.WriteUntilItFailsAsync(process.Client)));
            await Eventually.TrueAsync(() => writers.Sum(writer => writer.Acknowledged) > before, "a write to be acknowledged");
            await Task.Delay(Random.Shared.Next(500));
            await process.KillAsync();
            await load;
        }

        // The next process persists the writes that they left.
        await using var last = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:Postgres"] = node.Database, ["Redis:KeyPrefix"] = node.KeyPrefix });
        await QueueEmptyAsync(last);
        foreach (var writer in writers)
        {
            // The last write may have been accepted without an answer; no acknowledged write is missing.
            var row = await RowAsync(last, writer.User);
            Assert.InRange(long.Parse(row.Name, System.Globalization.CultureInfo.InvariantCulture), writer.Acknowledged, writer.Sent);
            Assert.InRange(
                row.Version,
                writer.Version,
                row.Name == $"{writer.Acknowledged}" ? writer.Version : writer.Version + writer.Sent - writer.Acknowledged);
        }
    }

    [Fact]
    public async Task A_graceful_stop_drains_the_queue()
    {
        var first = await ApiNode.StartAsync(servers);
        await using var other = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:Postgres"] = first.Database });
        var user = await first.CreateUserAsync();
        using var client = await first.AdminAsync();

        Task stopped;
        await using (await TableLock.TakeAsync(first))
        {
            Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "At the last moment")).StatusCode);
            stopped = first.Services.GetRequiredService<Microsoft.Extensions.Hosting.IHost>().StopAsync();
        }

        await stopped;
        Assert.Equal(("At the last moment", 2), await RowAsync(other, user));
        await first.DisposeAsync();
    }

    [Fact]
    public async Task If_redis_may_evict_the_queue_write_behind_is_disabled_and_the_log_has_the_reason()
    {
        await using var redis = await RedisServer.StartAsync("--maxmemory-policy", "allkeys-lru");
        var settings = new Dictionary<string, string>
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["Serilog:MinimumLevel:Default"] = "Warning",
        };
        await using var node = await ApiNode.StartAsync(servers, settings);
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        Assert.Equal(HttpStatusCode.OK, (await PutAsync(client, user, "Through")).StatusCode);
        Assert.Equal(("Through", 2), await RowAsync(node, user));
        Assert.Equal(1, await node.MetricAsync("write_behind_fallbacks_total", ("reason", "refused")));
        Assert.Contains(
            node.Log,
            line => line.Contains("the maxmemory-policy of Redis is allkeys-lru, so Redis may evict", StringComparison.Ordinal));

        // Write-behind needs a second Redis that may not lose any keys.
        await using var state = await ApiNode.StartAsync(
            servers, new(settings) { ["ConnectionStrings:RedisState"] = servers.Redis }, nodeOf: node);
        using var there = await state.AdminAsync();
        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(there, user, "Behind")).StatusCode);
        await PersistedAsync(node, user, "Behind", 3);
    }

    [Fact]
    public async Task The_start_fails_if_write_behind_is_the_default_and_is_not_safe()
    {
        await using var redis = await RedisServer.StartAsync("--maxmemory-policy", "allkeys-lfu");
        await using var node = await ApiNode.StartAsync(servers, new() { ["Cache:Users:WriteStrategy"] = "write-behind" });
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();
        Assert.Equal(
            HttpStatusCode.Accepted,
            (await client.PutAsJsonAsync($"/users/{user.Id}", new { email = user.Email, displayName = "By default" })).StatusCode);

        var (exitCode, log) = await ApiProcess.RunAsync(node.SettingsWith(new() { ["ConnectionStrings:Redis"] = redis.ConnectionString }));

        Assert.NotEqual(0, exitCode);
        Assert.Contains(
            log,
            line => line.Contains(
                "Cache:Users:WriteStrategy cannot be write-behind: the maxmemory-policy of Redis is allkeys-lfu",
                StringComparison.Ordinal));
    }

    [Fact]
    public async Task If_redis_supports_it_a_write_is_acknowledged_when_it_is_on_the_disk()
    {
        await using var redis = await RedisServer.StartAsync(
            "--appendonly", "yes", "--appenddirname", $"cachingapi-aof-{Guid.NewGuid():N}");
        await using var proxy = new WaitAofProxy(redis.Port);
        await using var node = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = proxy.ConnectionString });
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        // The second write comes while the first waits; it shares the next WAITAOF with a third.
        var first = PutAsync(client, user, "First");
        await Eventually.TrueAsync(() => proxy.Waits == 1, "Redis to be asked about its disk");
        var others = new[] { PutAsync(client, user, "Second"), PutAsync(client, user, "Third") };
        await Eventually.TrueAsync(async () => (await RowAsync(node, user)).Version == 4, "all of them to be persisted meanwhile");
        Assert.False(first.IsCompleted || others.Any(other => other.IsCompleted));
        proxy.Disk.SetResult();

        Assert.All(await Task.WhenAll([first, .. others]), answer => Assert.Equal(HttpStatusCode.Accepted, answer.StatusCode));
        Assert.Equal(2, proxy.Waits);

        proxy.Copies = 0;
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await PutAsync(client, user, "On no disk")).StatusCode);
    }

    [Fact]
    public async Task A_write_is_acknowledged_when_as_many_replicas_as_configured_have_it_on_their_disks()
    {
        await using var redis = await RedisServer.StartAsync(
            "--appendonly", "yes", "--appenddirname", $"cachingapi-aof-{Guid.NewGuid():N}");
        await using var proxy = new WaitAofProxy(redis.Port) { Replicas = 2 };
        proxy.Disk.SetResult();
        await using var node = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = proxy.ConnectionString, ["WriteBehind:WaitForReplicas"] = "2" });
        var user = await node.CreateUserAsync();
        using var client = await node.AdminAsync();

        Assert.Equal(HttpStatusCode.Accepted, (await PutAsync(client, user, "On two")).StatusCode);
        Assert.Equal(["1", "2"], proxy.Asked);
        proxy.Replicas = 1;
        Assert.Equal(HttpStatusCode.ServiceUnavailable, (await PutAsync(client, user, "On one")).StatusCode);
    }

    [Fact]
    public void Waiting_for_replicas_but_not_for_the_disk_is_invalid()
    {
        static bool IsValid(bool disk, int replicas)
        {
            var options = new WriteBehindOptions { WaitForDisk = disk, WaitForReplicas = replicas };
            return Validator.TryValidateObject(options, new(options), null, validateAllProperties: true);
        }

        Assert.Equal([true, true, false, false], [IsValid(true, 5), IsValid(false, 0), IsValid(false, 1), IsValid(true, 6)]);
    }

    [Fact]
    public async Task A_write_behind_of_an_unknown_user_is_refused()
    {
        await using var node = await ApiNode.StartAsync(servers);
        using var client = await node.AdminAsync();
        var unknown = new User
        {
            Id = Guid.Empty,
            Email = "a@example.org",
            DisplayName = "",
            Role = "",
            Version = 0,
            CreatedAt = default,
            UpdatedAt = default,
        };

        Assert.Equal(HttpStatusCode.NotFound, (await PutAsync(client, unknown, "Nobody")).StatusCode);
        Assert.Equal(
            HttpStatusCode.BadRequest, (await PutAsync(client, await node.CreateUserAsync(), "Somebody", "write-around")).StatusCode);
    }

    private static async Task<HttpResponseMessage> PutAsync(
        HttpClient client, User user, string name, string strategy = "write-behind", string? ifMatch = null)
    {
        using var request = new HttpRequestMessage(HttpMethod.Put, $"/users/{user.Id}?strategy={strategy}")
        {
            Content = JsonContent.Create(new { email = user.Email, displayName = name }),
        };
        if (ifMatch is not null)
        {
            request.Headers.IfMatch.Add(new EntityTagHeaderValue(ifMatch));
        }

        return await client.SendAsync(request);
    }

    private static async Task<(string Name, long Version)> RowAsync(ApiNode node, User user)
    {
        var row = await node.SqlAsync<string[]>($"SELECT ARRAY[display_name, version::text] FROM users WHERE id = '{user.Id}'");
        return (row![0], long.Parse(row[1], System.Globalization.CultureInfo.InvariantCulture));
    }

    private static async Task PersistedAsync(ApiNode node, User user, string name, long version)
    {
        await Eventually.TrueAsync(async () => (await RowAsync(node, user)).Name == name, "the write to be persisted");
        Assert.Equal((name, version), await RowAsync(node, user));
    }

    private static Task QueueEmptyAsync(ApiNode node) => Eventually.TrueAsync(
        async () =>
            (await node.Services.GetRequiredKeyedService<WriteBehind>("users").Queue.StateAsync(CancellationToken.None)).Length == 0,
        "the queue to be empty");

    private static async Task<JsonElement[]> DeadAsync(HttpClient client, int count, string? not = null)
    {
        JsonElement[] letters = [];
        await Eventually.TrueAsync(
            async () =>
            {
                letters = [.. (await (await client.GetAsync("/cache/dead-letters")).JsonAsync())
                    .EnumerateArray()
                    .Where(letter => letter.GetProperty("id").GetString() != not)];
                return letters.Length == count;
            },
            "dead letters");
        return letters;
    }

    private static async Task<double> BothAsync(string metric, (string Label, string Value) label, params ApiNode[] nodes)
    {
        var sum = 0.0;
        foreach (var node in nodes)
        {
            sum += await node.MetricAsync(metric, label);
        }

        return sum;
    }

    /// <summary>Gives a user's row a fence that is five minutes ahead of the clock; returns that fence.</summary>
    private static async Task<long> ForeignFenceAsync(ApiNode node, User user) => await node.SqlAsync<long>(
        "UPDATE users SET fence = (extract(epoch FROM now() + interval '5 minutes') * 1000000)::bigint "
        + $"WHERE id = '{user.Id}' RETURNING fence");

    /// <summary>Lets a trigger refuse changes of users, with a SQLSTATE.</summary>
    private static Task PoisonAsync(ApiNode node, string condition, string state) => node.SqlAsync(
        $"""
        CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$;
        CREATE TRIGGER poison BEFORE UPDATE ON users FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION poison()
        """);

    /// <summary>The consumer that persists the node's writes: a test stops it to take its place, and starts it again.</summary>
    private static WriteBehindConsumer Consumer(ApiNode node) =>
        node.Services.GetServices<Microsoft.Extensions.Hosting.IHostedService>().OfType<WriteBehindConsumer>().Single();

    private static Task EmptyCacheAsync(ApiNode node) =>
        node.Services.GetRequiredService<Invalidation>().ClearAsync(
            node.Services.GetRequiredService<Cache<User>>().Name, cause: null, CancellationToken.None);

    /// <summary>Writes one user's name as a number that grows.</summary>
    private sealed class Writer(User user, AuthenticationHeaderValue authorization)
    {
        public User User => user;

        public long Sent { get; private set; }

        public long Acknowledged { get; private set; }

        public long Version { get; private set; } = user.Version;

        public async Task WriteUntilItFailsAsync(HttpClient client)
        {
            try
            {
                while (true)
                {
                    using var request = new HttpRequestMessage(HttpMethod.Put, $"/users/{user.Id}?strategy=write-behind")
                    {
                        Content = JsonContent.Create(new { email = user.Email, displayName = $"{++Sent}" }),
                        Headers = { Authorization = authorization },
                    };
                    using var answer = await client.SendAsync(request);
                    Assert.Equal(HttpStatusCode.Accepted, answer.StatusCode);
                    (Acknowledged, Version) = (Sent, (await answer.Content.ReadFromJsonAsync<User>())!.Version);
                }
            }
            catch (Exception error) when (error is HttpRequestException or IOException)
            {
                // The process is dead.
            }
        }
    }

    /// <summary>While the lock is held, users can be read but not written.</summary>
    private sealed class TableLock(NpgsqlConnection connection, string database) : IAsyncDisposable
    {
        public static async Task<TableLock> TakeAsync(ApiNode node)
        {
            var held = new TableLock(new(node.Database), node.Database);
            await held.SqlAsync("BEGIN; LOCK TABLE users IN EXCLUSIVE MODE");
            return held;
        }

        /// <summary>Runs a statement under the lock; it is committed when the lock is released.</summary>
        public async Task SqlAsync(string sql)
        {
            if (connection.State is System.Data.ConnectionState.Closed)
            {
                await connection.OpenAsync();
            }

            await using var command = new NpgsqlCommand(sql, connection);
            await command.ExecuteNonQueryAsync();
        }

        /// <summary>How many statements wait for the lock.</summary>
        public async Task<long> WaitersAsync()
        {
            await using var other = new NpgsqlConnection(database);
            await other.OpenAsync();
            await using var command = new NpgsqlCommand(
                "SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted "
                + "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                other);
            return (long)(await command.ExecuteScalarAsync())!;
        }

        public async ValueTask DisposeAsync()
        {
            await SqlAsync("COMMIT");
            await connection.DisposeAsync();
        }
    }
}
