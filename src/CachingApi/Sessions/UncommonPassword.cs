using System.Collections.Frozen;
using System.ComponentModel.DataAnnotations;
using System.Reflection;

namespace CachingApi.Sessions;

/// <summary>A password that is not among the 5,000 that are tried first (NIST SP 800-63B, section 5.1.1.2), in any letter case.</summary>
[AttributeUsage(AttributeTargets.Property)]
public sealed class UncommonPasswordAttribute() : ValidationAttribute("This password is one of the most common ones.")
{
    private static readonly Lazy<FrozenSet<string>> Common = new(Read);

    public override bool IsValid(object? value) => value is not string password || !Common.Value.Contains(password);

    /// <remarks>From zxcvbn's list (Dan Wheeler and Dropbox, MIT licence): those of 8 characters and more, the most common first.</remarks>
    private static FrozenSet<string> Read()
    {
        using var stream = Assembly.GetExecutingAssembly().GetManifestResourceStream("common_passwords.txt")!;
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries).ToFrozenSet(StringComparer.OrdinalIgnoreCase);
    }
}
