using System.Diagnostics.Metrics;

namespace CachingApi.Sessions;

/// <summary>Counts events of sessions: created, refused (wrong e-mail address or password), ended, revoked (all of a user's).</summary>
internal sealed class SessionMetrics(IMeterFactory meters)
{
    public const string MeterName = "CachingApi.Sessions";

    private readonly Counter<long> _events =
        meters.Create(MeterName).CreateCounter<long>("sessions", description: "Logins and ends of sessions, by event.");

    public void Count(string name) => _events.Add(1, new KeyValuePair<string, object?>("event", name));
}
