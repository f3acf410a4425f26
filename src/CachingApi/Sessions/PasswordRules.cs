using System.Collections.Frozen;
using System.ComponentModel.DataAnnotations;
using System.Reflection;
using System.Text;

namespace CachingApi.Sessions;

/// <summary>
/// What a password must not be: one of those that attackers try first (NIST SP 800-63B, section 5.1.1.2), in any letter case, also with
/// digits or punctuation around it, or little more than the account's own e-mail address and name.
/// </summary>
internal static class PasswordRules
{
    /// <summary>So many different characters it has at least.</summary>
    private const int MinDistinct = 5;

    /// <summary>So many letters are left at least when the account's own words are taken out.</summary>
    private const int MinOtherLetters = 6;

    private const int MinWord = 3;

    private static readonly Lazy<FrozenSet<string>> Common = new(Read);

    /// <summary>The words that people combine with a year.</summary>
    private static readonly FrozenSet<string> Dated = new[]
    {
        "spring", "summer", "autumn", "fall", "winter", "january", "february", "march", "april", "may", "june", "july", "august",
        "september", "october", "november", "december", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
    }.ToFrozenSet(StringComparer.OrdinalIgnoreCase);

    /// <summary>Why a password is refused; <c>null</c> if it is not.</summary>
    public static string? Problem(string password)
    {
        var core = Core(password);
        return Common.Value.Contains(password) || Common.Value.Contains(core) || Dated.Contains(core)
            ? "This password is one of the most common ones."
            : password.EnumerateRunes().Distinct().Count() < MinDistinct ? $"At least {MinDistinct} different characters are needed."
            : null;
    }

    /// <summary>Why a password is refused for an account; <c>null</c> if it is not.</summary>
    public static string? Problem(string password, string email, string displayName)
    {
        var words = Words(email.Split('@')[0]).Concat(Words(email)).Concat(Words(displayName)).Append(email.Split('@')[0])
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

    private static IEnumerable<string> Words(string text)
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

    /// <summary>The password without what is not a letter at its beginning and end: of <c>Winter2026!</c> it is <c>Winter</c>.</summary>
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

/// <summary>See <see cref="PasswordRules.Problem(string)"/>.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class UncommonPasswordAttribute : ValidationAttribute
{
    protected override ValidationResult? IsValid(object? value, ValidationContext validationContext) =>
        value is string password && PasswordRules.Problem(password) is { } problem
            ? new ValidationResult(problem, validationContext.MemberName is { } member ? [member] : null)
            : ValidationResult.Success;
}
