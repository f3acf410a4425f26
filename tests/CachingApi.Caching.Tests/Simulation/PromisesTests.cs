namespace CachingApi.Caching.Tests.Simulation;

/// <summary>Each promise is broken on purpose, and <see cref="Promises"/> notices.</summary>
public sealed class PromisesTests
{
    private readonly World _world = new(new Choices([]));
    private readonly Promises _promises;
    private readonly Node _a;
    private readonly Node _b;

    public PromisesTests()
    {
        _promises = new(_world);
        (_a, _b) = (new(_world, "A", TimeSpan.Zero), new(_world, "B", TimeSpan.Zero));
        foreach (var name in new[] { "first", "name 1", "name 2", "name 3", "name 4" })
        {
            _promises.Writes("k", name);
        }

        _promises.Committed("k", new("first", 1));
    }

    [Fact]
    public void A_read_after_a_write_of_its_process_returns_at_least_that()
    {
        Write(_a, 2);
        Breaks(Promises.ReadYourWrites, () => Read(_a, 1));
        Read(_a, 2);
        Read(_b, 1); // the other process has a second
    }

    [Fact]
    public void A_read_does_not_go_back_behind_an_earlier_one()
    {
        Write(_a, 2);
        Read(_b, 2);
        Breaks(Promises.Monotonic, () => Read(_b, 1));
    }

    [Fact]
    public void A_read_that_began_before_may_return_the_older_version()
    {
        var floor = _promises.Begin(_a, "k");
        Write(_a, 2);
        _promises.End(_a, "k", floor, new("first", 1));
    }

    [Theory]
    [InlineData("A 0 items 2.0 k")]
    [InlineData("A 0 items 9223372036854775807.0 k")]
    [InlineData("A 1 items 1800000000000 ")]
    public void Other_processes_follow_within_a_second(string message)
    {
        Write(_a, 2);
        _promises.Published(message, isCurrent: true);
        Pass(0.9);
        Read(_b, 1);
        Pass(0.2);
        Breaks(Promises.OthersFollow, () => Read(_b, 1));
        Read(_b, 2);
    }

    [Fact]
    public void A_page_follows_the_item_that_it_contains()
    {
        _promises.Committed("k", new("name 2", 2));
        _promises.Acknowledged(_a, Promises.Page, 2, "name 2");
        Breaks(Promises.ReadYourWrites, () => ReadPage(_a, 1));
        _promises.Published("A 1 pages 1800000000000 ", isCurrent: true);
        Pass(1.1);
        Breaks(Promises.OthersFollow, () => ReadPage(_b, 1));
        ReadPage(_b, 2);
        Breaks(Promises.Monotonic, () => ReadPage(_b, 1));
        Breaks(Promises.NothingStaysStale, () => _promises.AtLast(_b, Promises.Page, new("first", 1)));
    }

    [Fact]
    public void The_second_counts_from_a_failure_of_redis()
    {
        Write(_a, 2);
        _promises.Published("A 0 items 2.0 k", isCurrent: true);
        Pass(0.9);
        _promises.RedisFailed();
        Pass(0.9);
        Read(_b, 1);
        Pass(0.2);
        Breaks(Promises.OthersFollow, () => Read(_b, 1));
    }

    [Fact]
    public void A_write_that_redis_does_not_know_binds_only_its_process()
    {
        Write(_a, 2);
        _promises.Published("A 0 items 2.0 k", isCurrent: false);
        Pass(5);
        Read(_b, 1);
    }

    [Fact]
    public void A_write_that_is_not_answered_does_not_bind_because_a_later_one_is()
    {
        _promises.Committed("k", new("name 2", 2));
        _promises.Published("B 0 items 2.0 k", isCurrent: true);
        Write(_a, 3); // its process does not reach Redis
        Pass(1.1);
        Read(_b, 1);
        _promises.Acknowledged(_b, "k", 2, "name 2");
        Breaks(Promises.ReadYourWrites, () => Read(_b, 1));
        Pass(1.1);
        Breaks(Promises.OthersFollow, () => Read(new(_world, "C", TimeSpan.Zero), 1));
    }

    [Fact]
    public void A_write_that_Redis_does_not_know_does_not_bind_because_Redis_knows_a_later_one()
    {
        Write(_a, 2); // its process does not reach Redis
        _promises.Committed("k", new("name 3", 3));
        _promises.Published("B 0 items 3.0 k", isCurrent: true);
        Pass(1.1);
        Read(_b, 1);
        _promises.Acknowledged(_b, "k", 3, "name 3");
        Pass(1.1);
        Breaks(Promises.OthersFollow, () => Read(new(_world, "C", TimeSpan.Zero), 2));
    }

    [Fact]
    public void After_its_deletion_an_entity_is_not_found()
    {
        _promises.Committed("k", null);
        _promises.Acknowledged(_a, "k", Promises.Deleted, null);
        Breaks(Promises.ReadYourWrites, () => Read(_a, 1));
        _promises.End(_a, "k", _promises.Begin(_a, "k"), null);
        Breaks(Promises.NothingStaysStale, () => _promises.AtLast(_a, "k", new("first", 1)));
        _promises.AtLast(_a, "k", null);
    }

