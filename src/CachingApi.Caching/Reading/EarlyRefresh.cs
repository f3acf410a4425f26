namespace CachingApi.Caching;

/// <summary>
/// Early refresh by XFetch (Vattani, Chierichetti, Lowenstein: "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015):
/// each reader of an entry that is about to expire draws whether to load it again, with a chance that grows as expiry nears
/// and with what the load costs, so that about one does so before it is too late for all.
/// </summary>
/// <param name="random">Draws from 0 to 1.</param>
internal sealed class EarlyRefresh(Func<double> random)
{
    private const double Beta = 1;

    /// <param name="loadTime">δ, what a load costs.</param>
    public bool IsDue(DateTimeOffset freshUntil, TimeSpan loadTime, DateTimeOffset now) =>
        // Long before expiry the chance is below e^-30: most readers need not draw.
        freshUntil - now < loadTime * (30 * Beta) && now - loadTime * (Beta * Math.Log(1 - random())) >= freshUntil;
}
