using System.ComponentModel.DataAnnotations;
using System.Net.Mail;
using System.Text;

namespace CachingApi.Sessions;

/// <summary>E-mail addresses that identify accounts.</summary>
internal static class Email
{
    public const int MaxLength = 254;

    /// <summary>In UTF-16 units, before it is composed.</summary>
    private const int MaxUnits = 4 * MaxLength;

    /// <summary>The form in which two addresses are compared, regardless of letter case and the composition of characters.</summary>
    public static string Key(string email) => (Composed(email) ?? email.Trim()).ToLowerInvariant();

    /// <summary>
    /// The composed form (NFC). <c>null</c> if the text contains code points that are not characters, or if it is much too long for an
    /// address, because the time to compose it grows with the square of its length.
    /// </summary>
    public static string? Composed(string text)
    {
        if (text.Length > MaxUnits)
        {
            return null;
        }

        try
        {
            return text.Trim().Normalize(NormalizationForm.FormC);
        }
        catch (ArgumentException)
        {
            return null;
        }
    }
}

/// <summary>An e-mail address that mail could be sent to: one local part, one domain with a dot, no display name.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class EmailFormatAttribute() : ValidationAttribute("An e-mail address is expected, such as ada@example.org.")
{
    public override bool IsValid(object? value)
    {
        var given = value as string ?? "";
        return given.Length > Email.MaxLength || string.IsNullOrWhiteSpace(given) // other attributes report these
            || (Email.Composed(given) is { Length: <= Email.MaxLength } text // the composed form can be longer
                && MailAddress.TryCreate(text, out var address)
                && address.Address == text
                && !text.Any(character => char.IsWhiteSpace(character) || char.IsControl(character))
                && address.User.Length <= 64
                && address.Host.Contains('.', StringComparison.Ordinal)
                && Uri.CheckHostName(address.Host) is UriHostNameType.Dns);
    }
}
