using System.Buffers.Binary;
using System.Text;
using CachingApi.Redis;
using Microsoft.AspNetCore.Identity;
using Microsoft.Extensions.Options;

namespace CachingApi.Sessions;

/// <summary>
/// Hashes passwords (PBKDF2 with HMAC-SHA512, by the framework's hasher). Hashing is slow on purpose, so it uses at most half of the
/// processors at once: during a flood of logins, the rest stay free for other requests.
/// </summary>
internal sealed class Passwords(IOptions<PasswordHasherOptions> options, TimeProvider time)
{
    /// <summary>OWASP's figure for PBKDF2-HMAC-SHA512 (Password Storage Cheat Sheet).</summary>
    public const int Iterations = 220_000;

    /// <summary>In characters.</summary>
    public const int MinLength = 12, MaxLength = 128;

    /// <summary>In UTF-16 units, before normalisation; one character can have several units.</summary>
    private const int MaxUnits = 8 * MaxLength;

    /// <summary>The maximum time that a password waits for a processor.</summary>
    public static readonly TimeSpan MaxWait = TimeSpan.FromSeconds(2);

    private static readonly object NoUser = new();

    private readonly PasswordHasher<object> _hasher = new(options);
    private readonly Lazy<string> _dummy = new(() => new PasswordHasher<object>(options).HashPassword(NoUser, Guid.NewGuid().ToString()));
    private readonly HashingSlots _slots = new(Math.Max(1, Environment.ProcessorCount / 2), MaxWait, time);

    /// <exception cref="UnavailableException">No processor is free within <see cref="MaxWait"/>.</exception>
    /// <param name="network">The caller's network: see <see cref="HashingSlots"/>.</param>
    public Task<string> HashAsync(string password, bool preferred, string network, CancellationToken cancel) =>
        BoundedAsync(() => _hasher.HashPassword(NoUser, Normalized(password)), preferred, network, cancel);

    /// <summary>Whether the password is right. An account that does not exist takes as long as a wrong password.</summary>
    /// <param name="preferred">Whether it goes before those that are not preferred.</param>
    /// <exception cref="UnavailableException">No processor is free within <see cref="MaxWait"/>.</exception>
    /// <param name="network">The caller's network: see <see cref="HashingSlots"/>.</param>
    public async Task<bool> VerifyAsync(string? hash, string password, bool preferred, string network, CancellationToken cancel) =>
        await CheckAsync(hash, password, preferred, network, cancel) is not PasswordVerificationResult.Failed;

    /// <summary>As <see cref="VerifyAsync"/>; the result also shows whether the password should be hashed again.</summary>
    /// <exception cref="UnavailableException">No processor is free within <see cref="MaxWait"/>.</exception>
    public Task<PasswordVerificationResult> CheckAsync(
        string? hash, string password, bool preferred, string network, CancellationToken cancel) =>
        BoundedAsync(() => Check(hash, password), preferred, network, cancel);

    private PasswordVerificationResult Check(string? hash, string password)
    {
        var normalized = Normalized(password);
        if (hash is null || !IsHash(hash))
        {
            // As many times as below, so that the time does not reveal whether the account exists.
            _hasher.VerifyHashedPassword(NoUser, _dummy.Value, normalized);
            if (normalized != password)
            {
                _hasher.VerifyHashedPassword(NoUser, _dummy.Value, password);
            }

            return PasswordVerificationResult.Failed;
        }

        var result = _hasher.VerifyHashedPassword(NoUser, hash, normalized);

        // A hash from before passwords were normalised.
        return result is PasswordVerificationResult.Failed && normalized != password
            && _hasher.VerifyHashedPassword(NoUser, hash, password) is not PasswordVerificationResult.Failed
            ? PasswordVerificationResult.SuccessRehashNeeded
            : result;
    }

    /// <summary>One form (NFC) for all keyboards: é is one character on some and two on others (NIST SP 800-63B, 5.1.1.2).</summary>
    /// <remarks>
    /// Normalisation throws for the noncharacter U+FFFE, and for a lone surrogate, which JSON cannot contain. Its time grows with the
    /// square of the length, so a text that is too long for a password in any form is not normalised.
    /// </remarks>
    public static string Normalized(string password) =>
        password.Length > MaxUnits || password.Contains('\uFFFE', StringComparison.Ordinal)
            ? password
            : password.Normalize(NormalizationForm.FormC);

    /// <summary>
    /// Whether the hasher can verify a password with this hash. With another value, such as the empty hash of a sample user, the hasher
    /// would return at once or throw, which would reveal that the account exists.
    /// </summary>
    /// <remarks>Version 3 of ASP.NET Core Identity: the byte 1, then algorithm, iterations and length of the salt, 32 bits each.</remarks>
    private static bool IsHash(string hash)
    {
        const int HeaderBytes = 13, MinBytes = HeaderBytes + 16 + 16;
        Span<byte> bytes = stackalloc byte[256];
        return Convert.TryFromBase64String(hash, bytes, out var length)
            && length >= MinBytes
            && bytes[0] == 1
            && BinaryPrimitives.ReadUInt32BigEndian(bytes[1..]) <= 2
            && BinaryPrimitives.ReadUInt32BigEndian(bytes[5..]) is > 0 and <= int.MaxValue
            && BinaryPrimitives.ReadUInt32BigEndian(bytes[9..]) is >= 16 and var salt
            && salt <= length - HeaderBytes - 16;
    }

    private async Task<T> BoundedAsync<T>(Func<T> work, bool preferred, string network, CancellationToken cancel)
    {
        if (!await _slots.EnterAsync(preferred, network, cancel))
        {
            throw new UnavailableException("A processor for hashing passwords") { RetryAfter = MaxWait };
        }

        try
        {
            return await Task.Run(work, CancellationToken.None);
        }
        finally
        {
            _slots.Leave();
        }
    }
}
