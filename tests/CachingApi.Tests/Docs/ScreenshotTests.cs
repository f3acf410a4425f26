using CachingApi.Tests.Api;
using CachingApi.Tests.Hosting;
using CachingApi.Tests.Servers;
using Microsoft.Playwright;

namespace CachingApi.Tests.Docs;

/// <summary>The picture of the live page in the README: <c>./dev docs write</c> makes it.</summary>
public sealed class ScreenshotTests(TestServers servers, Chromium chromium) : IClassFixture<Chromium>
{
    [Fact]
    public async Task The_live_page_under_load()
    {
        Assert.SkipUnless(
            Environment.GetEnvironmentVariable("CACHINGAPI_WRITE_DOCS") is not null, "Only ./dev docs write makes the picture.");
        await using var redis = await RedisServer.StartAsync("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lfu");
        await using var state = await RedisServer.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ConnectionStrings:Redis"] = redis.ConnectionString,
            ["ConnectionStrings:RedisState"] = state.ConnectionString,
            ["Database:SampleData"] = "true",
            ["Cache:RedisDeadline"] = "00:00:00.100",
            ["Cache:Users:MemoryTtl"] = "00:00:10",
            ["Cache:Users:MemoryEntries"] = "300",
            ["RateLimits:Enabled"] = "true",
        });
        var page = await chromium.Browser.NewPageAsync(
            new() { ViewportSize = new() { Width = 1440, Height = 1200 }, DeviceScaleFactor = 1.5f });
        await page.GotoAsync(api.Anonymous.BaseAddress!.ToString());
        await page.GetByLabel("E-mail address").FillAsync(ApiNode.AdminEmail);
        await page.GetByLabel("Password").FillAsync(ApiNode.Password);
        await page.GetByRole(AriaRole.Button, new() { Name = "Sign in" }).ClickAsync();
        async Task TryAsync(string button, int seconds)
        {
            await page.Locator("#try button", new() { HasText = button }).First.ClickAsync();
            await Task.Delay(TimeSpan.FromSeconds(seconds));
        }

        await TryAsync("Start the load", 30);
        await TryAsync("Release", 8);
        await TryAsync("Write-through", 8);
        await TryAsync("Clear the cache users", 20);
        await TryAsync("Freeze Redis", 25);

        await page.EvaluateAsync("document.getElementById('try').scrollTop = 0");
        var picture = await page.ScreenshotAsync(new() { Path = ComposeTests.Root("docs/live.png") });
        Assert.InRange(picture.Length, 100_000, 1_000_000);
    }
}
