using CachingApi.Redis;
using Microsoft.AspNetCore.Identity;

namespace CachingApi.Sessions;

/// <summary>The outcome of the check of an account's password.</summary>
/// <param name="Account"><c>null</c> if the account does not exist.</param>
internal readonly record struct PasswordCheck(LoginAttempt Attempt, Account? Account, PasswordVerificationResult Result)
{
    /// <summary>The refusal, if <see cref="Result"/> is not a success.</summary>
    public PasswordAttempt Refusal => new(false, Attempt.Wait, UserId: Account?.Id);
}

/// <summary>Checks the password of an account, unless too many checks have failed before.</summary>
internal sealed partial class PasswordChecks(
    AccountRepository accounts, Passwords passwords, LoginBackoff backoff, SessionMetrics metrics, ILogger<PasswordChecks> log)
{
    private readonly PreferredChecks _preferred = new();

    /// <summary>Checks the password of a login.</summary>
    public async Task<PasswordCheck> CheckAsync(string email, string password, LoginClient client, CancellationToken cancel)
    {
        var account = await accounts.FindAsync(email, cancel);
        var attempt = await backoff.AttemptAsync(email, account?.Id, client, cancel);
        return await CheckAsync(attempt, account, password, client.Neighbours, cancel);
    }

    /// <summary>Checks the password of a live session's user.</summary>
    /// <param name="network">The client's network: see <see cref="HashingSlots"/>.</param>
    public async Task<PasswordCheck> CheckAsync(Session current, string password, string network, CancellationToken cancel)
    {
        var attempt = await backoff.AttemptAsync(current, cancel);
        return await CheckAsync(attempt, await accounts.FindAsync(current.UserId, cancel), password, network, cancel);
    }

    /// <summary>Hashes a right password again with the current parameters, if its hash has older ones.</summary>
    public async Task RehashAsync(PasswordCheck check, string password, string network, CancellationToken cancel)
    {
        if (check is not { Result: PasswordVerificationResult.SuccessRehashNeeded, Account: { } account })
        {
            return;
        }

        try
        {
            await ChangeAsync(account, password, network, cancel);
        }
        catch (UnavailableException)
        {
            Log.NotRehashed(log); // the next login tries again
        }
    }

    /// <summary>Changes an account's password, unless it has changed since the account was read.</summary>
    public async Task<bool> ChangeAsync(Account account, string password, string network, CancellationToken cancel)
    {
        var hash = await _preferred.RunAsync(
            account.Id, preferred => passwords.HashAsync(password, preferred, network, cancel));
        return await accounts.ChangePasswordAsync(account.Id, account.PasswordHash, hash, CancellationToken.None);
    }

    private async Task<PasswordCheck> CheckAsync(
        LoginAttempt attempt, Account? account, string password, string network, CancellationToken cancel)
    {
        if (attempt.Wait > TimeSpan.Zero)
        {
            metrics.Count("delayed");
            return new(attempt, account, PasswordVerificationResult.Failed);
        }

        try
        {
            var result = account is not null && attempt.IsKnown
                ? await _preferred.RunAsync(
                    account.Id, preferred => passwords.CheckAsync(account.PasswordHash, password, preferred, network, cancel))
                : await passwords.CheckAsync(account?.PasswordHash, password, attempt.IsKnown, network, cancel);
            if (result is PasswordVerificationResult.Failed)
            {
                metrics.Count("refused");
            }

            return new(attempt, account, result);
        }
        catch (UnavailableException)
        {
            // No processor was free to check the password, so the attempt does not count.
            await backoff.WithdrawAsync(attempt, cancel);
            throw;
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "A password was not hashed again, because too many passwords wait for a processor")]
        public static partial void NotRehashed(ILogger log);
    }
}
