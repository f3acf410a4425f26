using System.Net;
using CachingApi.Sessions;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Sessions;

/// <summary>Two processes that keep sessions in memory: one ends them, and the other one must notice.</summary>
internal sealed class SessionNodes(ApiNode here, ApiNode there) : IAsyncDisposable
{
    /// <summary>The process that ends sessions.</summary>
    public ApiNode Here => here;

    /// <summary>The process that has them in memory.</summary>
    public ApiNode There => there;

    /// <summary>The memory of the other process.</summary>
    public SessionMemory Memory { get; } = there.Services.GetRequiredService<SessionMemory>();

    /// <param name="stateOfHere">The state server as the first process reaches it; <c>null</c> for the Redis that tests share.</param>
    /// <param name="stateOfThere">The same for the other process.</param>
    /// <param name="deadline"><c>Redis:StateDeadline</c>.</param>
    public static async Task<SessionNodes> StartAsync(
        TestServers servers, string? stateOfHere = null, string? stateOfThere = null, string deadline = "00:00:05")
    {
        Dictionary<string, string> Settings(string? state) => new()
        {
            ["ConnectionStrings:RedisState"] = state ?? "",
            ["Redis:StateDeadline"] = deadline,
        };
        var here = await ApiNode.StartAsync(servers, Settings(stateOfHere));
        var there = await ApiNode.StartAsync(servers, Settings(stateOfThere ?? stateOfHere), nodeOf: here);
        return new(here, there);
    }

    /// <summary>A client of the other process with the same session.</summary>
    public HttpClient OnThere(HttpClient client)
    {
        var other = there.CreateClient();
        other.DefaultRequestHeaders.Authorization = client.DefaultRequestHeaders.Authorization;
        return other;
    }

    public static SessionToken TokenOf(HttpClient client) =>
        SessionToken.Parse(client.DefaultRequestHeaders.Authorization!.Parameter!)!.Value;

    /// <summary>Uses a session until it is served from memory.</summary>
    public static Task WarmAsync(ApiNode node, HttpClient client) => Eventually.TrueAsync(
        async () => (await client.GetAsync("/sessions/current")).StatusCode is HttpStatusCode.OK
            && node.Services.GetRequiredService<SessionMemory>().Find(TokenOf(client)) is not null,
        "a session to be served from memory");

    public async ValueTask DisposeAsync()
    {
        await there.DisposeAsync();
        await here.DisposeAsync();
    }
}
