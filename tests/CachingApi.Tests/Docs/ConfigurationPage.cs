using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Reflection;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using CachingApi.Caching;
using CachingApi.Experiments;
using CachingApi.Hosting;
using CachingApi.RateLimiting;
using CachingApi.Redis;
using CachingApi.Sessions;
using CachingApi.Storage;
using CachingApi.Users;
using CachingApi.Weather;

namespace CachingApi.Tests.Docs;

/// <summary>One section or option of appsettings.json, with the comment above it. A section has options and no value.</summary>
internal sealed record Setting(string Path, string Comment, string? Value, List<Setting> Children)
{
    public string Name => Path[(Path.LastIndexOf(':') + 1)..];

    public bool IsSection => Value is null;
}

/// <summary>docs/configuration.md: the comments and defaults of appsettings.json, and the bounds in the code.</summary>
internal static class ConfigurationPage
{
    public const string Path = "docs/configuration.md";

    private const string Start = """
        # Configuration

        `./dev docs write` generates this page from [appsettings.json](../appsettings.json) and from the bounds in the code.

        An environment variable overrides an option; its name has `__` in place of `:`, such as `Cache__Users__Ttl=00:05:00`. Times are
        `[days.]hours:minutes:seconds`. An invalid setting fails startup and is named in the error.

        """;

    /// <summary>The types that the sections are bound to; <c>*</c> stands for any name.</summary>
    private static readonly Dictionary<string, Type> Types = new()
    {
        ["ConnectionStrings"] = typeof(ConnectionStrings),
        ["Database"] = typeof(DatabaseOptions),
        ["Redis"] = typeof(RedisOptions),
        ["Cache"] = typeof(CachingOptions),
        ["Cache:Users"] = typeof(UserCacheOptions),
        ["Cache:UserLists"] = typeof(UserListCacheOptions),
        ["Cache:Geocoding"] = typeof(GeocodingCacheOptions),
        ["Cache:Weather"] = typeof(WeatherCacheOptions),
        ["WriteBehind"] = typeof(WriteBehindOptions),
        ["Weather"] = typeof(WeatherOptions),
        ["Weather:Budget"] = typeof(BudgetOptions),
        ["Sessions"] = typeof(SessionPolicy),
        ["RateLimits"] = typeof(RateLimitOptions),
        ["RateLimits:Policies:*"] = typeof(RateLimitSettings),
        ["Network"] = typeof(NetworkOptions),
        ["Admin"] = typeof(AdminOptions),
        ["Operations"] = typeof(OperationsOptions),
        ["Lab"] = typeof(LabOptions),
        ["Swagger"] = typeof(SwaggerOptions),
    };

    /// <summary>The service sets these from other sections.</summary>
    private static readonly string[] SetByTheService = ["Redis:Cache", "Redis:State", "Cache:Redis", "Cache:RedisState", "Cache:KeyPrefix"];

    public static string Generate()
    {
        var page = new StringBuilder(Start);
        foreach (var setting in Read().Children)
        {
            Write(page, setting);
        }

        return page.ToString().TrimEnd() + "\n";
    }

    /// <summary>Options that only the code has, or only appsettings.json.</summary>
    public static IEnumerable<string> Differences()
    {
        var documented = Descendants(Read()).Where(setting => !setting.IsSection).Select(setting => setting.Path).ToArray();
        var known = Types.Where(section => !section.Key.Contains('*', StringComparison.Ordinal))
            .SelectMany(section => section.Value.GetProperties().Where(IsOption).Select(property => $"{section.Key}:{property.Name}"))
            .Except(SetByTheService);
        var sections = Types.Keys.Select(section => section.Split(':')[0]).ToHashSet();
        return known.Except(documented).Concat(documented.Where(path => sections.Contains(path.Split(':')[0]) && PropertyOf(path) is null));

        static bool IsOption(PropertyInfo property) =>
            property.CanWrite && !property.PropertyType.Name.StartsWith("Dictionary", StringComparison.Ordinal);
    }

    private static void Write(StringBuilder page, Setting setting)
    {
        page.Append(CultureInfo.InvariantCulture, $"## {setting.Path}\n\n");
        if (!setting.IsSection)
        {
            WriteOptions(page, [setting]);
            return;
        }

        page.Append(setting.Comment.Length > 0 ? $"{Escape(setting.Comment)}\n\n" : "");

        WriteOptions(page, setting.Children.Where(child => !child.IsSection));
        var sections = setting.Children.Where(child => child.IsSection).ToArray();
        if (sections.Length > 1 && sections[1].Children.TrueForAll(child => sections[0].Children.Exists(one => one.Name == child.Name)))
        {
            WriteMatrix(page, sections);
            return;
        }

        foreach (var section in sections)
        {
            Write(page, section);
        }
    }

