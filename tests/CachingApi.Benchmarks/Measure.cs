using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace CachingApi.Benchmarks;

/// <summary>Measures several operations side by side.</summary>
internal static class Measure
{
    private static readonly TimeSpan Round = TimeSpan.FromSeconds(1);

    /// <summary>Runs the measures in interleaved rounds; returns the median of each.</summary>
    public static async Task<double[]> SideBySideAsync(params Func<Task<double>>[] measures)
    {
        var rounds = measures.Select(_ => new List<double>()).ToArray();
        for (var round = 0; round < 5; round++)
        {
            for (var measure = 0; measure < measures.Length; measure++)
            {
                rounds[measure].Add(await measures[measure]());
            }
        }

        return [.. rounds.Select(rates => Percentile(rates, 0.5))];
    }

    public static double Percentile(IEnumerable<double> values, double part) => values.Order().ElementAt((int)(values.Count() * part));

    /// <summary>The operations per second of this many callers.</summary>
    public static async Task<double> PerSecondAsync(int callers, Func<Task> operation)
    {
        var (start, done) = (Stopwatch.GetTimestamp(), 0L);
        await Task.WhenAll(Enumerable.Range(0, callers).Select(async _ =>
        {
            await Task.Yield();
            while (Stopwatch.GetElapsedTime(start) < Round)
            {
                await operation();
                Interlocked.Increment(ref done);
            }
        }));
        return done / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>The answers per second to this many callers.</summary>
    /// <remarks>The callers share the processors with the service, so they do as little as possible: they use no HTTP library.</remarks>
    public static async Task<double> RequestsPerSecondAsync(Uri address, string path, int callers)
    {
        var request = Encoding.ASCII.GetBytes($"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        var (start, done) = (Stopwatch.GetTimestamp(), 0L);
        await Task.WhenAll(Enumerable.Range(0, callers).Select(async _ =>
        {
            using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            await socket.ConnectAsync(IPAddress.Loopback, address.Port);
            var buffer = new byte[8192];
            while (Stopwatch.GetElapsedTime(start) < Round)
            {
                await socket.SendAsync(request);
                var length = 0;
                do
                {
                    var received = await socket.ReceiveAsync(buffer.AsMemory(length));
                    length += received > 0 ? received : throw new IOException("The service closed the connection.");
                }
                while (!IsWhole(buffer.AsSpan(0, length)));
                Interlocked.Increment(ref done);
            }
        }));
        return done / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static bool IsWhole(ReadOnlySpan<byte> answer)
    {
        var body = answer.IndexOf("\r\n\r\n"u8) + 4;
        if (body < 4)
        {
            return false;
        }

        var field = answer[..body].IndexOf("Content-Length: "u8);
        if (field < 0)
        {
            return answer.EndsWith("\r\n0\r\n\r\n"u8);
        }

        var digits = answer[(field + "Content-Length: ".Length)..];
        return answer.Length == body + int.Parse(digits[..digits.IndexOf((byte)'\r')], NumberStyles.None, CultureInfo.InvariantCulture);
    }
}
