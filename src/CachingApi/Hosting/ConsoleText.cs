using System.Globalization;
using System.Text;
using Serilog.Events;
using Serilog.Formatting;
using Serilog.Formatting.Display;

namespace CachingApi.Hosting;

/// <summary>
/// Writes a log event as one line of text, and an exception in indented lines after it. It escapes control characters, so that text from a
/// request cannot begin a new line or send commands to the terminal.
/// </summary>
internal sealed class ConsoleText : ITextFormatter
{
    private static readonly MessageTemplateTextFormatter Line = new(
        "{Timestamp:HH:mm:ss.fff} {Level:u3} {Message:lj} {TraceId}", CultureInfo.InvariantCulture);

    public void Format(LogEvent logEvent, TextWriter output)
    {
        using var line = new StringWriter(CultureInfo.InvariantCulture);
        Line.Format(logEvent, line);
        output.WriteLine(Escape(line.ToString()));
        foreach (var part in logEvent.Exception?.ToString().ReplaceLineEndings("\n").Split('\n') ?? [])
        {
            output.WriteLine($"    {Escape(part)}");
        }
    }

    /// <summary>Escapes the characters of <see cref="IsUnsafe"/>, as JSON and C# do.</summary>
    public static string Escape(string text)
    {
        // Printable ASCII needs no escape, and most lines are printable ASCII.
        if (text.AsSpan().IndexOfAnyExceptInRange(' ', '~') < 0 || !text.Any(IsUnsafe))
        {
            return text;
        }

        var escaped = new StringBuilder(text.Length + 16);
        foreach (var character in text)
        {
            escaped.Append(IsUnsafe(character) ? $"\\u{(int)character:x4}" : character);
        }

        return escaped.ToString();
    }

    /// <summary>Control characters, line breaks, and invisible marks, such as those that change the direction of text.</summary>
    private static bool IsUnsafe(char character) => char.GetUnicodeCategory(character)
        is UnicodeCategory.Control or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator or UnicodeCategory.Format;
}
