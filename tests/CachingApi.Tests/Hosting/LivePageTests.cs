using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json.Nodes;
using CachingApi.Caching;
using CachingApi.Orders;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Playwright;
using Npgsql;

namespace CachingApi.Tests.Hosting;

/// <summary>The page at <c>/</c> in a real browser.</summary>
public sealed class LivePageTests(TestServers servers) : IAsyncLifetime
{
    private readonly List<string> _faults = [];
    private readonly List<string> _asked = [];
    private IPlaywright _playwright = null!;
    private IBrowser _browser = null!;

    public async ValueTask InitializeAsync()
    {
        var chromium = Machine.FindChromium() ?? throw new InvalidOperationException(
            "A browser is missing: ./dev test brings it where there is apt; elsewhere install Chromium or Google Chrome.");
        _playwright = await Playwright.CreateAsync();
        _browser = await _playwright.Chromium.LaunchAsync(new() { ExecutablePath = chromium, Args = ["--no-sandbox"] });
    }

    public async ValueTask DisposeAsync()
    {
        await (_browser?.DisposeAsync() ?? default);
        _playwright?.Dispose();
    }

    [Fact]
    public async Task An_administrator_signs_in_and_sees_the_numbers_change_under_load()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:Users:MemoryTtl"] = "00:01:00" });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        var page = await OpenAsync(api);

        await SignInAsync(page, ApiNode.AdminEmail);

        await SeeAsync(page, "#state-text", "Live");
        Assert.Equal(9, await page.Locator("#charts canvas").CountAsync());
        var before = await LookUpsAsync(page);
        for (var read = 0; read < 40; read++)
        {
            await admin.GetAsync($"/users/{user.Id}");
        }

        await Eventually.TrueAsync(async () => await LookUpsAsync(page) >= before + 40);
        await Eventually.TrueAsync(async () => await page.Locator("figure", new() { HasText = "Look-ups" })
            .Locator("li", new() { HasText = "memory" })
            .Locator("b")
            .TextContentAsync() is not ("0/s" or "–"));
        await SeeAsync(page, "#caches tbody tr:first-child th", "users");

