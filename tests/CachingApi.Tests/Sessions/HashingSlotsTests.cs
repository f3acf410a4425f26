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

        var order = await OrderAsync(slots, ("stranger 1", false), ("stranger 2", false), ("owner 1", true), ("owner 2", true));

        Assert.Equal(["owner 1", "owner 2", "stranger 1", "stranger 2"], order);
        Assert.True(await slots.EnterAsync(preferred: false, "network", CancellationToken.None));
    }

    [Fact]
    public async Task Preferred_callers_do_not_keep_the_others_out()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);

        var order = await OrderAsync(slots, [("stranger", false), .. Enumerable.Range(1, 5).Select(number => ($"owner {number}", true))]);

        Assert.Equal(["owner 1", "owner 2", "owner 3", "stranger", "owner 4", "owner 5"], order);
    }

    [Fact]
    public async Task A_caller_waits_for_a_bounded_time_and_leaves_no_slot_taken()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);
        Assert.True(await slots.EnterAsync(preferred: false, "network", CancellationToken.None));
        using var cancel = new CancellationTokenSource();
        var (late, cancelled) = (slots.EnterAsync(preferred: false, "network", CancellationToken.None),
            slots.EnterAsync(preferred: true, "network", cancel.Token));

        _time.Advance(TimeSpan.FromSeconds(1.9));
        Assert.False(late.IsCompleted);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => cancelled);
        _time.Advance(TimeSpan.FromSeconds(0.1));
        Assert.False(await late);

        slots.Leave();
        Assert.True(await slots.EnterAsync(preferred: false, "network", CancellationToken.None));
    }

    [Fact]
    public async Task Each_queue_is_bounded()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);
        Assert.True(await slots.EnterAsync(preferred: false, "network", CancellationToken.None));
        var waiting = Enumerable.Range(0, HashingSlots.MaxWaiting)
            .Select(number => $"network {number / HashingSlots.MaxWaitingOfOne}")
            .Select(network => slots.EnterAsync(preferred: false, network, CancellationToken.None))
            .ToArray();

        Assert.False(await slots.EnterAsync(preferred: false, "network", CancellationToken.None));
        Assert.All(waiting, wait => Assert.False(wait.IsCompleted));
        var owner = slots.EnterAsync(preferred: true, "network", CancellationToken.None);
        slots.Leave();
        Assert.True(await owner);
    }

    [Fact]
    public async Task Networks_take_turns_and_one_with_many_callers_delays_itself()
    {
        var slots = new HashingSlots(1, TimeSpan.FromSeconds(2), _time);
        Assert.True(await slots.EnterAsync(preferred: false, "first", CancellationToken.None));
        var order = new List<string>();
        string[] networks = [.. Enumerable.Repeat("flood", HashingSlots.MaxWaitingOfOne), "home", "office"];
        var all = networks.Select(async network =>
        {
            Assert.True(await slots.EnterAsync(preferred: true, network, CancellationToken.None));
            order.Add(network);
            slots.Leave();
        }).ToArray();
        Assert.False(await slots.EnterAsync(preferred: true, "flood", CancellationToken.None));

        slots.Leave();
        await Task.WhenAll(all);

        Assert.Equal(["flood", "home", "office", "flood"], order[..4]);
        Assert.Equal(networks.Length, order.Count);
    }

    /// <summary>The order in which callers that came while all slots were taken have their turn.</summary>
    private static async Task<IReadOnlyList<string>> OrderAsync(HashingSlots slots, params (string Name, bool Preferred)[] callers)
    {
        Assert.True(await slots.EnterAsync(preferred: false, "network", CancellationToken.None));
        var order = new List<string>();
        var all = callers.Select(async caller =>
        {
            Assert.True(await slots.EnterAsync(caller.Preferred, "network", CancellationToken.None));
            order.Add(caller.Name);
            slots.Leave();
        }).ToArray();
        slots.Leave();
        await Task.WhenAll(all);
        return order;
    }
}
