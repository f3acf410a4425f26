using System.Runtime.CompilerServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using YamlDotNet.Core;
using YamlDotNet.Serialization;

namespace CachingApi.Tests;

/// <summary>What holds for the compose file without an engine to run it.</summary>
public sealed class ComposeTests
{
    private static readonly Dictionary<string, Dictionary<string, object>> Services = Read();

    public static TheoryData<string> Names => [.. Services.Keys];

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_service_is_bounded_watched_and_started_again(string name)
    {
        var service = Services[name];

        Assert.Matches("^[0-9]+m$", Text(service, "mem_limit"));
        Assert.Matches("^[0-9.]+$", Text(service, "cpus"));
        Assert.Equal("unless-stopped", Text(service, "restart"));
        Assert.True(service.ContainsKey("healthcheck") || IsBuiltHere(service) && Dockerfile().Contains("\nHEALTHCHECK ", StringComparison.Ordinal));
        Assert.True(IsBuiltHere(service) || Regex.IsMatch(Text(service, "image"), @":v?[0-9]"), "The image has no version.");
    }

    /// <remarks>PostgreSQL and the state's Redis begin as root, to make their volume their own, and then become another user.</remarks>
    [Theory]
    [MemberData(nameof(Names))]
    public void No_service_can_do_more_than_it_must(string name)
    {
        var service = Services[name];

        Assert.Equal("true", Text(service, "read_only"));
        Assert.Equal(["ALL"], Items(service, "cap_drop"));
        Assert.Equal(["no-new-privileges:true"], Items(service, "security_opt"));
        var user = IsBuiltHere(service) ? Regex.Match(Dockerfile(), @"(?m)^USER (\S+)$").Groups[1].Value : Text(service, "user");
        if (name is "postgres" or "redis-state")
        {
            Assert.Empty(Items(service, "cap_add").Except(["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETPCAP", "SETUID"]));
        }
        else if (name is not ("prometheus" or "grafana")) // whose images say it themselves
        {
            Assert.Matches(@"^([1-9]|\$APP_UID$)", user); // a name could be root's
        }

        Assert.True(name is "postgres" or "redis-state" || !service.ContainsKey("cap_add"));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Only_this_machine_is_let_in_where_nothing_else_is_said(string name) =>
        Assert.All(Items(Services[name], "ports"), port => Assert.Matches(@"^(127\.0\.0\.1|\$\{BIND:-127\.0\.0\.1\}):", port));

    [Theory]
    [MemberData(nameof(Names))]
    public void Whatever_is_mounted_is_there_and_read_only(string name)
    {
        var mounts = Items(Services[name], "volumes").Where(mount => mount.StartsWith('.')).Select(mount => mount.Split(':'));

        Assert.All(mounts, mount => Assert.True(Path.Exists(Root(mount[0])), $"{mount[0]} does not exist."));
        Assert.All(mounts, mount => Assert.Equal("ro", mount[^1]));
    }

    [Fact]
    public void Every_setting_of_the_service_is_an_option_of_it()
    {
        var options = JsonNode.Parse(File.ReadAllText(Root("appsettings.json")), documentOptions: new() { CommentHandling = JsonCommentHandling.Skip });
        var settings = ((Dictionary<object, object>)Services["api"]["environment"]).Keys.Select(name => $"{name}").ToArray();

        Assert.NotEmpty(settings);
        Assert.All(settings, setting =>
        {
            var found = options;
            foreach (var part in setting.Split("__"))
            {
                found = found is JsonArray ? "" : found?[part];
            }

            Assert.True(found is not null, $"{setting} is no option.");
        });
    }

    /// <summary>Only the proxy is let in from outside, and all whom the service believes are of the network that it is in.</summary>
    [Fact]
    public void The_service_is_reached_by_its_proxy_and_believes_nobody_else()
    {
        Assert.False(Services["api"].ContainsKey("ports"), "Two instances cannot have one port.");
        var text = File.ReadAllText(Root("docker-compose.yml"));
        var network = Regex.Match(text, @"subnet: (\S+)").Groups[1].Value;
        Assert.NotEqual("", network);
        Assert.Contains($"Network__KnownProxies__0: {network}\n", text, StringComparison.Ordinal);
        Assert.Contains("proxy_set_header X-Forwarded-For $remote_addr;", File.ReadAllText(Root("ops/nginx.conf")), StringComparison.Ordinal);
    }

    [Fact]
    public void The_cache_may_lose_anything_and_the_state_nothing_here_and_in_dev()
    {
        var dev = File.ReadAllText(Root("dev"));
        Assert.Contains("--maxmemory-policy allkeys-lfu", Text(Services["redis"], "command"), StringComparison.Ordinal);
        Assert.Contains("--maxmemory-policy noeviction", Text(Services["redis-state"], "command"), StringComparison.Ordinal);
        Assert.Contains("--appendonly yes --appendfsync always", Text(Services["redis-state"], "command"), StringComparison.Ordinal);
        Assert.Matches(@"cache_options=\(.*--maxmemory-policy allkeys-lfu\)", dev);
        Assert.Matches(@"state_options=\(.*--appendonly yes --appendfsync always --maxmemory-policy noeviction\)", dev);
    }

    private static Dictionary<string, Dictionary<string, object>> Read()
    {
        var parser = new MergingParser(new Parser(File.OpenText(Root("docker-compose.yml"))));
        var file = new DeserializerBuilder().Build().Deserialize<Dictionary<string, object>>(parser);
        return ((Dictionary<object, object>)file["services"]).ToDictionary(
            service => $"{service.Key}",
            service => ((Dictionary<object, object>)service.Value).ToDictionary(part => $"{part.Key}", part => part.Value));
    }

    private static bool IsBuiltHere(Dictionary<string, object> service) => service.ContainsKey("build");

    private static string Text(Dictionary<string, object> service, string name) => $"{service.GetValueOrDefault(name)}";

    private static string[] Items(Dictionary<string, object> service, string name) =>
        [.. ((List<object>)service.GetValueOrDefault(name, new List<object>())).Select(item => $"{item}")];

    private static string Dockerfile() => File.ReadAllText(Root("Dockerfile"));

    private static string Root(string path, [CallerFilePath] string here = "") =>
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName(here)!, "..", "..", path));
}
