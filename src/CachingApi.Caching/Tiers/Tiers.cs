namespace CachingApi.Caching;

/// <summary>The two tiers, the generations that their keys are made of, and what this process has served around them.</summary>
internal sealed record Tiers(MemoryTier Memory, RedisTier Redis, Namespaces Namespaces, SeenRevisions Seen);
