using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Globalization;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text.Json;
using System.Text.RegularExpressions;
using CachingApi.Caching;
using CachingApi.Redis;
using CachingApi.Sessions;
using CachingApi.Tests.Servers;
using CachingApi.Users;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Identity;
using Microsoft.AspNetCore.Mvc.Testing;
using Microsoft.AspNetCore.TestHost;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Npgsql;
using OpenTelemetry.Metrics;
using Serilog.Core;
using Serilog.Events;

namespace CachingApi.Tests.Api;

/// <summary>
/// The service on its own port, with its own database and key prefix. A second one that shares those of a first is another node.
/// </summary>
internal sealed class ApiNode : WebApplicationFactory<Program>
{
    public const string AdminEmail = "admin@example.com";
    public const string Password = "a long and unusual sentence";

    private readonly TestServers _servers;
    private readonly Dictionary<string, string> _settings;
    private readonly TimeProvider? _time;
    private readonly bool _ownsDatabase;
    private readonly LogLines _log = new();

    private readonly Action<IServiceCollection>? _services;

    private ApiNode(
        TestServers servers,
        Dictionary<string, string> settings,
        TimeProvider? time,
        bool ownsDatabase,
        Action<IServiceCollection>? services) =>
        (_servers, _settings, _time, _ownsDatabase, _services) = (servers, settings, time, ownsDatabase, services);

    public string Database => _settings["ConnectionStrings:Postgres"];

    public string KeyPrefix => _settings["Redis:KeyPrefix"];

    /// <summary>The lines that the node has logged, with trace and properties: by default only errors.</summary>
    public IReadOnlyCollection<string> Log => _log;

    /// <summary>A client without a session.</summary>
    public HttpClient Anonymous { get; private set; } = null!;

    /// <param name="settings">Settings that are added to the tests' settings, or replace them.</param>
    /// <param name="nodeOf">The service whose database and keys this one shares.</param>
    /// <param name="services">Adds services.</param>
    /// <param name="whenTrusted">
    /// Waits for every connection and for the first heartbeats: Redis and memory are used from then on.
    /// </param>
    public static async Task<ApiNode> StartAsync(
        TestServers servers,
        Dictionary<string, string>? settings = null,
        ApiNode? nodeOf = null,
        TimeProvider? time = null,
        Action<IServiceCollection>? services = null,
        bool whenTrusted = true)
    {
        var all = new Dictionary<string, string>
        {
            ["ConnectionStrings:Redis"] = servers.Redis,
            // The developer's environment must not affect tests.
            ["ConnectionStrings:RedisState"] = "",
            ["Database:SampleData"] = "false",
            // A server has only ten slots, so only tests of change data capture turn it on.
            ["Database:ChangeCapture"] = "false",
            ["Redis:KeyPrefix"] = nodeOf?.KeyPrefix ?? $"test-{Guid.NewGuid():N}",
            ["Admin:Email"] = AdminEmail,
            ["Admin:Password"] = Password,
            // A busy machine must not cause time-outs of calls that a test expects to succeed.
            ["Cache:RedisDeadline"] = "00:00:05",
            ["Redis:StateDeadline"] = "00:00:05",
            // One tier at a time: only tests of the memory tier turn it on.
            ["Cache:Users:MemoryTtl"] = "00:00:00",
            ["Cache:UserLists:MemoryTtl"] = "00:00:00",
            // Tests count loads and look-ups, so only tests of the consistency checker turn it on.
            ["Cache:Verify"] = "0",
            // Tests send more requests than a user may, so only tests of the limits turn them on.
            ["RateLimits:Enabled"] = "false",
            // No test calls the real upstream.
            ["Weather:GeocodingUrl"] = "http://127.0.0.1:9",
            ["Weather:ForecastUrl"] = "http://127.0.0.1:9",
            ["Cache:Geocoding:MemoryTtl"] = "00:00:00",
            ["Cache:Weather:MemoryTtl"] = "00:00:00",
            ["Serilog:MinimumLevel:Default"] = "Error",
        };
        foreach (var (name, value) in settings ?? [])
        {
            all[name] = value;
        }

        var ownsDatabase = nodeOf is null && !all.ContainsKey("ConnectionStrings:Postgres");
        if (!all.ContainsKey("ConnectionStrings:Postgres"))
        {
            all["ConnectionStrings:Postgres"] = nodeOf?.Database ?? await servers.CreateDatabaseAsync();
        }

        var api = new ApiNode(servers, all, time, ownsDatabase, services);
        api.UseKestrel(0);
        api.StartServer();
        api.Anonymous = api.CreateClient();
        if (whenTrusted)
        {
            await api.TrustedAsync();
        }

        return api;
    }

    /// <summary>The node's settings with some changes, for a process that shares its database and keys.</summary>
    public Dictionary<string, string> SettingsWith(Dictionary<string, string> changed) =>
        new(_settings.Where(setting => !changed.ContainsKey(setting.Key)).Concat(changed));

    /// <summary>A client that does not handle cookies: the test does.</summary>
    public HttpClient CreateBareClient() => CreateClient(new() { HandleCookies = false, BaseAddress = ClientOptions.BaseAddress });

    /// <summary>A client that sends a session's bearer token.</summary>
    public async Task<HttpClient> LogInAsync(string email, string password = Password)
    {
        var answer = await Anonymous.PostAsJsonAsync("/sessions", new { email, password, transport = "bearer" });
        AssertSuccess(answer);
        var client = CreateClient();
        client.DefaultRequestHeaders.Authorization = new("Bearer", (await answer.JsonAsync()).GetProperty("token").GetString());
        return client;
    }

