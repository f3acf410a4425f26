using System.Diagnostics.Metrics;
using System.Threading.RateLimiting;
using CachingApi.Redis;
using Microsoft.Extensions.Options;
using StackExchange.Redis;

namespace CachingApi.Weather;

/// <summary>A window in which the upstream counts calls; the numbers are those in upstream_budget.lua.</summary>
internal enum BudgetWindow
{
    Minute = 1,
    Hour = 2,
    Day = 3,
}

/// <summary>
/// The calls that all processes together may still make to the upstream, counted in Redis (the state server) by its clock. The budget is
/// less than the upstream's limit: when it is spent, stale entries are served, and the upstream refuses no call.
/// </summary>
/// <remarks>
/// At most half of each window is spent on new cities, because clients choose city names freely. The other half is reserved for cities
/// that were found before.
/// </remarks>
internal sealed class UpstreamBudget : IDisposable
{
    /// <summary>Whether a call is for a new city.</summary>
    public static readonly HttpRequestOptionsKey<bool> IsNew = new("new-city");

    private static readonly string Script = Lua.Load(typeof(UpstreamBudget), "upstream_budget.lua");
    private static readonly BudgetWindow[] Windows = Enum.GetValues<BudgetWindow>();

    private readonly RedisConnections _redis;
    private readonly TimeProvider _time;
    private readonly int[] _limits;
    private volatile Known? _known;

    /// <summary>While Redis is away, no count covers all processes, so each process uses only a part of the budget.</summary>
    private readonly FixedWindowRateLimiter _alone;

    public UpstreamBudget(RedisConnections redis, IOptions<BudgetOptions> options, IMeterFactory meters, TimeProvider time)
    {
        (_redis, _time) = (redis, time);
        _limits = [options.Value.PerMinute, options.Value.PerHour, options.Value.PerDay];
        _alone = new(new() { PermitLimit = Math.Max(1, options.Value.PerMinute / 10), Window = TimeSpan.FromMinutes(1) });
        var meter = meters.Create(WeatherMetrics.MeterName);
        meter.CreateObservableGauge(
            "weather.upstream.budget",
            () => Measure(window => _limits[(int)window - 1]),
            description: "Calls that the upstream's budget allows.");
        meter.CreateObservableGauge(
            "weather.upstream.budget_left",
            () => Measure(Left),
            description: "Calls that the upstream's budget still allows, as of this process's last one.");
    }

    /// <summary>Whether half of a window is spent: then calls that no client waits for are postponed.</summary>
    public bool IsHalfSpent => Windows.Any(window => Left(window) is { } left && left <= _limits[(int)window - 1] / 2);

    /// <summary>Spends one call.</summary>
    /// <param name="isNew">Whether the call is for a new city.</param>
    /// <exception cref="UnavailableException">The budget is spent; its <c>RetryAfter</c> is the time until there is more.</exception>
    public async Task SpendAsync(bool isNew, CancellationToken cancel)
    {
        try
        {
            if (await AskAsync(spent: null, isNew, cancel) is var wait && wait > TimeSpan.Zero)
            {
                throw Spent(wait);
            }
        }
        catch (UnavailableException outage) when (outage.InnerException is not null && RedisConnections.IsOutage(outage.InnerException))
        {
            using var permit = _alone.AttemptAcquire();
            if (!permit.IsAcquired)
            {
                throw Spent(permit.TryGetMetadata(MetadataName.RetryAfter, out var wait) ? wait : TimeSpan.FromMinutes(1));
            }
        }
    }

    /// <summary>
    /// Records that the upstream reports a spent window: no process calls it before the window's end. Returns the time until then.
    /// </summary>
    public async Task<TimeSpan> ExhaustAsync(BudgetWindow window, CancellationToken cancel)
    {
        try
        {
            return await AskAsync(window, isNew: false, cancel);
        }
        catch (UnavailableException)
        {
            return TimeSpan.FromMinutes(1);
        }
    }

    /// <summary>The window that a reason of the upstream names, such as <c>Hourly API request limit exceeded. …</c></summary>
    public static BudgetWindow? WindowOf(string reason) => reason.Split(' ')[0] switch
    {
        "Minutely" => BudgetWindow.Minute,
        "Hourly" => BudgetWindow.Hour,
        "Daily" => BudgetWindow.Day,
        _ => null,
    };

    public void Dispose() => _alone.Dispose();

    private async Task<TimeSpan> AskAsync(BudgetWindow? spent, bool isNew, CancellationToken cancel)
    {
        RedisValue[] arguments = [_limits[0], _limits[1], _limits[2], (int)(spent ?? 0), isNew];
        var result = (long[])(await _redis.OnStateAsync(
            state => state.ScriptEvaluateAsync(Script, [$"{_redis.KeyPrefix}:weather-budget"], arguments), cancel))!;
        _known = new(result[1..], _time.GetUtcNow());
        return TimeSpan.FromSeconds(result[0]);
    }

    private static IEnumerable<Measurement<long>> Measure(Func<BudgetWindow, long?> value) =>
        from window in Windows
        let calls = value(window)
        where calls is not null
        select new Measurement<long>(calls.Value, new KeyValuePair<string, object?>("window", window.ToString().ToLowerInvariant()));

    /// <summary>
    /// The rest of a window as of the last call; the whole window if it has ended since; <c>null</c> before the first call.
    /// </summary>
    private long? Left(BudgetWindow window)
    {
        if (_known is not { } known)
        {
            return null;
        }

        long Number(DateTimeOffset time) =>
            time.ToUnixTimeSeconds() / window switch { BudgetWindow.Minute => 60, BudgetWindow.Hour => 3_600, _ => 86_400 };
        return Number(_time.GetUtcNow()) > Number(known.At) ? _limits[(int)window - 1] : known.Left[(int)window - 1];
    }

    private static UnavailableException Spent(TimeSpan wait) => new("The budget of calls to Open-Meteo is spent: it") { RetryAfter = wait };

    private sealed record Known(long[] Left, DateTimeOffset At);
}
