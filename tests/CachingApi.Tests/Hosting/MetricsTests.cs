using System.Text.RegularExpressions;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Hosting;

/// <summary>
/// Dashboards and alerts depend on these names and label values, so they are listed here, and the test causes each of them.
/// </summary>
public sealed partial class MetricsTests(TestServers servers)
{
    private static readonly string[] Samples =
    [
        """cache_requests_total{cache="things",result="hit",tier="memory"}""",
        """cache_requests_total{cache="things",result="negative",tier="memory"}""",
        """cache_requests_total{cache="things",result="miss",tier="memory"}""",
        """cache_requests_total{cache="things",result="hit",tier="redis"}""",
        """cache_requests_total{cache="things",result="negative",tier="redis"}""",
        """cache_requests_total{cache="things",result="stale",tier="redis"}""",
        """cache_requests_total{cache="things",result="miss",tier="redis"}""",
        """cache_requests_total{cache="things",result="error",tier="redis"}""",
        """cache_requests_total{cache="things",result="hit",tier="source"}""",
        """cache_requests_total{cache="things",result="negative",tier="source"}""",
        """cache_requests_total{cache="things",result="error",tier="source"}""",
        """cache_requests_total{cache="users",result="hit",tier="memory"}""",
        """cache_requests_total{cache="geocoding",result="negative",tier="source"}""",
        """cache_requests_total{cache="weather",result="hit",tier="source"}""",
        """cache_loads_total{cache="things",outcome="loaded"}""",
        """cache_loads_total{cache="things",outcome="not_found"}""",
        """cache_loads_total{cache="things",outcome="failed"}""",
        """cache_load_duration_seconds_bucket{cache="things",le="0.0001"}""",
        """cache_operation_duration_seconds_bucket{operation="get",tier="memory",le="1E-06"}""",
        """cache_operation_duration_seconds_bucket{operation="get",tier="redis",le="0.0001"}""",
        """cache_operation_duration_seconds_count{operation="lease",tier="redis"}""",
        """cache_operation_duration_seconds_count{operation="set",tier="redis"}""",
        """cache_operation_duration_seconds_count{operation="generation",tier="redis"}""",
        """cache_coalesced_total{cache="things"}""",
        """cache_refused_fills_total{cache="things"}""",
        """cache_evictions_total{cache="things"}""",
        """cache_entries{cache="things"}""",
        """cache_circuit_open{}""",
        """cache_staleness_seconds_bucket{cache="users",tier="memory",le="0"}""",
        """cache_staleness_seconds_bucket{cache="users",tier="redis",le="0.001"}""",
        """cache_inconsistencies_total{cache="users",tier="memory"}""",
        """cache_inconsistencies_total{cache="users",tier="redis"}""",
        """cache_inconsistencies_total{cache="user-lists",tier="memory"}""",
        """cache_inconsistencies_total{cache="user-lists",tier="redis"}""",
        """change_capture_changes_total{table="users"}""",
        """change_capture_follows{}""",
        """rate_limit_decisions_total{outcome="allowed",policy="demo-token-bucket"}""",
        """rate_limit_decisions_total{outcome="denied",policy="demo-token-bucket"}""",
        """rate_limit_decisions_total{outcome="denied_local",policy="demo-token-bucket"}""",
        """rate_limit_decisions_total{outcome="fallback",policy="demo-sliding-window"}""",
        """sessions_total{event="created"}""",
        """sessions_total{event="refused"}""",
        """sessions_total{event="delayed"}""",
        """sessions_total{event="ended"}""",
        """sessions_total{event="revoked"}""",
        """weather_upstream_calls_total{api="search",outcome="answered"}""",
        """weather_upstream_calls_total{api="forecast",outcome="answered"}""",
        """weather_upstream_call_duration_seconds_count{api="forecast"}""",
        """weather_upstream_budget{window="minute"}""",
        """weather_upstream_budget{window="hour"}""",
        """weather_upstream_budget{window="day"}""",
        """weather_upstream_budget_left{window="minute"}""",
        """weather_upstream_budget_left{window="hour"}""",
        """weather_upstream_budget_left{window="day"}""",
        """http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200","""
        + """http_route="/users/{id}",""",
        """write_behind_queue_length{cache="users"}""",
        """write_behind_lag_seconds{cache="users"}""",
        """write_behind_dead_letters{cache="users"}""",
        """write_behind_writes_total{cache="users",outcome="persisted"}""",
        """write_behind_writes_total{cache="users",outcome="folded"}""",
        """write_behind_writes_total{cache="users",outcome="retried"}""",
        """write_behind_writes_total{cache="users",outcome="dead"}""",
        """write_behind_fallbacks_total{cache="users",reason="full"}""",
        """pg_up{}""",
    ];

    private static readonly string[] OfEachRedis =
    [
        "redis_up", "redis_uptime_in_seconds", "redis_connected_clients", "redis_blocked_clients", "redis_memory_used_bytes",
        "redis_memory_used_rss_bytes", "redis_memory_max_bytes", "redis_mem_fragmentation_ratio", "redis_evicted_keys_total",
        "redis_expired_keys_total", "redis_keyspace_hits_total", "redis_keyspace_misses_total", "redis_commands_processed_total",
        "redis_connections_received_total", "redis_rejected_connections_total", "redis_net_input_bytes_total",
        "redis_net_output_bytes_total",
    ];

