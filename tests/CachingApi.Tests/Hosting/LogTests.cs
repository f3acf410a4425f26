using System.Text.Json;
using CachingApi.Hosting;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Weather;
using Serilog;

namespace CachingApi.Tests.Hosting;

/// <summary>Text from a request can neither forge a line of the log nor send a command to a terminal.</summary>
public sealed class LogTests(TestServers servers)
{
    private const string Path = "/x%0a12:00:00.000%20INF%20forged%1b%5b31m%c2%9b%e2%80%ae";

    [Theory]
    [InlineData("Development")]
    [InlineData("Production")]
    public async Task Only_path_segments_that_can_be_names_or_ids_are_logged(string environment)
    {
        using var api = await StartAsync(environment);

        await RawHttp.GetAsync(api.Client.BaseAddress!, Path);
        await RawHttp.GetAsync(api.Client.BaseAddress!, $"/users/ada@example.org/{new string('t', 64)}/no-such.page");

        await Eventually.TrueAsync(() => Logged("no-such.page"), "the lines");
        Assert.True(Logged("GET /* responded 404") || Logged("GET\\\" \\\"/*\\\" responded 404"));
        Assert.False(Logged("forged") || Logged("ada@") || Logged("tttt"));

        // Other events of a request, too: the framework adds the path to each of them.
        using var request = new HttpRequestMessage(HttpMethod.Delete, "/sessions/ada@example.org");
        request.Headers.Add("Cookie", "__Host-session=x");
        request.Headers.Add("Sec-Fetch-Site", "cross-site");
        await api.Client.SendAsync(request);
        await Eventually.TrueAsync(() => Logged("cross-site-request"), "the security event");
        Assert.False(Logged("ada@"));
        bool Logged(string text) => api.Log.Any(line => line.Contains(text, StringComparison.Ordinal));
    }

    [Fact]
    public void A_line_of_text_has_no_control_characters()
    {
        var text = new StringWriter();
        using (var log = new LoggerConfiguration().WriteTo.Sink(new Sink(text, new ConsoleText())).CreateLogger())
        {
            log.Information("{Written:l}", "x\n12:00:00.000 INF forged\u001b[31m\u009b\u202e");
        }

        var line = Assert.Single(text.ToString().TrimEnd('\n', '\r').Split('\n'));
        Assert.EndsWith(@"INF x\u000a12:00:00.000 INF forged\u001b[31m\u009b\u202e ", line, StringComparison.Ordinal);
    }

    [Fact]
    public void A_line_of_json_has_no_control_characters()
    {
        var text = new StringWriter();
        using (var log = new LoggerConfiguration().WriteTo.Sink(new Sink(text, new ConsoleJson())).CreateLogger())
        {
            log.Information("{Written:l}", "x\nforged\u001b[31m\u009b\u202e");
        }

        var line = Assert.Single(text.ToString().TrimEnd().Split('\n'));
        Assert.DoesNotContain(line, character => character is '\u001b' or '\u009b' or '\u202e');
    }

    [Fact]
    public async Task In_production_each_line_is_json()
    {
        using var api = await StartAsync("Production");

        await RawHttp.GetAsync(api.Client.BaseAddress!, Path);

        await Eventually.TrueAsync(() => api.Log.Any(line => line.Contains("responded 404", StringComparison.Ordinal)), "the line");
        Assert.All(api.Log, line => Assert.NotEmpty(JsonSerializer.Deserialize<JsonElement>(line).GetProperty("@m").GetString()!));
    }

    [Fact]
    public void An_exception_that_quotes_a_request_begins_no_line()
    {
        var text = new StringWriter();
        using (var log = new LoggerConfiguration().WriteTo.Sink(new Sink(text, new ConsoleText())).CreateLogger())
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

    private sealed class Sink(TextWriter text, Serilog.Formatting.ITextFormatter format) : Serilog.Core.ILogEventSink
    {
        public void Emit(Serilog.Events.LogEvent logEvent) => format.Format(logEvent, text);
    }
}
