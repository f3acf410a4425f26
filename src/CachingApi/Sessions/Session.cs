using System.ComponentModel.DataAnnotations;
using System.Text.Json.Serialization;
using CachingApi.Hosting;
using CachingApi.Redis;

namespace CachingApi.Sessions;

/// <summary>How the client sends a session's token.</summary>
[JsonConverter(typeof(CamelCaseEnum<SessionTransport>))]
public enum SessionTransport
{
    /// <summary>In the cookie <c>__Host-session</c>, which scripts cannot read: for browsers.</summary>
    Cookie,

    /// <summary>In the body, to be sent as <c>Authorization: Bearer</c>: for all other clients.</summary>
    Bearer,
}

/// <summary>A login.</summary>
public sealed class CreateSession
{
    /// <summary>The account's e-mail address, in any letter case.</summary>
    /// <example>admin@example.com</example>
    [Required, StringLength(Sessions.Email.MaxLength), EmailFormat]
    public string Email { get; init; } = "";

    /// <summary>The account's password.</summary>
    /// <example>development-only</example>
    [Required, Password]
    public string Password { get; init; } = "";

    /// <summary>How the client sends the token; <c>cookie</c> if it is not set.</summary>
    /// <example>bearer</example>
    public SessionTransport? Transport { get; init; }

    /// <summary>
    /// Whether the session ends when it has not been used for ten minutes, or for <c>Sessions:Idle</c> if that is shorter.
    /// </summary>
    /// <example>false</example>
    public bool? ShortLived { get; init; }
}

/// <summary>A session: the user that is logged in, and for how long.</summary>
public sealed record Session
{
    /// <summary>The session's id. It is not a secret: it does not authenticate a request.</summary>
    /// <example>01980c6e-8f00-7a10-8c3e-2f3a1b4c5d6e</example>
    public required Guid Id { get; init; }

    /// <summary>The id of the session's user.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required Guid UserId { get; init; }

    /// <summary><c>user</c> or <c>admin</c>.</summary>
    /// <example>user</example>
    public required string Role { get; init; }

    /// <summary>The client's <c>User-Agent</c> at login.</summary>
    /// <example>curl/8.5.0</example>
    public required string Device { get; init; }

    /// <summary>When the session began.</summary>
    public required DateTime CreatedAt { get; init; }

    /// <summary>When the session was last used, accurate to a minute.</summary>
    public required DateTime LastSeenAt { get; init; }

    /// <summary>When the session ends if it is not used again. Every use extends it, up to the absolute limit.</summary>
    public required DateTime ExpiresAt { get; init; }

    /// <summary>Whether it is the session of this request.</summary>
    public bool Current { get; init; }

    [JsonIgnore]
    internal SessionTransport Transport { get; init; }

    /// <summary>When the password was given, from the age that Redis returned.</summary>
    [JsonIgnore]
    internal Moment AuthenticatedAt { get; init; }

    /// <summary>How long ago the password was given. It keeps growing while the session is in memory.</summary>
    [JsonIgnore]
    internal TimeSpan SinceAuthentication =>
        TimeSpan.FromMilliseconds(Moment.Now.Milliseconds - AuthenticatedAt.Milliseconds);
}

/// <summary>A session that has just begun.</summary>
public sealed class NewSession
{
    /// <summary>The session's id. It is not a secret.</summary>
    /// <example>01980c6e-8f00-7a10-8c3e-2f3a1b4c5d6e</example>
    public required Guid Id { get; init; }

    /// <summary>The id of the session's user.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required Guid UserId { get; init; }

    /// <summary>When the session ends if it is not used.</summary>
    public required DateTime ExpiresAt { get; init; }

    /// <summary>For <c>bearer</c> only: the token. Only this answer contains it; the server keeps its hash.</summary>
    /// <example>AZgMbn0AeyCdTzpLXG1-jwJ5m0yv3sKq8ZrXo1bNhT4uQwEcVfRtGyHjUkLpMnBv</example>
    public string? Token { get; init; }
}

/// <summary>A change of the password.</summary>
public sealed class ChangePassword
{
    /// <summary>The current password.</summary>
    /// <example>a long and unusual sentence</example>
    [Required, Password]
    public string CurrentPassword { get; init; } = "";

    /// <summary>The new password, 12 to 128 characters, not a common one, and not the e-mail address or the name.</summary>
    /// <example>an even longer and more unusual sentence</example>
    [Required, NewPassword]
    public string NewPassword { get; init; } = "";
}

/// <summary>A repetition of the caller's password.</summary>
public sealed class Reauthenticate
{
    /// <summary>The caller's password.</summary>
    /// <example>a long and unusual sentence</example>
    [Required, Password]
    public string CurrentPassword { get; init; } = "";
}

[JsonSerializable(typeof(CreateSession))]
[JsonSerializable(typeof(ChangePassword))]
[JsonSerializable(typeof(Reauthenticate))]
[JsonSerializable(typeof(Session[]))]
[JsonSerializable(typeof(Session))]
[JsonSerializable(typeof(NewSession))]
internal sealed partial class SessionJson : JsonSerializerContext;
