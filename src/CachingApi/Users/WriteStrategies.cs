using CachingApi.Caching;

namespace CachingApi.Users;

/// <summary>The strategies by the names that requests and configuration give them.</summary>
internal static class WriteStrategies
{
    public const string WriteThrough = "write-through";
    public const string Invalidate = "invalidate";
    public const string WriteBehind = "write-behind";

    /// <summary>The message for any other name.</summary>
    public const string OneOf = $"One of {WriteThrough}, {Invalidate}, {WriteBehind}.";

    /// <summary>The strategy by the name that requests and configuration give it; <c>null</c> for any other.</summary>
    public static WriteStrategy? Parse(string? name) => name switch
    {
        WriteThrough => WriteStrategy.WriteThrough,
        Invalidate => WriteStrategy.Invalidate,
        WriteBehind => WriteStrategy.WriteBehind,
        _ => null,
    };
}
