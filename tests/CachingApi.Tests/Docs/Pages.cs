using System.Text.RegularExpressions;

namespace CachingApi.Tests.Docs;

/// <summary>A block of commands of a page, and the output that the page shows after it, if any.</summary>
internal sealed record Commands(string Script, string? Output);

/// <summary>The documentation: README.md, the pages of docs/ and those of the packages.</summary>
internal static partial class Pages
{
    /// <summary>The pages, by their paths from the root of the repository.</summary>
    public static string[] All { get; } =
    [
        "README.md",
        .. new[] { "docs", "src" }
            .SelectMany(folder => Directory.GetFiles(ComposeTests.Root(folder), "*.md", SearchOption.AllDirectories))
            .Select(file => Path.GetRelativePath(ComposeTests.Root("."), file).Replace('\\', '/'))
            .Order(StringComparer.Ordinal),
    ];

    public static string Read(string page) => File.ReadAllText(ComposeTests.Root(page));

    /// <summary>The texts between <c>```language</c> and <c>```</c>.</summary>
    public static IEnumerable<string> Blocks(string page, string language) =>
        Block().Matches(Read(page)).Where(match => match.Groups[1].Value == language).Select(match => match.Groups[2].Value);

    /// <summary>The blocks that begin with <c>```bash</c>. A <c>```text</c> block that follows one directly is its output.</summary>
    public static IReadOnlyList<Commands> CommandsOf(string page)
    {
        var blocks = Block().Matches(Read(page)).ToArray();
        return
        [
            .. blocks.Select((block, index) => (block, next: blocks.ElementAtOrDefault(index + 1)))
                .Where(pair => pair.block.Groups[1].Value == "bash")
                .Select(pair => new Commands(
                    pair.block.Groups[2].Value,
                    pair.next?.Groups[1].Value == "text" && pair.next.Index - pair.block.Index - pair.block.Length <= 2
                        ? pair.next.Groups[2].Value
                        : null)),
        ];
    }

    /// <summary>The anchors of a page's headings, as GitHub generates them.</summary>
    public static IEnumerable<string> Anchors(string page) => Heading().Matches(Block().Replace(Read(page), ""))
        .Select(match => NoAnchor().Replace(match.Groups[1].Value.ToLowerInvariant(), "").Replace(' ', '-'));

    /// <summary>The links to files of the repository, with their anchors.</summary>
    public static IEnumerable<(string Path, string Anchor)> Links(string page) =>
        Link().Matches(Block().Replace(Read(page), "")).Select(match => (match.Groups[1].Value, match.Groups[2].Value));

    [GeneratedRegex(@"(?ms)^```(\w*)\n(.*?)^```$")]
    private static partial Regex Block();

    [GeneratedRegex("(?m)^#+ (.+)$")]
    private static partial Regex Heading();

    [GeneratedRegex(@"[^\p{L}\p{N} _-]")]
    private static partial Regex NoAnchor();

    /// <remarks>In Markdown, and in the HTML of pictures.</remarks>
    [GeneratedRegex(@"(?:\]\(|(?:src|srcset|href)="")(?!https?:)([^)#""\s]*)(?:#([^)""\s]+))?[)""]")]
    private static partial Regex Link();
}
