using System.Globalization;
using System.Security.Claims;
using System.Text;
using System.Text.Json.Serialization;
using System.Threading.RateLimiting;
using Dapper;
using Microsoft.AspNetCore.Authentication;
using Microsoft.AspNetCore.Authentication.Cookies;
using Microsoft.AspNetCore.Authentication.JwtBearer;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.HttpResults;
using Microsoft.Extensions.Caching.Distributed;
using Microsoft.Extensions.Caching.StackExchangeRedis;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.IdentityModel.JsonWebTokens;
using Microsoft.IdentityModel.Tokens;
using Npgsql;
using OpenTelemetry.Metrics;
using Serilog;
using ZiggyCreatures.Caching.Fusion;
using ZiggyCreatures.Caching.Fusion.Backplane.StackExchangeRedis;
using ZiggyCreatures.Caching.Fusion.Serialization.SystemTextJson;

namespace CachingApi.Benchmarks;

/// <summary>A user of the stock service.</summary>
internal sealed record StockUser
{
    public required Guid Id { get; init; }

    public required string Email { get; init; }

    public required string DisplayName { get; init; }

    public required string Role { get; init; }

    public required long Version { get; init; }

    public required DateTime CreatedAt { get; init; }

    public required DateTime UpdatedAt { get; init; }
}

internal sealed record StockChange(string Email, string DisplayName);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase)]
[JsonSerializable(typeof(StockUser))]
[JsonSerializable(typeof(StockChange))]
internal sealed partial class StockJson : JsonSerializerContext;

/// <summary>
/// The service that a team would build from well-known parts: FusionCache over Redis with its backplane, cookie tickets in Redis or JWT
/// bearer tokens, the framework's rate limiter in process, Serilog's request logging and OpenTelemetry's metrics, each set up as its
/// documentation recommends. It reads and writes the same table.
/// </summary>
internal static class StockService
{
    public const string Cookie = "stock-session";

    private const string Columns =
        "id, email, display_name AS DisplayName, role, version, created_at AS CreatedAt, updated_at AS UpdatedAt";

    private static readonly SymmetricSecurityKey Key = new(Encoding.ASCII.GetBytes("the key of a service that runs for a benchmark only"));

    public static async Task RunAsync(string url, string postgres, string redis)
    {
        // Not the folder of the service's appsettings.json.
        var builder = WebApplication.CreateBuilder(new WebApplicationOptions { ContentRootPath = Path.GetTempPath() });
        builder.WebHost.UseUrls(url);
        builder.Host.UseSerilog((_, log) => log
            .MinimumLevel.Information()
            .MinimumLevel.Override("Microsoft.AspNetCore", Serilog.Events.LogEventLevel.Warning)
            .WriteTo.Console(formatProvider: CultureInfo.InvariantCulture));
        builder.Services.AddOpenTelemetry().WithMetrics(metrics => metrics
            .AddMeter("Microsoft.AspNetCore.Hosting", "Microsoft.AspNetCore.Server.Kestrel", FusionCacheDiagnostics.MeterName)
            .AddPrometheusExporter());
        builder.Services.AddSingleton(NpgsqlDataSource.Create(postgres));
        builder.Services.AddStackExchangeRedisCache(options => options.Configuration = redis);
        builder.Services.AddFusionCache()
            .WithDefaultEntryOptions(options => options
                .SetDuration(TimeSpan.FromMinutes(10))
                .SetFailSafe(true, TimeSpan.FromHours(1))
                .SetFactoryTimeouts(TimeSpan.FromMilliseconds(100), TimeSpan.FromSeconds(10)))
            .WithSerializer(new FusionCacheSystemTextJsonSerializer())
            .WithDistributedCache(new RedisCache(new RedisCacheOptions { Configuration = redis, InstanceName = "stock:" }))
            .WithBackplane(new RedisBackplane(new RedisBackplaneOptions { Configuration = redis }));
        AddAuthentication(builder.Services);
        builder.Services.AddRateLimiter(limiter => limiter.AddPolicy("default", context => RateLimitPartition.GetFixedWindowLimiter(
            context.User.FindFirstValue(ClaimTypes.NameIdentifier) ?? context.Connection.RemoteIpAddress?.ToString() ?? "",
            _ => new() { PermitLimit = int.MaxValue, Window = TimeSpan.FromMinutes(1) })));
        builder.Services.ConfigureHttpJsonOptions(json => json.SerializerOptions.TypeInfoResolverChain.Insert(0, StockJson.Default));

        var app = builder.Build();
        app.UseSerilogRequestLogging();
        app.UseAuthentication();
        app.UseRateLimiter();
        app.UseAuthorization();
        app.MapPrometheusScrapingEndpoint();
        app.MapPost("/login/{id}", LogInAsync).AllowAnonymous();
        app.MapGet("/users/{id}", FindAsync).RequireRateLimiting("default").RequireAuthorization();
        app.MapPut("/users/{id}", UpdateAsync).RequireRateLimiting("default").RequireAuthorization();
        app.MapGet("/public/{id}", FindAsync).RequireRateLimiting("default").AllowAnonymous();
        await app.RunAsync();
    }

