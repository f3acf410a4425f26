using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text;
using CachingApi.Tests.Api;
using CachingApi.Tests.Servers;
using CachingApi.Users;

namespace CachingApi.Tests.Users;

public sealed class UserContractTests(TestServers servers)
{
    private const string Good = """{"email":"ada@example.org","displayName":"Ada","password":"dew on the moss"}""";

    [Fact]
    public async Task A_created_user_has_a_location_an_etag_and_a_uuid_of_version_7()
    {
        var api = await servers.SharedApiAsync();

        var answer = await PostAsync(
            api, """{"email":" Ada@Example.org ","displayName":" Zoë 👩‍👩‍👧 李 ","password":"dew on the moss"}""");

        Assert.Equal(HttpStatusCode.Created, answer.StatusCode);
        var user = (await answer.Content.ReadFromJsonAsync<User>())!;
        Assert.Equal($"/users/{user.Id}", answer.Headers.Location!.ToString());
        Assert.Equal("\"v1\"", answer.ETag().Tag);
        Assert.Equal("private, no-cache", answer.Header("Cache-Control"));
        Assert.Equal(7, user.Id.Version);
        Assert.Equal(
            ("Ada@Example.org", "Zoë 👩‍👩‍👧 李", "user", 1), (user.Email, user.DisplayName, user.Role, user.Version));
        Assert.Equal(DateTimeKind.Utc, user.CreatedAt.Kind);
        Assert.DoesNotContain("password", await answer.Content.ReadAsStringAsync(), StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public async Task An_email_address_is_one_in_any_letter_case()
    {
        var api = await servers.SharedApiAsync();
        await PostAsync(api, """{"email":"ÄDA@example.org","displayName":"Ada","password":"dew on the moss"}""");

        // The same address, with the umlaut as two characters.
        var again = await PostAsync(api, "{\"email\":\"a\u0308da@EXAMPLE.org\",\"displayName\":\"Ada\",\"password\":\"dew on the moss\"}");

        await AssertProblemAsync(again, HttpStatusCode.Conflict);
    }

    [Theory]
    [InlineData("{", null)]
    [InlineData("", null)]
    [InlineData("null", null)]
    [InlineData("[]", null)]
    [InlineData("\"text\"", null)]
    [InlineData("""{"email":"ada@example.org","displayName":"Ada","password":"dew on the moss"}}""", null)]
    [InlineData("""{"email":7,"displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":null,"displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"a@example.org","email":"b@example.org","displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"ada@example.org","displayName":"Ada","password":"dew on the moss","role":"admin"}""", "role")]
    [InlineData("""{"Email":"ada@example.org","displayName":"Ada","password":"dew on the moss"}""", "Email")]
    [InlineData("""{"displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"ada@example.org","displayName":"Ada"}""", "password")]
    [InlineData("""{"email":"ada","displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"ada@example","displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"a da@example.org","displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"Ada <ada@example.org>","displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"ada@example.org\u0000","displayName":"Ada","password":"dew on the moss"}""", "email")]
    [InlineData("""{"email":"ada@example.org","displayName":"","password":"dew on the moss"}""", "displayName")]
    [InlineData("""{"email":"ada@example.org","displayName":" \t ","password":"dew on the moss"}""", "displayName")]
    [InlineData("""{"email":"ada@example.org","displayName":"a\u0000b","password":"dew on the moss"}""", "displayName")]
    [InlineData("""{"email":"ada@example.org","displayName":"a\u001bb","password":"dew on the moss"}""", "displayName")]
    [InlineData("""{"email":"ada@example.org","displayName":"a\u202eb","password":"dew on the moss"}""", "displayName")]
    [InlineData("""{"email":"ada@example.org","displayName":"\ud800","password":"dew on the moss"}""", "displayName")]
    [InlineData("""{"email":"ada@example.org","displayName":"Ada","password":"1234567"}""", "password")]
    public async Task A_bad_body_is_a_400_that_names_the_field(string body, string? field)
    {
        var api = await servers.SharedApiAsync();

        var problem = await AssertProblemAsync(await PostAsync(api, body), HttpStatusCode.BadRequest);

        if (field is not null)
        {
            Assert.NotEmpty(problem.GetProperty("errors").GetProperty(field)[0].GetString()!);
        }
    }

    [Fact]
    public async Task Too_long_a_name_is_a_400()
    {
        var api = await servers.SharedApiAsync();
        var body = Good.Replace("\"Ada\"", $"\"{new string('a', 10_000)}\"", StringComparison.Ordinal);

        var problem = await AssertProblemAsync(await PostAsync(api, body), HttpStatusCode.BadRequest);

        Assert.True(problem.GetProperty("errors").TryGetProperty("displayName", out _));
    }

    [Theory]
    [InlineData(false, 64 * 1024)]
    [InlineData(true, 63 * 1024)] // the sizes of the chunks count too
    public async Task A_body_of_64_KiB_is_read_and_one_byte_more_is_a_413(bool chunked, int size)
    {
        var api = await servers.SharedApiAsync();

        async Task<HttpResponseMessage> SendAsync(string body)
        {
            var request = new HttpRequestMessage(HttpMethod.Post, "/users")
            {
                Content = new StringContent(body, Encoding.UTF8, "application/json"),
            };
            request.Headers.TransferEncodingChunked = chunked;
            return await api.Anonymous.SendAsync(request);
        }

        var body = Good.Replace("ada@", $"{Guid.NewGuid():N}@", StringComparison.Ordinal);
        Assert.Equal(HttpStatusCode.Created, (await SendAsync(body.PadRight(size))).StatusCode);
        await AssertProblemAsync(await SendAsync(body.PadRight(64 * 1024 + 1)), HttpStatusCode.RequestEntityTooLarge);
    }

    [Fact]
    public async Task Another_content_type_is_a_415()
    {
        var api = await servers.SharedApiAsync();
        await AssertProblemAsync(
            await api.Anonymous.PostAsync("/users", new StringContent(Good, Encoding.UTF8, "text/plain")),
            HttpStatusCode.UnsupportedMediaType);
    }

    [Fact]
    public async Task A_problem_is_json_even_if_the_client_does_not_accept_json()
    {
        var api = await servers.SharedApiAsync();
        var request = new HttpRequestMessage(HttpMethod.Get, "/nothing") { Headers = { Accept = { new("text/html") } } };
        await AssertProblemAsync(await api.Anonymous.SendAsync(request), HttpStatusCode.NotFound);
    }

    [Fact]
    public async Task An_unsupported_method_is_a_405_that_names_the_supported_ones()
    {
        var api = await servers.SharedApiAsync();
        var answer = await api.Anonymous.PatchAsync("/users", null);
        await AssertProblemAsync(answer, HttpStatusCode.MethodNotAllowed);
        Assert.Equal("GET, POST", answer.Header("Allow"));
    }

    [Theory]
    [InlineData("/users/1", "id")]
    [InlineData("/users/..%2f", "id")]
    [InlineData("/users?limit=0", "limit")]
    [InlineData("/users?limit=101", "limit")]
    [InlineData("/users?limit=many", "limit")]
    [InlineData("/users?after=7", "after")]
    public async Task A_bad_id_or_parameter_is_a_400_that_names_it(string path, string name)
    {
        var api = await servers.SharedApiAsync();
        using var client = await api.AdminAsync();

        var problem = await AssertProblemAsync(await client.GetAsync(path), HttpStatusCode.BadRequest);

        Assert.True(problem.GetProperty("errors").TryGetProperty(name, out _));
    }

    [Fact]
    public async Task An_unknown_strategy_is_a_400()
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        var answer = await client.PutAsJsonAsync($"/users/{user.Id}?strategy=hope", new { email = user.Email, displayName = "Ada" });

        var problem = await AssertProblemAsync(answer, HttpStatusCode.BadRequest);
        Assert.True(problem.GetProperty("errors").TryGetProperty("strategy", out _));
    }

    [Theory]
    [InlineData("\"v1\"", HttpStatusCode.NotModified)]
    [InlineData("W/\"v1\"", HttpStatusCode.NotModified)]
    [InlineData("\"v0\", \"v1\"", HttpStatusCode.NotModified)]
    [InlineData("*", HttpStatusCode.NotModified)]
    [InlineData("\"v2\"", HttpStatusCode.OK)]
    [InlineData("v1", HttpStatusCode.OK)]
    public async Task If_none_match_is_answered_by_304_while_the_tag_holds(string tags, HttpStatusCode expected)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        // From the source, then from the cache: the same.
        for (var read = 0; read < 2; read++)
        {
            var request = new HttpRequestMessage(HttpMethod.Get, $"/users/{user.Id}");
            request.Headers.TryAddWithoutValidation("If-None-Match", tags);
            var answer = await client.SendAsync(request);
            Assert.Equal(expected, answer.StatusCode);
            Assert.Equal("\"v1\"", answer.ETag().Tag);
            Assert.Equal("private, no-cache", answer.Header("Cache-Control"));
            Assert.NotEmpty(answer.CacheStatus());
            Assert.NotEmpty(answer.Header("Age"));
            Assert.Equal(expected is HttpStatusCode.NotModified, (await answer.Content.ReadAsByteArrayAsync()).Length == 0);
        }
    }

