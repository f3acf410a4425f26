using CachingApi.Caching;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Orders;

/// <summary>The caches of orders.</summary>
public static class OrderCaches
{
    /// <param name="configure">Settings that only the service can make, such as <c>TrackTable</c>.</param>
    public static CachingBuilder AddOrders(this CachingBuilder caching, Action<CacheBuilder<Order>>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(caching);
        caching.Services.AddSingleton<OrderRepository>().AddSingleton<OrderService>();
        return caching
            .AddCache<Order>("orders", cache =>
            {
                cache.Json(OrderJson.Default.Order)
                    .Version(order => order.Version)
                    .Fence(order => order.Fence)
                    .LoadWith<OrderRepository>((orders, id, cancel) => orders.FindAsync(id, cancel))
                    .Clears("order-lists")
                    .WarmWith<OrderRepository>((orders, count, cancel) => orders.NewestAsync(count, cancel))
                    .WriteBehindWith<OrderWriter, OrderChange>(OrderJson.Default.OrderChange);
                configure?.Invoke(cache);
            })
            .AddCache<OrderList>("order-lists", cache => cache
                .Json(OrderJson.Default.OrderList)
                .LoadWith<OrderRepository>((orders, customer, cancel) => orders.ListAsync(customer, cancel)));
    }
}
