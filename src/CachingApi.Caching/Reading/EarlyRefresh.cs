namespace CachingApi.Caching;

/// <summary>
/// Early refresh by XFetch (Vattani, Chierichetti, Lowenstein: "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015):
/// each reader of an entry that is about to expire decides at random whether to load it again. The probability grows as expiry nears
/// and with the cost of a load, so that about one reader loads the entry before it expires for all readers.
/// </summary>
/// <param name="random">Draws from 0 to 1.</param>
internal sealed class EarlyRefresh(Func<double> random)
{
    private const double Beta = 1;

    /// <summary>Before that many loads would fit into the time until expiry, the probability is below e^-30.</summary>
    private const double Loads = 30 * Beta;

    /// <summary>The time from which on a refresh of an entry may be due. Until then, readers need no random number.</summary>
    public static DateTime PossibleFrom(CacheEntry entry) =>
        entry.Kind is EntryKind.Value ? (entry.FreshUntil - entry.LoadTime * Loads).UtcDateTime : DateTime.MaxValue;

    /// <param name="loadTime">δ, the duration of a load.</param>
    public bool IsDue(DateTimeOffset freshUntil, TimeSpan loadTime, DateTimeOffset now) =>
        freshUntil - now < loadTime * Loads && now - loadTime * (Beta * Math.Log(1 - random())) >= freshUntil;
}
