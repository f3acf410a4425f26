using System.Collections.Concurrent;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using System.Threading.Channels;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Administration;

/// <summary>Asks all processes for their statistics, over pub/sub of the state server.</summary>
/// <remarks>
/// 1. A process publishes a question, with the name of a channel of its own.
/// 2. Every other process publishes its answer there.
/// 3. The process waits until as many have answered as received the question, or as answered the last one, but no longer than half a
/// second (for the history, two seconds).
/// On a cluster, Redis counts only the receivers of one node. So the first question waits for the whole time.
/// </remarks>
internal sealed partial class StatsExchange(
    RedisConnections redis, CacheStatistics statistics, StatsHistory history, ILogger<StatsExchange> log) : BackgroundService
{
    private const string Now = "now", Past = "past";

    private static readonly TimeSpan Patience = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan HistoryPatience = TimeSpan.FromSeconds(2);

    private readonly string _name = $"{Guid.NewGuid():N}";
    private readonly ConcurrentDictionary<string, Question> _questions = new();
    private int _others = -1;

    private RedisChannel Questions => RedisChannel.Literal($"{redis.KeyPrefix}:stats");

    /// <summary>The statistics of this process, and of the others that answer in time.</summary>
    public async Task<AllCacheStats> AskAsync(CancellationToken cancel)
    {
        var (answers, complete) = await AskAsync(Now, CacheStatsJson.Default.CacheStats, cancel);
        return new()
        {
            Processes = [.. answers.Append(statistics.Read()).OrderBy(stats => stats.Instance, StringComparer.Ordinal)],
            Complete = complete,
        };
    }

    /// <summary>The history of this process, and of the others that answer in time.</summary>
    public async Task<CacheStatsHistory[]> AskForHistoryAsync(CancellationToken cancel)
    {
        var (answers, _) = await AskAsync(Past, CacheStatsJson.Default.CacheStatsHistory, cancel);
        return [.. answers.Append(history.Read()).OrderBy(kept => kept.Instance, StringComparer.Ordinal)];
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        // A subscription that is registered while Redis is away is made with the next connection.
        var subscriber = redis.State.Multiplexer.GetSubscriber();
        var questions = await subscriber.SubscribeAsync(Questions, CommandFlags.FireAndForget);
        questions.OnMessage(AnswerAsync);
        var answers = await subscriber.SubscribeAsync(AnswersTo(_name), CommandFlags.FireAndForget);
        answers.OnMessage(Receive);
    }

    private RedisChannel AnswersTo(string name) => RedisChannel.Literal($"{redis.KeyPrefix}:stats:{name}");

    private async Task<(T[] Answers, bool Complete)> AskAsync<T>(string what, JsonTypeInfo<T> type, CancellationToken cancel)
    {
        var number = $"{Guid.NewGuid():N}";
        var question = _questions[number] = new();
        try
        {
            // This process receives its own question, too.
            var message = $"{what} {_name} {number}";
            var receivers = (int)await redis.OnStateAsync(state => state.PublishAsync(Questions, message), cancel) - 1;
            var isFirst = _others < 0;
            var expected = Math.Max(receivers, _others);
            var complete = await question.WaitAsync(
                isFirst && receivers == 0 ? int.MaxValue : expected, what is Now ? Patience : HistoryPatience, cancel);
            _others = question.Answers.Count;
            return ([.. question.Answers.Select(answer => JsonSerializer.Deserialize(answer, type)!)], complete || isFirst);
        }
        catch (JsonException error)
        {
            // Another build answered, during an update of the service.
            Log.Unreadable(log, error.Message);
            return ([], false);
        }
        catch (UnavailableException)
        {
            return ([], false);
        }
        finally
        {
            _questions.TryRemove(number, out _);
        }
    }

    private async Task AnswerAsync(ChannelMessage message)
    {
        if (message.Message.ToString().Split(' ') is not [var what, var asker, var number] || asker == _name)
        {
            return;
        }

        var answer = what is Now
            ? JsonSerializer.Serialize(statistics.Read(), CacheStatsJson.Default.CacheStats)
            : JsonSerializer.Serialize(history.Read(), CacheStatsJson.Default.CacheStatsHistory);
        try
        {
            await redis.OnStateAsync(state => state.PublishAsync(AnswersTo(asker), $"{number} {answer}"), CancellationToken.None);
        }
        catch (UnavailableException error)
        {
            Log.NotAnswered(log, error.Message);
        }
    }

    private void Receive(ChannelMessage message)
    {
        var text = message.Message.ToString();
        if (text.Split(' ', 2) is [var number, var answer] && _questions.TryGetValue(number, out var question))
        {
            question.Add(answer);
        }
    }

    private sealed class Question
    {
        private readonly Channel<string> _received = Channel.CreateUnbounded<string>();

        public List<string> Answers { get; } = [];

        public void Add(string answer) => _received.Writer.TryWrite(answer);

        /// <summary>Waits for a number of answers; <c>false</c> if there are fewer in time.</summary>
        public async Task<bool> WaitAsync(int expected, TimeSpan longest, CancellationToken cancel)
        {
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancel);
            patience.CancelAfter(longest);
            try
            {
                while (Answers.Count < expected)
                {
                    Answers.Add(await _received.Reader.ReadAsync(patience.Token));
                }

                return true;
            }
            catch (OperationCanceledException) when (!cancel.IsCancellationRequested)
            {
                return false;
            }
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Debug, "The statistics could not be sent to the process that asked for them: {Reason}")]
        public static partial void NotAnswered(ILogger log, string reason);

        [LoggerMessage(2, LogLevel.Warning, "Another process sent statistics that cannot be read: {Reason}")]
        public static partial void Unreadable(ILogger log, string reason);
    }
}
