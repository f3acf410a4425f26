using System.Diagnostics;
using System.Globalization;
using System.Net.Http.Json;
using System.Text.Json;

namespace CachingApi.Tests.Servers;

/// <summary>A test's own Prometheus, which scrapes a service every second, with the recording rules of <c>ops/</c>.</summary>
internal sealed class PrometheusServer : IAsyncDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("cachingapi-prometheus-");
    private readonly HttpClient _client = new() { BaseAddress = new($"http://127.0.0.1:{Machine.FreePort()}") };
    private Process? _process;

    /// <param name="target">The service's address.</param>
    public static async Task<PrometheusServer> StartAsync(Uri target, string recordingRules)
    {
        var server = new PrometheusServer();
        var configuration = Path.Combine(server._folder.FullName, "prometheus.yml");
        await File.WriteAllTextAsync(configuration, $"""
            global: {"{ scrape_interval: 1s, evaluation_interval: 1s }"}
            rule_files: ["{recordingRules}"]
            scrape_configs:
              - job_name: cachingapi
                static_configs: {"[{ targets: ["}"{target.Authority}"{"] }]"}
            """);
        server._process = Machine.Start(
            Promtool.Find("prometheus"),
            $"--config.file={configuration}",
            $"--storage.tsdb.path={Path.Combine(server._folder.FullName, "data")}",
            $"--web.listen-address={server._client.BaseAddress!.Authority}");
        server._process.BeginOutputReadLine();
        server._process.BeginErrorReadLine();
        await Eventually.TrueAsync(async () =>
        {
            try
            {
                return (await server._client.GetAsync("/-/ready")).IsSuccessStatusCode;
            }
            catch (HttpRequestException)
            {
                return false;
            }
        }, "Prometheus");
        return server;
    }

    /// <summary>The current values of an expression, over all series. An expression that cannot be parsed is an error.</summary>
    public async Task<double[]> QueryAsync(string expression)
    {
        using var form = new FormUrlEncodedContent([new("query", expression)]);
        var answer = await (await _client.PostAsync("/api/v1/query", form)).Content.ReadFromJsonAsync<JsonElement>();
        Assert.True(answer.GetProperty("status").GetString() == "success", $"{expression}: {answer}");
        return [.. answer.GetProperty("data").GetProperty("result").EnumerateArray()
            .Select(series => double.Parse(
                series.GetProperty("value")[1].GetString()!.Replace("Inf", "Infinity", StringComparison.Ordinal),
                CultureInfo.InvariantCulture))];
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        _process!.Kill();
        await _process.WaitForExitAsync();
        _process.Dispose();
        _folder.Delete(recursive: true);
    }
}
