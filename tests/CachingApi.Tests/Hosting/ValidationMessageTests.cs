using System.Globalization;
using System.Net;
using System.Text;
using System.Text.RegularExpressions;
using CachingApi.Tests.Servers;
using CachingApi.Tests.Users;

namespace CachingApi.Tests.Hosting;

/// <summary>A 400 says of each field and parameter which values are allowed.</summary>
public sealed class ValidationMessageTests(TestServers servers)
{
    private const string Id = "01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f";
    private const string User = """{"email":"ada@example.org","displayName":"Ada","password":"dew on the moss"}""";
    private const string Change = """{"email":"ada@example.org","displayName":"Ada"}""";
    private const string AUuid = "A UUID, such as 01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f, is expected.";
    private const string UnknownCache = "The cache does not exist. The caches are users, user-lists, weather, geocoding.";

    [Theory]
    [InlineData("GET /users/1", "id", AUuid)]
    [InlineData("DELETE /sessions/1", "id", AUuid)]
    [InlineData("GET /cache/warm/1", "id", AUuid)]
    [InlineData("GET /users?after=7", "after", AUuid)]
    [InlineData("GET /users?limit=many", "limit", "A whole number from 1 to 100 is expected.")]
    [InlineData("GET /users?limit=101", "limit", "The field limit must be between 1 and 100.")]
    [InlineData("GET /cache/dead-letters?limit=many", "limit", "A whole number from 1 to 1000 is expected.")]
    [InlineData("POST /cache/dead-letters/1/retry", "id", "The id of a dead letter is expected, such as 1795420800000-0.")]
    [InlineData("DELETE /cache/dead-letters/1", "id", "The id of a dead letter is expected, such as 1795420800000-0.")]
    [InlineData("GET /weather/zurich?units=kelvin", "units", "One of metric, imperial.")]
    [InlineData("GET /weather/a*b", "city", "A city's name has 1 to 100 characters: letters, digits, spaces and . , ' - ( ) only.")]
    [InlineData("GET /cache/entries", "key", "This parameter is required.")]
    [InlineData("GET /cache/entries?key=x", "key", "<cache>:<id> is expected, such as users:01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f.")]
    public async Task A_parameter(string request, string name, string message) => await AssertMessageAsync(request, null, name, message);

    [Theory]
    [InlineData($"PUT /users/{Id}?strategy=hope", Change, "strategy", "One of write-through, invalidate, write-behind.")]
    [InlineData("POST /sessions", """{"transport":"pigeon"}""", "transport", "One of cookie, bearer is expected, once.")]
    [InlineData("POST /sessions", """{"email":7}""", "email", "A string is expected, once.")]
    [InlineData("POST /sessions", """{"email":"a","email":"b"}""", "email", "A string is expected, once.")]
    [InlineData("POST /sessions", """{"name":"a"}""", "name", "This field is unknown; there are email, password, transport, shortLived.")]
    [InlineData("POST /sessions", """{"email":"ada","password":"x"}""", "email",
        "An e-mail address is expected, such as ada@example.org.")]
    [InlineData("POST /cache/warm", """{"cache":"users","top":"all"}""", "top", "A whole number is expected, once.")]
    [InlineData("POST /cache/warm", """{"cache":"users","top":0}""", "top", "A number from 1 to 10000 is expected.")]
    [InlineData("POST /cache/warm", """{"cache":"users","keys":"all"}""", "keys", "An array of strings is expected, once.")]
    [InlineData("POST /cache/warm", """{"cache":"users","keys":[7]}""", "keys[0]", "An array of strings is expected, once.")]
    [InlineData("POST /cache/warm", """{"cache":"users","keys":["ada"]}""", "keys",
        "'ada' is not a key of this cache. A UUID is expected.")]
    [InlineData("POST /cache/warm", """{"cache":"user-lists","keys":["101:"]}""", "keys",
        "'101:' is not a key of this cache. <limit>:<after> with a limit from 1 to 100 is expected.")]
    [InlineData("POST /cache/warm", """{"cache":"weather","keys":["a*b"]}""", "keys",
        "'a*b' is not a key of this cache. The name of a city is expected.")]
    [InlineData("POST /cache/warm", """{"cache":"sessions","top":1}""", "cache", UnknownCache)]
    public async Task A_field(string request, string body, string name, string message) =>
        await AssertMessageAsync(request, body, name, message);

    [Theory]
    [InlineData("displayName", "a\\u202eb", "Control characters, line breaks and marks that change the direction of text are not allowed.")]
    [InlineData("displayName", "{101}", "The field DisplayName must be a string with a maximum length of 100.")]
    [InlineData("email", "{250}@example.org", "The field Email must be a string with a maximum length of 254.")]
    [InlineData("password", "short", "A password has 12 to 128 characters.")]
    public async Task A_field_of_a_new_user(string name, string value, string message)
    {
        value = Regex.Replace(
            value, @"\{(\d+)\}", length => new string('a', int.Parse(length.Groups[1].Value, CultureInfo.InvariantCulture)));
        var (member, good) = (name, name switch { "email" => "ada@example.org", "displayName" => "Ada", _ => "dew on the moss" });
        var body = User.Replace($"\"{member}\":\"{good}\"", $"\"{member}\":\"{value}\"", StringComparison.Ordinal);

        await AssertMessageAsync("POST /users", body, name, message);
    }

    [Fact]
    public async Task An_unknown_cache_is_a_404_that_names_the_caches()
    {
        var api = await servers.SharedApiAsync();
        using var admin = await api.AdminAsync();

        var problem = await UserContractTests.AssertProblemAsync(await admin.DeleteAsync("/cache/namespaces/x"), HttpStatusCode.NotFound);

        Assert.Equal(UnknownCache, problem.GetProperty("detail").GetString());
    }

    private async Task AssertMessageAsync(string request, string? body, string name, string message)
    {
        var api = await servers.SharedApiAsync();
        using var admin = await api.AdminAsync();
        using var sent = new HttpRequestMessage(new(request.Split(' ')[0]), request.Split(' ')[1]);
        sent.Content = body is null ? null : new StringContent(body, Encoding.UTF8, "application/json");

        var problem = await UserContractTests.AssertProblemAsync(await admin.SendAsync(sent), HttpStatusCode.BadRequest);

        Assert.True(problem.TryGetProperty("errors", out var errors), problem.ToString());
        Assert.True(errors.TryGetProperty(name, out var messages), errors.ToString());
        Assert.Contains(message, messages.EnumerateArray().Select(text => text.GetString()));
    }
}
