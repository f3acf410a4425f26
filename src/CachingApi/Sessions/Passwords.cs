using System.Buffers.Text;
using System.Threading.RateLimiting;
using CachingApi.Storage;
using Microsoft.AspNetCore.Identity;
using Microsoft.Extensions.Options;

namespace CachingApi.Sessions;

/// <summary>
/// Hashes passwords (PBKDF2 with HMAC-SHA512, by the framework's hasher). That is slow on purpose, so only half of the
/// processors may be at it at once: a flood of logins leaves the other requests theirs.
/// </summary>
internal sealed class Passwords : IDisposable
{
    /// <summary>OWASP's figure for PBKDF2-HMAC-SHA512 (Password Storage Cheat Sheet).</summary>
    public const int Iterations = 220_000;

    private readonly PasswordHasher<object> _hasher;
    private readonly object _nobody = new();
    private readonly Lazy<string> _dummy;
    private readonly ConcurrencyLimiter _limiter = new(new()
    {
        PermitLimit = Math.Max(1, Environment.ProcessorCount / 2),
        QueueLimit = 100,
        QueueProcessingOrder = QueueProcessingOrder.OldestFirst,
    });

    public Passwords(IOptions<PasswordHasherOptions> options)
    {
        _hasher = new(options);
        _dummy = new(() => _hasher.HashPassword(_nobody, Guid.NewGuid().ToString()));
    }

    /// <exception cref="UnavailableException">Too many are waiting already.</exception>
    public Task<string> HashAsync(string password, CancellationToken cancel) =>
        BoundedAsync(() => _hasher.HashPassword(_nobody, password), cancel);

    /// <summary>
    /// Whether the password is right. An account that does not exist, or whose stored hash is none, takes as long as a wrong password.
    /// </summary>
    /// <exception cref="UnavailableException">Too many are waiting already.</exception>
    public async Task<bool> VerifyAsync(string? hash, string password, CancellationToken cancel) =>
        await CheckAsync(hash, password, cancel) is not PasswordVerificationResult.Failed;

    /// <summary>As <see cref="VerifyAsync"/>; and says so where the hash was made with fewer iterations than are asked for now.</summary>
    /// <exception cref="UnavailableException">Too many are waiting already.</exception>
    public Task<PasswordVerificationResult> CheckAsync(string? hash, string password, CancellationToken cancel) => BoundedAsync(
        () =>
        {
            var isHash = hash is { Length: > 0 } && Base64.IsValid(hash);
            var result = _hasher.VerifyHashedPassword(_nobody, isHash ? hash! : _dummy.Value, password);
            return isHash ? result : PasswordVerificationResult.Failed;
        },
        cancel);

    public void Dispose() => _limiter.Dispose();

    private async Task<T> BoundedAsync<T>(Func<T> work, CancellationToken cancel)
    {
        using var permit = await _limiter.AcquireAsync(1, cancel);
        return permit.IsAcquired ? await Task.Run(work, cancel) : throw new UnavailableException("A processor for hashing passwords");
    }
}
