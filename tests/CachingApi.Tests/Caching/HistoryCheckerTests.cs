namespace CachingApi.Tests.Caching;

/// <summary>Histories with one violation of each kind, beside correct ones that differ in one point.</summary>
public sealed class HistoryCheckerTests
{
    private static readonly Guid User = Guid.NewGuid();

    private readonly HistoryChecker _checker = new(TimeSpan.FromSeconds(1));
    private readonly int _here;
    private readonly int _there;

    public HistoryCheckerTests()
    {
        (_here, _there) = (_checker.AddNode(), _checker.AddNode());
        Write(_here, 1, "one", at: 0);
    }

    [Fact]
    public void A_write_is_shown_on_its_own_node_at_once()
    {
        Write(_here, 2, "two", at: 10);

        Read(_here, 2, "two", at: 10.01);
        Assert.Equal(0, _checker.Count);
        Read(_here, 1, "one", at: 10.02);
        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_read_that_began_before_the_write_ended_may_show_the_value_before()
    {
        var read = _checker.BeginRead(_here, User, Seconds(9.9));
        Write(_here, 2, "two", at: 10);

        End(read, 1, "one");

        Assert.Equal(0, _checker.Count);
    }

    [Fact]
    public void A_write_is_shown_on_other_nodes_after_the_lag()
    {
        Write(_here, 2, "two", at: 10);

        Read(_there, 1, "one", at: 10.9);
        Assert.Equal(0, _checker.Count);
        Assert.Equal(0.9, _checker.Staleness.TotalSeconds, 3);
        Read(_there, 1, "one", at: 11.1);
        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_node_does_not_go_backward()
    {
        Write(_here, 2, "two", at: 10);
        Read(_there, 2, "two", at: 10.1);

        Read(_there, 1, "one", at: 10.2);

        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_nodes_next_process_may_be_behind_by_the_lag_and_no_more()
    {
        Write(_here, 2, "two", at: 10);
        Read(_there, 2, "two", at: 10.1);
        var again = _checker.AddNode();

        Read(again, 1, "one", at: 10.2);
        Assert.Equal(0, _checker.Count);
        Read(again, 1, "one", at: 11.1);
        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_version_has_one_content()
    {
        Write(_here, 2, "two", at: 10);
        _checker.BeginWrite(User, "two, too");

        Read(_here, 2, "two, too", at: 10.1);

        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_read_shows_only_content_that_a_writer_of_this_user_wrote()
    {
        _checker.BeginWrite(Guid.NewGuid(), "another's");
        _checker.BeginWrite(User, "begun");

        Read(_here, 2, "begun", at: 10);
        Assert.Equal(0, _checker.Count);
        Read(_here, 3, "another's", at: 10.1);
        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_list_shows_a_committed_write_on_its_own_node_at_once_and_on_others_after_the_lag()
    {
        List(_here, [(1, "one")], at: 1);
        Write(_here, 2, "two", at: 10);

        List(_there, [(1, "one")], at: 10.9);
        List(_here, [(2, "two")], at: 10.9);
        Assert.Equal(0, _checker.Count);
        List(_here, [(1, "one")], at: 11);
        Assert.Equal(1, _checker.Count);
        List(_there, [(1, "one")], at: 11.1);
        Assert.Equal(2, _checker.Count);
    }

    [Fact]
    public void A_list_does_not_go_backward()
    {
        _checker.BeginWrite(User, "two");
        List(_here, [(2, "two")], at: 10);

        List(_here, [(1, "one")], at: 10.1, page: "another");
        Assert.Equal(0, _checker.Count);
        List(_here, [(1, "one")], at: 10.1);
        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_list_need_not_show_queued_writes()
    {
        Write(_here, 2, "two", at: 10, queued: true);

        List(_here, [(1, "one")], at: 20);
        Assert.Equal(0, _checker.Count);
        Read(_here, 1, "one", at: 20);
        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_whole_list_misses_no_user()
    {
        var read = _checker.BeginList(_here, "first", Seconds(10));
        _checker.EndRead(read, new Dictionary<Guid, (long, string)>(), whole: false);
        Assert.Equal(0, _checker.Count);

        List(_here, [], at: 10.1);

        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_deleted_user_is_not_shown_again()
    {
        Write(_here, HistoryChecker.GoneVersion, HistoryChecker.Gone, at: 10);

        Read(_here, HistoryChecker.GoneVersion, HistoryChecker.Gone, at: 10.1);
        List(_here, [], at: 10.1);
        Assert.Equal(0, _checker.Count);
        Read(_here, 1, "one", at: 10.2);
        Assert.Equal(1, _checker.Count);
        List(_here, [(1, "one")], at: 10.2);
        Assert.Equal(2, _checker.Count);
    }

    [Fact]
    public void A_user_that_no_operation_deleted_is_found()
    {
        Read(_here, HistoryChecker.GoneVersion, HistoryChecker.Gone, at: 10);

        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_queued_write_that_the_state_server_lost_binds_no_reader()
    {
        Write(_here, 2, "two", at: 10, queued: true);
        Read(_there, 2, "two", at: 10.1);

        Lose(1, "one", at: 10.2);

        Read(_there, 2, "two", at: 10.3);
        Read(_here, 1, "one", at: 10.4);
        Read(_there, 1, "one", at: 20);
        Write(_here, 2, "other", at: 21);
        Read(_here, 2, "other", at: 22);
        Assert.Equal(0, _checker.Count);
        Assert.Empty(_checker.Suspects);
        Assert.Equal((2, "other"), _checker.Acknowledged()[User]);
    }

    [Fact]
    public void A_write_that_was_persisted_or_committed_is_not_lost_with_the_state_server()
    {
        Write(_here, 2, "two", at: 10, queued: true);
        Write(_here, 3, "three", at: 11);
        Lose(3, "three", at: 12);

        Read(_here, 2, "two", at: 13);

        Assert.Equal(1, _checker.Count);
        Assert.Equal((3, "three"), _checker.Acknowledged()[User]);
    }

    [Fact]
    public void A_committed_write_is_not_lost_even_if_the_row_had_not_shown_it()
    {
        Write(_here, 2, "two", at: 10);
        Lose(1, "one", at: 12);

        Read(_here, 1, "one", at: 13);

        Assert.Equal(1, _checker.Count);
    }

    [Theory]
    [InlineData(2)] // of the same version
    [InlineData(3)]
    public void A_lost_write_does_not_take_the_place_of_a_later_one(long version)
    {
        Write(_here, 2, "two", at: 10, queued: true);
        Lose(1, "one", at: 10.1);
        Write(_here, version, "other", at: 10.5);

        Read(_here, 2, "two", at: 10.6);

        Assert.Equal(1, _checker.Count);
    }

    [Fact]
    public void A_lost_write_of_a_later_version_than_the_writes_after_it_is_suspected()
    {
        Write(_here, 2, "two", at: 10, queued: true);
        Write(_here, 3, "three", at: 10.1, queued: true);
        Lose(1, "one", at: 10.2);
        Write(_here, 2, "other", at: 10.5);

        Read(_here, 3, "three", at: 10.6);

        Assert.Equal((3, "three"), (_checker.Suspects.Single().Version, _checker.Suspects.Single().Content));
    }

    [Fact]
    public void A_lost_write_that_is_shown_for_longer_than_the_lag_is_suspected()
    {
        Write(_here, 2, "two", at: 10, queued: true);
        Lose(1, "one", at: 10.2);

        Read(_here, 2, "two", at: 11.1);
        Assert.Empty(_checker.Suspects);
        Read(_here, 2, "two", at: 11.3);
        Assert.Single(_checker.Suspects);
    }

    [Fact]
    public void A_queued_write_whose_answer_came_after_the_loss_may_be_lost()
    {
        var write = _checker.BeginWrite(User, "two", behind: true);
        Lose(1, "one", at: 10);
        _checker.Acknowledge(write, _here, 2, queued: true, Seconds(10.1));

        Read(_here, 1, "one", at: 10.2);

        Assert.Equal(0, _checker.Count);
    }

    private static TimeSpan Seconds(double seconds) => TimeSpan.FromSeconds(seconds);

    private void Write(int node, long version, string content, double at, bool queued = false) =>
        _checker.Acknowledge(_checker.BeginWrite(User, content, behind: queued), node, version, queued, Seconds(at));

    private void Read(int node, long version, string content, double at) =>
        End(_checker.BeginRead(node, User, Seconds(at)), version, content);

    private void End(HistoryRead read, long version, string content) =>
        _checker.EndRead(read, new Dictionary<Guid, (long, string)> { [User] = (version, content) }, whole: true);

    private void List(int node, (long Version, string Content)[] users, double at, string page = "first") =>
        _checker.EndRead(_checker.BeginList(node, page, Seconds(at)), users.ToDictionary(_ => User), whole: true);

    private void Lose(long version, string content, double at)
    {
        _checker.Lose(new Dictionary<Guid, (long, string)> { [User] = (version, content) });
        _checker.LossIsOver(Seconds(at));
    }
}
