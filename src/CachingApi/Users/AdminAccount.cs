using System.ComponentModel.DataAnnotations;
using CachingApi.Caching;
using CachingApi.Sessions;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>The administrator: the section <c>Admin</c>. Without an e-mail address there is none.</summary>
internal sealed class AdminOptions : IValidatableObject
{
    public string Email { get; init; } = "";

    /// <summary>The password that the account is created with.</summary>
    public string Password { get; init; } = "";

    /// <summary>Whether the password replaces that of an account that exists.</summary>
    public bool ResetPassword { get; init; }

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext)
    {
        if (Email.Length == 0)
        {
            yield break;
        }

        if (!new EmailFormatAttribute().IsValid(Email))
        {
            yield return new("this is not an e-mail address", [nameof(Email)]);
        }

        var problem = Password.Length is < Passwords.MinLength or > Passwords.MaxLength
            ? $"{Passwords.MinLength} to {Passwords.MaxLength} characters are needed"
            : PasswordRules.Problem(Password) ?? PasswordRules.Problem(Password, Email, "Administrator");
        if (problem is not null)
        {
            yield return new(problem, [nameof(Password)]);
        }
    }
}

/// <summary>
/// Sees to it at start that the administrator of the configuration exists. Once the account exists, its password is its owner's: the
/// configuration replaces it only if <c>Admin:ResetPassword</c> says so.
/// </summary>
/// <remarks>
/// The row notes the configured address, because the owner may change the account's own one. So an account that the configuration names no
/// more loses the role, and one whose owner has another address now is not created again. An account that exists and is no administrator
/// stays what it is without <c>Admin:ResetPassword</c>: a stranger can register an address before it is configured, and an operator
/// may have taken the role away.
/// </remarks>
internal sealed partial class AdminAccount(
    UserRepository users,
    UserCache cached,
    AccountRepository accounts,
    Passwords passwords,
    SessionService sessions,
    SecurityEvents events,
    Invalidation invalidation,
    IOptions<AdminOptions> options,
    TimeProvider time,
    ILogger<AdminAccount> log) : IHostedService
{
    private readonly string _email = options.Value.Email.Trim();
    private readonly string _key = Email.Key(options.Value.Email);

    public async Task StartAsync(CancellationToken cancellationToken)
    {
        foreach (var former in await users.DemoteConfiguredAsync(_key, Now, cancellationToken))
        {
            await sessions.EndAllAsync(former.Id, cancellationToken);
            await ApplyAsync(former, "demoted", cancellationToken);
        }

        if (_email.Length == 0)
        {
            return;
        }

        var configured = await users.FindConfiguredAsync(_key, cancellationToken);
        var account = configured is { } id
            ? await accounts.FindAsync(id, cancellationToken)
            : await accounts.FindAsync(_email, cancellationToken);
        if (account is null)
        {
            await CreateAsync(cancellationToken);
        }
        else if (options.Value.ResetPassword)
        {
            await ResetAsync(account, cancellationToken);
        }
        else if (account.Role is not Caller.AdminRole)
        {
            Log.NotAdministrator(log, account.Id);
        }
        else if (configured is null)
        {
            await users.SetConfiguredAsync(account.Id, _key, cancellationToken);
        }
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    private DateTime Now => time.GetUtcNow().UtcDateTime;

    private async Task CreateAsync(CancellationToken cancel)
    {
        var hash = await passwords.HashAsync(options.Value.Password, preferred: true, cancel);

        // Another process may be faster.
        if (await users.CreateAdminAsync(Guid.CreateVersion7(time.GetUtcNow()), _email, _key, hash, Now, cancel) is { } admin)
        {
            await ApplyAsync(admin, "created", cancel);
        }
    }

    /// <summary>Replaces the password, unless it is that already: so a restart ends no session.</summary>
    private async Task ResetAsync(Account account, CancellationToken cancel)
    {
        var password = options.Value.Password;
        if (account.Role is Caller.AdminRole && await passwords.VerifyAsync(account.PasswordHash, password, preferred: true, cancel))
        {
            await users.SetConfiguredAsync(account.Id, _key, cancel);
            return;
        }

        await sessions.EndAllAsync(account.Id, cancel);
        var hash = await passwords.HashAsync(password, preferred: true, cancel);
        var admin = await users.PromoteAsync(account.Id, _key, hash, Now, cancel);

        // Again: another process may have checked the former password just before.
        await sessions.EndAllAsync(account.Id, cancel);
        await ApplyAsync(admin, "reset", cancel);
    }

    private async Task ApplyAsync(User user, string outcome, CancellationToken cancel)
    {
        await invalidation.InvalidateAsync(cached.ById(user.Id), cached.Users.RevisionOf(user), cancel);
        await invalidation.DropAllAsync(cached.Lists, cause: null, cancel);
        events.Write(SecurityEvents.RoleChange, outcome, context: null, user.Id);
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "The account of Admin:Email is user {Id}, which is no administrator and stays so; Admin:ResetPassword=true makes it one")]
        public static partial void NotAdministrator(ILogger log, Guid id);
    }
}
