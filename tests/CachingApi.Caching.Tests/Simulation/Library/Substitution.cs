namespace CachingApi.Caching.Tests.Simulation;

/// <summary>In a simulation, the library uses this type in place of another: see <see cref="SimulatedLibrary"/>.</summary>
/// <param name="type">The full name of the other type.</param>
[AttributeUsage(AttributeTargets.Class | AttributeTargets.Struct, AllowMultiple = true)]
internal sealed class StandsForAttribute(string type) : Attribute
{
    public string Type => type;
}

/// <summary>In a simulation, the library calls this static method in place of a method, a property or a constructor.</summary>
/// <param name="member">Such as <c>System.Threading.Tasks.Task::Delay(TimeSpan,CancellationToken)</c>.</param>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
internal sealed class ReplacesAttribute(string member) : Attribute
{
    public string Member => member;
}
