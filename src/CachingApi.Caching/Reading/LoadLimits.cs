namespace CachingApi.Caching;

/// <summary>
/// The mechanisms that limit loads and entries: single-flight, leases, bulkheads, early refresh and the size limit.
/// </summary>
internal sealed record LoadLimits(
    SingleFlight<CacheResult> Flights, Leases Leases, Bulkheads Bulkheads, EarlyRefresh EarlyRefresh, EntrySizeLimit SizeLimit);
