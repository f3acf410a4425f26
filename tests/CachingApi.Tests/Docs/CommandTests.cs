using System.Diagnostics;
using System.Text;
using System.Text.RegularExpressions;
using CachingApi.FakeUpstream;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Npgsql;

namespace CachingApi.Tests.Docs;

/// <summary>The commands of the pages, run in one shell per page against a service as <c>./dev run</c> starts it.</summary>
public sealed class CommandTests(TestServers servers)
{
    private const string End = "---- end of block";

    public static TheoryData<string> Names => [.. Pages.All.Where(page => Pages.CommandsOf(page).Count > 0)];

    [Theory]
    [MemberData(nameof(Names))]
    public async Task Every_command_succeeds_and_prints_what_the_page_shows(string page)
    {
        await using var upstream = await FakeOpenMeteo.StartAsync(TimeProvider.System, "--urls", "http://127.0.0.1:0");
        upstream.Delay = TimeSpan.FromMilliseconds(600); // long enough for callers that a busy machine starts late to share a load
        var database = await servers.CreateDatabaseAsync();
        try
        {
            using var api = await ApiProcess.StartAsync(Settings(database, upstream));
            await Eventually.TrueAsync(
                async () => (await api.Client.GetStringAsync("/metrics")).Contains("change_capture_follows{} 1", StringComparison.Ordinal),
                "change data capture");
            var commands = Pages.CommandsOf(page);

            var outputs = await RunAsync(commands, api.Client.BaseAddress!.ToString().TrimEnd('/'), database);

            Assert.All(commands.Zip(outputs), pair => AssertOutput(pair.First, pair.Second));
        }
        finally
        {
            await DropDatabaseAsync(database);
        }
    }

    /// <summary>In the pages, … stands for text that differs from run to run.</summary>
    private static void AssertOutput(Commands command, string output)
    {
        if (command.Output is { } expected)
        {
            var pattern = Regex.Escape(expected.Trim()).Replace("…", ".*", StringComparison.Ordinal);
            Assert.True(
                Regex.IsMatch(output.Trim(), $"^{pattern}$"), $"{command.Script}\nprinted\n{output}\nand the page shows\n{expected}");
        }
    }

    private Dictionary<string, string> Settings(string database, FakeOpenMeteo upstream) => new()
    {
        ["ConnectionStrings:Postgres"] = database,
        ["ConnectionStrings:Redis"] = servers.Redis,
        ["Redis:KeyPrefix"] = $"test-{Guid.NewGuid():N}",
        ["Admin:Email"] = "admin@example.com",
        ["Admin:Password"] = "development-only",
        ["Database:SampleData"] = "true",
        ["Weather:GeocodingUrl"] = upstream.Address,
        ["Weather:ForecastUrl"] = upstream.Address,
        // A busy machine must not change the output.
        ["Cache:RedisDeadline"] = "00:00:05",
        ["Redis:StateDeadline"] = "00:00:05",
        ["Weather:Timeout"] = "00:00:10",
    };

    /// <summary>The output of each block; a command that fails ends the shell.</summary>
    private async Task<string[]> RunAsync(IReadOnlyList<Commands> commands, string address, string database)
    {
        var script = new StringBuilder("set -eu\nexec 2>&1\n");
        foreach (var command in commands)
        {
            script.Append(command.Script.Replace("http://localhost:8080", address, StringComparison.Ordinal)).Append($"echo '{End}'\n");
        }

        using var bash = new Process
        {
            StartInfo = new("bash", ["-c", script.ToString()])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                WorkingDirectory = ComposeTests.Root("."),
            },
        };
        bash.StartInfo.Environment["ConnectionStrings__Postgres"] = database;
        bash.StartInfo.Environment["ConnectionStrings__Redis"] = servers.Redis;
        bash.StartInfo.Environment.Remove("ConnectionStrings__RedisState");
        bash.Start();
        bash.StandardInput.Close();
        await using var limit = new Timer(
            _ => bash.Kill(entireProcessTree: true), state: null, TimeSpan.FromMinutes(2), Timeout.InfiniteTimeSpan);
        var all = await bash.StandardOutput.ReadToEndAsync();
        await bash.WaitForExitAsync();
        var outputs = all.Replace("\r", "", StringComparison.Ordinal).Split($"{End}\n");

        Assert.True(
            bash.ExitCode == 0 && outputs.Length == commands.Count + 1,
            $"{commands.ElementAtOrDefault(outputs.Length - 1)?.Script}\nfailed and printed\n{outputs[^1]}");
        return outputs[..^1];
    }

    /// <summary>A replication slot is active until PostgreSQL sees that its process is gone.</summary>
    private Task DropDatabaseAsync(string database) => Eventually.TrueAsync(async () =>
    {
        try
        {
            await servers.DropDatabaseAsync(database);
            return true;
        }
        catch (PostgresException error) when (error.SqlState == PostgresErrorCodes.ObjectInUse)
        {
            return false;
        }
    });
}