    private static void AddAuthentication(IServiceCollection services)
    {
        services.AddSingleton<RedisTickets>();
        services.AddOptions<CookieAuthenticationOptions>(CookieAuthenticationDefaults.AuthenticationScheme)
            .Configure<RedisTickets>((cookie, tickets) => (cookie.SessionStore, cookie.Cookie.Name) = (tickets, Cookie));
        services.AddAuthentication("either")
            .AddPolicyScheme("either", null, either => either.ForwardDefaultSelector = context =>
                context.Request.Headers.Authorization.Count > 0
                    ? JwtBearerDefaults.AuthenticationScheme
                    : CookieAuthenticationDefaults.AuthenticationScheme)
            .AddCookie()
            .AddJwtBearer(bearer =>
            {
                bearer.MapInboundClaims = false;
                bearer.TokenValidationParameters = new()
                {
                    ValidateIssuer = false,
                    ValidateAudience = false,
                    IssuerSigningKey = Key,
                    NameClaimType = ClaimTypes.NameIdentifier,
                };
            });
        services.AddAuthorization();
    }

    /// <summary>Sets the cookie, and answers with a bearer token.</summary>
    private static async Task<string> LogInAsync(Guid id, HttpContext context)
    {
        var identity = new ClaimsIdentity(
            [new(ClaimTypes.NameIdentifier, id.ToString()), new(ClaimTypes.Role, "user")],
            CookieAuthenticationDefaults.AuthenticationScheme);
        await context.SignInAsync(CookieAuthenticationDefaults.AuthenticationScheme, new(identity));
        return new JsonWebTokenHandler().CreateToken(new SecurityTokenDescriptor
        {
            Subject = identity,
            SigningCredentials = new(Key, SecurityAlgorithms.HmacSha256),
        });
    }

    private static async Task<IResult> FindAsync(
        Guid id, IFusionCache cache, NpgsqlDataSource postgres, ClaimsPrincipal caller, HttpContext context, CancellationToken cancel)
    {
        if (!MaySee(caller, id, context))
        {
            return Results.Forbid();
        }

        var user = await cache.GetOrSetAsync<StockUser?>($"users:{id}", async (_, stop) =>
        {
            await using var connection = await postgres.OpenConnectionAsync(stop);
            return await connection.QuerySingleOrDefaultAsync<StockUser>($"SELECT {Columns} FROM users WHERE id = @id", new { id });
        }, token: cancel);
        return user is null ? Results.NotFound() : Tagged(user, context);
    }

    private static async Task<IResult> UpdateAsync(
        Guid id,
        StockChange change,
        IFusionCache cache,
        NpgsqlDataSource postgres,
        ClaimsPrincipal caller,
        HttpContext context,
        CancellationToken cancel)
    {
        if (!MaySee(caller, id, context))
        {
            return Results.Forbid();
        }

        await using var connection = await postgres.OpenConnectionAsync(cancel);
        var user = await connection.QuerySingleOrDefaultAsync<StockUser>(
            $"""
            UPDATE users SET email = @Email, display_name = @DisplayName, version = version + 1, updated_at = now()
            WHERE id = @id RETURNING {Columns}
            """,
            new { id, change.Email, change.DisplayName });
        if (user is null)
        {
            return Results.NotFound();
        }

        await cache.SetAsync($"users:{id}", user, token: cancel);
        return Tagged(user, context);
    }

    private static bool MaySee(ClaimsPrincipal caller, Guid id, HttpContext context) =>
        context.GetEndpoint()?.Metadata.GetMetadata<IAllowAnonymous>() is not null
        || caller.FindFirstValue(ClaimTypes.NameIdentifier) == id.ToString();

    private static Ok<StockUser> Tagged(StockUser user, HttpContext context)
    {
        context.Response.Headers.ETag = string.Create(CultureInfo.InvariantCulture, $"\"v{user.Version}\"");
        context.Response.Headers.CacheControl = "private, no-cache";
        return TypedResults.Ok(user);
    }

    /// <summary>Cookie tickets in Redis, as the documentation of <see cref="ITicketStore"/> suggests.</summary>
    private sealed class RedisTickets(IDistributedCache cache) : ITicketStore
    {
        public async Task<string> StoreAsync(AuthenticationTicket ticket)
        {
            var key = $"ticket:{Guid.NewGuid():N}";
            await RenewAsync(key, ticket);
            return key;
        }

        public Task RenewAsync(string key, AuthenticationTicket ticket) => cache.SetAsync(
            key, TicketSerializer.Default.Serialize(ticket), new() { SlidingExpiration = TimeSpan.FromHours(24) });

        public async Task<AuthenticationTicket?> RetrieveAsync(string key) =>
            await cache.GetAsync(key) is { } bytes ? TicketSerializer.Default.Deserialize(bytes) : null;

        public Task RemoveAsync(string key) => cache.RemoveAsync(key);
    }
}
