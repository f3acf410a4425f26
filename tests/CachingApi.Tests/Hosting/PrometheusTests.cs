using System.Runtime.CompilerServices;
using System.Text.Json;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Hosting;

/// <summary>The files of <c>ops/</c> for Prometheus and Grafana.</summary>
public sealed class PrometheusTests(TestServers servers)
{
    [Fact]
    public Task The_configuration_and_its_rules_are_in_order() => Promtool.RunAsync("check", "config", Ops("prometheus.yml"));

    [Fact]
    public Task Each_alert_fires_when_it_should_and_not_before() => Promtool.RunAsync("test", "rules", Ops("alerts.test.yml"));

    [Fact]
    public async Task Each_alert_is_tested()
    {
        var tests = await File.ReadAllTextAsync(Ops("alerts.test.yml"));
        Assert.All(
            (await File.ReadAllLinesAsync(Ops("alerts.yml"))).Where(line => line.Contains("- alert:", StringComparison.Ordinal)),
            alert => Assert.Contains($"alertname: {alert.Split(": ")[1]}\n        exp_alerts", tests, StringComparison.Ordinal));
    }

    [Fact]
    public async Task Each_expression_of_the_dashboard_returns_data_of_a_service_under_load()
    {
        await using var service = await BusyService.StartAsync(servers);
        await using var prometheus = await PrometheusServer.StartAsync(service.Api.Anonymous.BaseAddress!, Ops("recording.yml"));
        var pending = Expressions(await File.ReadAllTextAsync(Ops("grafana/dashboards/cachingapi.json"))).ToHashSet();
        Assert.True(pending.Count > 40);

        for (var round = 0; round < 60 && pending.Count > 0; round++)
        {
            await service.WorkAsync();
            await Task.Delay(TimeSpan.FromSeconds(1)); // as long as between two scrapes
            foreach (var expression in pending.ToArray())
            {
                if ((await prometheus.QueryAsync(expression.Replace("$__rate_interval", "1m", StringComparison.Ordinal)))
                    .Any(double.IsFinite))
                {
                    pending.Remove(expression);
                }
            }
        }

        Assert.Empty(pending);
    }

    private static IEnumerable<string> Expressions(string dashboard) =>
        from panel in JsonSerializer.Deserialize<JsonElement>(dashboard).GetProperty("panels").EnumerateArray()
        where panel.TryGetProperty("targets", out _)
        from target in panel.GetProperty("targets").EnumerateArray()
        select target.GetProperty("expr").GetString()!;

    private static string Ops(string file, [CallerFilePath] string here = "") =>
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName(here)!, "..", "..", "..", "ops", file));
}
