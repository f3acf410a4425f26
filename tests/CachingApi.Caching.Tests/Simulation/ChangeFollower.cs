using System.Globalization;
using CachingApi.Caching.Operations;
using CachingApi.Redis;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// Change data capture as the service does it, on the library's own interface: one process at a time applies the changes of the database
/// from the position of the slot on, which moves after Redis has them.
/// </summary>
internal sealed class ChangeFollower(SimulatedShelf rows)
{
    private static readonly TimeSpan RetryInterval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(100);

    private Node? _leader;
    private int _confirmed;

    /// <summary>Whether Redis has all changes of the database.</summary>
    public bool IsUpToDate => _confirmed == rows.Changes.Count;

    /// <summary>Follows the changes whenever no other process does.</summary>
    public async Task FollowAsync(Cache<Item> cache, SourceChanges changes)
    {
        while (true)
        {
            if (_leader?.IsDead != false && changes.CanApply)
            {
                _leader = Node.Current;
                try
                {
                    await ApplyAsync(cache, changes);
                }
                catch (Exception error) when (error is UnavailableException || RedisConnections.IsOutage(error))
                {
                    _leader = null; // it begins again at the confirmed position
                }
            }

            await SimulatedTasks.Delay(RetryInterval, CancellationToken.None);
        }
    }

    private async Task ApplyAsync(Cache<Item> cache, SourceChanges changes)
    {
        var position = _confirmed;
        if ((await changes.PositionsAsync(CancellationToken.None))
            .Any(held => held is null || int.Parse(held, CultureInfo.InvariantCulture) < position))
        {
            await cache.ClearWithDependentsAsync(CancellationToken.None);
            await changes.WaitForRedisAsync(CancellationToken.None);
        }

        await changes.SetPositionAsync(Text(position), CancellationToken.None);
        while (true)
        {
            var received = rows.Changes.Count;
            foreach (var ofEntity in rows.Changes.Skip(position).Take(received - position).GroupBy(change => change.Id))
            {
                await cache.ApplyAsync(ofEntity.Last(), CancellationToken.None);
            }

            await changes.WaitForRedisAsync(CancellationToken.None);
            if (received != position)
            {
                await changes.MovePositionAsync(Text(position), Text(received), CancellationToken.None);
                _confirmed = position = received;
            }

            await SimulatedTasks.Delay(PollInterval, CancellationToken.None);
        }
    }

    private static string Text(int position) => position.ToString(CultureInfo.InvariantCulture);
}