    /// <summary>All values that labels of the service's own metrics can have.</summary>
    private static readonly Dictionary<string, string> Values = new()
    {
        ["cache"] = "things|users|user-lists|geocoding|weather",
        ["tier"] = "memory|redis|source",
        ["result"] = "hit|stale|miss|negative|error",
        ["outcome"] = "loaded|not_found|failed|allowed|denied|denied_local|fallback|answered|limited|refused|broken|timeout|unreachable"
            + "|persisted|folded|retried|dead",
        ["reason"] = "full|contended|refused",
        ["operation"] = "get|lease|set|generation",
        ["table"] = "users",
        ["policy"] = "cache-stats|default|email-change|login|login-account|login-network|password|registration|registration-network|session"
            + "|weather|weather-miss|weather-miss-network|weather-refresh"
            + "|demo-fixed-window|demo-sliding-window|demo-token-bucket",
        ["event"] = "created|refused|delayed|ended|revoked",
        ["api"] = "search|forecast",
        ["window"] = "minute|hour|day",
        ["role"] = "cache|state",
        ["node"] = @"127\.0\.0\.1:\d+",
        ["db"] = "db0",
        ["le"] = @"[0-9.E+-]+|\+Inf",
    };

    [Fact]
    public async Task Each_has_the_name_and_labels_that_dashboards_use_and_no_label_is_without_bounds()
    {
        await using var service = await BusyService.StartAsync(servers);
        await service.WorkAsync();
        foreach (var role in new[] { "cache", "state" })
        {
            await Eventually.TrueAsync(
                async () => await service.Api.MetricAsync("redis_db_keys", ("role", role)) > 0, "another look at Redis");
        }

        await Eventually.TrueAsync(async () => await service.Api.MetricAsync("cache_evictions_total") > 0, "evictions");
        foreach (var tier in new[] { "memory", "redis" })
        {
            await Eventually.TrueAsync(
                async () => await service.Api.MetricAsync("cache_staleness_seconds_count", ("tier", tier)) > 0, $"a comparison of {tier}");
        }

        var metrics = await service.Api.Anonymous.GetStringAsync("/metrics");
        await service.WorkWithoutRedisAsync();
        var withoutRedis = await service.Api.Anonymous.GetStringAsync("/metrics");

        Assert.All(Samples, sample => Assert.True(Holds(withoutRedis, sample), $"{sample} is missing"));
        Assert.Contains("\ncache_circuit_open{} 1", withoutRedis, StringComparison.Ordinal);
        Assert.Contains("\ncache_circuit_open{} 0", metrics, StringComparison.Ordinal);
        Assert.Contains("\npg_up{} 1", metrics, StringComparison.Ordinal);
        foreach (var role in new[] { "cache", "state" })
        {
            Assert.All(OfEachRedis, name => Assert.Single(Of(metrics, name, role)));
            Assert.Contains("db=\"db0\"", Assert.Single(Of(metrics, "redis_db_keys", role)), StringComparison.Ordinal);
            Assert.Contains("db=\"db0\"", Assert.Single(Of(metrics, "redis_db_keys_expiring", role)), StringComparison.Ordinal);
        }

        foreach (var line in withoutRedis.Split('\n').Where(line => Own().IsMatch(line)))
        {
            Assert.All(Label().Matches(line), label => Assert.True(
                Values.TryGetValue(label.Groups["name"].Value, out var values)
                    && Regex.IsMatch(label.Groups["value"].Value, $"^({values})$"),
                $"{label} of {line}"));
        }

        Assert.DoesNotContain("@", withoutRedis, StringComparison.Ordinal);
        await Promtool.CheckMetricsAsync(withoutRedis);
    }

    [Fact]
    public async Task Each_is_used_by_a_chart_an_alert_or_the_documentation()
    {
        await using var service = await BusyService.StartAsync(servers);
        await service.WorkAsync();
        await Eventually.TrueAsync(async () => await service.Api.MetricAsync("redis_db_keys") > 0, "another look at Redis");
        string[] files = ["ops/recording.yml", "ops/alerts.yml", "ops/grafana/dashboards/cachingapi.json", "docs/metrics.md"];
        var users = string.Join('\n', files.Select(file => File.ReadAllText(ComposeTests.Root(file))));

        var metrics = Family().Matches(await service.Api.Anonymous.GetStringAsync("/metrics")).Select(match => match.Groups[1].Value);

        // The documentation describes the metrics of Redis together.
        var others = metrics.Where(name => name != "target_info" && !name.StartsWith("redis_", StringComparison.Ordinal));
        Assert.All(others, name => Assert.True(Regex.IsMatch(users, $@"\b{name}(_bucket|_count|_sum)?\b"), name));
    }

    private static bool Holds(string metrics, string sample) => metrics.Contains($"\n{sample}", StringComparison.Ordinal);

    private static IEnumerable<string> Of(string metrics, string name, string role) =>
        metrics.Split('\n').Where(
            line => line.StartsWith($"{name}{{", StringComparison.Ordinal) && line.Contains($"role=\"{role}\"", StringComparison.Ordinal));

    [GeneratedRegex("^(cache|change_capture|rate_limit|sessions|weather|write_behind|redis|pg)_")]
    private static partial Regex Own();

    [GeneratedRegex("(?m)^# TYPE ([a-z_0-9]+) ")]
    private static partial Regex Family();

    [GeneratedRegex("(?<name>[a-z_]+)=\"(?<value>[^\"]*)\"")]
    private static partial Regex Label();
}
