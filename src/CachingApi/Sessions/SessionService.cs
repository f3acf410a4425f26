using CachingApi.Storage;
using Microsoft.AspNetCore.Identity;

namespace CachingApi.Sessions;

/// <summary>What came of an attempt that takes a password.</summary>
/// <param name="Done">Whether the password was right, and what was asked for has been done.</param>
/// <param name="Wait">For how long the account takes no attempts; zero where it does.</param>
/// <param name="Session">The new session of a login.</param>
/// <param name="Token">The token that is in force now.</param>
internal sealed record PasswordAttempt(bool Done, TimeSpan Wait = default, NewSession? Session = null, SessionToken? Token = null);

/// <summary>Logging in and out: the session store pattern. Sessions live in Redis alone, as nothing else needs them.</summary>
internal sealed partial class SessionService(
    AccountRepository accounts,
    Passwords passwords,
    LoginBackoff backoff,
    SessionStore sessions,
    SessionMetrics metrics,
    TimeProvider time,
    ILogger<SessionService> log)
{
    private const int MaxDeviceLength = 200;

    /// <summary>Begins a session with a token of its own, and ends the one before.</summary>
    /// <remarks>
    /// The account is read again at the end:
    /// 1. a login reads the account and finds the old password right;
    /// 2. the password is changed, and the user's sessions are ended;
    /// 3. the login begins a session, which nobody would end any more.
    /// </remarks>
    public async Task<PasswordAttempt> LogInAsync(CreateSession login, string device, SessionToken? previous, CancellationToken cancel)
    {
        if (await backoff.AttemptAsync(login.Email, cancel) is var wait && wait > TimeSpan.Zero)
        {
            metrics.Count("delayed");
            return new(false, wait);
        }

        var account = await accounts.FindAsync(login.Email, cancel);
        var check = await passwords.CheckAsync(account?.PasswordHash, login.Password, cancel);
        if (check is PasswordVerificationResult.Failed)
        {
            metrics.Count("refused");
            return new(false);
        }

        var id = Guid.CreateVersion7(time.GetUtcNow());
        var token = SessionToken.New(account!.Id);
        device = device.Length > MaxDeviceLength ? device[..MaxDeviceLength] : device;
        var transport = login.Transport ?? SessionTransport.Cookie;
        var expires = await sessions.CreateAsync(token, id, account.Role, transport, device, cancel);
        if (await accounts.FindAsync(login.Email, cancel) != account)
        {
            await sessions.EndAsync(token, CancellationToken.None);
            metrics.Count("refused");
            return new(false);
        }

        await backoff.ForgetAsync(login.Email, cancel);
        if (previous is { } old)
        {
            await sessions.EndAsync(old, cancel);
        }

        if (check is PasswordVerificationResult.SuccessRehashNeeded)
        {
            await RehashAsync(account, login.Password, cancel);
        }

        metrics.Count("created");
        var shown = transport is SessionTransport.Bearer ? token.Text : null;
        return new(true, Session: new() { Id = id, UserId = account.Id, ExpiresAt = expires, Token = shown }, Token: token);
    }

    public async Task LogOutAsync(SessionToken token, CancellationToken cancel)
    {
        await sessions.EndAsync(token, cancel);
        metrics.Count("ended");
    }

    /// <summary>A user's sessions, the one last used first.</summary>
    public async Task<Session[]> ListAsync(Session current, CancellationToken cancel) =>
    [
        .. (await sessions.ListAsync(current.UserId, cancel))
            .Select(session => session with { Current = session.Id == current.Id })
            .OrderByDescending(session => session.LastSeenAt),
    ];

    /// <summary>Ends one of a user's sessions; <c>false</c> where there is no such one.</summary>
    public async Task<bool> EndAsync(Guid userId, Guid id, CancellationToken cancel)
    {
        var ended = await sessions.EndAsync(userId, id, cancel);
        if (ended)
        {
            metrics.Count("ended");
        }

        return ended;
    }

    /// <summary>Ends all sessions of a user.</summary>
    public async Task EndAllAsync(Guid userId, CancellationToken cancel)
    {
        await sessions.EndAllAsync(userId, cancel);
        metrics.Count("revoked");
    }

    /// <summary>Ends all sessions of a user but the current one.</summary>
    public async Task EndOthersAsync(SessionToken current, CancellationToken cancel)
    {
        await sessions.EndOthersAsync(current, current, cancel);
        metrics.Count("revoked");
    }

    /// <summary>
    /// Changes a password, ends the user's other sessions, and gives the current one another token where the answer can carry it
    /// (a cookie can).
    /// </summary>
    public async Task<PasswordAttempt> ChangePasswordAsync(ChangePassword change, Session current, SessionToken token, CancellationToken cancel)
    {
        if (await accounts.EmailAsync(current.UserId, cancel) is not { } email)
        {
            return new(false);
        }

        if (await backoff.AttemptAsync(email, cancel) is var wait && wait > TimeSpan.Zero)
        {
            metrics.Count("delayed");
            return new(false, wait);
        }

        var account = await accounts.FindAsync(email, cancel);
        if (!await passwords.VerifyAsync(account?.PasswordHash, change.CurrentPassword, cancel))
        {
            return new(false);
        }

        // From here on it is finished even if the caller goes away: a new password with old sessions would be half of it.
        var hash = await passwords.HashAsync(change.NewPassword, cancel);
        if (!await accounts.ChangePasswordAsync(account!.Id, account.PasswordHash, hash, CancellationToken.None))
        {
            return new(false);
        }

        var next = current.Transport is SessionTransport.Cookie ? SessionToken.New(account.Id) : token;
        await sessions.EndOthersAsync(token, next, CancellationToken.None);
        await backoff.ForgetAsync(email, CancellationToken.None);
        metrics.Count("revoked");
        return new(true, Token: next);
    }

    private async Task RehashAsync(Account account, string password, CancellationToken cancel)
    {
        try
        {
            var hash = await passwords.HashAsync(password, cancel);
            await accounts.ChangePasswordAsync(account.Id, account.PasswordHash, hash, cancel);
        }
        catch (UnavailableException)
        {
            Log.NotRehashed(log); // the next login will
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Information, "A password could not be hashed anew: too many are waiting")]
        public static partial void NotRehashed(ILogger log);
    }
}
