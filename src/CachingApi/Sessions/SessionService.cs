using System.Collections.Concurrent;
using Microsoft.AspNetCore.Identity;

namespace CachingApi.Sessions;

/// <summary>What came of an attempt that takes a password.</summary>
/// <param name="Done">Whether the password was right, and what was asked for has been done.</param>
/// <param name="Wait">For how long the account takes no attempts; zero where it does.</param>
/// <param name="Session">The new session of a login.</param>
/// <param name="Token">The token that is in force now.</param>
/// <param name="UserId">The account's user, if there is such an account.</param>
/// <param name="Problem">Why the new password is refused, if it is.</param>
internal sealed record PasswordAttempt(
    bool Done, TimeSpan Wait = default, NewSession? Session = null, SessionToken? Token = null, Guid? UserId = null, string? Problem = null)
{
    /// <summary>The outcome, as security events name it.</summary>
    public string Outcome => Done ? "success" : Wait > TimeSpan.Zero ? "delayed" : Problem is null ? "failure" : "refused";
}

/// <summary>
/// Logging in and out: the session store pattern. Sessions live in Redis, and for a while in the memory of the processes that use them.
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

    /// <summary>Begins a session with a token of its own, and ends the one before.</summary>
    /// <remarks>
    /// The account is read again at the end:
    /// 1. a login reads the account and finds the old password right;
    /// 2. the password is changed, and the user's sessions are ended;
    /// 3. the login begins a session, which nothing would end any more.
    /// </remarks>
    /// <param name="previous">The token of the request, and how it came.</param>
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
        var (token, session) = await sessions.CreateAsync(account.Id, account.Role, transport, device, cancel);
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

    /// <summary>Checks the password of a session's user once more.</summary>
    /// <param name="token">The session's token, if it is to be noted that the password was given; <c>null</c> otherwise.</param>
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

    /// <summary>
    /// Ends all sessions of a user, and forgets the networks and devices that are known to the account: it is deleted, or changes hands.
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

    /// <summary>Ends all sessions of a user but the current one.</summary>
    /// <param name="always">Whether they end also if the current one has ended meanwhile.</param>
    public async Task EndOthersAsync(SessionToken current, bool always, CancellationToken cancel)
    {
        await sessions.EndOthersAsync(current, current, always, cancel);
        metrics.Count("revoked");
    }

    /// <summary>
    /// Changes a password, ends the user's other sessions, and gives the current one another token where the answer can carry it
    /// (a cookie can).
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

        // From here on it is finished even if the caller goes away: a new password with old sessions would be half of it.
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
    /// Lets a session check one password at a time, and answers the others with a wait: with the right password nothing else slows a
    /// session down, and its parallel requests would take all the processors that hash.
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

    /// <remarks>A token that came in another way than it was given out authenticates nothing, so it does not end its session.</remarks>
    private async Task EndAsync((SessionToken Token, SessionTransport Transport)? previous, CancellationToken cancel)
    {
        if (previous is var (token, cameBy) && await sessions.UseAsync(token, cancel) is { } session && session.Transport == cameBy)
        {
            await sessions.EndAsync(token, cancel);
        }
    }
}
