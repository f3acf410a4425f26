using System.Buffers.Binary;
using CachingApi.Caching.Tests.Simulation;
using CachingApi.RateLimiting;
using CachingApi.Sessions;

namespace CachingApi.Tests.Simulation;

/// <summary>Each promise about limits and sessions is broken on purpose, and the simulations notice.</summary>
public sealed class ServicePromisesTests
{
    [Theory]
    [InlineData(Algorithm.FixedWindow, 1000, 1999)]
    [InlineData(Algorithm.SlidingWindow, 1500, 2499)]
    [InlineData(Algorithm.SlidingWindowCounter, 1000, 1999)]
    [InlineData(Algorithm.TokenBucket, 1000, 1000)]
    public void More_permits_than_the_limit_are_noticed(string algorithm, long first, long last)
    {
        var promises = PromisesOf(algorithm);
        promises.Used(first, 6);
        promises.Used(last, 4);
        promises.Check();
        promises.Used(last, algorithm is Algorithm.TokenBucket ? 3 : 1); // a bucket gets one permit in the time of a lease, and rounds
        Breaks(LimitPromises.Exact, promises.Check);
    }

    [Theory]
    [InlineData(Algorithm.FixedWindow, 1999, 2000)]
    [InlineData(Algorithm.SlidingWindow, 1000, 2000)]
    [InlineData(Algorithm.SlidingWindowCounter, 1000, 3000)]
    [InlineData(Algorithm.TokenBucket, 1000, 2000)]
    public void Permits_of_another_window_do_not_count(string algorithm, long first, long last)
    {
        var promises = PromisesOf(algorithm);
        promises.Used(first, 10);
        promises.Used(last, 10);
        promises.Check();
    }

    [Fact]
    public void A_window_by_two_counters_counts_a_part_of_the_one_before()
    {
        var promises = PromisesOf(Algorithm.SlidingWindowCounter);
        promises.Used(1000, 10);
        promises.Used(2500, 5);
        promises.Check();
        promises.Used(2500, 1);
        Breaks(LimitPromises.Exact, promises.Check);
    }

    [Fact]
    public void Permits_that_are_neither_used_nor_refunded_are_noticed()
    {
        var promises = PromisesOf(Algorithm.FixedWindow);
        promises.Used(1000, 3);
        promises.CheckCounted(Counted(3));
        Breaks(LimitPromises.Refunded, () => promises.CheckCounted(Counted(4)));
        Breaks(LimitPromises.Refunded, () => promises.CheckCounted(null));
    }

    [Fact]
    public void A_session_that_has_ended_is_refused_at_once_where_it_ended_and_elsewhere_within_a_second()
    {
        var world = new World(new Choices([]));
        var (promises, token) = (new SessionPromises(world), SessionToken.New(Guid.Empty));
        var (a, b) = (new Node(world, "A", TimeSpan.Zero), new Node(world, "B", TimeSpan.Zero));
        promises.Began(token, revocations: 0);
        promises.MayEnd(token);
        promises.Ended(a, token);

        Breaks(SessionPromises.LogoutCounts, () => promises.End(a, token, promises.Begin(a, token), accepted: true));
        promises.End(b, token, promises.Begin(b, token), accepted: true);
        var isOver = false;
        world.After(TimeSpan.FromSeconds(1), null, "time passes", () => isOver = true);
        world.RunUntil(() => isOver, 10, 2);
        Breaks(SessionPromises.LogoutCounts, () => promises.End(b, token, promises.Begin(b, token), accepted: true));
        promises.End(b, token, promises.Begin(b, token), accepted: false);
    }

    [Fact]
    public void A_session_that_no_client_has_ended_is_accepted()
    {
        var world = new World(new Choices([]));
        var (promises, token, node) = (new SessionPromises(world), SessionToken.New(Guid.Empty), new Node(world, "A", TimeSpan.Zero));
        promises.Began(token, revocations: 0);
        promises.End(node, token, promises.Begin(node, token), accepted: true);
        Breaks(SessionPromises.StaysLoggedIn, () => promises.End(node, token, promises.Begin(node, token), accepted: false));
        promises.MayEnd(token);
        promises.End(node, token, promises.Begin(node, token), accepted: false);
    }

    [Theory]
    [InlineData(9, 1, true)]
    [InlineData(9, 2, false)]
    [InlineData(10, 1, false)]
    public void A_denial_although_there_are_permits_is_noticed(int used, int denied, bool breaks)
    {
        var promises = new LimitPromises(new("it", new()
        {
            Algorithm = Algorithm.FixedWindow,
            Limit = 10,
            Window = TimeSpan.FromSeconds(1),
            OnStoreFailure = StoreFailure.Closed,
        }));
        promises.Used(1000, used);
        promises.Denied(denied);
        if (breaks)
        {
            Breaks(LimitPromises.Exact, () => promises.CheckCounted(Counted(used)));
        }
        else
        {
            promises.CheckCounted(Counted(used));
        }
    }

    [Fact]
    public void Tokens_that_are_neither_used_nor_refunded_are_noticed()
    {
        var promises = PromisesOf(Algorithm.TokenBucket);
        promises.Used(1000, 3);
        promises.CheckCounted(Tokens(3));
        Breaks(LimitPromises.Refunded, () => promises.CheckCounted(Tokens(4)));
    }

    [Fact]
    public void A_call_that_does_not_end_is_noticed()
    {
        using var simulation = new Endless(new Choices([]));
        Assert.Equal("Every call ends", simulation.Run().Broken);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_session_that_begins_while_all_sessions_are_ended_may_be_refused(bool endIsAnsweredFirst)
    {
        var world = new World(new Choices([]));
        var (promises, token, node) = (new SessionPromises(world), SessionToken.New(Guid.Empty), new Node(world, "A", TimeSpan.Zero));
        promises.MayEndAll();
        var revocations = promises.Revocations;
        if (endIsAnsweredFirst)
        {
            promises.EndedAll();
        }

        promises.Began(token, revocations);
        promises.End(node, token, promises.Begin(node, token), accepted: false);
    }

    private static LimitPromises PromisesOf(string algorithm) =>
        new(new("it", new() { Algorithm = algorithm, Limit = 10, Window = TimeSpan.FromSeconds(1) }));

    private static byte[] Counted(long permits)
    {
        var state = new byte[16];
        BinaryPrimitives.WriteInt64BigEndian(state.AsSpan(8), permits);
        return state;
    }

    /// <remarks>A bucket counts in thousandths of a permit, as many as its window has milliseconds.</remarks>
    private static byte[] Tokens(long permits)
    {
        var state = new byte[16];
        BinaryPrimitives.WriteInt64BigEndian(state, permits * 1000);
        return state;
    }

    private static void Breaks(string promise, Action action) =>
        Assert.Equal(promise, Assert.Throws<BrokenPromiseException>(action).Promise);

    private sealed class Endless(Choices choices) : ServiceSimulation(choices, isTraced: false)
    {
        protected override bool HasFaults => false;

        protected override void StartProcess(Node node)
        {
            // It has nothing.
        }

        protected override Task CallAsync(Node node) => new TaskCompletionSource().Task;
    }
}
