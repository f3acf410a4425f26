using System.Globalization;
using Serilog.Events;
using Serilog.Formatting;
using Serilog.Formatting.Compact;

namespace CachingApi.Hosting;

/// <summary>
/// Writes a log event as one line of compact JSON. The characters that <see cref="ConsoleText"/> escapes are escaped here, too: JSON itself
/// asks for that below U+0020 only.
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