        // Everything came from this service, nothing was refused by the page's own policy, and nothing of the session is kept.
        Assert.All(_asked, url => Assert.StartsWith(api.Anonymous.BaseAddress!.ToString(), url, StringComparison.Ordinal));
        Assert.Empty(_faults);
        Assert.Equal("0 0 ", await page.EvaluateAsync<string>("`${localStorage.length} ${sessionStorage.length} ${document.cookie}`"));
    }

    [Fact]
    public async Task A_cache_that_was_added_has_its_row_and_its_line_in_the_graph()
    {
        await using var api = await ApiNode.StartAsync(servers, services: services => services.AddCaching().AddOrders());
        var page = await OpenAsync(api);

        await SignInAsync(page, ApiNode.AdminEmail);

        await SeeAsync(page, "#caches tbody tr:nth-child(5) th", "orders");
        Assert.Equal(
            1,
            await page.Locator("figure", new() { HasText = "Hit ratio" }).Locator("li", new() { HasText = "orders, Redis" }).CountAsync());
        Assert.Equal(9, await page.Locator("#charts canvas").CountAsync());
        Assert.Empty(_faults);
    }

    [Fact]
    public async Task Signing_out_ends_the_session_and_so_does_leaving()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        async Task<int> SessionsAsync() => (await (await admin.GetAsync("/sessions")).JsonAsync()).GetArrayLength();
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        Assert.Equal(2, await SessionsAsync());

        await page.ClickAsync("#sign-out");
        await Eventually.TrueAsync(async () => await SessionsAsync() == 1);
        Assert.True(await page.IsVisibleAsync("#sign-in"));

        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        await page.GotoAsync($"{api.Anonymous.BaseAddress}health/live");
        await Eventually.TrueAsync(async () => await SessionsAsync() == 1);
    }

    [Fact]
    public async Task A_failure_is_named_in_plain_words()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:RedisState"] = redis.ConnectionString,
            ["Redis:StateDeadline"] = "00:00:02",
            ["RateLimits:Enabled"] = "true",
            ["RateLimits:Policies:login:Limit"] = "1000",
            ["RateLimits:Policies:login-account:Limit"] = "1000",
            ["RateLimits:Policies:cache-stats:Limit"] = "3",
            ["RateLimits:Policies:cache-stats:Window"] = "01:00:00",
        });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        var page = await OpenAsync(api);

        await SignInAsync(page, ApiNode.AdminEmail, "not the password");
        await SeeAsync(page, "#sign-in-error", "The e-mail address or the password is wrong.");
        await SignInAsync(page, user.Email);
        await SeeAsync(page, "#sign-in-error", "This account is not an administrator");
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Asked too often");

        await page.ReloadAsync();
        await redis.KillAsync();
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#sign-in-error", "a server behind it is away");
    }

    [Fact]
    public async Task A_session_that_has_ended_and_a_server_that_is_away_are_said()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString, ["Redis:StateDeadline"] = "00:00:02" });
        using var admin = await api.AdminAsync();
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");

        await admin.DeleteAsync("/sessions");
        await SeeAsync(page, "#sign-in-error", "Your session has ended");

        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        await redis.PauseAsync();
        await SeeAsync(page, "#state-text", "A server behind the service is away");
        await SeeAsync(page, "#degraded", "users cannot log in, and a request that needs a session is answered with 503");
        await SeeAsync(page, "#degraded", "The tables show the numbers of ");
        await SeeTileAsync(page, "Hit ratio", "–", "not known");
        await SeeTileAsync(page, "Redis get, p99", "–", "not known");
        await redis.ResumeAsync();
        await SeeAsync(page, "#state-text", "Live");
        await HiddenAsync(page, "#degraded");
    }

    [Fact]
    public async Task Load_on_the_users_limit_does_not_blind_the_page()
    {
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["RateLimits:Enabled"] = "true",
            ["RateLimits:Policies:default:Limit"] = "3",
            ["RateLimits:Policies:default:Window"] = "01:00:00",
        });
        using var admin = await api.AdminAsync();
        var statuses = new ConcurrentQueue<int>();
        var page = await OpenAsync(api);
        page.Response += (_, answer) =>
        {
            if (answer.Url.EndsWith("/cache/stats", StringComparison.Ordinal))
            {
                statuses.Enqueue(answer.Status);
            }
        };
        await Eventually.TrueAsync(
            async () => (await admin.GetAsync("/users")).StatusCode is HttpStatusCode.TooManyRequests);

        await SignInAsync(page, ApiNode.AdminEmail);

        await Eventually.TrueAsync(() => statuses.Count >= 4);
        Assert.All(statuses, status => Assert.Equal(200, status));
        await SeeAsync(page, "#state-text", "Live");
        Assert.Empty(_faults);
    }

    [Fact]
    public async Task A_frozen_redis_is_unknown_and_the_banner_says_what_that_means()
    {
        await using var redis = await RedisServer.StartAsync("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu");
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = servers.Redis,
            ["Cache:RedisDeadline"] = "00:00:00.300",
        });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        await admin.GetAsync($"/users/{user.Id}");
        await admin.GetAsync($"/users/{user.Id}");
        await SeeTileAsync(page, "Redis memory", "iB", "of 100 MiB, allkeys-lfu");
        await SeeTileAsync(page, "Redis get, p99", "s", "last minute");
        await SeeTileAsync(page, "Redis circuit", "closed", "Redis is asked");
        await HiddenAsync(page, "#degraded");

        await redis.PauseAsync();
        await Eventually.TrueAsync(async () =>
        {
            await admin.GetAsync($"/users/{user.Id}");
            return await page.IsVisibleAsync("#degraded");
        });

        await SeeAsync(page, "#degraded", "Redis (cache): It does not answer, so it is left alone (its circuit is open).");
        await SeeAsync(page, "#degraded", "Reads are answered from memory or from the source, so they are slower");
        await SeeTileAsync(page, "Redis memory", "–", "not known");
        await SeeTileAsync(page, "Redis get, p99", "–", "not known");
        await SeeTileAsync(page, "Redis circuit", "open", "reads go to memory or the source");
        await SeeAsync(page, "#redis tbody tr:first-child", "does not answer");
        Assert.DoesNotContain("without a bound", await page.InnerTextAsync("#live"), StringComparison.Ordinal);
        var row = page.Locator("#redis tbody tr", new() { HasText = redis.ConnectionString });
        Assert.Equal(["–", "–", "–", "–", "–", "–"], (await row.Locator("td").AllTextContentsAsync()).Skip(2));

        await redis.ResumeAsync();
        await HiddenAsync(page, "#degraded");
        await SeeTileAsync(page, "Redis memory", "iB", "of 100 MiB, allkeys-lfu");
        Assert.Empty(_faults);
    }

    [Fact]
    public async Task A_frozen_database_is_in_the_banner()
    {
        await using var postgres = await PostgresServer.StartDurableAsync();
        var impatient = $"{postgres.ConnectionString};Timeout=1;Command Timeout=1;Cancellation Timeout=500";
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:Postgres"] = impatient });
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");

        await postgres.PauseAsync();
        await SeeAsync(page, "#degraded", "PostgreSQL: It does not answer. Cached entries are served, and marked as stale");
        await SeeTileAsync(page, "Change capture", "–", "PostgreSQL does not answer");

        await postgres.ResumeAsync();
        await HiddenAsync(page, "#degraded");
        NpgsqlConnection.ClearAllPools();
    }

    [Fact]
    public async Task Write_behind_that_is_refused_is_in_the_banner()
    {
        await using var redis = await RedisServer.StartAsync("--maxmemory-policy", "allkeys-lru");
        await using var api = await ApiNode.StartAsync(servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString });
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);

        await SeeAsync(page, "#degraded", "Write-behind of users: It is refused, because the maxmemory-policy of Redis is allkeys-lru");
        await SeeAsync(page, "#degraded", "Changes are written through: the answer to each waits for the database.");
    }

    [Fact]
    public async Task A_warm_up_that_kept_nothing_says_so()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = servers.Redis,
            ["Cache:RedisDeadline"] = "00:00:00.300",
        });
        var what = new { cache = "users", keys = new[] { (await api.CreateUserAsync()).Id, (await api.CreateUserAsync()).Id } };
        using var admin = await api.AdminAsync();
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        Assert.False(await page.IsVisibleAsync("#warm-ups"));

        await redis.PauseAsync();
        await admin.PostAsJsonAsync("/cache/warm", what);
        await SeeAsync(page, "#degraded", "Warm-up of users: It kept nothing: 2 of 2 loaded, 0 kept, 0 failed.");
        await SeeAsync(page, "#warm-ups tbody tr:first-child", "kept nothing");

        await redis.ResumeAsync();
        await Eventually.TrueAsync(async () =>
        {
            await admin.PostAsJsonAsync("/cache/warm", what);
            return (await page.TextContentAsync("#warm-ups tbody tr:first-child td"))! is "kept all";
        });
        await HiddenAsync(page, "#degraded");
    }

    [Fact]
    public async Task Each_fact_has_a_tile_of_its_own_and_each_column_a_name_of_its_own()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");

        await SeeTileAsync(page, "Redis circuit", "closed", "Redis is asked");
        await SeeTileAsync(page, "Change capture", "not here", "another process, or none");
        foreach (var table in new[] { "#caches", "#redis", "#limits" })
        {
            var names = await page.Locator($"{table} thead th").AllTextContentsAsync();
            Assert.Distinct(names);
            Assert.DoesNotContain("Ratio", names);
        }

        var columns = await page.Locator("#caches thead th").AllTextContentsAsync();
        Assert.Contains("Redis hit share: of look-ups that missed memory", columns);
        Assert.Contains("Memory hit share: of all look-ups", columns);
    }

    /// <remarks>The page gets statistics that the test makes, one answer after the other.</remarks>
    [Fact]
    public async Task The_network_of_a_server_that_answers_again_is_not_its_whole_count_and_one_answer_makes_no_rate()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var stats = JsonNode.Parse(await (await admin.GetAsync("/cache/stats")).Content.ReadAsStringAsync())!;
        JsonObject Node(string name, bool up, long? bytes) => new()
        {
            ["node"] = name,
            ["role"] = name,
            ["up"] = up,
            ["networkInBytes"] = bytes,
            ["networkOutBytes"] = bytes,
        };
        var (answers, withOneAnswer) = (0, "");
        var page = await OpenAsync(api);
        var network = page.Locator("figure", new() { HasText = "Redis network" });
        await page.RouteAsync("**/cache/stats", async route =>
        {
            if (answers == 1)
            {
                withOneAnswer = await network.Locator(".plot").GetAttributeAsync("data-empty");
            }

            var stateIsUp = ++answers > 2;
            stats["redis"] = new JsonArray(Node("cache", up: true, 1_000), Node("state", stateIsUp, stateIsUp ? 500_000_000 : null));
            await route.FulfillAsync(new() { ContentType = "application/json", Body = stats.ToJsonString() });
        });

        await SignInAsync(page, ApiNode.AdminEmail);

        await Eventually.TrueAsync(async () => await page.EvaluateAsync<int>("times.length") >= 4);
        Assert.Equal("Nothing yet", withOneAnswer);
        Assert.Equal(
            0, await page.EvaluateAsync<double>("Math.max(...charts.find(one => one.title === 'Redis network').data.flat())"));
        await SeeAsync(page, "figure li", "received0 B/s");
        Assert.Empty(_faults);
    }

    /// <remarks>The page gets statistics that the test makes: two processes answer in turn, and one of them is degraded.</remarks>
    [Fact]
    public async Task A_process_that_is_degraded_stays_in_the_banner_while_processes_answer_in_turn()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var stats = JsonNode.Parse(await (await admin.GetAsync("/cache/stats")).Content.ReadAsStringAsync())!;
        var page = await OpenAsync(api);
        var (answers, hidden) = (0, 0);
        await page.RouteAsync("**/cache/stats", async route =>
        {
            hidden += answers > 2 && await page.IsHiddenAsync("#degraded") ? 1 : 0;
            var isDegraded = ++answers % 2 == 1;
            stats["instance"] = isDegraded ? "api-1:1" : "api-2:1";
            stats["degraded"] = isDegraded
                ? new JsonArray(new JsonObject { ["part"] = "Redis (cache)", ["problem"] = "It is away.", ["effect"] = "Reads are slow." })
                : new JsonArray();
            await route.FulfillAsync(new() { ContentType = "application/json", Body = stats.ToJsonString() });
        });

        await SignInAsync(page, ApiNode.AdminEmail);

        await SeeAsync(page, "#degraded-list li", "Redis (cache), process api-1:1: It is away. Reads are slow.");
        await Eventually.TrueAsync(() => answers >= 6);
        Assert.Equal(0, hidden);
        Assert.Equal(1, await page.Locator("#degraded-list li").CountAsync());
        Assert.Empty(_faults);
    }

    [Theory]
    [InlineData(1440)]
    [InlineData(1000)]
    [InlineData(390)]
    public async Task No_table_is_cut_off(int width)
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["RateLimits:Enabled"] = "true" });
        using var admin = await api.AdminAsync();
        await admin.PostAsJsonAsync("/cache/warm", new { cache = "users", top = 1 });
        var page = await OpenAsync(api);
        await page.SetViewportSizeAsync(width, 900);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#warm-ups tbody tr:first-child th", "users");
        await SeeAsync(page, "#redis tbody tr:first-child th", "127.0.0.1");

        Assert.Equal(
            "",
            await page.EvaluateAsync<string>(
                "[...document.querySelectorAll('.table')].filter(one => one.scrollWidth > one.clientWidth)"
                + ".map(one => one.ariaLabel).join()"));
        Assert.True(await page.EvaluateAsync<bool>("document.documentElement.scrollWidth <= innerWidth"));
        Assert.Equal(width == 390, await page.IsHiddenAsync("#redis thead"));
    }

    private async Task<IPage> OpenAsync(ApiNode api)
    {
        var page = await _browser.NewPageAsync();
        page.SetDefaultTimeout(60_000);
        page.Console += (_, message) =>
        {
            if (message.Type is "error" or "warning")
            {
                _faults.Add(message.Text);
            }
        };
        page.PageError += (_, error) => _faults.Add(error);
        page.Request += (_, request) => _asked.Add(request.Url);
        await page.GotoAsync(api.Anonymous.BaseAddress!.ToString());
        return page;
    }

    private static async Task SignInAsync(IPage page, string email, string password = ApiNode.Password)
    {
        await page.GetByLabel("E-mail address").FillAsync(email);
        await page.GetByLabel("Password").FillAsync(password);
        await page.GetByRole(AriaRole.Button, new() { Name = "Sign in" }).ClickAsync();
    }

    private static Task SeeAsync(IPage page, string selector, string text) =>
        page.Locator(selector, new() { HasText = text }).WaitForAsync(new() { State = WaitForSelectorState.Visible });

    private static Task HiddenAsync(IPage page, string selector) =>
        page.Locator(selector).WaitForAsync(new() { State = WaitForSelectorState.Hidden });

    /// <summary>Waits until a tile has this value, or a part of it, and this note.</summary>
    private static Task SeeTileAsync(IPage page, string label, string value, string note) =>
        page.Locator("#tiles div", new() { Has = page.Locator("dt", new() { HasText = label }) })
            .Filter(new() { Has = page.Locator("dd:not(.note)", new() { HasText = value }) })
            .Filter(new() { Has = page.Locator("dd.note", new() { HasText = note }) })
            .WaitForAsync();

    private static async Task<int> LookUpsAsync(IPage page)
    {
        var note = await page.Locator("#tiles div", new() { HasText = "Look-ups" }).Locator(".note").TextContentAsync();
        return int.TryParse(note?.Split(' ')[0], NumberStyles.AllowThousands, CultureInfo.InvariantCulture, out var count) ? count : -1;
    }
}
