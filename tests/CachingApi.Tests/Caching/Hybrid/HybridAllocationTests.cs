using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Caching.Hybrid;

/// <summary>
/// Tests that run after all others, and one at a time: while other tests compile code, the runtime puts off the optimisation of methods.
/// </summary>
[CollectionDefinition(nameof(AfterAllOthers), DisableParallelization = true)]
public sealed class AfterAllOthers;

/// <summary>The allocations of the hybrid cache.</summary>
[Collection(nameof(AfterAllOthers))]
public sealed class HybridAllocationTests(TestServers servers)
{
    [Fact]
    public async Task A_hit_of_an_immutable_value_allocates_nothing()
    {
        await using var node = await HybridNode.StartAsync(Implementation.Ours, servers.Redis);
        await node.Cache.SetAsync("key", "it", tags: ["a", "b"]);
        Func<CancellationToken, ValueTask<string>> never = _ => throw new InvalidOperationException("Nothing is to be loaded.");

        long Allocated(int hits)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var hit = 0; hit < hits; hit++)
            {
#pragma warning disable CA2012 // Only completed tasks are expected.
                Assert.True(node.Cache.GetOrCreateAsync("key", never).IsCompletedSuccessfully);
#pragma warning restore CA2012
            }

            return GC.GetAllocatedBytesForCurrentThread() - before;
        }

        // Code that is not optimised yet allocates; the runtime replaces it in the background after some calls.
        // The rest, less than a byte per hit, is the memory tier's own maintenance, once in many reads.
        await Eventually.TrueAsync(() => Allocated(1_000) < 1_000, "a round of hits that allocates nothing");
    }
}
