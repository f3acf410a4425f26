using CachingApi.Caching;

namespace CachingApi.Orders;

/// <summary>Write-behind of orders: applies and persists changes.</summary>
public sealed class OrderWriter(OrderRepository orders) : IWriteBehind<Order, OrderChange>
{
    public Order Apply(Order current, OrderChange change, Revision revision) =>
        current with { Quantity = change.Quantity, Version = revision.Version, Fence = revision.Fence };

    public Task<WriteResult<Order>> CommitAsync(
        string id, OrderChange change, IReadOnlyCollection<long>? versions, WriteFence fence, CancellationToken cancel) =>
        orders.UpdateAsync(id, change, versions, fence, cancel);

    public Task<IReadOnlyCollection<PersistedRow>> PersistAsync(
        IReadOnlyList<DeferredWrite<OrderChange>> writes, CancellationToken cancel) =>
        orders.PersistAsync(writes, cancel);

    public Task<Revision?> BumpVersionAsync(string id, Revision write, CancellationToken cancel) =>
        orders.BumpVersionAsync(id, write, cancel);
}
