using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using System.Text.Json.Nodes;
using CachingApi.Caching;
using CachingApi.Experiments;
using CachingApi.Orders;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Deque.AxeCore.Playwright;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Playwright;
using Npgsql;

namespace CachingApi.Tests.Hosting;

/// <summary>A browser for the tests of a class.</summary>
public sealed class Chromium : IAsyncLifetime
{
    private IPlaywright? _playwright;

    public IBrowser Browser { get; private set; } = null!;

    public async ValueTask InitializeAsync()
    {
        var chromium = Machine.FindChromium() ?? throw new InvalidOperationException(
            "A browser is missing: ./dev test brings it where there is apt; elsewhere install Chromium or Google Chrome.");
        _playwright = await Playwright.CreateAsync();
        Browser = await _playwright.Chromium.LaunchAsync(new() { ExecutablePath = chromium, Args = ["--no-sandbox"] });
    }

    public async ValueTask DisposeAsync()
    {
        await (Browser?.DisposeAsync() ?? default);
        _playwright?.Dispose();
    }
}

/// <summary>The page at <c>/</c> in a real browser.</summary>
/// <remarks>A browser and the processes of a history each need a processor, so these classes run one after the other.</remarks>
[Collection("Busy")]
public sealed class LivePageTests(TestServers servers, Chromium chromium) : IClassFixture<Chromium>, IAsyncDisposable
{
    private readonly List<string> _faults = [];
    private readonly List<string> _asked = [];
    private readonly List<IPage> _pages = [];

    public async ValueTask DisposeAsync()
    {
        foreach (var page in _pages)
        {
            await page.CloseAsync();
        }
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

        // Everything came from this service, nothing was refused by the page's own policy, and scripts cannot read the session.
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
    public async Task A_reload_keeps_the_session_and_signing_out_ends_it()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        async Task<JsonElement[]> SessionsAsync() =>
        [
            .. (await (await admin.GetAsync("/sessions")).JsonAsync()).EnumerateArray()
                .Where(one => !one.GetProperty("current").GetBoolean()),
        ];
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        var session = Assert.Single(await SessionsAsync());
        Assert.InRange(
            session.GetProperty("expiresAt").GetDateTime() - session.GetProperty("lastSeenAt").GetDateTime(),
            TimeSpan.FromMinutes(9.9),
            TimeSpan.FromMinutes(10));

        await page.ReloadAsync();
        await SeeAsync(page, "#state-text", "Live");
        Assert.Single(await SessionsAsync());

        await page.ClickAsync("#sign-out");
        await Eventually.TrueAsync(async () => (await SessionsAsync()).Length == 0);
        Assert.True(await page.IsVisibleAsync("#sign-in"));
        await page.ReloadAsync();
        await SeeAsync(page, "#sign-in", "Sign in");
        Assert.Empty(_faults);
    }

    [Fact]
    public async Task A_browser_that_does_not_keep_the_cookie_gets_a_session_until_the_reload()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var page = await OpenAsync(api);
        await page.RouteAsync("**/sessions", async route =>
        {
            var answer = await route.FetchAsync();
            await page.Context.ClearCookiesAsync();
            await route.FulfillAsync(new()
            {
                Response = answer,
                Headers = answer.Headers.Where(header => header.Key is not "set-cookie").ToDictionary(),
            });
        });

        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");