    [Fact]
    public void At_last_a_read_returns_what_the_database_has()
    {
        Write(_a, 2);
        Breaks(Promises.NothingStaysStale, () => _promises.AtLast(_b, "k", new("first", 1)));
        _promises.AtLast(_b, "k", new("name 2", 2));
    }

    [Fact]
    public void At_last_the_row_has_the_last_acknowledged_write()
    {
        _promises.Acknowledged(_a, "k", 2, "name 2");
        Breaks(Promises.NoWriteIsLost, () => _promises.AtLast("k", new("first", 1), []));
        _promises.Committed("k", new("name 1", 2));
        Breaks(Promises.NoWriteIsLost, () => _promises.AtLast("k", new("name 1", 2), []));
        _promises.Committed("k", new("name 3", 3));
        _promises.AtLast("k", new("name 3", 3), []);
    }

    [Fact]
    public void A_refused_write_is_a_dead_letter_once_and_not_in_the_row()
    {
        _promises.Acknowledged(_a, "k", 2, "name 2");
        _promises.Committed("k", new("first", 3)); // the write was given up
        Breaks(Promises.NoWriteIsLost, () => _promises.AtLast("k", new("first", 3), []));
        _promises.AtLast("k", new("first", 3), ["name 2"]);
        Breaks(Promises.OnceInOrder, () => _promises.AtLast("k", new("first", 3), ["name 2", "name 2"]));
        _promises.Committed("k", new("name 2", 4));
        Breaks(Promises.OnceInOrder, () => _promises.AtLast("k", new("name 2", 4), ["name 2"]));
    }

    [Fact]
    public void A_row_takes_each_write_once()
    {
        _promises.Committed("k", new("name 2", 2));
        _promises.Committed("k", new("name 2", 3)); // only a later version
        _promises.Committed("k", new("name 3", 4));
        Breaks(Promises.OnceInOrder, () => _promises.Committed("k", new("name 2", 5)));
        Breaks(Promises.OnceInOrder, () => _promises.Committed("k", new("name 4", 4)));
    }

    [Theory]
    [InlineData("l", "first", 1)] // of another entity
    [InlineData("k", "name 2", 1)] // of another version
    [InlineData("k", "name 3", 3)] // not committed
    [InlineData("k", "never written", 2)]
    public void A_read_returns_what_was_written(string key, string name, long version)
    {
        Write(_a, 2);
        Breaks(Promises.AsWritten, () => _promises.End(_b, key, _promises.Begin(_b, key), new(name, version)));
        Read(_b, 2);
    }

    [Fact]
    public void Before_its_commit_a_deferred_write_can_be_read_of_its_entity_only()
    {
        var promises = new Promises(_world) { HasDeferredWrites = true };
        promises.Writes("k", "name 2");
        promises.End(_a, "k", promises.Begin(_a, "k"), new("name 2", 2));
        Breaks(Promises.AsWritten, () => promises.End(_a, "l", promises.Begin(_a, "l"), new("name 2", 2)));
    }

    [Fact]
    public void After_an_eviction_a_read_returns_what_the_database_had()
    {
        _promises.Committed("k", new("name 2", 2)); // by another program
        Read(_a, 1);
        _promises.Published("A 0 items 9223372036854775807.0 k", isCurrent: true);
        _promises.Evicted(_a, "k", 2);
        Breaks(Promises.ReadYourWrites, () => Read(_a, 1));
        Read(_b, 1);
        Pass(1.1);
        Breaks(Promises.OthersFollow, () => Read(_b, 1));
    }

    [Fact]
    public void A_cold_key_is_loaded_once()
    {
        Breaks(Promises.OneLoad, () => Promises.ColdKey(2));
        Breaks(Promises.OneLoad, () => Promises.ColdKey(0));
        Promises.ColdKey(1);
    }

    [Fact]
    public void A_call_that_waits_for_nothing_does_not_end()
    {
        Breaks(Promises.Ends, () => _promises.Finish(() => false, "a call"));
        void Tick() => _world.After(TimeSpan.FromMilliseconds(1), null, "a timer ticks", Tick);
        Tick();
        Breaks(Promises.Ends, () => _promises.Finish(() => false, "a call that waits forever while timers tick"));
        var isOver = false;
        _world.After(TimeSpan.FromSeconds(10), null, "a call ends", () => isOver = true);
        _promises.Finish(() => isOver, "a call");
    }

    private static void Breaks(string promise, Action action) =>
        Assert.Equal(promise, Assert.Throws<BrokenPromiseException>(action).Promise);

    private void Write(Node node, long version)
    {
        _promises.Committed("k", new($"name {version}", version));
        _promises.Acknowledged(node, "k", version, $"name {version}");
    }

    private void Read(Node node, long version) => _promises.End(node, "k", _promises.Begin(node, "k"), Version(version));

    private void ReadPage(Node node, long version) =>
        _promises.End(node, Promises.Page, _promises.Begin(node, Promises.Page), Version(version));

    private static Item Version(long version) => new(version == 1 ? "first" : $"name {version}", version);

    private void Pass(double seconds)
    {
        var isOver = false;
        _world.After(TimeSpan.FromSeconds(seconds), null, "time passes", () => isOver = true);
        _world.RunUntil(() => isOver, 10, seconds + 1);
    }
}
