using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Security.Claims;
using System.Security.Cryptography;
using System.Text;
using Microsoft.AspNetCore.Authentication;

namespace CachingApi.RateLimiting;

/// <summary>Whose requests are counted together. A request that has no user, session, key or account counts by its address.</summary>
internal static class Partition
{
    public const string Ip = "ip";
    public const string User = "user";
    public const string Session = "session";
    public const string ApiKey = "api-key";
    public const string Account = "account";

    public const string ApiKeyHeader = "X-Api-Key";

    /// <summary>The claim that holds a session's id (OpenID Connect Front-Channel Logout 1.0).</summary>
    public const string SessionIdClaim = "sid";

    /// <summary>The name of a request's partition, such as <c>ip:203.0.113.7</c>; what is secret or personal is hashed in it.</summary>
    public static async ValueTask<string> OfAsync(HttpContext context, string partition, RateLimit limit) => partition switch
    {
        // Whoever is limited by address only is refused without being looked up.
        User => Name(User, (await AuthenticateAsync(context))?.Identity?.Name),
        Session => Name(Session, (await AuthenticateAsync(context))?.FindFirstValue(SessionIdClaim)),
        ApiKey => Name(ApiKey, Hash(context.Request.Headers[ApiKeyHeader])),
        Account when limit.Account is not null => Name(Account, Hash(await limit.Account(context))),
        _ => null,
    } ?? Address(context.Connection.RemoteIpAddress);

    /// <summary>An address; of IPv6 the network (/64), as that is what one customer has.</summary>
    public static string Address(IPAddress? address)
    {
        if (address is null)
        {
            return "ip:unknown";
        }

        if (address.IsIPv4MappedToIPv6)
        {
            address = address.MapToIPv4();
        }

        if (address.AddressFamily is not AddressFamily.InterNetworkV6)
        {
            return $"ip:{address}";
        }

        Span<byte> bytes = stackalloc byte[16];
        address.TryWriteBytes(bytes, out _);
        BinaryPrimitives.WriteUInt64BigEndian(bytes[8..], 0);
        return $"ip:{new IPAddress(bytes)}/64";
    }

    private static string? Name(string partition, string? value) => string.IsNullOrEmpty(value) ? null : $"{partition}:{value}";

    /// <remarks>The scheme's handler does this once for each request, whoever asks first.</remarks>
    private static async Task<ClaimsPrincipal?> AuthenticateAsync(HttpContext context) => (await context.AuthenticateAsync()).Principal;

    private static string? Hash(string? value) =>
        string.IsNullOrEmpty(value) ? null : Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(value)).AsSpan(0, 16));
}