    private static void WriteOptions(StringBuilder page, IEnumerable<Setting> options, bool withDefault = true)
    {
        if (!options.Any())
        {
            return;
        }

        page.Append(withDefault
            ? "| option | default | allowed | meaning |\n|---|---|---|---|\n"
            : "| option | allowed | meaning |\n|---|---|---|\n");
        foreach (var option in options)
        {
            page.Append(CultureInfo.InvariantCulture, $"| `{(withDefault ? option.Path : option.Name)}` |");
            page.Append(withDefault ? $" `{option.Value}` |" : "").Append(CultureInfo.InvariantCulture, $"{Cell(Allowed(option.Path))}|");
            page.Append(CultureInfo.InvariantCulture, $"{Cell(Escape(option.Comment))}|\n");
        }

        page.Append('\n');
    }

    /// <summary>Sections with the same options: the meaning of each option from the first section, and a row for each section.</summary>
    private static void WriteMatrix(StringBuilder page, Setting[] sections)
    {
        var columns = sections[0].Children;
        WriteOptions(page, columns, withDefault: false);
        page.Append(CultureInfo.InvariantCulture, $"| section | {string.Join(" | ", columns.Select(column => column.Name))} | |\n");
        page.Append(CultureInfo.InvariantCulture, $"|---|{string.Concat(columns.Select(_ => "---|"))}---|\n");
        foreach (var section in sections)
        {
            var values = columns.Select(column => section.Children.Find(child => child.Name == column.Name)?.Value);
            var cells = values.Select(value => value is null ? "" : $"`{value}`");
            page.Append(CultureInfo.InvariantCulture, $"| `{section.Path}` | {string.Join(" | ", cells)} | {Escape(section.Comment)} |\n");
        }

        page.Append('\n');
    }

    private static string Allowed(string path)
    {
        if (PropertyOf(path) is not { } property)
        {
            return "";
        }

        var bounds = property.GetCustomAttributes<ValidationAttribute>().Select(attribute => attribute switch
        {
            RangeAttribute range => $"`{Text(range.Minimum)}` to `{Text(range.Maximum)}`",
            TimeSpanRangeAttribute range => $"`{range.Minimum}` to `{range.Maximum}`",
            AllowedValuesAttribute values => string.Join(", ", values.Values.Select(value => $"`{value}`")),
            RegularExpressionAttribute expression => $"`{expression.Pattern}`",
            StringLengthAttribute length => $"{length.MaximumLength} characters at most",
            _ => "",
        });
        var text = string.Join(", ", bounds.Where(bound => bound.Length > 0));
        return text.Length == 0 && property.PropertyType == typeof(bool) ? "`true`, `false`" : text;

        static string Text(object bound) => Convert.ToString(bound, CultureInfo.InvariantCulture)!;
    }

    private static PropertyInfo? PropertyOf(string path)
    {
        var (section, name) = path.LastIndexOf(':') is var end and >= 0 ? (path[..end], path[(end + 1)..]) : ("", path);
        var type = Types.GetValueOrDefault(section) ?? Types.GetValueOrDefault($"{section[..(section.LastIndexOf(':') + 1)]}*");
        return type?.GetProperty(name);
    }

    private static string Cell(string text) => text.Length > 0 ? $" {text} " : " ";

    private static string Escape(string text) =>
        text.Replace("|", "\\|", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal);

    private static IEnumerable<Setting> Descendants(Setting setting) => setting.Children.Concat(setting.Children.SelectMany(Descendants));

    private static Setting Read()
    {
        // A comment before an empty line describes the file.
        var text = Regex.Replace(File.ReadAllText(ComposeTests.Root("appsettings.json")), @"(?m)(^\s*//.*\n)+\s*\n", "");
        var json = new Utf8JsonReader(Encoding.UTF8.GetBytes(text), new() { CommentHandling = JsonCommentHandling.Allow });
        json.Read();
        return ReadSection(ref json, "", "");
    }

    private static Setting ReadSection(ref Utf8JsonReader json, string path, string comment)
    {
        var section = new Setting(path, comment, Value: null, []);
        var (name, lines) = ("", new List<string>());
        while (json.Read() && json.TokenType != JsonTokenType.EndObject)
        {
            switch (json.TokenType)
            {
                case JsonTokenType.Comment:
                    lines.Add(json.GetComment().Trim());
                    break;
                case JsonTokenType.PropertyName:
                    name = path.Length == 0 ? json.GetString()! : $"{path}:{json.GetString()}";
                    break;
                default:
                    section.Children.Add(ReadValue(ref json, name, string.Join(' ', lines)));
                    lines.Clear();
                    break;
            }
        }

        return section;
    }

    private static Setting ReadValue(ref Utf8JsonReader json, string path, string comment)
    {
        switch (json.TokenType)
        {
            case JsonTokenType.StartObject:
                return ReadSection(ref json, path, comment);
            case JsonTokenType.StartArray:
                Assert.True(json.Read() && json.TokenType == JsonTokenType.EndArray, $"{path}: the page can show only empty lists.");
                return new(path, comment, "[]", []);
            default:
                var value = Encoding.UTF8.GetString(json.ValueSpan);
                return new(path, comment, value.Length > 0 ? value : "\"\"", []);
        }
    }
}
