using CachingApi.Sessions;
using Microsoft.Extensions.Time.Testing;

namespace CachingApi.Tests.Sessions;

public sealed class HashingSlotsTests
{
    private readonly FakeTimeProvider _time = new();

    [Fact]
    public async Task Preferred_callers_come_first_and_each_in_its_order()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);
        Assert.True(await slots.EnterAsync(preferred: false, CancellationToken.None));
        var order = new List<string>();
        async Task EnterAsync(string name, bool preferred)
        {
            Assert.True(await slots.EnterAsync(preferred, CancellationToken.None));
            order.Add(name);
            slots.Leave();
        }

        Task[] all = [EnterAsync("stranger 1", false), EnterAsync("stranger 2", false), EnterAsync("owner 1", true), EnterAsync("owner 2", true)];
        slots.Leave();
        await Task.WhenAll(all);

        Assert.Equal(["owner 1", "owner 2", "stranger 1", "stranger 2"], order);
        Assert.True(await slots.EnterAsync(preferred: false, CancellationToken.None));
    }

    [Fact]
    public async Task Preferred_callers_do_not_keep_the_others_out()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);
        Assert.True(await slots.EnterAsync(preferred: false, CancellationToken.None));
        var order = new List<string>();
        async Task EnterAsync(string name, bool preferred)
        {
            Assert.True(await slots.EnterAsync(preferred, CancellationToken.None));
            order.Add(name);
            slots.Leave();
        }

        Task[] all = [EnterAsync("stranger", false), .. Enumerable.Range(1, 5).Select(number => EnterAsync($"owner {number}", true))];
        slots.Leave();
        await Task.WhenAll(all);

        Assert.Equal(["owner 1", "owner 2", "owner 3", "stranger", "owner 4", "owner 5"], order);
    }

    [Fact]
    public async Task A_caller_waits_for_a_bounded_time_and_leaves_no_slot_taken()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);
        Assert.True(await slots.EnterAsync(preferred: false, CancellationToken.None));
        using var cancel = new CancellationTokenSource();
        var (late, cancelled) = (slots.EnterAsync(preferred: false, CancellationToken.None), slots.EnterAsync(preferred: true, cancel.Token));

        _time.Advance(TimeSpan.FromSeconds(1.9));
        Assert.False(late.IsCompleted);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => cancelled);
        _time.Advance(TimeSpan.FromSeconds(0.1));
        Assert.False(await late);

        slots.Leave();
        Assert.True(await slots.EnterAsync(preferred: false, CancellationToken.None));
    }

    [Fact]
    public async Task So_many_wait_in_each_queue_and_no_more()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);
        Assert.True(await slots.EnterAsync(preferred: false, CancellationToken.None));
        var waiting = Enumerable.Range(0, HashingSlots.MaxWaiting).Select(_ => slots.EnterAsync(preferred: false, CancellationToken.None)).ToArray();

        Assert.False(await slots.EnterAsync(preferred: false, CancellationToken.None));
        Assert.All(waiting, wait => Assert.False(wait.IsCompleted));
        var owner = slots.EnterAsync(preferred: true, CancellationToken.None);
        slots.Leave();
        Assert.True(await owner);
    }
}
