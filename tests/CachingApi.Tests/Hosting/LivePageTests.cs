using System.Globalization;
using CachingApi.Caching;
using CachingApi.Orders;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Playwright;

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
    public async Task What_goes_wrong_is_said_in_plain_words()
    {
        await using var redis = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:RedisState"] = redis.ConnectionString,
            ["Redis:StateDeadline"] = "00:00:02",
            ["RateLimits:Enabled"] = "true",
            ["RateLimits:Policies:login:Limit"] = "1000",
            ["RateLimits:Policies:login-account:Limit"] = "1000",
            ["RateLimits:Policies:default:Limit"] = "3",
            ["RateLimits:Policies:default:Window"] = "01:00:00",
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
        await redis.ResumeAsync();
        await SeeAsync(page, "#state-text", "Live");
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

    private static async Task<int> LookUpsAsync(IPage page)
    {
        var note = await page.Locator("#tiles div", new() { HasText = "Look-ups" }).Locator(".note").TextContentAsync();
        return int.TryParse(note?.Split(' ')[0], NumberStyles.AllowThousands, CultureInfo.InvariantCulture, out var count) ? count : -1;
    }
}
