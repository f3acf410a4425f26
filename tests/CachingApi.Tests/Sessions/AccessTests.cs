using System.Net;
using System.Net.Http.Json;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Tests.Sessions;

/// <summary>Who may do what.</summary>
public sealed class AccessTests(TestServers servers)
{
    [Fact]
    public async Task Nothing_is_open_to_anonymous_callers_but_registration_login_weather_and_operations()
    {
        await using var api = await ApiNode.StartAsync(servers);

        var open = api.Services.GetRequiredService<EndpointDataSource>().Endpoints.OfType<RouteEndpoint>()
            .Where(endpoint => endpoint.Metadata.GetMetadata<IAllowAnonymous>() is not null || endpoint.Metadata.GetMetadata<IAuthorizeData>() is null)
            .Select(endpoint => $"{endpoint.Metadata.GetMetadata<HttpMethodMetadata>()?.HttpMethods[0] ?? "GET"} {endpoint.RoutePattern.RawText!.TrimEnd('/')}");

        Assert.Equal(["GET /health/live", "GET /health/ready", "GET /metrics", "GET /weather/{city}", "POST /sessions", "POST /users"], open.Order());
    }

    [Theory]
    [InlineData("GET", "/users/{self}", 401, 200, 403, 200)]
    [InlineData("PUT", "/users/{self}", 401, 200, 403, 200)]
    [InlineData("DELETE", "/users/{self}", 401, 204, 403, 204)]
    [InlineData("GET", "/users", 401, 403, 403, 200)]
    [InlineData("GET", "/users/not-an-id", 401, 403, 403, 400)]
    [InlineData("GET", "/sessions/current", 401, 200, 200, 200)]
    [InlineData("DELETE", "/sessions/current", 401, 204, 204, 204)]
    public async Task Each_route_is_open_to_those_it_is_for(string method, string path, int anonymous, int self, int other, int admin)
    {
        await using var api = await ApiNode.StartAsync(servers);

        foreach (var (caller, expected) in new[] { ("anonymous", anonymous), ("self", self), ("other", other), ("admin", admin) })
        {
            var user = await api.CreateUserAsync();
            using var client = caller switch
            {
                "anonymous" => api.CreateClient(),
                "self" => await api.LogInAsync(user.Email),
                "other" => await api.LogInAsync((await api.CreateUserAsync()).Email),
                _ => await api.AdminAsync(),
            };
            var request = new HttpRequestMessage(new(method), path.Replace("{self}", user.Id.ToString(), StringComparison.Ordinal));
            if (method == "PUT")
            {
                request.Content = JsonContent.Create(new { email = user.Email, displayName = "Countess" });
            }

            var answer = await client.SendAsync(request);

            if (expected >= 400)
            {
                await UserContractTests.AssertProblemAsync(answer, (HttpStatusCode)expected);
            }
            else
            {
                Assert.Equal(expected, (int)answer.StatusCode);
            }
        }
    }
}
