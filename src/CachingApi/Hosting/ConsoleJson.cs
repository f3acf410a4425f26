using System.Globalization;
using Serilog.Events;
using Serilog.Formatting;
using Serilog.Formatting.Compact;

namespace CachingApi.Hosting;

/// <summary>
/// Writes a log event as one line of compact JSON. It also escapes the characters that <see cref="ConsoleText"/> escapes; JSON itself
/// requires that only below U+0020.
/// </summary>
internal sealed class ConsoleJson : ITextFormatter
{
    private static readonly RenderedCompactJsonFormatter Json = new();

    public void Format(LogEvent logEvent, TextWriter output)
    {
        using var line = new StringWriter(CultureInfo.InvariantCulture);
        Json.Format(logEvent, line);
        output.WriteLine(ConsoleText.Escape(line.ToString().TrimEnd()));
    }
}
