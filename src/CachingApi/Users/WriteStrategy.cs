namespace CachingApi.Users;

/// <summary>How an update reaches the cache.</summary>
internal enum WriteStrategy
{
    /// <summary>The new value takes the cached one's place: the next read is a hit.</summary>
    WriteThrough,

    /// <summary>A tombstone takes the cached value's place: the next read loads it.</summary>
    Invalidate,

    /// <summary>The new value is acknowledged when it is in a durable queue, and is in the database later.</summary>
    WriteBehind,
}

internal static class WriteStrategies
{
    public const string WriteThrough = "write-through";
    public const string Invalidate = "invalidate";
    public const string WriteBehind = "write-behind";

    /// <summary>The strategy by the name that requests and configuration give it; <c>null</c> for any other.</summary>
    public static WriteStrategy? Parse(string? name) => name switch
    {
        WriteThrough => WriteStrategy.WriteThrough,
        Invalidate => WriteStrategy.Invalidate,
        WriteBehind => WriteStrategy.WriteBehind,
        _ => null,
    };
}
