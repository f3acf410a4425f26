using System.ComponentModel.DataAnnotations;
using System.Net.Mail;
using System.Text;

namespace CachingApi.Sessions;

/// <summary>E-mail addresses as accounts are known by.</summary>
internal static class Email
{
    public const int MaxLength = 254;

    /// <summary>The form in which two addresses are compared: letter case and the composition of characters don't count.</summary>
    public static string Key(string email) => email.Trim().Normalize(NormalizationForm.FormC).ToLowerInvariant();
}

/// <summary>An e-mail address that mail could be sent to: one local part, one domain with a dot, no display name.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class EmailFormatAttribute() : ValidationAttribute("This is not an e-mail address.")
{
    public override bool IsValid(object? value) =>
        value is string text
        && (text.Trim() is { Length: 0 or > Email.MaxLength } // said by other attributes
            || (MailAddress.TryCreate(text.Trim(), out var address)
                && address.Address == text.Trim()
                && !text.Trim().Any(character => char.IsWhiteSpace(character) || char.IsControl(character))
                && address.User.Length <= 64
                && address.Host.Contains('.', StringComparison.Ordinal)
                && Uri.CheckHostName(address.Host) is UriHostNameType.Dns));
}