        await page.ReloadAsync();
        await SeeAsync(page, "#sign-in", "Sign in");
    }

    [Theory]
    [InlineData("development-only", true)]
    [InlineData(ApiNode.Password, false)]
    public async Task The_form_has_the_login_of_development_only_if_the_readme_names_it(string password, bool isShown)
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Admin:Password"] = password });
        var page = await OpenAsync(api);
        await page.WaitForLoadStateAsync(Microsoft.Playwright.LoadState.NetworkIdle);

        Assert.Equal(isShown, await page.IsVisibleAsync("#hint"));
        Assert.Equal(isShown ? password : "", await page.InputValueAsync("#password"));
        if (isShown)
        {
            await page.GetByRole(AriaRole.Button, new() { Name = "Sign in" }).ClickAsync();
            await SeeAsync(page, "#state-text", "Live");
        }
    }

    [Fact]
    public async Task In_production_the_form_has_no_login()
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["environment"] = "Production", ["Admin:Password"] = "development-only" });

        Assert.Equal(HttpStatusCode.NoContent, (await api.Anonymous.GetAsync("/development-login")).StatusCode);
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

        await page.ClickAsync("#sign-out");
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
            if (answer.Url.EndsWith("/cache/stats/processes", StringComparison.Ordinal))
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
        await page.RouteAsync("**/cache/stats/processes", async route =>
        {
            if (answers == 1)
            {
                withOneAnswer = await network.Locator(".plot").GetAttributeAsync("data-empty");
            }

            var stateIsUp = ++answers > 2;
            stats["redis"] = new JsonArray(Node("cache", up: true, 1_000), Node("state", stateIsUp, stateIsUp ? 500_000_000 : null));
            await route.FulfillAsync(new() { ContentType = "application/json", Body = Processes(stats) });
        });

        await SignInAsync(page, ApiNode.AdminEmail);

        await Eventually.TrueAsync(async () => await page.EvaluateAsync<int>("times.length") >= 4);
        Assert.Equal("Nothing yet", withOneAnswer);
        Assert.Equal(
            0, await page.EvaluateAsync<double>("Math.max(...charts.find(one => one.title === 'Redis network').data.flat())"));
        await SeeAsync(page, "figure li", "received0 B/s");
        Assert.Empty(_faults);
    }

    /// <remarks>The page gets statistics that the test makes, of two processes.</remarks>
    [Fact]
    public async Task Several_processes_are_shown_together_or_one_by_one()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var stats = JsonNode.Parse(await (await admin.GetAsync("/cache/stats")).Content.ReadAsStringAsync())!;
        var reads = 0;
        JsonNode Process(string name, int factor, JsonArray degraded)
        {
            var process = stats.DeepClone();
            (process["instance"], process["degraded"]) = (name, degraded);
            process["caches"]![0]!["tiers"]![0]!["hits"] = reads * factor;
            process["caches"]![0]!["hotKeys"] = new JsonArray(new JsonObject { ["id"] = "the-key", ["perSecond"] = factor });
            return process;
        }

        var page = await OpenAsync(api);
        await page.RouteAsync("**/cache/stats/processes", async route =>
        {
            reads += 100;
            var away = new JsonObject { ["part"] = "Redis (cache)", ["problem"] = "It is away.", ["effect"] = "Reads are slow." };
            await route.FulfillAsync(new()
            {
                ContentType = "application/json",
                Body = Processes(Process("api-1:1", 1, [away]), Process("api-2:1", 2, [])),
            });
        });

        await SignInAsync(page, ApiNode.AdminEmail);

        await SeeAsync(page, "#instance", "2 processes");
        await SeeAsync(page, "#degraded-list li", "Redis (cache), process api-1:1: It is away. Reads are slow.");
        Assert.Equal(1, await page.Locator("#degraded-list li").CountAsync());
        await Eventually.TrueAsync(async () => await LookUpsAsync(page) is var all && all > 0 && all % 300 == 0);
        await SeeAsync(page, "#hot tbody tr", "the-key3");

        await page.GetByLabel("Show").SelectOptionAsync("api-2:1");
        await SeeAsync(page, "#hot tbody tr", "the-key2");
        await Eventually.TrueAsync(async () => await LookUpsAsync(page) is var all && all % 300 == 200);
        Assert.Empty(_faults);
    }

    /// <remarks>The page gets statistics that the test makes: one of two processes does not answer for a while.</remarks>
    [Fact]
    public async Task A_process_that_does_not_answer_is_named_and_stays_chosen()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var stats = JsonNode.Parse(await (await admin.GetAsync("/cache/stats")).Content.ReadAsStringAsync())!;
        JsonNode Process(string name)
        {
            var process = stats.DeepClone();
            process["instance"] = name;
            return process;
        }

        var isFrozen = false;
        var page = await OpenAsync(api);
        await page.RouteAsync("**/cache/stats/processes", route => route.FulfillAsync(new()
        {
            ContentType = "application/json",
            Body = isFrozen ? Processes(Process("api-1:1")) : Processes(Process("api-1:1"), Process("api-2:1")),
        }));
        await SignInAsync(page, ApiNode.AdminEmail);
        await page.GetByLabel("Show").SelectOptionAsync("api-2:1");

        isFrozen = true;
        await SeeAsync(page, "#degraded-list li", "Process api-2:1: It has not answered for ");
        await SeeAsync(page, "#instance", "1 of 2 processes answer");
        await SeeTileAsync(page, "Redis circuit", "–", "not known");

        isFrozen = false;
        await SeeTileAsync(page, "Redis circuit", "closed", "Redis is asked");
        await HiddenAsync(page, "#degraded");
        Assert.Equal("api-2:1", await page.GetByLabel("Show").InputValueAsync());
        Assert.Empty(_faults);
    }

    [Fact]
    public async Task Without_experiments_the_page_has_one_column_and_nothing_overlaps()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["environment"] = "Production" });
        var page = await OpenAsync(api);
        await page.SetViewportSizeAsync(1440, 900);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        Assert.True(await page.IsHiddenAsync("#try"));

        Assert.True(await page.EvaluateAsync<bool>(
            "(box => box('tiles').bottom <= box('charts').top)(id => document.getElementById(id).getBoundingClientRect())"));
    }

    [Fact]
    public async Task After_a_reload_during_an_outage_the_experiments_come_back()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["ConnectionStrings:RedisState"] = redis.ConnectionString, ["Redis:StateDeadline"] = "00:00:01" });
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#try", "Try it");
        await redis.PauseAsync();
        await SeeAsync(page, "#state-text", "A server behind the service is away");

        await page.ReloadAsync();
        await SeeAsync(page, "#state-text", "A server behind the service is away");
        Assert.True(await page.IsHiddenAsync("#try"));
        await redis.ResumeAsync();

        await SeeAsync(page, "#state-text", "Live");
        await SeeAsync(page, "#try", "Try it");
    }

    /// <remarks>The page gets a history that the test makes.</remarks>
    [Fact]
    public async Task The_graphs_begin_with_the_last_15_minutes()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var stats = JsonNode.Parse(await (await admin.GetAsync("/cache/stats")).Content.ReadAsStringAsync())!;
        var kept = Enumerable.Range(1, 60).Select(interval =>
        {
            var past = stats.DeepClone();
            past["at"] = TimeProvider.System.GetUtcNow().AddSeconds(-600 + (interval * 10) - 20);
            past["caches"]![0]!["tiers"]![0]!["hits"] = interval * 1000;
            return past;
        });
        var page = await OpenAsync(api);
        await page.RouteAsync("**/cache/stats/history", route => route.FulfillAsync(new()
        {
            ContentType = "application/json",
            Body = new JsonArray(new JsonObject { ["instance"] = "one", ["stats"] = new JsonArray([.. kept]) }).ToJsonString(),
        }));

        await SignInAsync(page, ApiNode.AdminEmail);

        await Eventually.TrueAsync(async () => await page.EvaluateAsync<int>("times.length") >= 60);
        Assert.InRange(await page.EvaluateAsync<double>("times.at(-1) - times[0]"), 550, 700);
        Assert.InRange(
            await page.EvaluateAsync<double>("charts.find(one => one.title === 'Look-ups').data[0][30]"), 80, 120);
        Assert.Empty(_faults);
    }

    [Fact]
    public async Task The_graphs_can_be_paused_and_show_another_time_span()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var page = await OpenAsync(api);
        async Task<double> EndAsync() => await page.EvaluateAsync<double>("charts[0].graph.scales.x.max");
        async Task<double> SpanAsync() => await page.EvaluateAsync<double>("span()[1] - span()[0]");
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");

        await page.ClickAsync("#pause");
        await SeeAsync(page, "#state-text", "Graphs paused");
        var end = await EndAsync();
        var looks = await page.EvaluateAsync<int>("answers.length");
        await Eventually.TrueAsync(async () => await page.EvaluateAsync<int>("answers.length") >= looks + 2);
        Assert.Equal(end, await EndAsync());

        await page.ClickAsync("#pause");
        await SeeAsync(page, "#state-text", "Live");
        Assert.True(await EndAsync() > end);
        await page.EvaluateAsync("answers.unshift({ time: answers[0].time - 800, processes: answers[0].processes }); plotAll();");
        await page.GetByLabel("15 min").CheckAsync();
        Assert.InRange(await SpanAsync(), 799, 899);
        await page.GetByLabel("2 min").CheckAsync();
        Assert.Equal(120, await SpanAsync());
    }

    [Fact]
    public async Task Idle_panels_are_not_drawn_until_they_have_something_to_show()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["RateLimits:Enabled"] = "true" });
        var page = await OpenAsync(api);
        await page.RouteAsync("**/limits/*", route => route.ContinueAsync());
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#idle", "Evictions");
        Assert.True(await page.Locator("figure", new() { HasText = "Evictions" }).IsHiddenAsync());

        await page.ClickAsync("text=Write-behind");

        await SeeAsync(page, "#events", "accepted, not committed yet");
        await page.ClickAsync("text=Release");
        await SeeAsync(page, "#events", "shared the load");
        await page.Locator("figure", new() { HasText = "Loads" }).WaitForAsync();
    }

    [Fact]
    public async Task Each_experiment_says_what_happened_and_what_to_watch()
    {
        await using var api = await ApiNode.StartAsync(
            servers, new() { ["RateLimits:Enabled"] = "true", ["RateLimits:Policies:default:Limit"] = "1000" });
        await api.CreateUserAsync();
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#try", "Try it");
        async Task TryAsync(string button, string result, string hint)
        {
            await page.Locator("#try button", new() { HasText = button }).First.ClickAsync();
            await SeeAsync(page, "#events li:first-child", result);
            await SeeAsync(page, "#events li:first-child", hint);
        }

        await TryAsync("Release", "500 callers: 1 loaded, ", "Watch Loads");
        await TryAsync("Write-through", "A change by write-through: version 2 after ", "The next read is a hit");
        await TryAsync("Invalidate", "version 3 after ", "The next read of the user is a miss");
        await TryAsync("Write-behind", "accepted, not committed yet", "Write queue shows changes that wait");
        await TryAsync("Evict that user", "is evicted from all tiers", "loads it once");
        await TryAsync("Warm 200 users", "The newest 200 users are loaded.", "Clear the cache first");
        await SeeAsync(page, "#warm-ups tbody tr", "kept all");
        await TryAsync("Clear the cache users", "is cleared in all processes", "Watch Hit ratio");
        await TryAsync("Send", "15 requests to demo-fixed-window: 10 allowed, 5 denied.", "Watch Limits");
        await TryAsync("Start the load", "200 reads per second of 500 users begin.", "Watch Look-ups");
        await SeeAsync(page, "#hot tbody tr:first-child", "users:");
        await page.Locator("#station-memory", new() { HasText = "answers" }).WaitForAsync();
        await SeeAsync(page, "#saved", " reads have needed ");
        Assert.True(await page.EvaluateAsync<bool>("marks.length >= 9"));
        await TryAsync("Stop the load", "The load ends.", "");
        await Eventually.TrueAsync(async () => api.Services.GetRequiredService<LabLoad>().State is null);
    }

    [Fact]
    public async Task The_load_ends_when_the_page_closes()
    {
        await using var api = await ApiNode.StartAsync(servers);
        var load = api.Services.GetRequiredService<LabLoad>();
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await page.Locator("#load").ClickAsync();
        await Eventually.TrueAsync(() => load.State is not null);
        await Task.Delay(LabLoad.Lease + TimeSpan.FromSeconds(1));
        Assert.NotNull(load.State);

        await page.CloseAsync(new() { RunBeforeUnload = false });

        await Eventually.TrueAsync(() => load.State is null);
    }

    [Fact]
    public async Task A_fault_is_caused_and_shown()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var state = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = state.ConnectionString,
            ["Cache:RedisDeadline"] = "00:00:00.200",
        });
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await page.Locator("#load").ClickAsync();
        await page.GetByLabel("Seconds", new() { Exact = true }).SelectOptionAsync("10");

        await page.Locator("#try button", new() { HasText = "Freeze Redis" }).ClickAsync();

        await SeeAsync(page, "#events", "The cache’s Redis does not answer for 10 seconds.");
        await SeeAsync(page, "#degraded", "Redis (cache)");
        await SeeTileAsync(page, "Redis circuit", "open", "reads go to memory or the source");
        await page.Locator("#try button", new() { HasText = "Lock the table" }).ClickAsync();
        await SeeAsync(page, "#events", "There is a fault at present.");
        Assert.DoesNotContain("Watch", await page.TextContentAsync("#events li:first-child"), StringComparison.Ordinal);
        await HiddenAsync(page, "#degraded");
    }

    [Fact]
    public async Task An_entry_is_shown_in_each_tier_and_a_wrong_key_is_explained()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["Cache:Users:MemoryTtl"] = "00:01:00" });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await admin.GetAsync($"/users/{user.Id}");
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");

        await page.GetByLabel("Key", new() { Exact = true }).FillAsync("no key");
        await page.GetByRole(AriaRole.Button, new() { Name = "Look up" }).ClickAsync();
        await SeeAsync(page, "#entry-problem", "expected");

        await page.Locator("#hot button").ClickAsync();
        await SeeAsync(page, "#entry tbody tr:first-child", "Statefreshfresh");
        await SeeAsync(page, "#entry-note", $"Key in Redis: {api.KeyPrefix}:users:g");
        Assert.Equal("", await page.TextContentAsync("#entry-problem"));
    }

    [Fact]
    public async Task Dead_letters_are_listed_and_can_be_retried_and_dropped()
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["WriteBehind:MaxAttempts"] = "1" });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        var page = await OpenAsync(api);
        await SignInAsync(page, ApiNode.AdminEmail);
        await SeeAsync(page, "#state-text", "Live");
        Assert.True(await page.IsHiddenAsync("#letters-part"));
        await api.SqlAsync("ALTER TABLE users ADD CONSTRAINT no_dead CHECK (display_name <> 'Dead')");

        await admin.PutAsJsonAsync($"/users/{user.Id}?strategy=write-behind", new { email = user.Email, displayName = "Dead" });
        await SeeAsync(page, "#letters tbody tr", $"users:{user.Id}");
        await page.Locator("#letters button", new() { HasText = "Retry" }).ClickAsync();
        await SeeAsync(page, "#letters tbody tr", $"users:{user.Id}");
        await Eventually.TrueAsync(async () => await api.MetricAsync("write_behind_writes_total", ("outcome", "dead")) == 2);

        await SeeAsync(page, "#letters tbody tr", $"users:{user.Id}");
        await page.Locator("#letters button", new() { HasText = "Drop" }).First.ClickAsync();
        await HiddenAsync(page, "#letters-part");
        Assert.Empty((await (await admin.GetAsync("/cache/dead-letters")).JsonAsync()).EnumerateArray());
    }

    /// <remarks>The statistics count one dead letter all the time, while it is retried and becomes one again.</remarks>
    [Fact]
    public async Task A_dead_letter_that_comes_back_between_two_statistics_is_listed()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var admin = await api.AdminAsync();
        var stats = JsonNode.Parse(await (await admin.GetAsync("/cache/stats")).Content.ReadAsStringAsync())!;
        stats["writeBehind"] = new JsonObject { ["queueLength"] = 0, ["lagSeconds"] = 0, ["deadLetters"] = 1 };
        var letter = new JsonObject
        {
            ["id"] = "1-0",
            ["cache"] = "users",
            ["key"] = "the-key",
            ["version"] = 2,
            ["reason"] = "The database refuses the change.",
            ["acceptedAt"] = "2026-01-01T00:00:00Z",
        };
        var lists = 0;
        var page = await OpenAsync(api);
        await page.RouteAsync(
            "**/cache/stats/processes", route => route.FulfillAsync(new() { ContentType = "application/json", Body = Processes(stats) }));
        await page.RouteAsync("**/cache/dead-letters?*", route => route.FulfillAsync(new()
        {
            ContentType = "application/json",
            Body = (++lists == 1 ? new JsonArray() : new JsonArray(letter.DeepClone())).ToJsonString(),
        }));

        await SignInAsync(page, ApiNode.AdminEmail);

        await SeeAsync(page, "#letters tbody tr", "users:the-key");
        var looks = await page.EvaluateAsync<int>("answers.length");
        await Eventually.TrueAsync(async () => await page.EvaluateAsync<int>("answers.length") > looks + 2);
        Assert.Equal(2, lists);
    }

    [Theory]
    [InlineData(ColorScheme.Light)]
    [InlineData(ColorScheme.Dark)]
    public async Task A_screen_reader_and_a_keyboard_can_use_it(ColorScheme scheme)
    {
        await using var api = await ApiNode.StartAsync(servers, new() { ["RateLimits:Enabled"] = "true" });
        var user = await api.CreateUserAsync();
        using var admin = await api.AdminAsync();
        await admin.GetAsync($"/users/{user.Id}");
        await admin.PostAsJsonAsync("/cache/warm", new { cache = "users", top = 1 });
        var page = await OpenAsync(api);
        await page.EmulateMediaAsync(new() { ColorScheme = scheme });
        await AssertAccessibleAsync(page);

        await page.Keyboard.TypeAsync(ApiNode.AdminEmail);
        await page.Keyboard.PressAsync("Tab");
        await page.Keyboard.TypeAsync(ApiNode.Password);
        await page.Keyboard.PressAsync("Enter");
        await SeeAsync(page, "#state-text", "Live");
        await page.Locator("#hot button").FocusAsync();
        await page.Keyboard.PressAsync("Enter");
        await SeeAsync(page, "#entry tbody tr:first-child", "State");
        var looks = await page.EvaluateAsync<int>("answers.length");
        await Eventually.TrueAsync(async () => await page.EvaluateAsync<int>("answers.length") > looks + 1);
        Assert.True(await page.Locator("#hot button").EvaluateAsync<bool>("button => button === document.activeElement"));
        await page.Locator("#try button", new() { HasText = "Release" }).FocusAsync();
        await page.Keyboard.PressAsync("Enter");
        await SeeAsync(page, "#events", "shared the load");
        Assert.Equal("try stampede", await page.EvaluateAsync<string>("`try ${document.activeElement.dataset.try}`"));
        await AssertAccessibleAsync(page);
    }

    private static async Task AssertAccessibleAsync(IPage page)
    {
        var result = await page.RunAxe();
        Assert.Equal(
            "",
            string.Join(
                '\n',
                result.Violations
                    .Where(violation => violation.Impact is "serious" or "critical")
                    .Select(violation => $"{violation.Id}: {string.Join("; ", violation.Nodes.Select(node => node.Html))}")));
    }

    private static string Processes(params JsonNode[] processes) =>
        new JsonObject { ["processes"] = new JsonArray([.. processes.Select(one => one.DeepClone())]), ["complete"] = true }.ToJsonString();

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
        var page = await chromium.Browser.NewPageAsync();
        _pages.Add(page);
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
