using CachingApi.Caching;
using CachingApi.Sessions;

namespace CachingApi.Users;

/// <summary>Follows up a committed change of a user's role: the cached user is invalidated, and a security event is logged.</summary>
internal sealed class RoleChanges(Cache<User> cache, SecurityEvents events)
{
    public async Task ApplyAsync(User user, string outcome, CancellationToken cancel)
    {
        await cache.InvalidateAsync(user.Id.ToString(), user, cancel);
        events.Write(SecurityEvents.RoleChange, outcome, context: null, user.Id);
    }
}
