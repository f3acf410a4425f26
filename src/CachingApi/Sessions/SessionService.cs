namespace CachingApi.Sessions;

/// <summary>Logging in and out: the session store pattern. Sessions live in Redis alone, as nothing else needs them.</summary>
internal sealed class SessionService(
    AccountRepository accounts, Passwords passwords, SessionStore sessions, SessionMetrics metrics, TimeProvider time)
{
    private const int MaxDeviceLength = 200;

    /// <summary>Begins a session with a token of its own; <c>null</c> where e-mail address or password is wrong.</summary>
    public async Task<(NewSession Session, SessionToken Token)?> LogInAsync(
        CreateSession login, string device, SessionToken? previous, CancellationToken cancel)
    {
        var account = await accounts.FindAsync(login.Email, cancel);
        if (!await passwords.VerifyAsync(account?.PasswordHash, login.Password, cancel))
        {
            metrics.Count("refused");
            return null;
        }

        var id = Guid.CreateVersion7(time.GetUtcNow());
        var token = SessionToken.New(account!.Id);
        device = device.Length > MaxDeviceLength ? device[..MaxDeviceLength] : device;
        var transport = login.Transport ?? SessionTransport.Cookie;
        var expires = await sessions.CreateAsync(token, id, account.Role, transport, device, cancel);
        if (previous is { } old)
        {
            await sessions.EndAsync(old, cancel);
        }

        metrics.Count("created");
        var shown = transport is SessionTransport.Bearer ? token.Text : null;
        return (new() { Id = id, UserId = account.Id, ExpiresAt = expires, Token = shown }, token);
    }

    public async Task LogOutAsync(SessionToken token, CancellationToken cancel)
    {
        await sessions.EndAsync(token, cancel);
        metrics.Count("ended");
    }

    /// <summary>Ends all sessions of a user.</summary>
    public async Task EndAllAsync(Guid userId, CancellationToken cancel)
    {
        await sessions.EndAllAsync(userId, cancel);
        metrics.Count("revoked");
    }
}
