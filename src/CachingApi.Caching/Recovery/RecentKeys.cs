namespace CachingApi.Caching;

/// <summary>The keys of the last reads that memory did not serve: the sample for a cache that keeps nothing in memory.</summary>
internal sealed class RecentKeys
{
    private readonly string?[] _ids = new string?[256];
    private int _added;

    public void Add(string id) => Volatile.Write(ref _ids[(uint)Interlocked.Increment(ref _added) % (uint)_ids.Length], id);

    public IReadOnlyList<string> Sample(int count)
    {
        string?[] ids = [.. _ids];
        Random.Shared.Shuffle(ids);
        return [.. ids.OfType<string>().Distinct().Take(count)];
    }
}
