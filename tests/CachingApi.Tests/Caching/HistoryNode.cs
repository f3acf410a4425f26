using System.Collections.Concurrent;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text.Json;
using CachingApi.Tests.Api;

namespace CachingApi.Tests.Caching;

/// <summary>
/// A node of a history: a client, as an administrator, of a host in the test's process or of a separate process.
/// </summary>
internal sealed class HistoryNode(HistoryChecker checker, HttpClient client, Dictionary<string, string>? process = null) : IDisposable
{
    private readonly SemaphoreSlim _login = new(1);
    private readonly ConcurrentDictionary<string, long> _tiers = new();
    private volatile HttpClient _client = client;
    private volatile AuthenticationHeaderValue? _token;
    private ApiProcess? _process;

    /// <summary>The checker's number of this process; another one after a restart.</summary>
    public int Number { get; private set; } = checker.AddNode();

    public bool CanBeKilled => process is not null;

    /// <summary>How many reads each tier has answered, by <c>Cache-Status</c>.</summary>
    public IReadOnlyDictionary<string, long> Tiers => _tiers;

    /// <summary>How many entries the service's own checker has compared with their source, up to the last count.</summary>
    public double Compared { get; private set; }

    public async Task StartAsync()
    {
        _process = await ApiProcess.StartAsync(process!);
        Number = checker.AddNode();
        _client = _process.Client;
    }

    /// <summary>SIGKILL.</summary>
    public async Task KillAsync()
    {
        await CountInconsistenciesAsync(); // a killed process loses its metrics
        await _process!.KillAsync();
        _process.Dispose();
    }

    /// <summary>Each inconsistency that the service's own checker has found since the process began is a violation.</summary>
    public async Task CountInconsistenciesAsync()
    {
        var inconsistencies = await _client.MetricAsync("cache_inconsistencies_total");
        if (inconsistencies > 0)
        {
            checker.Violated($"node {Number} counted {inconsistencies} inconsistencies");
        }

        Compared += await _client.MetricAsync("cache_staleness_seconds_count");
    }

    /// <summary>Sends a request.</summary>
    /// <returns>
    /// The answer; <c>null</c> if there is none, or a 503, or a 401 (the session was lost): then the outcome of a write is not known.
    /// </returns>
    public async Task<HttpResponseMessage?> SendAsync(HttpMethod method, string path, object? body = null)
    {
        try
        {
            if (_token is null && !await LogInAsync())
            {
                return null;
            }

            using var request = new HttpRequestMessage(method, new Uri(_client.BaseAddress!, path))
            {
                Content = body is null ? null : JsonContent.Create(body),
            };
            request.Headers.Authorization = _token;
            var answer = await _client.SendAsync(request);
            if (answer.StatusCode is HttpStatusCode.Unauthorized)
            {
                _token = null;
                return null;
            }

            if (answer.StatusCode is not HttpStatusCode.ServiceUnavailable)
            {
                Expect(answer, $"{method} {path}");
                return answer;
            }

            return null;
        }
        catch (Exception error) when (error is HttpRequestException or IOException or OperationCanceledException or ObjectDisposedException)
        {
            // The process was killed meanwhile, or did not answer in time.
            return null;
        }
    }

    /// <summary>A user as the node returns it; <c>null</c> if there was no answer.</summary>
    public async Task<((long Version, string Content) Seen, string CacheStatus)?> FindAsync(Guid user)
    {
        using var answer = await SendAsync(HttpMethod.Get, $"/users/{user}");
        if (answer is null)
        {
            return null;
        }

        if (answer.StatusCode is HttpStatusCode.NotFound)
        {
            return ((HistoryChecker.GoneVersion, HistoryChecker.Gone), answer.CacheStatus());
        }

        _tiers.AddOrUpdate(Tier(answer.CacheStatus()), 1, (_, count) => count + 1);
        return (Shown(await answer.JsonAsync()).Seen, answer.CacheStatus());
    }

    /// <summary>The users of a page, and the next page; <c>null</c> if there was no answer.</summary>
    public async Task<(Dictionary<Guid, (long Version, string Content)> Users, string? Next, string CacheStatus)?> ListAsync(
        int limit, string? after = null)
    {
        using var answer = await SendAsync(HttpMethod.Get, $"/users?limit={limit}{(after is null ? "" : $"&after={after}")}");
        if (answer is null)
        {
            return null;
        }

        _tiers.AddOrUpdate($"lists, {Tier(answer.CacheStatus())}", 1, (_, count) => count + 1);
        var page = await answer.JsonAsync();
        var users = page.GetProperty("items").EnumerateArray().Select(Shown).ToDictionary(user => user.Id, user => user.Seen);
        return (users, page.GetProperty("next").GetString(), answer.CacheStatus());
    }

    public void Dispose()
    {
        _process?.Dispose();
        _login.Dispose();
    }

    public static (Guid Id, (long Version, string Content) Seen) Shown(JsonElement user) =>
        (user.GetProperty("id").GetGuid(), (user.GetProperty("version").GetInt64(), user.GetProperty("displayName").GetString()!));

    private static string Tier(string status) =>
        status.Split("detail=") is [_, var detail] ? detail : status.Contains("; hit", StringComparison.Ordinal) ? "redis" : "source";

    /// <summary>The only answers that a history expects are success, 404 and 503.</summary>
    private void Expect(HttpResponseMessage answer, string what)
    {
        if (!answer.IsSuccessStatusCode && answer.StatusCode is not HttpStatusCode.NotFound)
        {
            checker.Violated($"{what} on node {Number} was answered with {(int)answer.StatusCode}");
        }
    }

    private async Task<bool> LogInAsync()
    {
        await _login.WaitAsync();
        try
        {
            if (_token is null)
            {
                var login = new { email = ApiNode.AdminEmail, password = ApiNode.Password, transport = "bearer" };
                using var answer = await _client.PostAsJsonAsync(new Uri(_client.BaseAddress!, "/sessions"), login);
                _token = answer.IsSuccessStatusCode ? new("Bearer", (await answer.JsonAsync()).GetProperty("token").GetString()) : null;
            }

            return _token is not null;
        }
        finally
        {
            _login.Release();
        }
    }
}
