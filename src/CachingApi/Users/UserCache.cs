using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Caching;
using CachingApi.Hosting;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>The section <c>Cache:Users</c>: users change rarely and are invalidated when they do, so they are kept long.</summary>
internal sealed class UserCacheSettings : CacheSettings
{
    /// <summary>How an update reaches the cache where the request does not say.</summary>
    [AllowedValues(WriteStrategies.WriteThrough, WriteStrategies.Invalidate, WriteStrategies.WriteBehind,
        ErrorMessage = "write-through, invalidate or write-behind is expected")]
    public string WriteStrategy { get; init; } = WriteStrategies.WriteThrough;

    /// <summary>How many of the newest users are loaded at start, in the background.</summary>
    [Range(0, 10_000)]
    public int Prewarm { get; init; }
}

/// <summary>The section <c>Cache:UserLists</c>: every change of any user drops all pages.</summary>
internal sealed class UserListCacheSettings : CacheSettings;

/// <summary>The keys and lifetimes of what is cached of users.</summary>
internal sealed class UserCache(IOptions<UserCacheSettings> users, IOptions<UserListCacheSettings> lists, IOptions<JsonOptions> json)
{
    /// <summary>The shape of <see cref="User"/> that the HTTP contract describes: its ETags are <c>"v&lt;version&gt;"</c>.</summary>
    private const ulong ContractShape = 0x24d6029c6964f926;

    public Cache<User> Users { get; } = new("users", users.Value, Json<User>(json), user => user.Version, fence: user => user.Fence);

    /// <summary>The part of a user's ETag that depends on the shape of <see cref="User"/>.</summary>
    public string ETagShape => ETags.Shape(Users.Shape, ContractShape);

    /// <summary>Pages: <c>user-lists:…:&lt;limit&gt;:&lt;after&gt;</c>. They have no version, as any user may be on them.</summary>
    public Cache<UserPage> Lists { get; } = new("user-lists", lists.Value, Json<UserPage>(json), _ => 0);

    /// <summary>One user: <c>users:…:&lt;id&gt;</c>.</summary>
    public CacheKey<User> ById(Guid id) => Users.Key(id.ToString());

    public CacheKey<UserPage> Page(Guid? after, int limit) => Lists.Key($"{limit}:{after}");

    /// <summary>What a page's key says; <c>null</c> where it is none.</summary>
    public static (Guid? After, int Limit)? ReadPage(string key) =>
        key.Split(':') is [var limit, var after]
        && int.TryParse(limit, NumberStyles.None, CultureInfo.InvariantCulture, out var size) && size is >= 1 and <= UserEndpoints.MaxLimit
            ? after.Length == 0 ? (null, size) : Guid.TryParse(after, out var id) ? (id, size) : null
            : null;

    private static JsonTypeInfo<T> Json<T>(IOptions<JsonOptions> json) => (JsonTypeInfo<T>)json.Value.SerializerOptions.GetTypeInfo(typeof(T));
}
