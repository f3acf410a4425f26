using System.Collections.Concurrent;
using Microsoft.AspNetCore.Identity;

namespace CachingApi.Sessions;

/// <summary>The outcome of an operation that takes a password.</summary>
/// <param name="Done">Whether the password was right and the operation has been done.</param>
/// <param name="Wait">How long the client must wait before the next attempt; zero if it need not wait.</param>
/// <param name="Session">The new session of a login.</param>
/// <param name="Token">The token that is valid now.</param>
/// <param name="UserId">The account's user, if the account exists.</param>
/// <param name="Problem">Why the new password is refused, if it is.</param>
internal sealed record PasswordAttempt(
    bool Done, TimeSpan Wait = default, NewSession? Session = null, SessionToken? Token = null, Guid? UserId = null, string? Problem = null)
{
    /// <summary>The outcome, as security events name it.</summary>
    public string Outcome => Done ? "success" : Wait > TimeSpan.Zero ? "delayed" : Problem is null ? "failure" : "refused";
}

/// <summary>
/// Login and logout: the session store pattern. Sessions are in Redis, and for a while in the memory of the processes that use them.
/// </summary>
internal sealed class SessionService(
    AccountRepository accounts,
    PasswordChecks checks,
    LoginBackoff backoff,
    SessionStore sessions,
    AdminRights rights,
    SessionMetrics metrics)
{
    private const int MaxDeviceLength = 200;

    /// <summary>The sessions whose password is being checked.</summary>
    private readonly ConcurrentDictionary<Guid, bool> _checking = new();

    /// <summary>Begins a session with a new token, and ends the previous one.</summary>
    /// <remarks>
    /// The account is read again at the end:
    /// 1. a login reads the account and finds the old password right;
    /// 2. the password is changed, and the user's sessions are ended;
    /// 3. the login begins a session, which would not end with the others.
    /// </remarks>
    /// <param name="previous">The token of the request, and how it was sent.</param>
    public async Task<PasswordAttempt> LogInAsync(
        CreateSession login, LoginClient client, (SessionToken Token, SessionTransport Transport)? previous, CancellationToken cancel)
    {
        var check = await checks.CheckAsync(login.Email, login.Password, client, cancel);
        if (check is not { Result: not PasswordVerificationResult.Failed, Account: { } account })
        {
            return check.Refusal;
        }

        var device = client.UserAgent.Length > MaxDeviceLength ? client.UserAgent[..MaxDeviceLength] : client.UserAgent;
        var transport = login.Transport ?? SessionTransport.Cookie;
        var (token, session) = await sessions.CreateAsync(account.Id, account.Role, transport, device, login.ShortLived is true, cancel);
        if (await accounts.FindAsync(login.Email, cancel) != account)
        {
            await sessions.EndAsync(token, CancellationToken.None);
            metrics.Count("refused");
            return check.Refusal;
        }

        await backoff.SucceededAsync(check.Attempt, account.Id, client, cancel);
        if (account.Role is Caller.AdminRole)
        {
            rights.Confirm(account.Id);
        }

        await EndAsync(previous, cancel);
        await checks.RehashAsync(check, login.Password, client.Neighbours, cancel);
        metrics.Count("created");
        return new(true, Session: session, Token: token, UserId: account.Id);
    }

    /// <summary>Checks the password of a session's user again.</summary>
    /// <param name="token">The session's token, if the session must record that the password was given; <c>null</c> otherwise.</param>
    /// <param name="network">The client's network: see <see cref="HashingSlots"/>.</param>
    public Task<PasswordAttempt> ReauthenticateAsync(
        string password, Session current, SessionToken? token, string network, CancellationToken cancel) =>
        OneAtATimeAsync(current, () => TryReauthenticateAsync(password, current, token, network, cancel));

    private async Task<PasswordAttempt> TryReauthenticateAsync(
        string password, Session current, SessionToken? token, string network, CancellationToken cancel)
    {
        var check = await checks.CheckAsync(current, password, network, cancel);
        if (check.Result is PasswordVerificationResult.Failed)
        {
            return check.Refusal;
        }

        await backoff.SucceededAsync(check.Attempt, cancel);
        if (token is { } kept)
        {
            await sessions.AuthenticatedAsync(kept, cancel);
        }

        return new(true);
    }

    public async Task LogOutAsync(SessionToken token, CancellationToken cancel)
    {
        await sessions.EndAsync(token, cancel);
        metrics.Count("ended");
    }

    /// <summary>A user's sessions, the last used one first.</summary>
    public async Task<Session[]> ListAsync(Session current, CancellationToken cancel) =>
    [
        .. (await sessions.ListAsync(current.UserId, cancel))
            .Select(session => session with { Current = session.Id == current.Id })
            .OrderByDescending(session => session.LastSeenAt),
    ];

    /// <summary>Ends one of a user's sessions; <c>false</c> if it does not exist.</summary>
    public async Task<bool> EndAsync(Guid userId, Guid id, CancellationToken cancel)
    {
        var ended = await sessions.EndAsync(userId, id, cancel);
        if (ended)
        {
            metrics.Count("ended");
        }

        return ended;
    }

    /// <summary>
    /// Ends all sessions of a user, and removes the known networks and devices of the account, because it is deleted or has a new owner.
    /// </summary>
    public async Task ForgetAsync(Guid userId, CancellationToken cancel)
    {
        await EndAllAsync(userId, cancel);
        await backoff.ForgetKnownAsync(userId, cancel);
    }

    /// <summary>Ends all sessions of a user.</summary>
    public async Task EndAllAsync(Guid userId, CancellationToken cancel)
    {
        await sessions.EndAllAsync(userId, cancel);
        metrics.Count("revoked");
    }

    /// <summary>Ends all sessions of a user except the current one.</summary>
    /// <param name="always">Whether the others end even if the current one has ended meanwhile.</param>
    public async Task EndOthersAsync(SessionToken current, bool always, CancellationToken cancel)
    {
        await sessions.EndOthersAsync(current, current, always, cancel);
        metrics.Count("revoked");
    }

    /// <summary>
    /// Changes a password, ends the user's other sessions, and gives the current session another token if the answer can transport it (by a
    /// cookie).
    /// </summary>
    public Task<PasswordAttempt> ChangePasswordAsync(
        ChangePassword change, Session current, SessionToken token, LoginClient client, CancellationToken cancel) =>
        OneAtATimeAsync(current, () => TryChangePasswordAsync(change, current, token, client, cancel));

    private async Task<PasswordAttempt> TryChangePasswordAsync(
        ChangePassword change, Session current, SessionToken token, LoginClient client, CancellationToken cancel)
    {
        if (await accounts.NamesAsync(current.UserId, cancel) is not var (email, displayName))
        {
            return new(false);
        }

        if (PasswordRules.Problem(change.NewPassword, email, displayName) is { } problem)
        {
            return new(false, Problem: problem);
        }

        var check = await checks.CheckAsync(current, change.CurrentPassword, client.Neighbours, cancel);
        if (check is not { Result: not PasswordVerificationResult.Failed, Account: { } account })
        {
            return check.Refusal;
        }

        // From here on, the change is finished even if the caller disconnects: otherwise old sessions could outlive the new password.
        if (!await checks.ChangeAsync(account, change.NewPassword, client.Neighbours, cancel))
        {
            return new(false);
        }

        var next = current.Transport is SessionTransport.Cookie ? SessionToken.New(account.Id) : token;
        var goesOn = await sessions.EndOthersAsync(token, next, always: true, CancellationToken.None);
        if (goesOn)
        {
            await sessions.AuthenticatedAsync(next, CancellationToken.None);
        }

        await backoff.ForgetKnownAsync(account.Id, CancellationToken.None);
        await backoff.SucceededAsync(check.Attempt, account.Id, client, CancellationToken.None);
        metrics.Count("revoked");
        return new(true, Token: goesOn ? next : token);
    }

    /// <summary>
    /// Lets a session check one password at a time, and answers its other requests with a wait. The back-off does not slow down a session
    /// with the right password, so its parallel requests would take all the processors that hash.
    /// </summary>
    private async Task<PasswordAttempt> OneAtATimeAsync(Session current, Func<Task<PasswordAttempt>> attempt)
    {
        if (!_checking.TryAdd(current.Id, true))
        {
            metrics.Count("delayed");
            return new(false, TimeSpan.FromSeconds(1));
        }

        try
        {
            return await attempt();
        }
        finally
        {
            _checking.TryRemove(current.Id, out _);
        }
    }

    /// <remarks>A token that was sent in another way than it was issued authenticates no request, so it does not end its session.</remarks>
    private async Task EndAsync((SessionToken Token, SessionTransport Transport)? previous, CancellationToken cancel)
    {
        if (previous is var (token, cameBy) && await sessions.UseAsync(token, cameBy, cancel) is not null)
        {
            await sessions.EndAsync(token, cancel);
        }
    }
}
