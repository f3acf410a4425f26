using System.Globalization;
using System.Reflection;
using System.Text;
using System.Text.RegularExpressions;
using Markdig;
using Microsoft.Extensions.Caching.Hybrid;
using ZiggyCreatures.Caching.Fusion;

namespace CachingApi.Lab;

/// <summary>How an experiment was run.</summary>
internal sealed record Conditions(int Seed, TimeSpan Duration, DateTimeOffset Time)
{
    public int Processors { get; init; } = Environment.ProcessorCount;

    /// <summary>How many processes wanted a processor during the last minute; <c>null</c> if the system does not count them.</summary>
    public double? LoadAverage { get; init; } = File.Exists("/proc/loadavg")
        ? double.Parse(File.ReadAllText("/proc/loadavg").Split(' ')[0], CultureInfo.InvariantCulture)
        : null;
}

/// <summary>Writes docs/lab.md, the pictures and artifacts/lab.html. A run of one experiment replaces its section only.</summary>
internal static partial class LabPage
{
    private static readonly string Intro = $"""
        # The lab

        `./dev lab` generates this page: it runs each experiment on a real Redis and a real PostgreSQL, draws the picture and fills in the
        figures. `./dev lab stampede` runs one experiment. `artifacts/lab.html` has the same content in one file.

        *Without* is cache-aside as most articles show it, with StackExchange.Redis. FusionCache {VersionOf<FusionCache>()} and HybridCache
        {VersionOf<HybridCacheOptions>()} take part if they support the pattern. All contenders have the same servers and the same load,
        and are set up as their documentation recommends; the settings are below each picture. Time-outs are long unless Redis fails, so
        that a busy machine does not count as an outage. An *instance* has its own memory and its own connections. All instances run in
        one program, which shares its processors with the servers, so compare the contenders, not the absolute times.
        """;

    private const string Page = "docs/lab.md";

    /// <param name="root">The folder of the repository.</param>
    public static void Write(string root, Experiment experiment, Report report, Conditions conditions)
    {
        Directory.CreateDirectory(Path.Combine(root, "docs/lab"));
        Directory.CreateDirectory(Path.Combine(root, "artifacts"));
        File.WriteAllText(Path.Combine(root, "docs", PictureOf(experiment)), report.Picture.ToSvg());
        var page = Path.Combine(root, Page);
        var text = Replace(File.Exists(page) ? File.ReadAllText(page) : "", experiment, Section(experiment, report, conditions));
        File.WriteAllText(page, text);
        File.WriteAllText(
            Path.Combine(root, "artifacts/lab.html"), Html(text, picture => File.ReadAllBytes(Path.Combine(root, "docs", picture))));
    }

    public static string Section(Experiment experiment, Report report, Conditions conditions)
    {
        var code = experiment.RunAsync.Method.DeclaringType!.Name;
        var load = conditions.LoadAverage is { } average
            ? string.Create(CultureInfo.InvariantCulture, $", load average {average:0.0}")
            : "";
        var command = $"./dev lab {experiment.Name} --seed {conditions.Seed}";
        return string.Create(CultureInfo.InvariantCulture, $"""
            ## {experiment.Title}

            ![{experiment.Title}: {report.Picture.Caption}]({PictureOf(experiment)})

            {report.Done} {report.Seen} {report.Lesson}

            Settings: {string.Join("; ", report.Settings.Select(own => $"*{own.Contender}*: {own.Settings}"))}.

            `{command}` took {conditions.Duration.TotalSeconds:0} s on {conditions.Time:yyyy-MM-dd}, on
            {conditions.Processors} processors{load}. Code: [{code}.cs](../tests/CachingApi.Lab/Experiments/{code}.cs).

            """);
    }

    /// <summary>The page with another section, in the order of the experiments. Sections of former experiments are dropped.</summary>
    public static string Replace(string page, Experiment experiment, string section)
    {
        var sections = Heading().Split(page).Skip(1).ToDictionary(old => old.Split('\n')[0][3..], old => old, StringComparer.Ordinal);
        sections[experiment.Title] = section;
        var present = Experiment.All.Where(one => sections.ContainsKey(one.Title)).ToArray();
        var contents = present.Select(one => $"- [{one.Title}](#{Anchor(one.Title)})\n");
        return $"{Intro}\n\n{string.Concat(contents)}\n{string.Join('\n', present.Select(one => sections[one.Title].TrimEnd() + "\n"))}";
    }

    /// <summary>The page as one HTML file: it contains the pictures.</summary>
    public static string Html(string page, Func<string, byte[]> picture)
    {
        var body = Markdown.ToHtml(page, new MarkdownPipelineBuilder().UseAutoIdentifiers(
            Markdig.Extensions.AutoIdentifiers.AutoIdentifierOptions.GitHub).Build());
        body = Image().Replace(
            body, match => $"src=\"data:image/svg+xml;base64,{Convert.ToBase64String(picture(match.Groups[1].Value))}\"");
        body = Code().Replace(body, "$1");
        return new StringBuilder("""
            <!doctype html>
            <html lang="en">
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width">
            <title>The lab</title>
            <style>
            :root { color-scheme: light dark }
            body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif }
            img { width: 100% }
            h2 { margin-top: 3rem }
            code { font-size: .9em }
            </style>

            """).Append(body).Append("</html>\n").ToString();
    }

    private static string VersionOf<T>() => typeof(T).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!
        .InformationalVersion.Split('+')[0];

    private static string PictureOf(Experiment experiment) => $"lab/{experiment.Name}.svg";

    /// <summary>As GitHub generates it.</summary>
    private static string Anchor(string title) => NoAnchor().Replace(title.ToLowerInvariant(), "").Replace(' ', '-');

    [GeneratedRegex("(?m)^(?=## )")]
    private static partial Regex Heading();

    [GeneratedRegex(@"[^\p{L}\p{N} _-]")]
    private static partial Regex NoAnchor();

    [GeneratedRegex("src=\"([^\"]+\\.svg)\"")]
    private static partial Regex Image();

    /// <summary>A link to a file of the repository, which the HTML does not contain.</summary>
    [GeneratedRegex("<a href=\"\\.\\./[^\"]*\">(.*?)</a>")]
    private static partial Regex Code();
}
