using CachingApi.Caching;
using CachingApi.Orders;
using CachingApi.Redis;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

namespace CachingApi.Lab.Contenders;

/// <summary>This project's library, as a service that references its package uses it.</summary>
internal sealed class LibraryNode : INode
{
    private readonly IHost _host;
    private readonly Cache<Order> _orders;
    private readonly Source _source;
    private readonly Setup _setup;

    private LibraryNode(IHost host, Source source, Setup setup)
    {
        (_host, _source, _setup) = (host, source, setup);
        _orders = host.Services.GetRequiredService<Cache<Order>>();
    }

    public string Settings =>
        $"`Ttl` {Text.Of(_setup.Ttl)}, `Jitter` {_setup.Jitter:P0}, `EarlyRefresh` {(_setup.EarlyRefresh ? "on" : "off")}, `MemoryTtl` "
        + $"{Text.Of(_orders.Options.MemoryTtl)}, `NegativeTtl` {Text.Of(_setup.NegativeTtl)}, `RedisDeadline` {Text.Of(Deadline(_setup))}";

    public static async Task<INode> StartAsync(Lab lab, Source source, string prefix, Setup setup, CancellationToken cancel)
    {
        var builder = Host.CreateEmptyApplicationBuilder(new());
        builder.Services.AddSingleton(source);
        builder.Services
            .AddCaching(options =>
            {
                (options.Redis, options.RedisState, options.KeyPrefix) = (setup.Redis ?? lab.Redis, lab.RedisState, prefix);
                options.RedisDeadline = Deadline(setup);
                options.LoadTimeout = TimeSpan.FromSeconds(20);
                options.Verify = 0; // the consistency checker would load as well
            })
            .AddCache<Order>("orders", cache =>
            {
                cache.Configure(options =>
                {
                    (options.Ttl, options.NegativeTtl, options.Jitter) = (setup.Ttl, setup.NegativeTtl, setup.Jitter);
                    (options.MemoryTtl, options.EarlyRefresh) = (setup.MemoryTtl ?? setup.Ttl, setup.EarlyRefresh);
                })
                .Json(LabJson.Default.Order)
                .Version(order => order.Version)
                .LoadWith<Source>((orders, id, stop) => orders.LoadAsync(id, stop));
                if (setup.WriteBehind)
                {
                    cache.Services.AddSingleton(new OrderRepository(source.Postgres));
                    cache.Fence(order => order.Fence).WriteBehindWith<OrderWriter, OrderChange>(LabJson.Default.OrderChange);
                }
            });
        builder.Services.Configure<RedisOptions>(redis => redis.StateDeadline = TimeSpan.FromSeconds(5));
        var node = new LibraryNode(builder.Build(), source, setup);
        await node._host.StartAsync(cancel);
        return node;
    }

    public async Task<Order?> GetAsync(string id, CancellationToken cancel) => (await _orders.GetAsync(id, cancel)).Value;

    public async Task<long> WriteAsync(string id, int quantity, Update update, CancellationToken cancel)
    {
        if (update is Update.None)
        {
            return (await _source.CommitAsync(id, quantity, cancel)).Version;
        }

        var strategy = update switch
        {
            Update.Invalidate => WriteStrategy.Invalidate,
            Update.Replace => WriteStrategy.WriteThrough,
            _ => WriteStrategy.WriteBehind,
        };
        var written = _setup.WriteBehind
            ? await _orders.WriteAsync(id, new OrderChange(quantity), versions: null, strategy, cancel)
            : await _orders.WriteAsync(id, strategy, async (_, stop) => await _source.CommitAsync(id, quantity, stop), cancel);
        return written.Value?.Version ?? throw new InvalidOperationException($"The write of {id} was not accepted: {written.Outcome}.");
    }

    public Task CreatedAsync(Order order, CancellationToken cancel) => _orders.InvalidateAsync(order.Id, order, cancel);

    public async ValueTask DisposeAsync()
    {
        await _host.StopAsync();
        await ((IAsyncDisposable)_host).DisposeAsync();
    }

    /// <summary>The default if Redis fails; otherwise a busy machine must not count as an outage.</summary>
    private static TimeSpan Deadline(Setup setup) => setup.Resilient ? new CachingOptions().RedisDeadline : TimeSpan.FromSeconds(5);
}
