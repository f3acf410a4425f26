using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Text.Json.Serialization;
using CachingApi.Sessions;

namespace CachingApi.Users;

/// <summary>A user.</summary>
public sealed record User
{
    /// <summary>The id, a UUIDv7.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required Guid Id { get; init; }

    /// <summary>The e-mail address as it was given.</summary>
    /// <example>ada@example.org</example>
    public required string Email { get; init; }

    /// <summary>The name that is shown to others.</summary>
    /// <example>Ada Lovelace</example>
    public required string DisplayName { get; init; }

    /// <summary><c>user</c> or <c>admin</c>.</summary>
    /// <example>user</example>
    public required string Role { get; init; }

    /// <summary>Grows with each change; the ETag contains it.</summary>
    /// <example>1</example>
    public required long Version { get; init; }

    /// <summary>When the user was created.</summary>
    public required DateTime CreatedAt { get; init; }

    /// <summary>When the user was last changed.</summary>
    public required DateTime UpdatedAt { get; init; }

    /// <summary>The fencing token of the last write, which orders equal versions. It is not in the JSON.</summary>
    internal long Fence { get; init; }
}

/// <summary>Some users, newest first.</summary>
public sealed record UserPage
{
    /// <summary>The users of this page.</summary>
    public required IReadOnlyList<User> Items { get; init; }

    /// <summary>The value of <c>after</c> for the next page; <c>null</c> on the last page.</summary>
    /// <example>01980c6e-7d00-7b20-9d4f-3a4b5c6d7e8f</example>
    public required Guid? Next { get; init; }

    /// <summary>
    /// The state of the database that the page was read from: see <see cref="UserRepository.ListAsync"/>. It is not in the JSON.
    /// </summary>
    internal long Snapshot { get; init; }
}

/// <summary>A new user.</summary>
public sealed class CreateUser : IValidatableObject
{
    /// <summary>The e-mail address. No two users have the same one, whatever the letter case.</summary>
    /// <example>ada@example.org</example>
    [Required, StringLength(Sessions.Email.MaxLength), EmailFormat]
    public string Email { get; init; } = "";

    /// <summary>The name that is shown to others, in any script, without control characters.</summary>
    /// <example>Ada Lovelace</example>
    [Required, StringLength(100), PlainText]
    public string DisplayName { get; init; } = "";

    /// <summary>The password, 12 to 128 characters, not a common one, and not the e-mail address or the name.</summary>
    /// <example>a long and unusual sentence</example>
    [Required, NewPassword]
    public string Password { get; init; } = "";

    /// <summary>Compares the password with the e-mail address and the name.</summary>
    public IEnumerable<ValidationResult> Validate(ValidationContext validationContext) =>
        PasswordRules.Problem(Password, Email, DisplayName) is { } problem ? [new(problem, [nameof(Password)])] : [];
}

/// <summary>The new values of a user.</summary>
public sealed record UpdateUser
{
    /// <summary>The e-mail address. No two users have the same one, whatever the letter case.</summary>
    /// <example>ada@example.org</example>
    [Required, StringLength(Sessions.Email.MaxLength), EmailFormat]
    public string Email { get; init; } = "";

    /// <summary>The name that is shown to others, in any script, without control characters.</summary>
    /// <example>Ada King, Countess of Lovelace</example>
    [Required, StringLength(100), PlainText]
    public string DisplayName { get; init; } = "";

    /// <summary>
    /// The caller's password. A change of the e-mail address needs it if the last one was given more than ten minutes ago.
    /// </summary>
    [Password]
    public string? CurrentPassword { get; init; }
}

/// <summary>The optional body of a user's deletion.</summary>
public sealed record DeleteUser
{
    /// <summary>The caller's password. It is needed if the last one was given more than ten minutes ago.</summary>
    [Password]
    public string? CurrentPassword { get; init; }
}

/// <summary>A change of a user in the write-behind queue.</summary>
internal sealed record UserChange(string Email, string EmailKey, string DisplayName, DateTime UpdatedAt)
{
    /// <summary>
    /// Whether the change may replace the e-mail address by another one; its letter case may always change. Never true in a queued change.
    /// </summary>
    [JsonIgnore]
    public bool MayChangeEmail { get; init; }
}

/// <summary>Text without control characters, line breaks and marks that change the direction of text.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class PlainTextAttribute()
    : ValidationAttribute("Control characters, line breaks and marks that change the direction of text are not allowed.")
{
    public override bool IsValid(object? value) => value is string text && !text.EnumerateRunes().Any(rune =>
        System.Text.Rune.GetUnicodeCategory(rune)
            is UnicodeCategory.Control or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator
        || rune.Value is (>= 0x202A and <= 0x202E) or (>= 0x2066 and <= 0x2069));
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase)]
[JsonSerializable(typeof(User))]
[JsonSerializable(typeof(UserPage))]
[JsonSerializable(typeof(CreateUser))]
[JsonSerializable(typeof(UpdateUser))]
[JsonSerializable(typeof(DeleteUser))]
[JsonSerializable(typeof(UserChange))]
internal sealed partial class UserJson : JsonSerializerContext;