    [Theory]
    [InlineData("\"v1\"", HttpStatusCode.OK)]
    [InlineData("\"v7\", \"v1\"", HttpStatusCode.OK)]
    [InlineData("*", HttpStatusCode.OK)]
    [InlineData("\"v2\"", HttpStatusCode.PreconditionFailed)]
    [InlineData("W/\"v1\"", HttpStatusCode.PreconditionFailed)]
    [InlineData("v1", HttpStatusCode.PreconditionFailed)]
    public async Task If_match_keeps_a_change_from_being_overwritten_unseen(string tags, HttpStatusCode expected)
    {
        var api = await servers.SharedApiAsync();
        var user = await api.CreateUserAsync();
        using var client = await api.AdminAsync();

        var request = new HttpRequestMessage(HttpMethod.Put, $"/users/{user.Id}")
        {
            Content = JsonContent.Create(new { email = user.Email, displayName = "Countess" }),
        };
        request.Headers.TryAddWithoutValidation("If-Match", tags);
        var answer = await client.SendAsync(request);

        Assert.Equal(expected, answer.StatusCode);
        var now = (await client.GetFromJsonAsync<User>($"/users/{user.Id}"))!;
        Assert.Equal(expected is HttpStatusCode.OK ? ("Countess", 2) : ("Ada Lovelace", 1), (now.DisplayName, now.Version));
    }

