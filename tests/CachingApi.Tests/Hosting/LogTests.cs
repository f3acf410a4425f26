using System.Text.Json;
using CachingApi.Hosting;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Weather;
using Serilog;

namespace CachingApi.Tests.Hosting;

/// <summary>What a request writes cannot be taken for another line of the log, nor for a command to a terminal.</summary>
public sealed class LogTests(TestServers servers)
{
    private const string Path = "/x%0a12:00:00.000%20INF%20forged%1b%5b31m%c2%9b%e2%80%ae";

    [Fact]
    public async Task In_development_a_line_of_text_has_no_control_characters()
    {
        using var api = await StartAsync("Development");

        await RawHttp.GetAsync(api.Client.BaseAddress!, Path);

        await Eventually.TrueAsync(() => api.Log.Any(line => line.Contains("forged", StringComparison.Ordinal)), "the line");
        var line = Assert.Single(api.Log, line => line.Contains("forged", StringComparison.Ordinal));
        Assert.Contains(@"HTTP GET /x\u000a12:00:00.000 INF forged\u001b[31m\u009b\u202e responded 404", line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task In_production_each_line_is_json()
    {
        using var api = await StartAsync("Production");

        await RawHttp.GetAsync(api.Client.BaseAddress!, Path);

        await Eventually.TrueAsync(() => api.Log.Any(line => line.Contains("forged", StringComparison.Ordinal)), "the line");
        Assert.All(api.Log, line => Assert.NotEmpty(JsonSerializer.Deserialize<JsonElement>(line).GetProperty("@m").GetString()!));
        Assert.DoesNotContain(api.Log, line => line.Any(character => character is '\u001b' or '\u009b' or '\u202e'));
    }

    [Fact]
    public void An_exception_that_quotes_a_request_begins_no_line()
    {
        var text = new StringWriter();
        using (var log = new LoggerConfiguration().WriteTo.Sink(new Sink(text)).CreateLogger())
        {
            log.Error(new InvalidOperationException("a\n12:00:00.000 INF forged\u001b[31m"), "It failed");
        }

        var lines = text.ToString().TrimEnd().Split(Environment.NewLine);
        Assert.EndsWith("ERR It failed ", lines[0], StringComparison.Ordinal);
        Assert.All(lines[1..], line => Assert.StartsWith("    ", line, StringComparison.Ordinal));
        Assert.DoesNotContain('\u001b', text.ToString());
    }

    private async Task<ApiProcess> StartAsync(string environment) => await ApiProcess.StartAsync(new()
    {
        ["ConnectionStrings:Postgres"] = await servers.CreateDatabaseAsync(),
        ["ConnectionStrings:Redis"] = servers.Redis,
        ["Redis:KeyPrefix"] = $"test-{Guid.NewGuid():N}",
        ["Database:ChangeCapture"] = "false",
        ["ASPNETCORE_ENVIRONMENT"] = environment,
    });

    private sealed class Sink(TextWriter text) : Serilog.Core.ILogEventSink
    {
        public void Emit(Serilog.Events.LogEvent logEvent) => new ConsoleText().Format(logEvent, text);
    }
}