    public Task<HttpClient> AdminAsync() => LogInAsync(AdminEmail);

    /// <summary>A new user.</summary>
    public async Task<User> CreateUserAsync(string name = "Ada Lovelace")
    {
        var answer = await Anonymous.PostAsJsonAsync(
            "/users", new { email = $"{Guid.NewGuid():N}@example.org", displayName = name, password = Password });
        AssertSuccess(answer);
        return (await answer.Content.ReadFromJsonAsync<User>())!;
    }

    /// <summary>New users, one after the other: only a few passwords of one network may wait to be hashed.</summary>
    public async Task<User[]> CreateUsersAsync(int count)
    {
        var users = new User[count];
        for (var index = 0; index < count; index++)
        {
            users[index] = await CreateUserAsync();
        }

        return users;
    }

    /// <summary>A metric, read by the anonymous client.</summary>
    public Task<double> MetricAsync(string name, params (string Label, string Value)[] labels) => Anonymous.MetricAsync(name, labels);

    public Task SqlAsync(string sql) => SqlAsync<object>(sql);

    /// <summary>The first column of the first row.</summary>
    public async Task<T?> SqlAsync<T>(string sql)
    {
        await using var connection = new NpgsqlConnection(Database);
        await connection.OpenAsync();
        await using var command = new NpgsqlCommand(sql, connection);
        var value = await command.ExecuteScalarAsync();
        return value is DBNull ? default : (T?)value;
    }

    /// <summary>The keys of this service in a Redis, without its prefix.</summary>
    public Task<string[]> KeysAsync(string? redis = null) =>
        SharedRedis.KeysAsync(redis ?? _settings["ConnectionStrings:Redis"], KeyPrefix);

    public override async ValueTask DisposeAsync()
    {
        await base.DisposeAsync();
        if (_ownsDatabase)
        {
            await _servers.DropDatabaseAsync(Database);
        }
    }

    protected override void ConfigureWebHost(IWebHostBuilder builder)
    {
        foreach (var (name, value) in _settings)
        {
            builder.UseSetting(name, value);
        }

        builder.ConfigureTestServices(services =>
        {
            _services?.Invoke(services);
            services.AddSingleton<ILogEventSink>(_log);
            services.Configure<PasswordHasherOptions>(hasher => hasher.IterationCount = 1000);
            // A listener receives the measurements of the whole process; each node counts only its own.
            services.ConfigureOpenTelemetryMeterProvider((provider, metrics) =>
            {
                var own = provider.GetRequiredService<IMeterFactory>();
                metrics.AddView(instrument =>
                    instrument.Meter.Scope is { } scope && scope != own ? MetricStreamConfiguration.Drop : null);
            });
            if (_time is not null)
            {
                services.Replace(ServiceDescriptor.Singleton(_time));
            }
        });
    }

    private async Task TrustedAsync()
    {
        var (redis, sessions) = (Services.GetRequiredService<RedisConnections>(), Services.GetRequiredService<SessionMemory>());
        var (backplane, tier) = (Services.GetRequiredService<Backplane>(), Services.GetRequiredService<RedisTier>());
        await Eventually.TrueAsync(
            () => redis.Cache.Multiplexer.GetServers().All(server => server.IsConnected)
                && backplane.IsTrusted && tier.IsTrusted && (sessions.IsTrusted || !sessions.IsOn),
            "the node uses Redis and memory");
    }

    private void AssertSuccess(HttpResponseMessage answer) =>
        Assert.True(answer.IsSuccessStatusCode, $"{(int)answer.StatusCode}; the log: {string.Join('\n', _log)}");

    private sealed class LogLines : ConcurrentQueue<string>, ILogEventSink
    {
        public void Emit(LogEvent logEvent) => Enqueue(
            $"{logEvent.RenderMessage(CultureInfo.InvariantCulture)} {logEvent.Exception} {logEvent.TraceId} "
            + $"{string.Join(' ', logEvent.Properties)}");
    }
}

internal static partial class Answers
{
    /// <summary>A metric, read from /metrics: the sum of all samples with these labels; 0 if there is none yet.</summary>
    public static async Task<double> MetricAsync(this HttpClient client, string name, params (string Label, string Value)[] labels)
    {
        var sum = 0.0;
        foreach (var line in (await client.GetStringAsync("/metrics")).Split('\n'))
        {
            if (Sample().Match(line) is { Success: true } sample && sample.Groups["name"].Value == name
                && labels.All(
                    label => sample.Groups["labels"].Value.Contains($"{label.Label}=\"{label.Value}\"", StringComparison.Ordinal)))
            {
                sum += double.Parse(sample.Groups["value"].Value, CultureInfo.InvariantCulture);
            }
        }

        return sum;
    }

    public static async Task<JsonElement> JsonAsync(this HttpResponseMessage answer) =>
        JsonSerializer.Deserialize<JsonElement>(await answer.Content.ReadAsStringAsync());

    public static string Header(this HttpResponseMessage answer, string name) =>
        answer.Headers.NonValidated.TryGetValues(name, out var values) || answer.Content.Headers.NonValidated.TryGetValues(name, out values)
            ? values.ToString()
            : "";

    public static string CacheStatus(this HttpResponseMessage answer) => answer.Header("Cache-Status");

    public static EntityTagHeaderValue ETag(this HttpResponseMessage answer) => answer.Headers.ETag!;

    [GeneratedRegex(@"^(?<name>[a-z0-9_]+)(\{(?<labels>.*)\})? (?<value>[^ ]+)")]
    private static partial Regex Sample();
}
