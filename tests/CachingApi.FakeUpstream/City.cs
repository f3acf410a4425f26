using System.Globalization;
using System.Text;

namespace CachingApi.FakeUpstream;

/// <summary>A city of the fake; the first name is the English one.</summary>
public sealed record City(
    int Id,
    string[] Names,
    string Country,
    string CountryCode,
    string TimeZone,
    double Latitude,
    double Longitude,
    double Elevation,
    int Population)
{
    public static IReadOnlyList<City> All { get; } =
    [
        new(2950159, ["Berlin"], "Germany", "DE", "Europe/Berlin", 52.52437, 13.41053, 74, 3426354),
        new(2988507, ["Paris"], "France", "FR", "Europe/Paris", 48.85341, 2.3488, 42, 2138551),
        new(4717560, ["Paris"], "United States", "US", "America/Chicago", 33.66094, -95.55551, 183, 24782),
        new(2643743, ["London", "Londres", "Londra"], "United Kingdom", "GB", "Europe/London", 51.50853, -0.12574, 25, 8961989),
        new(6058560, ["London"], "Canada", "CA", "America/Toronto", 42.98339, -81.23304, 252, 422324),
        new(2657896, ["Zurich", "Zürich", "Zurigo"], "Switzerland", "CH", "Europe/Zurich", 47.36667, 8.55, 429, 341730),
        new(2867714, ["Munich", "München", "Monaco di Baviera"], "Germany", "DE", "Europe/Berlin", 48.13743, 11.57549, 524, 1260391),
        new(2761369, ["Vienna", "Wien", "Vienne"], "Austria", "AT", "Europe/Vienna", 48.20849, 16.37208, 171, 1691468),
        new(3078610, ["Brno", "Brünn"], "Czechia", "CZ", "Europe/Prague", 49.19522, 16.60796, 237, 369559),
        new(3067696, ["Prague", "Praha", "Prag"], "Czechia", "CZ", "Europe/Prague", 50.08804, 14.42076, 202, 1165581),
        new(2618425, ["Copenhagen", "København", "Kopenhagen"], "Denmark", "DK", "Europe/Copenhagen", 55.67594, 12.56553, 14, 1153615),
        new(3117735, ["Madrid"], "Spain", "ES", "Europe/Madrid", 40.4165, -3.70256, 665, 3255944),
        new(3169070, ["Rome", "Roma", "Rom"], "Italy", "IT", "Europe/Rome", 41.89193, 12.51133, 20, 2318895),
        new(745044, ["Istanbul", "İstanbul"], "Türkiye", "TR", "Europe/Istanbul", 41.01384, 28.94966, 39, 15701602),
        new(264371, ["Athens", "Αθήνα", "Athen"], "Greece", "GR", "Europe/Athens", 37.98376, 23.72784, 70, 664046),
        new(524901, ["Moscow", "Москва", "Moskau"], "Russia", "RU", "Europe/Moscow", 55.75222, 37.61556, 144, 10381222),
        new(1850147, ["Tokyo", "東京", "Tokio"], "Japan", "JP", "Asia/Tokyo", 35.6895, 139.69171, 44, 9733276),
        new(1835848, ["Seoul", "서울"], "South Korea", "KR", "Asia/Seoul", 37.566, 126.9784, 38, 10349312),
        new(5128581, ["New York", "New York City"], "United States", "US", "America/New_York", 40.71427, -74.00597, 10, 8804190),
        new(3448439, ["São Paulo"], "Brazil", "BR", "America/Sao_Paulo", -23.5475, -46.63611, 769, 12400232),
        new(2147714, ["Sydney"], "Australia", "AU", "Australia/Sydney", -33.86785, 151.20732, 58, 4627345),
        new(3652462, ["Quito"], "Ecuador", "EC", "America/Guayaquil", -0.22985, -78.52495, 2854, 1399814),
        new(2729907, ["Longyearbyen"], "Svalbard and Jan Mayen", "SJ", "Arctic/Longyearbyen", 78.22334, 15.64689, 0, 2060),
        new(7730009, ["Null Island"], "", "", "", 0, 0, 0, 0),
    ];

    /// <summary>
    /// The cities with a name: none for one character, those with exactly this name for two, those whose names begin with it for more,
    /// without regard to letter case and accents. The country can follow after a comma. The largest city comes first.
    /// </summary>
    public static IEnumerable<City> Find(string name)
    {
        var (wanted, country) = name.Split(',', 2) is [var before, var after] ? (Plain(before), Plain(after)) : (Plain(name), "");
        bool IsNamed(string known) =>
            wanted.Length == 2 ? Plain(known) == wanted : Plain(known).StartsWith(wanted, StringComparison.Ordinal);
        return wanted.Length < 2
            ? []
            : All.Where(city => city.Names.Any(IsNamed)
                && (country.Length == 0 || Plain(city.Country) == country || Plain(city.CountryCode) == country))
                .OrderByDescending(city => city.Population);
    }

    private static string Plain(string text) => string.Concat(
        text.Trim().Normalize(NormalizationForm.FormD).Where(
            character => char.GetUnicodeCategory(character) is not UnicodeCategory.NonSpacingMark))
        .ToLowerInvariant();
}
