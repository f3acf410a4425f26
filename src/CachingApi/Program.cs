using CachingApi;
using CachingApi.Administration;
using CachingApi.ChangeCapture;
using CachingApi.Experiments;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Sessions;
using CachingApi.Storage;
using CachingApi.Users;
using CachingApi.Weather;

// The output folder is the content root, so that the service finds the repository's one appsettings.json whether dotnet run, a
// container or a test starts it.
var builder = WebApplication.CreateBuilder(new WebApplicationOptions { Args = args, ContentRootPath = AppContext.BaseDirectory });

builder.AddApiConventions();
if (args is ["migrate", ..])
{
    return await builder.MigrateAsync();
}

builder.AddOperationsPort();
builder.Services
    .AddPostgres()
    .AddRedis()
    .AddChangeCapture()
    .AddCaches()
    .AddRateLimits()
    .AddSessions()
    .AddUsers()
    .AddWeather()
    .AddKnownProxies()
    .AddCacheAdministration()
    .AddLab()
    .AddOperations(builder.Configuration)
    .AddApiDocs();

var app = builder.Build();

app.UseKnownProxies();
app.UseApiConventions();
app.UseLivePage();
app.UseApiDocs();
app.UseCrossSiteForgeryCheck();
app.UseRateLimits();
app.UseSessions();

app.MapUsers();
app.MapSessions();
app.MapWeather();
app.MapRateLimits();
app.MapCacheAdministration();
app.MapDeadLetters();
app.MapLab();
app.MapDevelopmentLogin();
app.MapOperations();

if (app.ConfigurationProblem() is { } problem)
{
    await Console.Error.WriteLineAsync(problem);
    return 1;
}

await app.RunAsync();
return 0;
