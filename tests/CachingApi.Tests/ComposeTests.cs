using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using YamlDotNet.Core;
using YamlDotNet.Serialization;

namespace CachingApi.Tests;

/// <summary>Checks of the compose file that need no engine.</summary>
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
        // The migrations end by themselves.
        Assert.Equal(name is "migrations" ? "on-failure" : "unless-stopped", Text(service, "restart"));
        Assert.True(
            service.ContainsKey("healthcheck")
                || IsBuiltHere(service) && Dockerfile().Contains("\nHEALTHCHECK ", StringComparison.Ordinal));
    }

    [Fact]
    public void Every_image_is_pinned_to_a_patch()
    {
        var images = Services.Values.Where(service => !IsBuiltHere(service)).Select(service => Text(service, "image"))
            .Concat(Regex.Matches(Dockerfile(), @"(?m)^FROM (\S+)").Select(match => match.Groups[1].Value))
            .ToArray();

        Assert.NotEmpty(images);
        // A major version of PostgreSQL has one number.
        Assert.All(images, image => Assert.Matches(@"^postgres:\d+\.\d+$|:v?\d+\.\d+\.\d+$", image));
    }

    [Theory]
    [InlineData("prometheus")]
    [InlineData("grafana")]
    [InlineData("proxy")]
    public void Only_the_service_shares_a_network_with_the_databases(string name)
    {
        Assert.All(["postgres", "redis", "redis-state"], database => Assert.Equal(["data"], Items(Services[database], "networks")));
        Assert.NotEmpty(Items(Services[name], "networks"));
        Assert.DoesNotContain("data", Items(Services[name], "networks"));
    }

    [Theory]
    [InlineData("0.0.0.0", "", true)]
    [InlineData("192.0.2.1", "", true)]
    [InlineData("0.0.0.0", "of-our-own-choice", false)]
    [InlineData("127.0.0.1", "", false)]
    public async Task Other_machines_reach_the_service_only_if_the_administrator_has_a_password_of_its_own(string bind, string password,
        bool refused)
    {
        var command = Assert.Single(Items(Services["proxy"], "command")).Replace("$$", "$", StringComparison.Ordinal);
        var start = new ProcessStartInfo("/bin/sh", ["-c", command]) { RedirectStandardError = true };
        start.Environment.Clear();
        (start.Environment["BIND"], start.Environment["ADMIN_PASSWORD"], start.Environment["PATH"]) = (bind, password, "/nonexistent");

        using var shell = Process.Start(start)!;
        var said = await shell.StandardError.ReadToEndAsync();
        await shell.WaitForExitAsync();

        // 127: nginx is not installed here.
        Assert.Equal(refused ? 1 : 127, shell.ExitCode);
        Assert.Equal(refused, said.Contains("ADMIN_PASSWORD", StringComparison.Ordinal));
    }

    [Fact]
    public void The_log_of_postgres_does_not_quote_values_here_and_in_dev()
    {
        Assert.Contains("-c log_error_verbosity=terse", Text(Services["postgres"], "command"), StringComparison.Ordinal);
        Assert.Matches(@"postgres_options=\(.*-c log_error_verbosity=terse\)", File.ReadAllText(Root("dev")));
    }

    [Fact]
    public void The_service_does_not_have_the_passwords_of_the_owner_and_the_superuser()
    {
        var settings = ((Dictionary<object, object>)Services["api"]["environment"]).Values.Select(value => $"{value}").ToArray();

        Assert.Contains(settings, setting => setting.Contains("Username=cachingapi_service;", StringComparison.Ordinal));
        Assert.DoesNotContain(settings, setting => Regex.IsMatch(setting, "POSTGRES_(OWNER_)?PASSWORD"));
        Assert.Equal("false", $"{((Dictionary<object, object>)Services["api"]["environment"])["Database__Migrate"]}");
    }

    [Fact]
    public void Prometheus_asks_on_the_port_for_operations_which_the_proxy_does_not_forward()
    {
        var port = $"{((Dictionary<object, object>)Services["api"]["environment"])["Operations__Port"]}";

        Assert.Contains($"port: {port}\n", File.ReadAllText(Root("ops/prometheus.yml")), StringComparison.Ordinal);
        Assert.DoesNotContain(port, File.ReadAllText(Root("ops/nginx.conf")), StringComparison.Ordinal);
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
        else if (name is not ("prometheus" or "grafana")) // their images set the user
        {
            Assert.Matches(@"^([1-9]|\$APP_UID$)", user); // a name could be root's
        }

        Assert.True(name is "postgres" or "redis-state" || !service.ContainsKey("cap_add"));
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Only_this_machine_can_connect_by_default(string name) =>
        Assert.All(Items(Services[name], "ports"), port => Assert.Matches(@"^(127\.0\.0\.1|\$\{BIND:-127\.0\.0\.1\}):", port));

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_mounted_file_exists_and_is_read_only(string name)
    {
        var mounts = Items(Services[name], "volumes").Where(mount => mount.StartsWith('.')).Select(mount => mount.Split(':'));

        Assert.All(mounts, mount => Assert.True(Path.Exists(Root(mount[0])), $"{mount[0]} does not exist."));
        Assert.All(mounts, mount => Assert.Equal("ro", mount[^1]));
    }

    [Fact]
    public void Every_setting_of_the_service_is_an_option_of_it()
    {
        var options = JsonNode.Parse(
            File.ReadAllText(Root("appsettings.json")), documentOptions: new() { CommentHandling = JsonCommentHandling.Skip });
        var settings = ((Dictionary<object, object>)Services["api"]["environment"]).Keys.Select(name => $"{name}").ToArray();

        Assert.NotEmpty(settings);
        Assert.All(settings, setting =>
        {
            var found = options;
            foreach (var part in setting.Split("__"))
            {
                found = found is JsonArray ? "" : found?[part];
            }

            Assert.True(found is not null, $"{setting} is not an option.");
        });
    }

    /// <summary>Only the proxy is reachable from outside, and the service trusts only proxies of their common network.</summary>
    [Fact]
    public void The_service_is_reached_by_its_proxy_and_trusts_only_that()
    {
        Assert.False(Services["api"].ContainsKey("ports"), "Two instances cannot have one port.");
        var text = File.ReadAllText(Root("docker-compose.yml"));
        var network = Regex.Match(text, @"subnet: (\S+)").Groups[1].Value;
        Assert.NotEqual("", network);
        Assert.Contains($"Network__KnownProxies__0: {network}\n", text, StringComparison.Ordinal);
        Assert.Equal(["front"], Items(Services["proxy"], "networks"));
        var members = Services.Where(service => Items(service.Value, "networks").Contains("front")).Select(service => service.Key);
        Assert.Equal(["api", "proxy"], members.Order());
    }

    /// <summary>The proxy trusts a TLS end before it only if the configuration names it; by default it trusts none.</summary>
    [Fact]
    public void The_proxy_trusts_no_header_of_a_client()
    {
        var proxy = File.ReadAllText(Root("ops/nginx.conf"));
        Assert.Contains("proxy_set_header X-Forwarded-For $client_address;", proxy, StringComparison.Ordinal);
        Assert.Contains("proxy_set_header X-Forwarded-Proto $client_scheme;", proxy, StringComparison.Ordinal);
        Assert.Contains("default $remote_addr;", proxy, StringComparison.Ordinal);
        Assert.Contains("default $scheme;", proxy, StringComparison.Ordinal);
        Assert.All(File.ReadLines(Root("ops/tls-ends.conf")), line => Assert.StartsWith("#", line, StringComparison.Ordinal));
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

    /// <summary>The command of a service of the compose file.</summary>
    internal static string Command(string service) => Text(Services[service], "command");

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

    /// <summary>The path of a file of the repository.</summary>
    internal static string Root(string path) => Path.GetFullPath(Path.Combine(Here(), "..", "..", path));

    private static string Here([CallerFilePath] string here = "") => Path.GetDirectoryName(here)!;
}
