namespace CachingApi.Storage;

/// <summary>The time as PostgreSQL stores it.</summary>
internal static class DatabaseTime
{
    /// <summary>
    /// The time in UTC, without the fraction of a microsecond: a pending value then has the same content as the row that it becomes.
    /// </summary>
    public static DateTime GetDatabaseTime(this TimeProvider time)
    {
        var now = time.GetUtcNow().UtcDateTime;
        return now.AddTicks(-(now.Ticks % TimeSpan.TicksPerMicrosecond));
    }
}
