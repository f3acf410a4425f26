using System.Text.Json.Serialization;

namespace CachingApi.Orders;

/// <summary>An order.</summary>
public sealed record Order
{
    public required string Id { get; init; }

    public required string Customer { get; init; }

    public required int Quantity { get; init; }

    public required long Version { get; init; }

    /// <summary>The fencing token of the last write: it is not part of the JSON.</summary>
    [JsonIgnore]
    public long Fence { get; init; }
}

/// <summary>The orders of a customer.</summary>
public sealed record OrderList(IReadOnlyList<Order> Orders);

/// <summary>A change of an order, as it is queued.</summary>
public sealed record OrderChange(int Quantity);

[JsonSerializable(typeof(Order))]
[JsonSerializable(typeof(OrderList))]
[JsonSerializable(typeof(OrderChange))]
internal sealed partial class OrderJson : JsonSerializerContext;
