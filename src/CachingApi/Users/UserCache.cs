using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Text.Json.Serialization.Metadata;
using CachingApi.Caching;
using CachingApi.ChangeCapture;
using CachingApi.Hosting;
using CachingApi.Sessions;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>The section <c>Cache:Users</c>. Users change rarely, and each change invalidates the entry, so entries live long.</summary>
internal sealed class UserCacheOptions : CacheOptions
{
    /// <summary>How an update reaches the cache if the request does not name a strategy.</summary>
    [AllowedValues(WriteStrategies.WriteThrough, WriteStrategies.Invalidate, WriteStrategies.WriteBehind,
        ErrorMessage = "write-through, invalidate or write-behind is expected")]
    public string WriteStrategy { get; init; } = WriteStrategies.WriteThrough;

    /// <summary>How many of the newest users are loaded at start, in the background.</summary>
    [Range(0, 10_000)]
    public int Prewarm { get; init; }
}

/// <summary>The section <c>Cache:UserLists</c>: every change of any user clears all pages.</summary>
internal sealed class UserListCacheOptions : CacheOptions;

/// <summary>The caches of users: single users by id, and pages of users.</summary>
internal static class UserCache
{
    public const string Users = "users", Lists = "user-lists";

    /// <summary>The shape of <see cref="User"/> that the HTTP contract describes: its ETags are <c>"v&lt;version&gt;"</c>.</summary>
    private const ulong ContractShape = 0x24d6029c6964f926;

    public static IServiceCollection AddUserCaches(this IServiceCollection services)
    {
        services.AddValidatedOptions<UserCacheOptions>("Cache:Users");
        services.AddValidatedOptions<UserListCacheOptions>("Cache:UserLists");
        services.AddCaching()
            .AddCache<User>(Users, cache => cache
                .Options<UserCacheOptions>()
                .Json(Json<User>)
                .Version(user => user.Version)
                .Fence(user => user.Fence)
                .LoadWith<UserRepository>((users, id, cancel) =>
                    Guid.TryParse(id, out var user) ? users.FindAsync(user, cancel) : Task.FromResult<User?>(null))
                .Clears(Lists)
                .WarmWith<UserRepository>(NewestAsync, warming =>
                {
                    warming.AtStart = provider => provider.GetRequiredService<IOptions<UserCacheOptions>>().Value.Prewarm;
                    warming.IsKey = key => Guid.TryParse(key, out _);
                    warming.KeyForm = "A UUID";
                })
                .WriteBehindWith<UserWriteBehind, UserChange>(UserJson.Default.UserChange, settings =>
                {
                    settings.Queue = "write-behind"; // the name from before each cache had its own queue
                    settings.RequiredBy = provider =>
                        provider.GetRequiredService<IOptions<UserCacheOptions>>().Value.WriteStrategy is WriteStrategies.WriteBehind
                            ? "Cache:Users:WriteStrategy"
                            : null;
                })
                .TrackTable(
                    "users",
                    provider => (id, cancel) => provider.GetRequiredService<SessionService>().EndAllAsync(Guid.Parse(id), cancel)))

            // Pages have no version, because any user may be on them: the snapshot orders them.
            .AddCache<UserPage>(Lists, cache => cache
                .Options<UserListCacheOptions>()
                .Json(Json<UserPage>)
                .Fence(page => page.Snapshot)
                .LoadWith<UserRepository>((users, id, cancel) => PageKey.Parse(id) is { } page
                    ? users.PageAsync(page.After, page.Limit, cancel)
                    : Task.FromResult<UserPage?>(null))
                .WarmWith<UserRepository>(FirstPagesAsync, warming =>
                {
                    warming.IsKey = key => PageKey.Parse(key) is not null;
                    warming.KeyForm = $"<limit>:<after> with a limit from 1 to {UserEndpoints.MaxLimit}";
                }));
        return services;
    }

    /// <summary>The part of a user's ETag that depends on the shape of <see cref="User"/>.</summary>
    public static string ETagShape(this Cache<User> cache) => ETags.Shape(cache.Shape, ContractShape);

    private static JsonTypeInfo<T> Json<T>(IServiceProvider provider) =>
        (JsonTypeInfo<T>)provider.GetRequiredService<IOptions<JsonOptions>>().Value.SerializerOptions.GetTypeInfo(typeof(T));

    private static async Task<IReadOnlyList<string>> NewestAsync(UserRepository users, int count, CancellationToken cancel) =>
        [.. (await users.NewestAsync(count, every: 1, cancel)).Select(id => id.ToString())];

    private static async Task<IReadOnlyList<string>> FirstPagesAsync(UserRepository users, int count, CancellationToken cancel)
    {
        var ends = await users.NewestAsync(count - 1, every: UserEndpoints.DefaultLimit, cancel);
        return
        [
            new PageKey(null, UserEndpoints.DefaultLimit).ToString(),
            .. ends.Select(end => new PageKey(end, UserEndpoints.DefaultLimit).ToString()),
        ];
    }
}

/// <summary>The key of a page: <c>&lt;limit&gt;:&lt;after&gt;</c>; for the first page, <c>after</c> is empty.</summary>
internal readonly record struct PageKey(Guid? After, int Limit)
{
    public static PageKey? Parse(string key) =>
        key.Split(':') is [var limit, var after]
        && int.TryParse(limit, NumberStyles.None, CultureInfo.InvariantCulture, out var size) && size is >= 1 and <= UserEndpoints.MaxLimit
            ? after.Length == 0 ? new(null, size) : Guid.TryParse(after, out var id) ? new PageKey(id, size) : null
            : null;

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Limit}:{After}");
}
