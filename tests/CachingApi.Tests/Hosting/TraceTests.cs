using CachingApi.Tests.Api;
using CachingApi.Tests.Caching;
using CachingApi.Tests.Servers;

namespace CachingApi.Tests.Hosting;

/// <summary>Traces over OTLP.</summary>
public sealed class TraceTests(TestServers servers)
{
    [Fact]
    public async Task A_cold_read_shows_the_endpoint_the_cache_redis_and_postgresql()
    {
        await using var collector = await OtlpReceiver.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, collector.Settings);
        await MemoryTierTests.TrustedAsync(api);
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();
        var trace = $"{Guid.NewGuid():N}";
        using var request = new HttpRequestMessage(HttpMethod.Get, $"/users/{user.Id}")
        {
            Headers = { { "traceparent", $"00-{trace}-00f067aa0ba902b7-01" } },
        };

        await client.SendAsync(request);

        ReceivedSpan[] spans = [];
        await Eventually.TrueAsync(
            () => (spans = [.. collector.Spans.Where(span => span.TraceId == trace)]).Any(span => span.Name == "GET /users/{id}"),
            "the trace");
        Assert.Equal(
            [
                "GET /users/{id}",
                "GET /users/{id} > cache read",
                "GET /users/{id} > cache read > cache load",
                "GET /users/{id} > cache read > cache load > postgresql",
                "GET /users/{id} > cache read > cache load > redis state",
                "GET /users/{id} > cache read > redis get",
                "GET /users/{id} > cache read > redis lease",
                "GET /users/{id} > cache read > redis set",
                "GET /users/{id} > redis state",
            ],
            spans.Select(Path).Distinct().Order(StringComparer.Ordinal));

        string Path(ReceivedSpan span)
        {
            var name = span.Attributes.GetValueOrDefault("db.system.name") == "postgresql" ? "postgresql" : span.Name;
            return spans.FirstOrDefault(other => other.Id == span.ParentId) is { } parent ? $"{Path(parent)} > {name}" : name;
        }
    }

    [Fact]
    public async Task Only_path_segments_that_can_be_names_or_ids_are_in_a_trace()
    {
        await using var collector = await OtlpReceiver.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, collector.Settings);
        var trace = $"{Guid.NewGuid():N}";
        using var request = new HttpRequestMessage(HttpMethod.Get, "/users/ada@example.org")
        {
            Headers = { { "traceparent", $"00-{trace}-00f067aa0ba902b7-01" } },
        };

        await api.Anonymous.SendAsync(request);

        await Eventually.TrueAsync(() => Requests().Any(), "the span");
        Assert.Equal("/users/*", Assert.Single(Requests()).Attributes["url.path"]);
        IEnumerable<ReceivedSpan> Requests() =>
            collector.Spans.Where(span => span.TraceId == trace && span.Attributes.ContainsKey("url.path"));
    }

    [Fact]
    public async Task Work_outside_of_requests_has_no_trace()
    {
        await using var collector = await OtlpReceiver.StartAsync();
        await using var api = await ApiNode.StartAsync(servers, collector.Settings);
        await api.Anonymous.GetAsync("/metrics");
        await api.Anonymous.GetAsync("/health/ready");
        // One or two runs of everything that polls.
        await Eventually.TrueAsync(
            async () => await api.MetricAsync("write_behind_queue_length") == 0 && await api.MetricAsync("pg_up") == 1);
        await api.Anonymous.GetAsync("/limits");
        await Eventually.TrueAsync(
            () => collector.Spans.Any(span => span.Name.StartsWith("GET /limits", StringComparison.Ordinal)), "the last request's trace");

        // The listener receives the spans of the whole process, including other tests: the checked ones belong to no request.
        Assert.DoesNotContain(collector.Spans, span => span.ParentId.Length == 0
            && (span.Name.StartsWith("redis", StringComparison.Ordinal)
                || span.Name.StartsWith("cache", StringComparison.Ordinal)
                || span.Attributes.GetValueOrDefault("db.npgsql.data_source") == "cachingapi"));
        Assert.DoesNotContain(
            collector.Spans,
            span => span.Name.Contains("metrics", StringComparison.Ordinal) || span.Name.Contains("health", StringComparison.Ordinal));
    }
}
