using System.Text.RegularExpressions;

namespace CachingApi.Tests.Docs;

/// <summary>The files, tests, commands and options that the documentation names exist.</summary>
public sealed partial class DocsTests
{
    public static TheoryData<string> Names => [.. Pages.All];

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_link_leads_to_a_file_and_to_a_heading(string page)
    {
        var folder = Path.GetDirectoryName(page)!;

        Assert.All(Pages.Links(page), link =>
        {
            var target = link.Path.Length == 0 ? page : Path.GetRelativePath(
                ComposeTests.Root("."), ComposeTests.Root(Path.Combine(folder, link.Path)));
            Assert.True(Path.Exists(ComposeTests.Root(target)), $"{link.Path} does not exist.");
            if (link.Anchor.Length > 0)
            {
                Assert.Contains(link.Anchor, Pages.Anchors(target));
            }
        });
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_file_and_every_test_that_is_named_exists(string page)
    {
        var text = Pages.Read(page);
        var files = File().Matches(text).Select(match => match.Groups[1].Value);
        var tests = Filter().Matches(text).Select(match => match.Groups[1].Value);
        var classes = Directory.GetFiles(ComposeTests.Root("tests"), "*Tests.cs", SearchOption.AllDirectories)
            .Select(Path.GetFileNameWithoutExtension).ToArray();

        Assert.All(files, file => Assert.True(Path.Exists(ComposeTests.Root(file)), $"{file} does not exist."));
        Assert.All(tests, test => Assert.Contains(test, classes));
    }

    [Fact]
    public void Every_command_of_dev_exists_and_is_in_its_help()
    {
        var dev = Pages.Read("dev");
        var commands = Words(dev, @"(?m)^  ([a-z]+)\) [a-z_]+( ""\$\{@:2\}"")? ;;$").ToArray();
        var named = Pages.All.SelectMany(page => Words(Pages.Read(page), @"\./dev ([a-z]+)"));

        Assert.All(commands, command => Assert.Contains($"\n./dev {command} ", dev, StringComparison.Ordinal));
        Assert.All(named.Distinct(), name => Assert.Contains(name, commands));

        static IEnumerable<string> Words(string text, string pattern) =>
            Regex.Matches(text, pattern).Select(match => match.Groups[1].Value);
    }

    [Fact]
    public void The_front_page_is_short() => Assert.InRange(Pages.Read("README.md").Split('\n').Length, 50, 150);

    /// <summary><c>./dev docs write</c> writes the page instead of comparing it.</summary>
    [Fact]
    public void The_page_about_configuration_is_generated()
    {
        var page = ConfigurationPage.Generate();
        if (Environment.GetEnvironmentVariable("CACHINGAPI_WRITE_DOCS") is not null)
        {
            System.IO.File.WriteAllText(ComposeTests.Root(ConfigurationPage.Path), page);
        }

        Assert.Equal(Pages.Read(ConfigurationPage.Path), page);
    }

    [Fact]
    public void Every_option_is_in_appsettings_and_every_option_there_exists() => Assert.Empty(ConfigurationPage.Differences());

    [Fact]
    public void The_code_of_the_page_about_adding_a_cache_is_compiled()
    {
        var files = Directory.GetFiles(ComposeTests.Root("tests/CachingApi.Orders"), "*.cs");
        var sources = WithoutIndent(string.Concat(files.Select(System.IO.File.ReadAllText)));
        var blocks = Pages.Blocks("docs/add-a-cache.md", "csharp").Select(WithoutIndent).ToArray();

        Assert.Equal(4, blocks.Length);
        Assert.All(blocks[..3], block => Assert.Contains(block, sources, StringComparison.Ordinal));
        Assert.Contains(
            blocks[3].TrimEnd(';', '\n'), Pages.Read("tests/CachingApi.Tests/Orders/OrdersTests.cs"), StringComparison.Ordinal);
    }

    [Fact]
    public void The_code_of_the_front_page_and_of_the_package_is_built_and_run()
    {
        var program = Pages.Read("tests/PackageConsumer/Program.cs");

        Assert.Contains(program.TrimEnd(), Pages.Read("src/CachingApi.Caching/README.md"), StringComparison.Ordinal);
        var parts = Pages.Blocks("README.md", "csharp").SelectMany(block => block.Split("\n\n")).Select(WithoutIndent).ToArray();
        Assert.NotEmpty(parts);
        Assert.All(parts, part => Assert.Contains(part.Trim(), WithoutIndent(program), StringComparison.Ordinal));
    }

    private static string WithoutIndent(string text) => Regex.Replace(text, "(?m)^ +", "");

    [GeneratedRegex(@"`((?:[\w.-]+/)+[\w.-]+\.(?:cs|lua|sql|yml|json|conf|md))`")]
    private static partial Regex File();

    [GeneratedRegex(@"--filter (\w+)")]
    private static partial Regex Filter();
}
