using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Text.Json.Serialization;
using CachingApi.Caching.Operations;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>A page of a list, which contains one item.</summary>
internal sealed record Page(Item? Item);

[JsonSerializable(typeof(Page))]
internal sealed partial class PageJson : JsonSerializerContext;

/// <summary>A process of the simulated service: the engine with one cache, as a service declares it.</summary>
internal sealed class CacheProcess : IDisposable
{
    private static readonly ConcurrentDictionary<Scenario, SimulatedServices.Registrations> Registered =
        new(ReferenceEqualityComparer.Instance);

    private readonly SimulatedServices _services;
    private readonly Backplane _backplane;
    private readonly RedisTier _tier;
    private bool _hasStarted;

    public CacheProcess(Node node, Scenario scenario, SimulatedShelf shelf)
    {
        Node = node;
        HasPages = scenario.Operations.Contains(Operation.ReadPage);
        _services = new(Registered.GetOrAdd(scenario, static scenario => new(Services(scenario))), node.Time, shelf);
        Items = _services.GetRequiredService<Cache<Item>>();
        (_backplane, _tier) = (_services.GetRequiredService<Backplane>(), _services.GetRequiredService<RedisTier>());
    }

    public Node Node { get; }

    public Cache<Item> Items { get; }

    public bool HasPages { get; }

    public Cache<Page> Pages => _services.GetRequiredService<Cache<Page>>();

    /// <summary>Whether it has started, and uses Redis and memory.</summary>
    public bool IsReady => _hasStarted && Node.Ask(() => _backplane.IsTrusted && _tier.IsTrusted);

    /// <summary>Whether invalidations wait in its memory until Redis answers again.</summary>
    public bool HasQueuedInvalidations => Node.Ask(() => !_services.GetRequiredService<AutoRecoveryQueue>().IsEmpty);

    public SourceChanges Changes => _services.GetRequiredService<SourceChanges>();

    /// <summary>Starts the services of the host.</summary>
    public async Task StartAsync()
    {
        foreach (var service in _services.GetServices<IHostedService>().Where(service => service is not Warming))
        {
            await service.StartAsync(CancellationToken.None);
        }

        _hasStarted = true;
    }

    public void Dispose()
    {
        Node.IsDead = true;
        Node.Run(() => _ = _services.DisposeAsync().AsTask());
    }

    private static ServiceCollection Services(Scenario scenario)
    {
        var hasPages = scenario.Operations.Contains(Operation.ReadPage);
        var services = new ServiceCollection();
        services.AddSingleton(typeof(ILogger<>), typeof(NullLogger<>));
        services.AddSingleton<IMeterFactory, Meters>();
        SimulatedServices.AddGiven<TimeProvider>(services);
        SimulatedServices.AddGiven<SimulatedShelf>(services);
        services.AddCaching(options =>
        {
            (options.Redis, options.RedisState) = ("cache:6379", scenario.WriteBehind ? "state:6379" : "cache:6379");
            (options.KeyPrefix, options.RedisDeadline, options.Verify) = ("shop", Node.Current.RedisDeadline, 0);
        })
            .AddCache<Item>("items", cache =>
            {
                cache
                    .Configure(options =>
                    {
                        (options.MemoryEntries, options.Jitter, options.EarlyRefresh) = (16, 0, false);
                        (options.Ttl, options.StaleFor) = (scenario.Ttl, scenario.StaleFor);
                        options.MemoryTtl = TimeSpan.FromMinutes(5);
                    })
                    .Json(ItemJson.Default.Item)
                    .LoadWith<SimulatedShelf>((rows, id, cancel) => rows.FindAsync(id, cancel));
                if (scenario.IsVersioned)
                {
                    cache.Version(item => item.Version);
                }

                if (hasPages)
                {
                    cache.Clears("pages");
                }

                if (scenario.WriteBehind)
                {
                    cache.Fence(item => item.Fence).WriteBehindWith<SimulatedShelf, Rename>(ItemJson.Default.Rename);
                }
            });
        if (hasPages)
        {
            services.AddCaching().AddCache<Page>("pages", cache => cache
                .Configure(options => (options.MemoryEntries, options.Jitter, options.EarlyRefresh) = (16, 0, false))
                .Json(PageJson.Default.Page)
                .LoadWith<SimulatedShelf>(async (rows, id, cancel) => new(await rows.FindAsync(id, cancel))));
        }

        services.Configure<WriteBehindOptions>(options => (options.WaitForDisk, options.MaxAttempts) = (false, 2));
        return services;
    }

    private sealed class Meters : IMeterFactory
    {
        private readonly List<Meter> _meters = [];

        public Meter Create(MeterOptions options)
        {
            var meter = new Meter(options);
            _meters.Add(meter);
            return meter;
        }

        public void Dispose()
        {
            foreach (var meter in _meters)
            {
                meter.Dispose();
            }
        }
    }
}
