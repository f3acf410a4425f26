namespace CachingApi.Caching;

/// <summary>The two tiers, the generations of their keys, and the revisions that this process has served without Redis.</summary>
internal sealed record Tiers(MemoryTier Memory, RedisTier Redis, Namespaces Namespaces, SeenRevisions Seen);
