using System.Buffers.Text;
using System.Security.Cryptography;

namespace CachingApi.Sessions;

/// <summary>
/// The cookie that identifies a browser that has logged in before: see <see cref="LoginBackoff"/>. It authenticates no request. Its token
/// is 256 random bits, so an attacker cannot guess it, and the server keeps only its hash.
/// </summary>
internal static class DeviceCookie
{
    public const string Name = "__Host-device";

    private const int Bytes = 32, Length = 43;

    public static string New() => Base64Url.EncodeToString(RandomNumberGenerator.GetBytes(Bytes));

    /// <summary>The token of a request; <c>null</c> if it has none, or none of the right form.</summary>
    public static string? Read(HttpRequest request) =>
        RequestCookies.Find(request, Name) is { Length: Length } token && Base64Url.IsValid(token) ? token : null;

    public static CookieOptions Options() => new()
    {
        HttpOnly = true,
        Secure = true,
        SameSite = SameSiteMode.Lax,
        Path = "/",
        MaxAge = TimeSpan.FromDays(90),
    };
}
