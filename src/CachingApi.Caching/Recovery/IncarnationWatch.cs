using System.Globalization;
using System.Text.RegularExpressions;
using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <summary>
/// Finds out which incarnations of the cache's Redis and of the state server this process is connected to, again after each lost
/// connection. Until the incarnation of the cache's Redis is known, none of its entries is served.
/// </summary>
internal sealed partial class IncarnationWatch(
    RedisConnections redis,
    CircuitBreaker circuit,
    Incarnations incarnations,
    RedisTier tier,
    Namespaces namespaces,
    ILogger<IncarnationWatch> log)
{
    private static readonly TimeSpan Timeout = TimeSpan.FromSeconds(1);

    private volatile bool _stateKnown;
    private bool _redisLearned;
    private bool _stateLearned;
    private bool _loggedDenied;

    /// <summary>Whether the incarnations of both servers are known.</summary>
    public bool IsComplete => incarnations.IsRedisKnown && _stateKnown;

    /// <summary>Whether the incarnation of the cache's Redis is known.</summary>
    public bool IsRedisKnown => incarnations.IsRedisKnown;

    /// <summary>Starts to watch the connections.</summary>
    public void Start()
    {
        incarnations.IsStarted = true;
        var (cache, state) = (redis.Cache.Multiplexer, redis.State.Multiplexer);
        cache.ConnectionFailed += (_, lost) => Distrust(lost.ConnectionType);
        cache.ConnectionRestored += (_, restored) => Distrust(restored.ConnectionType);
        state.ConnectionRestored += (_, restored) => _stateKnown &= restored.ConnectionType is not ConnectionType.Interactive;
        Log.Connected(log, cache.IsConnected);
    }

    /// <summary>Asks the servers whose incarnation is not known.</summary>
    public async Task LearnAsync(CancellationToken cancel)
    {
        if (circuit.IsOpen || !incarnations.IsRedisKnown)
        {
            var openings = circuit.Openings;
            if (await MastersAsync(redis.Cache.Multiplexer, tier.ObserveTime, cancel) is { } masters && openings == circuit.Openings)
            {
                Learned("redis", incarnations.LearnRedis(masters), ref _redisLearned);
            }
        }

        if (!_stateKnown && await MastersAsync(redis.State.Multiplexer, static _ => { }, cancel) is { } state)
        {
            _stateKnown = true;
            Learned("state", incarnations.LearnState(state), ref _stateLearned);
        }
    }

    private void Distrust(ConnectionType connection)
    {
        if (connection is ConnectionType.Interactive)
        {
            circuit.Open();
            incarnations.ForgetRedis();
        }
    }

    private void Learned(string role, bool changed, ref bool learned)
    {
        if (changed)
        {
            if (learned)
            {
                Log.AnotherIncarnation(log, role);
            }

            // Each cache asks for its generation again, and passes the incarnations to the script.
            namespaces.Forget();
        }

        learned = true;
    }

    /// <summary>
    /// The run and replication ids of the masters that this process is connected to. A restart changes the run id, a promotion the other.
    /// <c>null</c> if a master does not answer; empty if <c>INFO</c> is not allowed.
    /// </summary>
    /// <param name="observe">Called with the time of each, in Unix milliseconds.</param>
    private async Task<IReadOnlyList<string>?> MastersAsync(
        IConnectionMultiplexer connection, Action<long> observe, CancellationToken cancel)
    {
        var masters = new List<string>();
        foreach (var server in connection.GetServers().Where(server => server.IsConnected && !server.IsReplica))
        {
            try
            {
                var info = await server.InfoRawAsync().WaitAsync(Timeout, cancel) ?? "";
                masters.Add(string.Join('/', Ids().Matches(info).Select(match => match.Groups["id"].Value)));
                if (Time().Match(info) is { Success: true } time)
                {
                    observe(long.Parse(time.Groups["micros"].ValueSpan, CultureInfo.InvariantCulture) / 1000);
                }
            }
            catch (RedisServerException error) when (error.Message.StartsWith("NOPERM", StringComparison.Ordinal))
            {
                if (!_loggedDenied)
                {
                    Log.InfoDenied(log);
                }

                _loggedDenied = true;
                return [];
            }
            catch (Exception error) when (RedisConnections.IsOutage(error))
            {
                return null;
            }
        }

        return masters.Count == 0 ? null : [.. masters.Order(StringComparer.Ordinal)];
    }

    [GeneratedRegex("^(run_id|master_replid):(?<id>[^\r\n]*)", RegexOptions.Multiline)]
    private static partial Regex Ids();

    [GeneratedRegex("^server_time_usec:(?<micros>[0-9]+)", RegexOptions.Multiline)]
    private static partial Regex Time();

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "Redis (cache) connected: {Connected}")]
        public static partial void Connected(ILogger log, bool connected);

        [LoggerMessage(2, LogLevel.Warning, "Redis ({Server}) was restarted or replaced: all caches are cleared once")]
        public static partial void AnotherIncarnation(ILogger log, string server);

        [LoggerMessage(3, LogLevel.Warning, "Redis does not allow INFO: only change data capture detects a restart from an old snapshot")]
        public static partial void InfoDenied(ILogger log);
    }
}
