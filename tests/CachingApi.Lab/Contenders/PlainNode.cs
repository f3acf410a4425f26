using System.Text.Json;
using System.Threading.Channels;
using StackExchange.Redis;
using Order = CachingApi.Orders.Order;

namespace CachingApi.Lab.Contenders;

/// <summary>
/// Cache-aside as most articles show it: <c>GET</c>, load, <c>SET</c> with a TTL. A writer commits, then deletes or sets the key.
/// Write-behind sets the key and puts the change in a queue in memory.
/// </summary>
internal sealed class PlainNode : INode
{
    private readonly ConnectionMultiplexer _redis;
    private readonly Source _source;
    private readonly string _prefix;
    private readonly Setup _setup;
    private readonly Channel<Order> _queue = Channel.CreateBounded<Order>(QueueCapacity);
    private readonly Task _consumer;

    private PlainNode(ConnectionMultiplexer redis, Source source, string prefix, Setup setup)
    {
        (_redis, _source, _prefix, _setup) = (redis, source, prefix, setup);
        _consumer = ConsumeAsync();
    }

    public const int QueueCapacity = 1000;

    /// <summary>How many changes are in the queue.</summary>
    public int Queued => _queue.Reader.Count;

    public string Settings => $"`GET`, load, `SET` with a TTL of {Text.Of(_setup.Ttl)}"
        + (_setup.Jitter > 0 ? $" and up to {_setup.Jitter:P0} more" : "") + ", no memory tier";

    public static async Task<INode> StartAsync(Lab lab, Source source, string prefix, Setup setup, CancellationToken cancel) =>
        new PlainNode(await ConnectionMultiplexer.ConnectAsync(setup.Redis ?? lab.Redis).WaitAsync(cancel), source, prefix, setup);

    public async Task<Order?> GetAsync(string id, CancellationToken cancel)
    {
        if (await ReadAsync(id) is { } cached)
        {
            return cached;
        }

        var order = await _source.LoadAsync(id, cancel);
        if (order is not null)
        {
            await SetAsync(order);
        }

        return order;
    }

    public async Task<long> WriteAsync(string id, int quantity, Update update, CancellationToken cancel)
    {
        if (update is Update.Behind)
        {
            return await WriteBehindAsync(id, quantity, cancel);
        }

        var order = await _source.CommitAsync(id, quantity, cancel);
        await (update switch
        {
            Update.Invalidate => _redis.GetDatabase().KeyDeleteAsync(Key(id)),
            Update.Replace => SetAsync(order),
            _ => Task.CompletedTask,
        });
        return order.Version;
    }

    public Task CreatedAsync(Order order, CancellationToken cancel) => _redis.GetDatabase().KeyDeleteAsync(Key(order.Id));

    public async ValueTask DisposeAsync()
    {
        _queue.Writer.Complete();
        await _consumer;
        await _redis.DisposeAsync();
    }

    private RedisKey Key(string id) => $"{_prefix}:{id}";

    private async Task<Order?> ReadAsync(string id) => await _redis.GetDatabase().StringGetAsync(Key(id)) is { IsNull: false } json
        ? JsonSerializer.Deserialize((byte[])json!, LabJson.Default.Order)
        : null;

    private Task<bool> SetAsync(Order order) => _redis.GetDatabase().StringSetAsync(
        Key(order.Id),
        JsonSerializer.SerializeToUtf8Bytes(order, LabJson.Default.Order),
        _setup.Ttl * (1 + _setup.Jitter * Random.Shared.NextDouble()));

    private async Task<long> WriteBehindAsync(string id, int quantity, CancellationToken cancel)
    {
        var current = await GetAsync(id, cancel) ?? throw new InvalidOperationException($"There is no order {id}.");
        var order = current with { Quantity = quantity, Version = current.Version + 1 };
        await SetAsync(order);
        return _queue.Writer.TryWrite(order) ? order.Version : (await _source.CommitAsync(id, quantity, cancel)).Version;
    }

    /// <summary>A change that the database refuses is logged, in the articles, and lost.</summary>
    private async Task ConsumeAsync()
    {
        await foreach (var order in _queue.Reader.ReadAllAsync())
        {
            try
            {
                await _source.CommitAsync(order.Id, order.Quantity, CancellationToken.None);
            }
            catch (Exception error) when (error is Npgsql.NpgsqlException or TimeoutException)
            {
                Lost++;
            }
        }
    }

    /// <summary>How many changes the queue has lost.</summary>
    public int Lost { get; private set; }
}
