using System.ComponentModel.DataAnnotations;
using CachingApi.Sessions;
using Microsoft.Extensions.Options;

namespace CachingApi.Users;

/// <summary>The administrator: the section <c>Admin</c>. Without an e-mail address there is none.</summary>
internal sealed class AdminOptions : IValidatableObject
{
    public string Email { get; init; } = "";

    /// <summary>The password that the account is created with.</summary>
    public string Password { get; init; } = "";

    /// <summary>Whether the password replaces the one of an existing account.</summary>
    public bool ResetPassword { get; init; }

    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext)
    {
        if (Email.Length == 0)
        {
            yield break;
        }

        if (!new EmailFormatAttribute().IsValid(Email))
        {
            yield return new("the value is not an e-mail address", [nameof(Email)]);
        }

        if ((PasswordRules.Problem(Password) ?? PasswordRules.Problem(Password, Email, "Administrator")) is { } problem)
        {
            yield return new(problem, [nameof(Password)]);
        }
    }
}

/// <summary>
/// Creates the administrator of the configuration at start. Once the account exists, its owner controls the password: the configuration
/// replaces it only if <c>Admin:ResetPassword</c> is set.
/// </summary>
/// <remarks>
/// The row stores the configured address, because the owner may change the account's own address. So an account that the configuration no
/// longer names loses the role, and an account whose owner has changed the address is not created again. Without
/// <c>Admin:ResetPassword</c>, an existing account that is not an administrator does not become one: an attacker can register an address
/// before it is configured, and an operator may have removed the role.
/// </remarks>
internal sealed partial class AdminAccount(
    AdminRepository administrators,
    Passwords passwords,
    SessionService sessions,
    RoleChanges changes,
    IOptions<AdminOptions> options,
    ILogger<AdminAccount> log) : IHostedService
{
    /// <summary>No client waits for the passwords that are hashed here.</summary>
    private const string ThisProcess = "";

    private readonly string _email = options.Value.Email.Trim();
    private readonly string _key = Email.Key(options.Value.Email);

    public async Task StartAsync(CancellationToken cancellationToken)
    {
        foreach (var former in await administrators.DemoteConfiguredAsync(_key, cancellationToken))
        {
            await sessions.EndAllAsync(former.Id, cancellationToken);
            await changes.ApplyAsync(former, "demoted", cancellationToken);
        }

        if (_email.Length == 0)
        {
            return;
        }

        if (await administrators.FindAsync(_key, cancellationToken) is not var (account, isConfigured))
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
        else if (!isConfigured)
        {
            await administrators.SetConfiguredAsync(account.Id, _key, cancellationToken);
        }
    }

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    private async Task CreateAsync(CancellationToken cancel)
    {
        var hash = await passwords.HashAsync(options.Value.Password, preferred: true, ThisProcess, cancel);

        // Another process may create it first.
        if (await administrators.CreateAsync(_email, _key, hash, cancel) is { } admin)
        {
            await changes.ApplyAsync(admin, "created", cancel);
        }
    }

    /// <summary>Replaces the password, unless the account already has it, so that a restart ends no session.</summary>
    private async Task ResetAsync(Account account, CancellationToken cancel)
    {
        var password = options.Value.Password;
        if (account.Role is Caller.AdminRole
            && await passwords.VerifyAsync(account.PasswordHash, password, preferred: true, ThisProcess, cancel))
        {
            await administrators.SetConfiguredAsync(account.Id, _key, cancel);
            return;
        }

        await sessions.EndAllAsync(account.Id, cancel);
        var hash = await passwords.HashAsync(password, preferred: true, ThisProcess, cancel);
        var admin = await administrators.PromoteAsync(account.Id, _key, hash, cancel);

        // Again: another process may have checked the former password just before.
        await sessions.ForgetAsync(account.Id, cancel);
        await changes.ApplyAsync(admin, "reset", cancel);
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "The account of Admin:Email is user {Id}, which is not an administrator; Admin:ResetPassword=true makes it one")]
        public static partial void NotAdministrator(ILogger log, Guid id);
    }
}