    [Fact]
    public async Task An_update_of_an_unknown_user_is_a_404_and_one_to_an_email_in_use_a_409()
    {
        var api = await servers.SharedApiAsync();
        var (ada, grace) = (await api.CreateUserAsync(), await api.CreateUserAsync());
        using var client = await api.AdminAsync();

        await AssertProblemAsync(
            await client.PutAsJsonAsync($"/users/{Guid.NewGuid()}", new { email = "x@example.org", displayName = "X" }),
            HttpStatusCode.NotFound);
        await AssertProblemAsync(
            await client.PutAsJsonAsync($"/users/{ada.Id}", new { email = grace.Email.ToUpperInvariant(), displayName = "Ada" }),
            HttpStatusCode.Conflict);
    }

    [Fact]
    public async Task The_list_is_paged_newest_first()
    {
        await using var api = await ApiNode.StartAsync(servers);
        using var client = await api.AdminAsync();
        var created = new List<Guid>();
        for (var user = 0; user < 5; user++)
        {
            created.Add((await api.CreateUserAsync()).Id);
        }

        var listed = new List<Guid>();
        Guid? after = null;
        var pages = 0;
        do
        {
            var page = (await client.GetFromJsonAsync<UserPage>($"/users?limit=2{(after is null ? "" : $"&after={after}")}"))!;
            listed.AddRange(page.Items.Select(user => user.Id));
            after = page.Next;
            pages++;
        }
        while (after is not null);

        // The administrator was first.
        Assert.Equal(3, pages);
        Assert.Equal(6, listed.Count);
        Assert.Equal(created.AsEnumerable().Reverse(), listed.Take(5));
        var answer = await client.GetAsync("/users?limit=2");
        Assert.Matches("^\"[0-9a-f]{32}\"$", answer.ETag().Tag);
        Assert.Equal("private, no-cache", answer.Header("Cache-Control"));
        var again = new HttpRequestMessage(HttpMethod.Get, "/users?limit=2")
        {
            Headers = { IfNoneMatch = { new EntityTagHeaderValue(answer.ETag().Tag) } },
        };
        Assert.Equal(HttpStatusCode.NotModified, (await client.SendAsync(again)).StatusCode);
    }

    internal static async Task<System.Text.Json.JsonElement> AssertProblemAsync(HttpResponseMessage answer, HttpStatusCode status)
    {
        Assert.Equal(status, answer.StatusCode);
        Assert.Equal("application/problem+json", answer.Content.Headers.ContentType!.MediaType);
        var problem = await answer.JsonAsync();
        Assert.Equal((int)status, problem.GetProperty("status").GetInt32());
        Assert.Distinct(problem.EnumerateObject().Select(member => member.Name));
        foreach (var member in new[] { "type", "title", "detail", "traceId" })
        {
            Assert.NotEmpty(problem.GetProperty(member).GetString()!);
        }

        return problem;
    }

    private static Task<HttpResponseMessage> PostAsync(ApiNode api, string body) =>
        api.Anonymous.PostAsync("/users", new StringContent(body, Encoding.UTF8, "application/json"));
}
