using System.Net;
using System.Net.Http.Json;
using System.Text;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace CachingApi.Tests.Hosting;

/// <summary>Requests that once caused a 500, one test for each.</summary>
public sealed class BadRequestTests(TestServers servers)
{
    private const string Login = """{"email":"ada@example.org","password":"dew on moss"}""";

    [Theory]
    [InlineData("application/json; charset=utf-8", 401)]
    [InlineData("application/json;charset=UTF8", 401)]
    [InlineData("application/json; charset=\"utf-8\"", 401)]
    [InlineData("application/json; charset=\"UTF\\-8\"", 401)]
    [InlineData("application/json; charset=", 415)]
    [InlineData("application/json; charset=\"\"", 415)]
    [InlineData("application/json; charset=utf-7", 415)]
    [InlineData("application/json; charset=utf-16", 415)]
    [InlineData("application/json; charset=foo", 415)]
    [InlineData("application/json; charset=utf-8; charset=foo", 415)]
    public async Task Utf_8_in_any_spelling_is_read_and_every_other_charset_is_a_415(string contentType, int status)
    {
        await using var api = await StartAsync();
        using var content = new ByteArrayContent(Encoding.UTF8.GetBytes(Login));
        content.Headers.TryAddWithoutValidation("Content-Type", contentType);

        await UserContractTests.AssertProblemAsync(await api.Anonymous.PostAsync("/sessions", content), (HttpStatusCode)status);
    }

    [Fact]
    public async Task A_charset_matters_to_no_route_without_a_body()
    {
        await using var api = await StartAsync();
        using var request = new HttpRequestMessage(HttpMethod.Get, "/limits") { Content = new ByteArrayContent([]) };
        request.Content.Headers.TryAddWithoutValidation("Content-Type", "application/json; charset=foo");

        Assert.Equal(HttpStatusCode.OK, (await api.Anonymous.SendAsync(request)).StatusCode);
    }

    /// <remarks>In the last two, U+1D160 is composed of three characters, and the composed text is too long for an address.</remarks>
    public static TheoryData<string> NoAddresses =>
    [
        @"ada\ufffe@example.org",
        @"ada\u0000@example.org",
        string.Concat(Enumerable.Repeat(@"\ud834\udd60", 60)) + @"\u0000",
        string.Concat(Enumerable.Repeat(@"\ud834\udd60", 60)),
    ];

