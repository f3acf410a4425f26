using System.Diagnostics.Metrics;
using System.Globalization;
using System.Text;
using CachingApi.Hosting;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;
using Serilog;
using Serilog.Core;
using Serilog.Formatting.Display;

namespace CachingApi.Tests.Hosting;

public sealed class BackgroundConsoleTests
{
    [Fact]
    public void All_events_are_written_in_order_before_the_log_ends()
    {
        var console = new SlowConsole();
        using (var log = Log(console))
        {
            foreach (var number in Enumerable.Range(0, 10_000))
            {
                log.Information("{Number}", number);
            }
        }

        Assert.Equal(Enumerable.Range(0, 10_000), console.Lines.Select(line => int.Parse(line, CultureInfo.InvariantCulture)));
        Assert.InRange(console.Writes, 1, 100);
    }

    [Fact]
    public async Task A_console_that_is_stuck_holds_up_no_event_and_lost_events_are_counted()
    {
        using var meters = new ServiceCollection().AddMetrics().BuildServiceProvider();
        var console = new SlowConsole();
        console.Stop();
        const int Events = 120_000;
        using (var log = Log(console, meters))
        {
            log.Information("0");
            await Eventually.TrueAsync(() => console.IsStuck, "the first write");
            for (var number = 1; number < Events; number++)
            {
                log.Information("{Number}", number);
            }

            console.GoOn();
            await Eventually.TrueAsync(() => console.Lines.Any(line => line.Contains("are lost", StringComparison.Ordinal)), "the report");
        }

        var written = console.Lines.Count(line => !line.Contains("are lost", StringComparison.Ordinal));
        var reported = console.Lines.Where(line => line.Contains("are lost", StringComparison.Ordinal))
            .Sum(line => int.Parse(line.Split(' ')[0], CultureInfo.InvariantCulture));
        Assert.InRange(reported, 1, Events);
        Assert.Equal(Events, written + reported);
        Assert.Equal(reported, Lost(meters));
    }

    [Fact]
    public async Task Events_for_a_console_that_has_gone_are_counted()
    {
        using var meters = new ServiceCollection().AddMetrics().BuildServiceProvider();
        var console = new SlowConsole { HasGone = true };
        using var log = Log(console, meters);
        log.Information("lost");
        await Eventually.TrueAsync(() => Lost(meters) == 1, "the count");

        console.HasGone = false;
        log.Information("written");
        await Eventually.TrueAsync(() => console.Lines.Contains("written"), "the next event");
    }

    private static Logger Log(TextWriter console, IServiceProvider? meters = null) => new LoggerConfiguration()
        .WriteTo.Sink(new BackgroundConsole(
            new MessageTemplateTextFormatter("{Message:lj}{NewLine}", CultureInfo.InvariantCulture),
            console,
            (meters ?? new ServiceCollection().AddMetrics().BuildServiceProvider()).GetRequiredService<IMeterFactory>(),
            TimeProvider.System))
        .CreateLogger();

    private static long Lost(IServiceProvider meters)
    {
        var lost = 0L;
        using var listener = new MeterListener();
        var scope = meters.GetRequiredService<IMeterFactory>();
        listener.InstrumentPublished = (instrument, enabled) =>
        {
            if (instrument.Meter.Scope == scope)
            {
                enabled.EnableMeasurementEvents(instrument);
            }
        };
        listener.SetMeasurementEventCallback<long>((_, value, _, _) => lost += value);
        listener.Start();
        listener.RecordObservableInstruments();
        return lost;
    }

    private sealed class SlowConsole : TextWriter
    {
        private readonly StringBuilder _text = new();
        private readonly ManualResetEventSlim _goesOn = new(true);
        private int _writes;
        private volatile bool _isStuck;

        public override Encoding Encoding => Encoding.UTF8;

        public bool HasGone { get; set; }

        public bool IsStuck => _isStuck;

        public int Writes => _writes;

        public string[] Lines
        {
            get
            {
                lock (_text)
                {
                    return _text.ToString().Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries);
                }
            }
        }

        public void Stop() => _goesOn.Reset();

        public void GoOn() => _goesOn.Set();

        public override Task WriteAsync(string? value)
        {
            if (HasGone)
            {
                throw new IOException("Broken pipe");
            }

            _isStuck = !_goesOn.IsSet;
            _goesOn.Wait();
            _isStuck = false;
            Interlocked.Increment(ref _writes);
            lock (_text)
            {
                _text.Append(value);
            }

            return Task.CompletedTask;
        }
    }
}
