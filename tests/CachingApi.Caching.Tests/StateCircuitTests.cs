using System.Diagnostics;
using CachingApi.Redis;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.Logging.Abstractions;
using StackExchange.Redis;

namespace CachingApi.Caching.Tests;

/// <summary>The state server fails to answer: how long operations wait, and when the circuit opens.</summary>
public sealed class StateCircuitTests
{
    private static readonly TimeSpan Deadline = TimeSpan.FromMilliseconds(400);

    private volatile bool _answers = true;
    private int _sent;
    private int _probes;

    [Fact]
    public async Task One_slow_operation_opens_nothing_and_the_next_is_served()
    {
        using var circuit = Circuit();
        _answers = false;
        await Assert.ThrowsAnyAsync<TimeoutException>(() => AskAsync(circuit));
        _answers = true;

        Assert.Equal("answer", await AskAsync(circuit));
        Assert.False(circuit.IsOpen);
        Assert.Equal(0, _probes);
    }

    [Fact]
    public async Task After_one_that_was_not_answered_operations_wait_for_less_until_the_circuit_is_open_and_then_not_at_all()
    {
        using var circuit = Circuit();
        _answers = false;
        Assert.InRange(await WaitAsync(circuit), Deadline * 0.9, Deadline * 2);
        var (began, longest) = (Stopwatch.GetTimestamp(), TimeSpan.Zero);
        while (!circuit.IsOpen)
        {
            var waited = await WaitAsync(circuit);
            longest = waited > longest ? waited : longest;
            Assert.True(Stopwatch.GetElapsedTime(began) < TimeSpan.FromSeconds(20));
        }

        Assert.True(longest < Deadline, $"{longest}");
        var sent = _sent;
        began = Stopwatch.GetTimestamp();
        for (var operation = 0; operation < 50; operation++)
        {
            await Assert.ThrowsAsync<RedisException>(() => AskAsync(circuit));
        }

        Assert.True(Stopwatch.GetElapsedTime(began) < Deadline);
        Assert.Equal(sent, _sent);

        _answers = true;
        await Eventually.TrueAsync(() => !circuit.IsOpen);
        Assert.Equal("answer", await AskAsync(circuit));
    }

    [Fact]
    public async Task A_late_answer_restores_the_deadline()
    {
        using var circuit = Circuit();
        var late = new TaskCompletionSource<string>();
        await Assert.ThrowsAnyAsync<TimeoutException>(() => circuit.RunAsync(() => late.Task, CancellationToken.None));
        late.SetResult("late");

        await Eventually.TrueAsync(async () =>
        {
            var began = Stopwatch.GetTimestamp();
            var slow = Task.Delay(Deadline / 2).ContinueWith(_ => "slow", TaskScheduler.Default);
            try
            {
                await circuit.RunAsync(() => slow, CancellationToken.None);
                return Stopwatch.GetElapsedTime(began) > Deadline / 4;
            }
            catch (TimeoutException)
            {
                return false;
            }
        });
        Assert.Equal(0, _probes);
    }

    [Fact]
    public async Task One_master_that_answers_suffices_for_the_probe()
    {
        using var circuit = new StateCircuit(
            Deadline,
            () => [new TaskCompletionSource().Task, Task.FromException(new TimeoutException()), SendAsync()],
            NullLogger.Instance);
        _answers = false;
        while (!circuit.IsOpen)
        {
            await WaitAsync(circuit);
        }

        _answers = true;
        await Eventually.TrueAsync(() => !circuit.IsOpen);
    }

    [Fact]
    public async Task A_refusal_is_an_answer()
    {
        using var circuit = Circuit();
        _answers = false; // A probe that is answered would close the circuit at once.
        var began = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(began) < Deadline * 2)
        {
            await Assert.ThrowsAsync<RedisServerException>(() => circuit.RunAsync<string>(
                () => throw new RedisServerException(default, CommandFlags.None, "WRONGTYPE"), CancellationToken.None));
            await Task.Delay(10);
        }

        Assert.False(circuit.IsOpen);
    }

    [Fact]
    public async Task A_caller_that_cancels_is_not_a_failure()
    {
        using var circuit = Circuit();
        _answers = false;
        for (var caller = 0; caller < 10; caller++)
        {
            using var gone = new CancellationTokenSource(Deadline / 5);
            await Assert.ThrowsAnyAsync<OperationCanceledException>(() => circuit.RunAsync(SendAsync, gone.Token));
        }

        Assert.False(circuit.IsOpen);
    }

    private StateCircuit Circuit() => new(
        Deadline,
        () =>
        {
            _probes++;
            return [SendAsync()];
        },
        NullLogger.Instance);

    private Task<string> AskAsync(StateCircuit circuit) => circuit.RunAsync(
        () =>
        {
            _sent++;
            return SendAsync();
        },
        CancellationToken.None);

    private async Task<TimeSpan> WaitAsync(StateCircuit circuit)
    {
        var began = Stopwatch.GetTimestamp();
        await Assert.ThrowsAnyAsync<Exception>(() => AskAsync(circuit));
        return Stopwatch.GetElapsedTime(began);
    }

    private Task<string> SendAsync() => _answers ? Task.FromResult("answer") : new TaskCompletionSource<string>().Task;
}
