using System.Collections.Frozen;
using Microsoft.Extensions.Options;
using Microsoft.Extensions.Primitives;

namespace CachingApi.RateLimiting;

/// <summary>
/// The policies of the current configuration. A change takes effect immediately; an invalid change is logged, and the last valid
/// configuration stays in effect.
/// </summary>
internal sealed partial class RateLimitPolicies : IDisposable
{
    private readonly IOptionsFactory<RateLimitOptions> _options;
    private readonly ILogger<RateLimitPolicies> _log;
    private readonly IDisposable _reload;
    private volatile Current _current;

    public RateLimitPolicies(IOptionsFactory<RateLimitOptions> options, IConfiguration configuration, ILogger<RateLimitPolicies> log)
    {
        (_options, _log) = (options, log);
        _current = Read();
        _reload = ChangeToken.OnChange(configuration.GetReloadToken, Reload);
    }

    public bool Enabled => _current.Enabled;

    public IEnumerable<RateLimitPolicy> All => _current.Policies.Values.OrderBy(policy => policy.Name, StringComparer.Ordinal);

    public RateLimitPolicy? Find(string name) => _current.Policies.GetValueOrDefault(name);

    public void Dispose() => _reload.Dispose();

    private void Reload()
    {
        try
        {
            _current = Read();
        }
        catch (Exception error) when (error is OptionsValidationException or InvalidOperationException)
        {
            Log.Refused(_log, ValidatedOptions.Reason(error));
        }
    }

    private Current Read()
    {
        var options = _options.Create(Options.DefaultName);
        return new(
            options.Enabled,
            options.Policies.ToFrozenDictionary(policy => policy.Key, policy => new RateLimitPolicy(policy.Key, policy.Value)));
    }

    private sealed record Current(bool Enabled, FrozenDictionary<string, RateLimitPolicy> Policies);

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Error, "The changed configuration is invalid, so the previous rate limits stay in effect: {Reason}")]
        public static partial void Refused(ILogger log, string reason);
    }
}
