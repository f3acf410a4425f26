using System.Globalization;
using CachingApi.Caching;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>What the caches of users are warmed with: the newest users, the first pages.</summary>
internal sealed class UserWarming(UserCache cached, UserService service, UserRepository users, IOptions<UserCacheSettings> settings)
{
    /// <summary>A user's key is its id.</summary>
    public ManagedCache Users => new(
        cached.Users,
        key => Guid.TryParse(key, out var id) ? async cancel => await service.FindAsync(id, cancel) : null,
        async (count, cancel) => [.. (await users.NewestAsync(count, every: 1, cancel)).Select(id => id.ToString())],
        settings.Value.Prewarm,
        Source: cached.Users.Source((key, cancel) => service.LoadAsync(Guid.Parse(key), cancel)));

    /// <summary>A page's key is <c>&lt;limit&gt;:&lt;after&gt;</c>; the first one is after nothing.</summary>
    public ManagedCache Lists => new(
        cached.Lists,
        key => UserCache.ReadPage(key) is var (after, limit) ? async cancel => await service.ListAsync(after, limit, cancel) : null,
        FirstPagesAsync,
        Source: cached.Lists.Source((key, cancel) => UserCache.ReadPage(key) is var (after, limit)
            ? service.LoadPageAsync(after, limit, cancel)
            : Task.FromResult<UserPage?>(null)));

    private async Task<IReadOnlyList<string>> FirstPagesAsync(int count, CancellationToken cancel)
    {
        const int Limit = UserEndpoints.DefaultLimit;
        var ends = await users.NewestAsync(count - 1, every: Limit, cancel);
        return [string.Create(CultureInfo.InvariantCulture, $"{Limit}:"), .. ends.Select(id => string.Create(CultureInfo.InvariantCulture, $"{Limit}:{id}"))];
    }
}
