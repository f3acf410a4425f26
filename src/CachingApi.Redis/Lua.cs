namespace CachingApi.Redis;

/// <summary>The Lua scripts, each a file beside the class that runs it.</summary>
internal static class Lua
{
    /// <summary>The text of a script, such as <c>compare_and_set.lua</c>. It is sent once; later calls use its hash.</summary>
    /// <param name="owner">A class of the assembly that the script is embedded in.</param>
    public static string Load(Type owner, string name)
    {
        using var stream = owner.Assembly.GetManifestResourceStream(name)
            ?? throw new ArgumentException($"The script {name} does not exist.", nameof(name));
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd();
    }
}
