using System.Diagnostics.Metrics;
using System.Globalization;
using System.Threading.Channels;
using Serilog.Core;
using Serilog.Events;
using Serilog.Formatting;

namespace CachingApi.Hosting;

/// <summary>
/// Writes log events to the console in the background, many at a time, so that no request formats its line or waits for the console. If
/// the console is too slow and the buffer is full, further events are lost; they are counted, and a line reports how many.
/// </summary>
internal sealed class BackgroundConsole : ILogEventSink, IDisposable
{
    public const string MeterName = "CachingApi.Logging";

    private const int Capacity = 50_000;
    private const int MaxCharactersAtOnce = 64 * 1024;

    /// <summary>How long events are collected before one write takes them all.</summary>
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(20);

    private static readonly TimeSpan FlushTimeout = TimeSpan.FromSeconds(5);

    private readonly Channel<LogEvent> _events = Channel.CreateBounded<LogEvent>(
        new BoundedChannelOptions(Capacity) { SingleReader = true, FullMode = BoundedChannelFullMode.Wait });

    private readonly CancellationTokenSource _ends = new();
    private readonly ITextFormatter _format;
    private readonly TextWriter _console;
    private readonly TimeProvider _time;
    private readonly Task _writing;
    private long _lost;

    public BackgroundConsole(ITextFormatter format, TextWriter console, IMeterFactory meters, TimeProvider time)
    {
        (_format, _console, _time) = (format, console, time);
        meters.Create(MeterName).CreateObservableCounter(
            "log.events_lost", () => Volatile.Read(ref _lost), description: "Log events lost because the console was too slow.");
        _writing = Task.Run(WriteAsync);
    }

    public void Emit(LogEvent logEvent)
    {
        if (!_events.Writer.TryWrite(logEvent))
        {
            Interlocked.Increment(ref _lost);
        }
    }

    /// <summary>Writes the remaining events.</summary>
    public void Dispose()
    {
        _events.Writer.TryComplete();
        _ends.Cancel();
        _writing.Wait(FlushTimeout);
        _ends.Dispose();
    }

    private async Task WriteAsync()
    {
        using var lines = new StringWriter(CultureInfo.InvariantCulture);
        var (events, reported) = (0, 0L);
        while (await _events.Reader.WaitToReadAsync())
        {
            await Task.Delay(Interval, _ends.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            while (_events.Reader.TryRead(out var next))
            {
                _format.Format(next, lines);
                events++;
                if (lines.GetStringBuilder().Length > MaxCharactersAtOnce)
                {
                    await FlushAsync(lines, events);
                    events = 0;
                }
            }

            if (Volatile.Read(ref _lost) is var lost && lost > reported)
            {
                _format.Format(LossOf(lost - reported), lines);
                reported = lost;
            }

            await FlushAsync(lines, events);
            events = 0;
        }
    }

    private async Task FlushAsync(StringWriter lines, int events)
    {
        var text = lines.GetStringBuilder();
        try
        {
            await _console.WriteAsync(text.ToString());
            await _console.FlushAsync();
        }
        catch (IOException)
        {
            // The console is a pipe, and its reader has exited.
            Interlocked.Add(ref _lost, events);
        }

        text.Clear();
    }

    private LogEvent LossOf(long count) => new(
        _time.GetUtcNow(),
        LogEventLevel.Error,
        exception: null,
        new Serilog.Parsing.MessageTemplateParser().Parse("{Count} log events are lost because the console is too slow"),
        [new("Count", new ScalarValue(count))]);
}
