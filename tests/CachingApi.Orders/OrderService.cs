using CachingApi.Caching;

namespace CachingApi.Orders;

/// <summary>The operations on orders.</summary>
public sealed class OrderService(Cache<Order> orders, Cache<OrderList> lists, OrderRepository rows)
{
    public ValueTask<CacheResult<Order>> FindAsync(string id, CancellationToken cancel) => orders.GetAsync(id, cancel);

    public ValueTask<CacheResult<OrderList>> ListAsync(string customer, CancellationToken cancel) => lists.GetAsync(customer, cancel);

    public async Task<Order> CreateAsync(string id, string customer, int quantity, CancellationToken cancel)
    {
        var order = await rows.CreateAsync(id, customer, quantity, cancel);
        await orders.InvalidateAsync(id, order, CancellationToken.None);
        return order;
    }

    public Task<WriteResult<Order>> UpdateAsync(string id, int quantity, WriteStrategy strategy, CancellationToken cancel) =>
        orders.WriteAsync(id, new OrderChange(quantity), versions: null, strategy, cancel);

    public Task<WriteResult<Order>> DeleteAsync(string id, CancellationToken cancel) =>
        orders.DeleteAsync(id, (fence, stop) => rows.DeleteAsync(id, fence, stop), cancel);
}
