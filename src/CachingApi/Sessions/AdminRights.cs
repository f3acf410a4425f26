using System.Collections.Concurrent;
using CachingApi.Storage;
using Npgsql;

namespace CachingApi.Sessions;

/// <summary>
/// Confirms in PostgreSQL that an administrator's session is still one: a session keeps the role that its user had at login, and the
/// role may change by any means, also in psql. So the loss of the role takes effect within half a second, in every process, also
/// without change data capture.
/// </summary>
/// <remarks>
/// While PostgreSQL does not answer, what this process has confirmed last holds, so that an administrator can see what is wrong; without
/// that the answer is 503.
/// </remarks>
internal sealed class AdminRights(AccountRepository accounts, TimeProvider time)
{
    private static readonly TimeSpan ConfirmEvery = TimeSpan.FromMilliseconds(500);

    /// <summary>How long a request waits for PostgreSQL if the role was confirmed before, and if it was not.</summary>
    private static readonly TimeSpan Deadline = TimeSpan.FromMilliseconds(250), FirstDeadline = TimeSpan.FromSeconds(5);

    /// <summary>The administrators, and the timestamps of the last questions about them.</summary>
    private readonly ConcurrentDictionary<Guid, long> _confirmed = new();

    /// <summary>Notes that a user has just logged in as an administrator.</summary>
    public void Confirm(Guid userId) => _confirmed[userId] = time.GetTimestamp();

    /// <exception cref="UnavailableException">PostgreSQL does not answer, and this process has not confirmed the role before.</exception>
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
            if (!isConfirmed)
            {
                throw new UnavailableException("The database", error);
            }
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
}
