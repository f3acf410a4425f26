using System.Globalization;
using System.Text.RegularExpressions;

namespace CachingApi.Tests.Weather;

/// <summary>
/// The header Cache-Status (RFC 9211), parsed by RFC 9651: a list of one item, the cache's name, with parameters. A header that does not
/// parse completely is an error.
/// </summary>
internal sealed partial class CacheStatus
{
    private readonly Dictionary<string, object> _parameters = [];

    private CacheStatus(string cache) => Cache = cache;

    public string Cache { get; }

    public bool Hit => _parameters.GetValueOrDefault("hit") is true;

    public bool Stored => _parameters.GetValueOrDefault("stored") is true;

    public bool Collapsed => _parameters.GetValueOrDefault("collapsed") is true;

    public string? Forwarded => _parameters.GetValueOrDefault("fwd") as string;

    public long? ForwardedStatus => _parameters.GetValueOrDefault("fwd-status") as long?;

    public long? Ttl => _parameters.GetValueOrDefault("ttl") as long?;

    public string? Detail => _parameters.GetValueOrDefault("detail") as string;

    public static CacheStatus Of(HttpResponseMessage answer)
    {
        var text = Assert.Single(answer.Headers.GetValues("Cache-Status"));
        var item = Item().Match(text);
        Assert.True(item.Success, $"Not a structured field: {text}");
        var status = new CacheStatus(item.Groups["item"].Value);
        for (var index = 0; index < item.Groups["key"].Captures.Count; index++)
        {
            var value = item.Groups["value"].Captures[index].Value;
            status._parameters[item.Groups["key"].Captures[index].Value] = value switch
            {
                "" => true,
                ['"', ..] => value[1..^1].Replace("\\", "", StringComparison.Ordinal),
                _ when long.TryParse(value, CultureInfo.InvariantCulture, out var number) => number,
                _ => value,
            };
        }

        // RFC 9211, section 2: hit and fwd are exclusive, and parameters about forwarding need fwd.
        Assert.Equal("CachingApi", status.Cache);
        Assert.NotEqual(status.Hit, status.Forwarded is not null);
        Assert.True(status.Forwarded is not null || (!status.Stored && !status.Collapsed && status.ForwardedStatus is null), text);
        Assert.Contains(
            status.Forwarded, (string?[])[null, "bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"]);
        return status;
    }

    // sf-item: a token; parameters: keys with an integer, a token or a string, or none, which means true.
    [GeneratedRegex(
        """^(?<item>[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]*)"""
        + """(?:;\x20*(?<key>[a-z*][a-z0-9_.*-]*)(?<value>)"""
        + """(?:=(?<-value>)(?<value>-?\d{1,15}|[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]*"""
        + """|"(?:[\x20\x21\x23-\x5B\x5D-\x7E]|\\["\\])*"))?)*$""")]
    private static partial Regex Item();
}
