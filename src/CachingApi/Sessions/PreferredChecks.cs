namespace CachingApi.Sessions;

/// <summary>
/// Limits how many passwords of one account are preferred at once (<see cref="HashingSlots"/>). Networks take turns there, so an account
/// with sessions in many networks could delay the owners of all others. Its further passwords wait with those of unknown clients.
/// </summary>
internal sealed class PreferredChecks
{
    public const int MaxOfOne = 3;

    private readonly Lock _lock = new();
    private readonly Dictionary<Guid, int> _running = [];

    /// <param name="work">Gets whether it is preferred.</param>
    public async Task<T> RunAsync<T>(Guid account, Func<bool, Task<T>> work)
    {
        var preferred = Enter(account);
        try
        {
            return await work(preferred);
        }
        finally
        {
            if (preferred)
            {
                Leave(account);
            }
        }
    }

    private bool Enter(Guid account)
    {
        lock (_lock)
        {
            var running = _running.GetValueOrDefault(account);
            if (running == MaxOfOne)
            {
                return false;
            }

            _running[account] = running + 1;
            return true;
        }
    }

    private void Leave(Guid account)
    {
        lock (_lock)
        {
            if (--_running[account] == 0)
            {
                _running.Remove(account);
            }
        }
    }
}
