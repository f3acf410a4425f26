using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;

namespace CachingApi.Tests;

/// <summary>Each folder of the service uses only the folders below it. Between projects, the references enforce that.</summary>
public sealed class DependencyDirectionTests
{
    [Theory]
    [InlineData("Storage", "RateLimiting|Users|Sessions|Weather|Hosting|Administration|ChangeCapture")]
    [InlineData("ChangeCapture", "RateLimiting|Users|Sessions|Weather|Hosting|Administration")]
    [InlineData("RateLimiting", "Caching|Users|Sessions|Weather|Hosting|Administration|ChangeCapture")]
    [InlineData("Hosting", "Users|Sessions|Weather|Administration|ChangeCapture")]
    [InlineData("Administration", "Users|Sessions|Weather|ChangeCapture")]
    [InlineData("Sessions", "Users|Weather|Administration|ChangeCapture")]
    [InlineData("Users", "Weather")]
    [InlineData("Weather", "Users|Sessions")]
    public void A_folder_never_names_a_folder_above_or_beside_it(string folder, string others) =>
        Assert.DoesNotContain(
            Sources(folder), file => Regex.IsMatch(Code(file), $@"\bCachingApi\.({others})\b|(?<![\w.])({others})\.[A-Z]"));

    [Fact]
    public void Users_uses_only_the_caller_the_passwords_and_the_ends_of_sessions() =>
        Assert.Equal(
            [
                "Account", "Caller", "Email", "EmailFormat", "NewPassword", "Password", "PasswordRules", "Passwords",
                "RecentAuthentication", "SecurityEvents", "SessionAuthentication", "SessionService",
            ],
            Sources("Users")
                .SelectMany(file => Regex
                    .Matches(Code(file), $@"(?<![\w.])({string.Join('|', TypesOf("Sessions"))})\b(?!\s*[;=,{{}}])")
                    .Select(match => match.Groups[1].Value))
                .Where(name => name != "Session")
                .Distinct()
                .Order());

    private static IEnumerable<string> TypesOf(string folder) => Sources(folder)
        .SelectMany(
            file => Regex.Matches(Code(file), @"\b(?:class|record|record struct|enum) ([A-Z]\w+)").Select(match => match.Groups[1].Value))
        .Select(name => name.EndsWith("Attribute", StringComparison.Ordinal) ? name[..^"Attribute".Length] : name)
        .Where(name => name is not ("struct" or "Log"));

    private static string[] Sources(string folder)
    {
        var path = Path.Combine(Root(), "src", "CachingApi", folder);
        return Directory.Exists(path) ? Directory.GetFiles(path, "*.cs", SearchOption.AllDirectories) : [];
    }

    private static string Code(string file) => Regex.Replace(File.ReadAllText(file), "//.*", "");

    private static string Root([CallerFilePath] string here = "") =>
        Path.GetFullPath(Path.Combine(Path.GetDirectoryName(here)!, "..", ".."));
}
