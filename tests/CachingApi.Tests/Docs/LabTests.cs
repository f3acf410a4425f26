using System.Text;
using System.Text.RegularExpressions;
using CachingApi.Lab;

namespace CachingApi.Tests.Docs;

/// <summary>The page of the lab has each experiment, and its writer keeps what a run did not measure again.</summary>
public sealed class LabTests
{
    private const string Page = "docs/lab.md";

    public static TheoryData<string> Names => [.. Experiment.All.Select(experiment => experiment.Name)];

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_experiment_has_a_picture_three_sentences_and_its_settings(string name)
    {
        var experiment = Experiment.All.Single(one => one.Name == name);
        var section = Pages.Read(Page).Split("\n## ").Single(one => one.StartsWith($"{experiment.Title}\n", StringComparison.Ordinal));
        var paragraphs = section.Split("\n\n");

        Assert.Contains($"](lab/{name}.svg)", paragraphs[1], StringComparison.Ordinal);
        Assert.Equal(3, Regex.Count(paragraphs[2], @"\.(?=\s|$)"));
        Assert.StartsWith("Settings: ", paragraphs[3], StringComparison.Ordinal);
        Assert.Contains($"./dev lab {name} --seed ", paragraphs[4], StringComparison.Ordinal);
        var picture = Pages.Read($"docs/lab/{name}.svg");
        Assert.StartsWith("<?xml", picture, StringComparison.Ordinal);
        Assert.Contains("prefers-color-scheme:dark", picture, StringComparison.Ordinal);
    }

    [Fact]
    public void The_help_of_dev_lists_the_experiments()
    {
        var help = Regex.Match(Pages.Read("dev"), @"(?s)\n\./dev lab .*?NAME: only (.*?)\n\./dev").Groups[1].Value;

        Assert.Equal(Names.Select(row => row.Data), Regex.Split(help, @",\s+|\s+or\s+").Select(name => name.Trim()));
    }

    [Fact]
    public void A_run_of_one_experiment_replaces_its_section_only()
    {
        var (first, second) = (Experiment.All[0], Experiment.All[1]);
        var page = LabPage.Replace("", second, $"## {second.Title}\n\nold second\n");
        page = LabPage.Replace(page, first, $"## {first.Title}\n\nfirst\n");

        page = LabPage.Replace(page, second, $"## {second.Title}\n\nnew second\n");

        Assert.EndsWith($"## {first.Title}\n\nfirst\n\n## {second.Title}\n\nnew second\n", page, StringComparison.Ordinal);
        Assert.Equal(2, Regex.Count(page, @"(?m)^- \["));
    }

    [Fact]
    public void The_report_contains_its_pictures()
    {
        var html = LabPage.Html("![A picture](lab/a.svg) [Code](../a.cs)", picture => Encoding.UTF8.GetBytes($"<svg>{picture}</svg>"));

        Assert.Contains(
            $"src=\"data:image/svg+xml;base64,{Convert.ToBase64String("<svg>lab/a.svg</svg>"u8)}\"", html, StringComparison.Ordinal);
        Assert.DoesNotContain("../a.cs", html, StringComparison.Ordinal);
    }
}
