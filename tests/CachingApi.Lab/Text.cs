using System.Globalization;
using System.Text.Json.Serialization;
using CachingApi.Orders;

namespace CachingApi.Lab;

/// <summary>Figures as the page writes them.</summary>
internal static class Text
{
    /// <summary>A duration: <c>250 ms</c>, <c>2 s</c>, <c>10 min</c>.</summary>
    public static string Of(TimeSpan time) => time switch
    {
        { TotalMinutes: >= 2 } => $"{Number(time.TotalMinutes)} min",
        { TotalSeconds: >= 1 } => $"{Number(time.TotalSeconds)} s",
        _ => $"{Number(time.TotalMilliseconds)} ms",
    };

    /// <summary>A measured duration, with two significant digits.</summary>
    public static string Milliseconds(double value) => value switch
    {
        >= 1000 => $"{Rounded(value / 1000)} s",
        _ => $"{Rounded(value)} ms",
    };

    public static string Number(double value) => value.ToString("#,0.##", CultureInfo.InvariantCulture);

    /// <summary>A measured number, with three significant digits.</summary>
    public static string Rough(double value)
    {
        var unit = Math.Pow(10, Math.Max(0, Math.Floor(Math.Log10(Math.Max(value, 1))) - 2));
        return Number(Math.Round(value / unit) * unit);
    }

    /// <summary>A count with its noun: <c>1 load</c>, <c>1,200 loads</c>.</summary>
    public static string Count(double count, string noun) => $"{Number(count)} {noun}{(count == 1 ? "" : "s")}";

    /// <summary>A part of a whole, with so many decimals that a small part does not read as none.</summary>
    public static string Percent(double part) => part switch
    {
        0 or >= 0.1 => string.Create(CultureInfo.InvariantCulture, $"{part * 100:0} %"),
        >= 0.01 => string.Create(CultureInfo.InvariantCulture, $"{part * 100:0.0} %"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{part * 100:0.00} %"),
    };

    /// <summary><c>a, b and c</c>.</summary>
    public static string List(IEnumerable<string> parts) => parts.ToArray() switch
    {
        [] => "",
        [var one] => one,
        [.. var first, var last] => $"{string.Join(", ", first)} and {last}",
    };

    /// <summary>The lines of a sentence as one line.</summary>
    public static string Fold(string lines) => lines.ReplaceLineEndings(" ").Trim();

    /// <summary><c>1 (a), 2 (b) and 3 (c)</c>: a figure of each contender.</summary>
    public static string Each<T>(IEnumerable<T> contenders, Func<T, string> name, Func<T, string> figure) =>
        List(contenders.Select(contender => $"{figure(contender)} ({name(contender)})"));

    private static string Rounded(double value)
    {
        if (value <= 0)
        {
            return "0";
        }

        var digits = Math.Max(0, 1 - (int)Math.Floor(Math.Log10(value)));
        return value >= 100
            ? value.ToString("#,0", CultureInfo.InvariantCulture)
            : Math.Round(value, Math.Min(digits, 3)).ToString("0.###", CultureInfo.InvariantCulture);
    }
}

[JsonSerializable(typeof(Order))]
[JsonSerializable(typeof(OrderChange))]
internal sealed partial class LabJson : JsonSerializerContext;
