using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Text;

namespace CachingApi.Weather;

/// <summary>
/// A city's name in the form that all its spellings share: <c>Zürich</c>, <c>zurich</c> and <c> ZÜRICH </c> are <c>zurich</c>.
/// </summary>
internal readonly record struct CityName
{
    public const int MaxLength = 100;

    private CityName(string text) => Text = text;

    public string Text { get; }

    /// <summary>
    /// Parses a name of 1 to 100 characters: letters and digits of any script, spaces and <c>. , ' - ( )</c>, with at least one letter or
    /// digit; <c>null</c> if the text is not such a name.
    /// </summary>
    /// <remarks>
    /// Compatible forms become one (NFKC), letters become lower-case, spaces single. Accents are removed from Latin letters only, because
    /// the upstream finds those without accents; in other scripts, a mark makes another letter.
    /// </remarks>
    public static CityName? Parse(string? given)
    {
        if (given is null || given.EnumerateRunes().Any(rune => !IsAllowed(rune)))
        {
            return null;
        }

        var text = new StringBuilder();
        var last = ' ';
        foreach (var character in given.Normalize(NormalizationForm.FormKD).ToLowerInvariant())
        {
            var next = char.IsWhiteSpace(character) ? ' ' : character is '’' ? '\'' : character;
            var isAccent = next is >= '\u0300' and <= '\u036F' && char.IsAsciiLetter(last);
            if (!isAccent && (next, last) is not (' ', ' '))
            {
                text.Append(next);
                last = next;
            }
        }

        var name = text.ToString().TrimEnd().Normalize(NormalizationForm.FormKC);
        return name.Length is > 0 and <= MaxLength && name.EnumerateRunes().Any(Rune.IsLetterOrDigit) ? new(name) : null;
    }

    public override string ToString() => Text;

    private static bool IsAllowed(Rune rune) =>
        Rune.IsLetterOrDigit(rune)
        || Rune.GetUnicodeCategory(rune)
            is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.SpaceSeparator
        || rune.Value is '.' or ',' or '\'' or '’' or '-' or '(' or ')';
}

/// <summary>See <see cref="CityName.Parse"/>.</summary>
[AttributeUsage(AttributeTargets.Parameter)]
public sealed class CityNameAttribute()
    : ValidationAttribute("A city's name has 1 to 100 characters: letters, digits, spaces and . , ' - ( ) only.")
{
    public override bool IsValid(object? value) => CityName.Parse(value as string) is not null;
}
