using System.Globalization;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using CachingApi.Storage;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using StackExchange.Redis;

namespace CachingApi.Tests.RateLimiting;

/// <summary>
/// A service on its own port that has only the limits and routes of a test. Two on one prefix are two nodes.
/// </summary>
internal sealed class LimitedApp : IAsyncDisposable
{
    private readonly WebApplication _app;
    private readonly HttpClient _client;

    private LimitedApp(WebApplication app)
    {
        _app = app;
        _client = new() { BaseAddress = new(app.Urls.Single()) };
    }

    public IServiceProvider Services => _app.Services;

    public IDatabase State => _app.Services.GetRequiredService<RedisConnections>().State;

    public string KeyPrefix => _app.Services.GetRequiredService<RedisConnections>().KeyPrefix;

    /// <param name="redis">The connection string of Redis.</param>
    /// <param name="routes">The limits of each path: <c>policy</c>, or <c>policy*cost</c>.</param>
    public static async Task<LimitedApp> StartAsync(
        string redis,
        Dictionary<string, Policy> policies,
        Dictionary<string, string[]> routes,
        string? prefix = null,
        TimeProvider? time = null,
        string deadline = "00:00:05")
    {
        var app = Build(redis, policies, routes, prefix ?? $"test-{Guid.NewGuid():N}", time, deadline);
        Assert.Null(app.ConfigurationProblem());
        await app.StartAsync();
        return new(app);
    }

    /// <summary>The error of an invalid configuration, as the start would report it.</summary>
    public static string? Problem(Dictionary<string, Policy> policies, Dictionary<string, string[]> routes)
    {
        using var app = (IDisposable)Build("127.0.0.1:1", policies, routes, "test", null, "00:00:01");
        return ((WebApplication)app).ConfigurationProblem();
    }

    public async Task<HttpResponseMessage> GetAsync(string path, string? from = null, string? apiKey = null)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, path);
        if (from is not null)
        {
            request.Headers.Add("X-Forwarded-For", from);
        }

        if (apiKey is not null)
        {
            request.Headers.Add("X-Api-Key", apiKey);
        }

        return await _client.SendAsync(request);
    }

    /// <summary>The statuses of several requests in sequence.</summary>
    public async Task<string> StatusesAsync(string path, int times, string? from = null)
    {
        var statuses = new List<int>();
        for (var request = 0; request < times; request++)
        {
            using var answer = await GetAsync(path, from);
            statuses.Add((int)answer.StatusCode);
        }

        return string.Join(' ', statuses);
    }

    /// <summary>Changes the configuration of the running service.</summary>
    public void Set(string name, string value)
    {
        var configuration = _app.Services.GetRequiredService<IConfiguration>();
        configuration[name] = value;
        ((IConfigurationRoot)configuration).Reload();
    }

    /// <summary>The service's keys in Redis.</summary>
    public async Task<RedisKey[]> KeysAsync()
    {
        var keys = new List<RedisKey>();
        foreach (var server in State.Multiplexer.GetServers())
        {
            await foreach (var key in server.KeysAsync(pattern: $"{KeyPrefix}:*"))
            {
                keys.Add(key);
            }
        }

        return [.. keys];
    }

    /// <summary>Redis's clock, in Unix milliseconds.</summary>
    public async Task<long> RedisTimeAsync() =>
        new DateTimeOffset(await State.Multiplexer.GetServers()[0].TimeAsync()).ToUnixTimeMilliseconds();

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app.DisposeAsync();
    }

    private static WebApplication Build(
        string redis,
        Dictionary<string, Policy> policies,
        Dictionary<string, string[]> routes,
        string prefix,
        TimeProvider? time,
        string deadline)
    {
        var builder = WebApplication.CreateEmptyBuilder(new());
        builder.Configuration.AddInMemoryCollection(policies
            .SelectMany(policy => policy.Value.Settings.Select(
                setting => KeyValuePair.Create($"RateLimits:Policies:{policy.Key}:{setting.Key}", (string?)setting.Value)))
            .Concat([
                new("ConnectionStrings:Redis", redis),
                new("Redis:KeyPrefix", prefix),
                new("Redis:StateDeadline", deadline),
                new("Network:KnownProxies:0", "127.0.0.1"),
                new("Serilog:MinimumLevel:Default", "Error"),
            ]));
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        builder.AddApiConventions();
        builder.Services.AddRouting().AddRedis().AddKnownProxies().AddRateLimits();
        builder.Services.Configure<ConnectionStrings>(builder.Configuration.GetSection("ConnectionStrings"));
        if (time is not null)
        {
            builder.Services.Replace(ServiceDescriptor.Singleton(time));
        }

        var app = builder.Build();
        app.UseKnownProxies();
        app.UseApiConventions();
        app.UseRateLimits();
        foreach (var (path, limits) in routes)
        {
            var route = app.MapGet(path, () => "ok");
            foreach (var limit in limits)
            {
                var parts = limit.Split('*');
                route.RequireRateLimit(parts[0], parts.Length == 1 ? 1 : int.Parse(parts[1], CultureInfo.InvariantCulture));
            }
        }

        return app;
    }
}

/// <summary>A policy as a test configures it.</summary>
internal sealed record Policy(
    string Algorithm = "fixed-window", int Limit = 3, string Window = "01:00:00", string Partition = "ip", string OnStoreFailure = "local")
{
    public IEnumerable<KeyValuePair<string, string>> Settings =>
    [
        new("Algorithm", Algorithm),
        new("Limit", Limit.ToString(CultureInfo.InvariantCulture)),
        new("Window", Window),
        new("Partition", Partition),
        new("OnStoreFailure", OnStoreFailure),
    ];
}

/// <summary>
/// A list of structured fields (RFC 9651, section 3.1), limited to what the limits' headers use: strings with integers as parameters.
/// </summary>
internal static class StructuredFields
{
    public static List<(string Name, Dictionary<string, long> Parameters)> List(this HttpResponseMessage answer, string header)
    {
        var text = string.Join(", ", answer.Headers.GetValues(header));
        var (items, position) = (new List<(string, Dictionary<string, long>)>(), 0);
        do
        {
            if (items.Count > 0)
            {
                Expect(',');
                Skip(' ');
            }

            Expect('"');
            var name = Take(character => character is >= ' ' and <= '~' and not ('"' or '\\'));
            Expect('"');
            var parameters = new Dictionary<string, long>();
            while (position < text.Length && text[position] == ';')
            {
                position++;
                Skip(' ');
                var key = Take(
                    character => char.IsAsciiLetterLower(character)
                        || char.IsAsciiDigit(character)
                        || character is '_' or '-' or '.' or '*');
                Assert.True(char.IsAsciiLetterLower(key[0]) || key[0] == '*', text);
                Expect('=');
                var digits = Take(char.IsAsciiDigit);
                Assert.InRange(digits.Length, 1, 15);
                parameters[key] = long.Parse(digits, CultureInfo.InvariantCulture);
            }

            items.Add((name, parameters));
        }
        while (position < text.Length);
        return items;

        void Expect(char character)
        {
            Assert.True(position < text.Length && text[position] == character, $"{header} is malformed at {position}: {text}");
            position++;
        }

        void Skip(char character)
        {
            while (position < text.Length && text[position] == character)
            {
                position++;
            }
        }

        string Take(Func<char, bool> allowed)
        {
            var start = position;
            while (position < text.Length && allowed(text[position]))
            {
                position++;
            }

            return text[start..position];
        }
    }
}
