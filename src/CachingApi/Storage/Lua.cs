using System.Reflection;

namespace CachingApi.Storage;

/// <summary>The Lua scripts, each a file beside the class that runs it.</summary>
internal static class Lua
{
    /// <summary>The text of the script <paramref name="name"/>, such as <c>compare_and_set.lua</c>; it is sent once, then by hash.</summary>
    public static string Load(string name)
    {
        using var stream = Assembly.GetExecutingAssembly().GetManifestResourceStream(name)
            ?? throw new ArgumentException($"There is no script {name}.", nameof(name));
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd();
    }
}
