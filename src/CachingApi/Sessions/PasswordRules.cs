using System.Collections.Frozen;
using System.ComponentModel.DataAnnotations;
using System.Reflection;
using System.Text;

namespace CachingApi.Sessions;

/// <summary>
/// The rules for new passwords. A password must not be one that attackers try first (NIST SP 800-63B, section 5.1.1.2), in any letter case,
/// also repeated or with digits or punctuation around it; nor a sequence, a repetition, or little more than the account's e-mail address
/// and name.
/// </summary>
/// <remarks>Every rule uses the form that is hashed (<see cref="Passwords.Normalized"/>) and counts characters.</remarks>
internal static class PasswordRules
{
    /// <summary>The minimum number of different characters.</summary>
    private const int MinDistinct = 5;

    /// <summary>The minimum length if each sequence, such as <c>abcdef</c> or <c>qwertz</c>, counts as two characters.</summary>
    private const int MinBesidesSequences = 8;

    /// <summary>A password that repeats a group of at most this many characters is refused.</summary>
    private const int MaxRepeated = 6;

    /// <summary>The rows of keyboards.</summary>
    private static readonly string[] Rows = ["qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "1234567890"];

    /// <summary>The minimum number of letters without the account's own words.</summary>
    private const int MinOtherLetters = 6;

    private const int MinWord = 3;

    private static readonly Lazy<FrozenSet<string>> Common = new(Read);

    /// <summary>Short words that people combine with a year or other digits.</summary>
    private static readonly FrozenSet<string> Words = new[]
    {
        "spring", "summer", "autumn", "fall", "winter", "january", "february", "march", "april", "may", "june", "july", "august",
        "september", "october", "november", "december", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
        "admin", "root", "login", "pass", "welcome", "hello", "letmein", "changeme", "qwerty", "qwertz", "azerty", "abc", "asdf", "monkey",
        "dragon", "master", "shadow", "hunter", "killer", "ninja", "flower", "lovely", "iloveyou", "princess", "football", "soccer",
    }.ToFrozenSet(StringComparer.OrdinalIgnoreCase);

    /// <summary>Why a password is refused; <c>null</c> if it is not.</summary>
    public static string? Problem(string password)
    {
        password = Passwords.Normalized(password);
        Rune[] characters = [.. password.EnumerateRunes().Take(Passwords.MaxLength + 1)];
        var repeated = Repeated([.. characters.Select(Rune.ToLowerInvariant)]);
        var unit = string.Concat(characters.Take(repeated));
        var core = Core(unit);
        return characters.Length is < Passwords.MinLength or > Passwords.MaxLength
                ? $"A password has {Passwords.MinLength} to {Passwords.MaxLength} characters."
            : Common.Value.Contains(unit) || Common.Value.Contains(core) || Words.Contains(core)
                ? "This password is one of the most common passwords."
            : characters.Distinct().Count() < MinDistinct ? $"A password has at least {MinDistinct} different characters."
            : repeated <= MaxRepeated || BesidesSequences(password) < MinBesidesSequences
                ? "This password is a repetition or a sequence."
            : null;
    }

    /// <summary>Why a password is refused for an account; <c>null</c> if it is not.</summary>
    public static string? Problem(string password, string email, string displayName)
    {
        (password, email, displayName) = (Passwords.Normalized(password), Passwords.Normalized(email), Passwords.Normalized(displayName));
        var words = WordsOf(email.Split('@')[0]).Concat(WordsOf(email)).Concat(WordsOf(displayName)).Append(email.Split('@')[0])
            .Where(word => word.Length >= MinWord).OrderByDescending(word => word.Length);
        var rest = password;
        foreach (var word in words)
        {
            rest = rest.Replace(word, "", StringComparison.OrdinalIgnoreCase);
        }

        return rest.Length < password.Length && rest.EnumerateRunes().Count(Rune.IsLetter) < MinOtherLetters
            ? "This password is little more than the e-mail address or the name of the account."
            : null;
    }

    /// <summary>
    /// The length of the group that the password repeats up to its end: 3 for <c>abcabcab</c>; its whole length if it repeats none.
    /// </summary>
    private static int Repeated(Rune[] characters)
    {
        for (var period = 1; period < characters.Length; period++)
        {
            if (characters.AsSpan(period).SequenceEqual(characters.AsSpan(0, characters.Length - period)))
            {
                return period;
            }
        }

        return characters.Length;
    }

    /// <summary>The length of a password if each sequence of three characters or more counts as two.</summary>
    private static int BesidesSequences(string password)
    {
        var (left, run) = (password.Length, 1);
        int? last = null;
        for (var index = 1; index < password.Length; index++)
        {
            var step = Step(char.ToLowerInvariant(password[index - 1]), char.ToLowerInvariant(password[index]));
            run = step is not null && step == last ? run + 1 : step is not null ? 2 : 1;
            left -= run > 2 ? 1 : 0;
            last = step;
        }

        return left;
    }

    /// <summary>
    /// 1 or -1 if one character follows the other in the alphabet or on a keyboard, forward or backward; 0 if both are the same.
    /// </summary>
    private static int? Step(char first, char second)
    {
        if (Math.Abs(second - first) <= 1)
        {
            return second - first;
        }

        foreach (var row in Rows)
        {
            if (row.IndexOf(first, StringComparison.Ordinal) is var at and >= 0
                && row.IndexOf(second, StringComparison.Ordinal) is var to and >= 0 && Math.Abs(to - at) == 1)
            {
                return to - at;
            }
        }

        return null;
    }

    private static IEnumerable<string> WordsOf(string text)
    {
        var start = 0;
        for (var index = 0; index <= text.Length; index++)
        {
            if (index == text.Length || !char.IsLetterOrDigit(text[index]))
            {
                yield return text[start..index];
                start = index + 1;
            }
        }
    }

    /// <summary>
    /// The password without characters other than letters at its beginning and end: <c>Winter</c> for <c>Winter2026!</c>.
    /// </summary>
    private static string Core(string password)
    {
        var (start, end) = (0, password.Length);
        while (start < end && !char.IsLetter(password[start]))
        {
            start++;
        }

        while (end > start && !char.IsLetter(password[end - 1]))
        {
            end--;
        }

        return password[start..end];
    }

    /// <remarks>From zxcvbn's list (Dan Wheeler and Dropbox, MIT licence): those of 8 characters and more, the most common first.</remarks>
    private static FrozenSet<string> Read()
    {
        using var stream = Assembly.GetExecutingAssembly().GetManifestResourceStream("common_passwords.txt")!;
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries).ToFrozenSet(StringComparer.OrdinalIgnoreCase);
    }
}

/// <summary>
/// A password of an existing account, with a maximum length in the form that is hashed. As an attribute of a string's length, the
/// bound is in the OpenAPI document.
/// </summary>
[AttributeUsage(AttributeTargets.Property)]
public class PasswordAttribute() : StringLengthAttribute(Passwords.MaxLength)
{
    /// <inheritdoc/>
    public override bool IsValid(object? value) =>
        value is not string password || Passwords.Normalized(password).EnumerateRunes().Count() <= MaximumLength;
}

/// <summary>A new password: see <see cref="PasswordRules.Problem(string)"/>.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class NewPasswordAttribute : PasswordAttribute
{
    /// <summary>Sets the minimum length.</summary>
    public NewPasswordAttribute() => MinimumLength = Passwords.MinLength;

    /// <inheritdoc/>
    protected override ValidationResult? IsValid(object? value, ValidationContext validationContext) =>
        value is string password && PasswordRules.Problem(password) is { } problem
            ? new ValidationResult(problem, validationContext.MemberName is { } member ? [member] : null)
            : ValidationResult.Success;
}
