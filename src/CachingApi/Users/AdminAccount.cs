using System.ComponentModel.DataAnnotations;
using CachingApi.Caching;
using CachingApi.Sessions;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>The administrator: the section <c>Admin</c>. Without an e-mail address there is none.</summary>
internal sealed class AdminOptions : IValidatableObject
{
    public string Email { get; init; } = "";

    public string Password { get; init; } = "";

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext)
    {
        if (Email.Length > 0 && !new EmailFormatAttribute().IsValid(Email))
        {
            yield return new("this is not an e-mail address", [nameof(Email)]);
        }

        if (Email.Length > 0 && Password.Length is < 8 or > 128)
        {
            yield return new("8 to 128 characters are needed", [nameof(Password)]);
        }
    }
}

/// <summary>Sees to it at start that the administrator of the configuration exists and can log in.</summary>
internal sealed partial class AdminAccount(
    UserRepository users,
    UserCache cached,
    AccountRepository accounts,
    Passwords passwords,
    SessionService sessions,
    Invalidation invalidation,
    IOptions<AdminOptions> options,
    TimeProvider time,
    ILogger<AdminAccount> log) : IHostedService
{
    public async Task StartAsync(CancellationToken cancellationToken)
    {
        var (email, password) = (options.Value.Email, options.Value.Password);
        if (email.Length == 0)
        {
            return;
        }

        var account = await accounts.FindAsync(email, cancellationToken);
        if (account?.Role == Caller.AdminRole && await passwords.VerifyAsync(account.PasswordHash, password, cancellationToken))
        {
            return;
        }

        // Whoever had this account until now is logged out.
        if (account is not null)
        {
            await sessions.EndAllAsync(account.Id, cancellationToken);
        }

        var now = time.GetUtcNow();
        var hash = await passwords.HashAsync(password, cancellationToken);
        await users.CreateAsync(
            Guid.CreateVersion7(now), email.Trim(), Email.Key(email), "Administrator", hash, now.UtcDateTime, cancellationToken);
        var admin = await users.PromoteAsync(Email.Key(email), hash, now.UtcDateTime, cancellationToken);
        await invalidation.InvalidateAsync(cached.ById(admin.Id), cached.Users.RevisionOf(admin), cancellationToken);
        await invalidation.DropAllAsync(cached.Lists, cause: null, cancellationToken);
        Log.Ready(log, admin.Id);
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "The administrator of the configuration is user {Id}")]
        public static partial void Ready(ILogger log, Guid id);
    }
}