    [Theory]
    [MemberData(nameof(NoAddresses))]
    public async Task A_login_by_an_address_that_is_no_text_is_a_400(string email)
    {
        await using var api = await StartAsync();
        using var content = new StringContent($$"""{"email":"{{email}}","password":"dew on moss"}""", Encoding.UTF8, "application/json");

        var answer = await api.Anonymous.PostAsync("/sessions", content);

        var problem = await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.BadRequest);
        Assert.True(problem.GetProperty("errors").TryGetProperty("email", out _));
    }

    /// <remarks>The framework throws when it reads such a name: for HSTS, the forgery check and cookies.</remarks>
    [Theory]
    [InlineData("GET / HTTP/1.1", "Production")]
    [InlineData("GET /limits/login HTTP/1.1", "Development")]
    [InlineData("POST /sessions HTTP/1.1", "Development")]
    public async Task A_host_that_is_no_name_is_a_400(string request, string environment)
    {
        await using var api = await ApiNode.StartAsync(servers, new()
        {
            ["ASPNETCORE_ENVIRONMENT"] = environment,
            ["Network:KnownProxies:0"] = "127.0.0.1",
            ["Admin:Password"] = ApiNode.Password,
        });

        var answer = await RawRequest.SendAsync(api.Anonymous.BaseAddress!, Encoding.ASCII.GetBytes(
            $"{request}\r\nHost: xn--\r\nOrigin: http://example.org\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.1\r\n"
            + "Connection: close\r\nContent-Length: 0\r\n\r\n"));

        Assert.Equal(400, answer!.Status);
        Assert.Equal("application/problem+json", answer.Header("Content-Type"));
        Assert.Equal("nosniff", answer.Header("X-Content-Type-Options"));
    }

    [Theory]
    [InlineData("80000000")]
    [InlineData("ffffffffffffffff")]
    [InlineData("x")]
    public async Task A_chunk_whose_size_is_no_size_is_a_400(string size)
    {
        await using var api = await StartAsync();

        var request = Request($"Transfer-Encoding: chunked\r\n\r\n{size}\r\n{Login}\r\n0\r\n\r\n");
        var answer = await RawRequest.SendAsync(api.Anonymous.BaseAddress!, request);

        Assert.Equal(400, answer!.Status);
        Assert.Equal("application/problem+json", answer.Header("Content-Type"));
    }

    [Theory]
    [InlineData("{")]
    [InlineData("x")] // the service answers after the client has closed the connection
    public async Task A_client_that_resets_the_connection_within_the_body_is_no_error_of_the_service(string body)
    {
        const int Clients = 50; // the server notices a reset in one of several ways
        await using var api = await StartAsync(
            ("Serilog:MinimumLevel:Default", "Information"),
            ("RateLimits:Policies:login:Limit", "1000"),
            ("RateLimits:Policies:login-account:Limit", "1000"));

        var request = Request($"Content-Length: {Login.Length}\r\nExpect: 100-continue\r\n\r\n");
        for (var client = 0; client < Clients; client++)
        {
            await RawRequest.ResetInBodyAsync(api.Anonymous.BaseAddress!, request, body);
        }

        bool Logged(string text) => api.Log.Any(line => line.Contains(text, StringComparison.Ordinal));
        await Eventually.TrueAsync(
            () => api.Log.Count(line => line.Contains("HTTP \"POST\" \"/sessions\"", StringComparison.Ordinal)) == Clients,
            "a line of each request");
        Assert.False(Logged("responded 5"));
        Assert.False(Logged("   at "));
    }

    [Fact]
    public async Task A_body_of_a_lost_client_that_the_server_cannot_drain_is_not_logged()
    {
        await using var api = await StartAsync(("Serilog:MinimumLevel:Default", "Information"));
        var log = api.Services.GetRequiredService<ILoggerFactory>().CreateLogger("Microsoft.AspNetCore.Server.Kestrel");
        var error = new InvalidOperationException("Reading is already in progress.");

        log.LogError(new EventId(67, "RequestBodyDrainBodyReaderInvalidState"), error, "lost client");
        log.LogError(new EventId(13, "ApplicationError"), error, "internal error");

        Assert.Contains(api.Log, line => line.Contains("internal error", StringComparison.Ordinal));
        Assert.DoesNotContain(api.Log, line => line.Contains("lost client", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_problem_for_a_client_that_has_gone_is_no_error()
    {
        await using var api = await StartAsync();
        using var gone = new CancellationTokenSource();
        await gone.CancelAsync();
        var context = new DefaultHttpContext { RequestServices = api.Services, RequestAborted = gone.Token };
        context.Response.StatusCode = 400;

        Assert.True(await api.Services.GetRequiredService<IProblemDetailsService>().TryWriteAsync(new() { HttpContext = context }));
    }

    [Theory]
    [InlineData("")]
    [InlineData("not base64!")]
    [InlineData("AAAA")]
    public async Task A_stored_hash_that_is_none_matches_no_password(string hash)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        await api.SqlAsync($"UPDATE users SET password_hash = '{hash}' WHERE id = '{user.Id}'");

        var answer = await api.Anonymous.PostAsJsonAsync("/sessions", new { user.Email, ApiNode.Password });

        await UserContractTests.AssertProblemAsync(answer, HttpStatusCode.Unauthorized);
    }

    private Task<ApiNode> StartAsync(params (string Name, string Value)[] settings) => ApiNode.StartAsync(
        servers, new(settings.ToDictionary(setting => setting.Name, setting => setting.Value)) { ["RateLimits:Enabled"] = "true" });

    private static byte[] Request(string framingAndBody) => Encoding.ASCII.GetBytes(
        $"POST /sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{framingAndBody}");
}
