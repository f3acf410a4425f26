using System.Text.RegularExpressions;
using ScottPlot;

namespace CachingApi.Lab;

/// <summary>
/// The colours of all pictures, by Okabe and Ito ("Color Universal Design", 2008), which colour-blind people can tell apart. A picture
/// has its own background, so that it is readable in every page, and a browser that prefers dark pages shows the dark colours.
/// </summary>
internal static partial class Theme
{
    public const string Paper = "#FDFDFE";
    public const string Ink = "#1F2329";
    public const string Grid = "#DDE1E7";
    public const string Shade = "#ECEEF3";
    public const string Without = "#D55E00";
    public const string Ours = "#0072B2";
    public const string Fusion = "#009E73";
    public const string Hybrid = "#CC79A7";
    public const string Other = "#E69F00";
    public const string Further = "#7A7F87";

    /// <summary>The first of these fonts that the machine has; a browser that lacks it takes the next one.</summary>
    private static readonly string[] Fonts = ["DejaVu Sans", "Verdana", "Arial"];

    public static string Font { get; } = Fonts.FirstOrDefault(
        font => SkiaSharp.SKFontManager.Default.FontFamilies.Contains(font, StringComparer.Ordinal), Fonts[^1]);

    private static readonly (string Light, string Dark)[] Pairs =
    [
        (Paper, "#0D1117"),
        (Ink, "#E6EDF3"),
        (Grid, "#2B323B"),
        (Shade, "#1C2330"),
        (Without, "#FF8A3D"),
        (Ours, "#58B0F0"),
        (Fusion, "#2FCB9B"),
        (Hybrid, "#E39BC5"),
        (Other, "#F2B632"),
        (Further, "#9BA3AD"),
    ];

    /// <summary>The colour, line and marker of a contender, by its name in an experiment.</summary>
    public static (Color Colour, LinePattern Line, MarkerShape Marker) Of(string name) => name switch
    {
        _ when name.StartsWith("without", StringComparison.Ordinal) => (
            Color.FromHex(Without), Variant(name, LinePattern.Dashed), MarkerShape.FilledSquare),
        _ when name.StartsWith("FusionCache", StringComparison.Ordinal) => (
            Color.FromHex(Fusion),
            Variant(name, LinePattern.Dotted),
            MarkerShape.FilledTriangleUp),
        _ when name.StartsWith("HybridCache", StringComparison.Ordinal) => (
            Color.FromHex(Hybrid), LinePattern.Solid, MarkerShape.FilledDiamond),
        _ when name.StartsWith("this library", StringComparison.Ordinal) => (
            Color.FromHex(Ours),
            Variant(name, LinePattern.Dotted),
            MarkerShape.FilledCircle),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "A contender without a colour."),
    };

    /// <summary>The line of a contender that takes part twice; then its name has a comma.</summary>
    private static LinePattern Variant(string name, LinePattern pattern) =>
        name.Contains(',', StringComparison.Ordinal) ? pattern : LinePattern.Solid;

    /// <summary>Adds the dark colours, and a size that follows the page, to a picture in light colours.</summary>
    public static string Apply(string svg, int width, int height)
    {
        var rules = string.Concat(Pairs.SelectMany(pair => new[] { "fill", "stroke" }.Select(
            attribute => $"[{attribute}=\"{pair.Light}\" i]{{{attribute}:{pair.Dark}}}")));
        return Root().Replace(
            svg.Replace($"font-family=\"{Font}\"", $"font-family=\"{string.Join(", ", Fonts)}, sans-serif\"", StringComparison.Ordinal),
            match => $"""
                {match.Groups[1].Value} viewBox="0 0 {width} {height}">
                <style>@media (prefers-color-scheme:dark){"{"}{rules}{"}"}</style>
                """,
            1);
    }

    [GeneratedRegex("(<svg [^>]*)>")]
    private static partial Regex Root();
}
