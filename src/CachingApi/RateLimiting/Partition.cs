using System.Net;
using System.Net.Sockets;
using System.Security.Claims;
using System.Security.Cryptography;
using System.Text;
using Microsoft.AspNetCore.Authentication;

namespace CachingApi.RateLimiting;

/// <summary>
/// Requests of one partition count together. If a request has no user, session, key or account, its partition is the address.
/// </summary>
internal static class Partition
{
    public const string Ip = "ip";
    public const string Network = "network";
    public const string User = "user";
    public const string Session = "session";
    public const string ApiKey = "api-key";
    public const string Account = "account";

    public const string ApiKeyHeader = "X-Api-Key";

    /// <summary>The claim that holds a session's id (OpenID Connect Front-Channel Logout 1.0).</summary>
    public const string SessionIdClaim = "sid";

    /// <summary>The name of a request's partition, such as <c>ip:203.0.113.7</c>. Secrets and personal data are hashed in it.</summary>
    public static async ValueTask<string> OfAsync(HttpContext context, string partition, RateLimit limit) => partition switch
    {
        // If a client is limited by address only, no session look-up is needed to deny it.
        User => Name(User, (await AuthenticateAsync(context))?.Identity?.Name),
        Session => Name(Session, (await AuthenticateAsync(context))?.FindFirstValue(SessionIdClaim)),
        // By network as well: if all attempts on an account counted together, an attacker could use up the permits of its owner.
        Account when limit.Account is not null && Hash(await limit.Account(context)) is { } account =>
            $"{Account}:{account}:{Address(context.Connection.RemoteIpAddress)}",
        Account => null,
        _ => Of(context, partition, null),
    } ?? Address(context.Connection.RemoteIpAddress);

    /// <summary>
    /// The name of a request's partition, if its session exists; <c>null</c> if it depends on more than the request and its user.
    /// </summary>
    public static string? Of(HttpContext context, string partition, Guid? userId) => partition switch
    {
        User => userId is null ? null : $"{User}:{userId}",
        Session or Account => null,
        ApiKey => Name(ApiKey, Hash(context.Request.Headers[ApiKeyHeader])) ?? Address(context.Connection.RemoteIpAddress),
        Network => $"{Network}:{NetworkOf(context.Connection.RemoteIpAddress)}",
        _ => Address(context.Connection.RemoteIpAddress),
    };

    /// <summary>An address; for IPv6 the /64 network, because a provider assigns at least that to one customer.</summary>
    public static string Address(IPAddress? address) =>
        address is null ? "ip:unknown"
        : Unmapped(address) is { AddressFamily: not AddressFamily.InterNetworkV6 } v4 ? $"ip:{v4}"
        : $"ip:{Prefix(address, 8)}/64";

    /// <summary>The network of an address, about the size that one organisation has: /24 for IPv4, /48 for IPv6.</summary>
    public static string NetworkOf(IPAddress? address) =>
        address is null ? "unknown"
        : Unmapped(address) is { AddressFamily: not AddressFamily.InterNetworkV6 } v4 ? $"{Prefix(v4, 3)}/24"
        : $"{Prefix(address, 6)}/48";

    private static IPAddress Unmapped(IPAddress address) => address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address;

    private static IPAddress Prefix(IPAddress address, int length)
    {
        Span<byte> bytes = stackalloc byte[16];
        address.TryWriteBytes(bytes, out var all);
        bytes[length..].Clear();
        return new(bytes[..all]);
    }

    private static string? Name(string partition, string? value) => string.IsNullOrEmpty(value) ? null : $"{partition}:{value}";

    /// <remarks>The scheme's handler authenticates each request once and keeps the result.</remarks>
    private static async Task<ClaimsPrincipal?> AuthenticateAsync(HttpContext context) => (await context.AuthenticateAsync()).Principal;

    private static string? Hash(string? value) =>
        string.IsNullOrEmpty(value) ? null : Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(value)).AsSpan(0, 16));
}
