using CachingApi.Caching;

namespace CachingApi.Users;

/// <summary>The names of the strategies in requests and configuration.</summary>
internal static class WriteStrategies
{
    public const string WriteThrough = "write-through";
    public const string Invalidate = "invalidate";
    public const string WriteBehind = "write-behind";

    /// <summary>The message for any other name.</summary>
    public const string OneOf = $"One of {WriteThrough}, {Invalidate}, {WriteBehind}.";

    /// <summary>The strategy with a name from a request or the configuration; <c>null</c> for an unknown name.</summary>
    public static WriteStrategy? Parse(string? name) => name switch
    {
        WriteThrough => WriteStrategy.WriteThrough,
        Invalidate => WriteStrategy.Invalidate,
        WriteBehind => WriteStrategy.WriteBehind,
        _ => null,
    };
}
