using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;

namespace CachingApi.Tests;

/// <summary>What the pages name is there.</summary>
public sealed class ReadmeTests
{
    [Theory]
    [InlineData("README.md")]
    [InlineData("src/CachingApi/Caching/README.md")]
    public void Every_file_that_is_named_exists(string page)
    {
        var (folder, text) = (Path.GetDirectoryName(Root(page))!, File.ReadAllText(Root(page)));
        var links = Regex.Matches(text, @"\]\((?!https?:|#)([^)#]+)").Select(match => match.Groups[1].Value).ToArray();
        var files = Regex.Matches(text, @"`([\w./-]+\.(?:cs|lua|sql|yml|json|conf|md))`").Select(match => match.Groups[1].Value).ToArray();

        Assert.NotEmpty(links.Concat(files));
        Assert.All(links.Concat(files), path => Assert.True(Path.Exists(Path.Combine(folder, path)), $"{path} does not exist."));
    }

    [Fact]
    public void Every_link_within_the_page_leads_to_a_heading()
    {
        var text = File.ReadAllText(Root("README.md"));
        var headings = Regex.Matches(text, "(?m)^#+ (.+)$").Select(match => Regex.Replace(match.Groups[1].Value.ToLowerInvariant(), "[^a-z0-9 -]", "").Replace(' ', '-'));

        Assert.All(Regex.Matches(text, @"\]\(#([^)]+)\)").Select(match => match.Groups[1].Value), anchor => Assert.Contains(anchor, headings));
    }

    [Fact]
    public void Every_test_that_it_tells_to_run_exists()
    {
        var filters = Regex.Matches(File.ReadAllText(Root("README.md")), @"--filter (\w+)").Select(match => match.Groups[1].Value).ToArray();
        var tests = Directory.GetFiles(Root("tests"), "*.cs", SearchOption.AllDirectories).Select(Path.GetFileNameWithoutExtension);

        Assert.NotEmpty(filters);
        Assert.All(filters, filter => Assert.Contains(filter, tests));
    }

    private static string Root(string path, [CallerFilePath] string here = "") =>
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName(here)!, "..", "..", path));
}
