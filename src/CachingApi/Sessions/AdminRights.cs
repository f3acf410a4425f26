using System.Collections.Concurrent;
using Npgsql;

namespace CachingApi.Sessions;

/// <summary>
/// Confirms in PostgreSQL that the user of an administrator's session still has the role. A session keeps the role that its user had at
/// login, and any client can change the role, for example psql. So the loss of the role takes effect within half a second in every
/// process, even without change data capture.
/// </summary>
/// <remarks>
/// While PostgreSQL does not answer, the session's role counts, so that an administrator can diagnose the outage. The role cannot change
/// meanwhile. The first process that sees a change ends the user's sessions for all processes.
/// </remarks>
internal sealed partial class AdminRights(AccountRepository accounts, TimeProvider time, ILogger<AdminRights> log)
{
    private static readonly TimeSpan ConfirmEvery = TimeSpan.FromMilliseconds(500);

    /// <summary>How long a request waits for PostgreSQL: if this process has confirmed the role before, and if it has not.</summary>
    private static readonly TimeSpan Deadline = TimeSpan.FromMilliseconds(250), FirstDeadline = TimeSpan.FromSeconds(1);

    /// <summary>The administrators, and the timestamps of their last confirmations.</summary>
    private readonly ConcurrentDictionary<Guid, long> _confirmed = new();

    /// <summary>Records that a user has just logged in as an administrator.</summary>
    public void Confirm(Guid userId) => _confirmed[userId] = time.GetTimestamp();

    /// <summary>Whether a user that was an administrator at login still is one.</summary>
    public async ValueTask<bool> HoldAsync(Guid userId, CancellationToken cancel)
    {
        var isConfirmed = _confirmed.TryGetValue(userId, out var confirmed);
        if (isConfirmed && time.GetElapsedTime(confirmed) < ConfirmEvery)
        {
            return true;
        }

        var asked = time.GetTimestamp();
        try
        {
            if (await RoleAsync(userId, isConfirmed ? Deadline : FirstDeadline, cancel) is not Caller.AdminRole)
            {
                _confirmed.TryRemove(userId, out _);
                return false;
            }
        }
        catch (Exception error) when (error is NpgsqlException or TimeoutException)
        {
            Log.NotConfirmed(log, error.GetType().Name);
        }

        _confirmed[userId] = asked;
        return true;
    }

    private async Task<string?> RoleAsync(Guid userId, TimeSpan timeout, CancellationToken cancel)
    {
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancel);
        deadline.CancelAfter(timeout);
        try
        {
            return await accounts.RoleAsync(userId, deadline.Token).WaitAsync(deadline.Token);
        }
        catch (OperationCanceledException error) when (!cancel.IsCancellationRequested)
        {
            throw new TimeoutException("The role of an administrator could not be confirmed in time.", error);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "PostgreSQL does not confirm the role of an administrator, so the role in the session counts: {Reason}")]
        public static partial void NotConfirmed(ILogger log, string reason);
    }
}
