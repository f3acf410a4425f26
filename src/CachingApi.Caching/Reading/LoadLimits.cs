namespace CachingApi.Caching;

/// <summary>
/// What keeps loads few: one at a time for each key here and everywhere, a bound for each cache, early and not too large.
/// </summary>
internal sealed record LoadLimits(
    SingleFlight<CacheResult> Flights, Leases Leases, Bulkheads Bulkheads, EarlyRefresh EarlyRefresh, EntrySizeLimit SizeLimit);
