using System.Reflection;
using System.Runtime.Loader;
using Mono.Cecil;
using Mono.Cecil.Cil;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// The library, as it is built, on the clock, the scheduler and the Redis of a simulation. Its calls to the clock of the machine, to
/// timers, to the thread pool and to the client of Redis are replaced in its compiled code by the members of this folder that name them.
/// So the library itself has no seam for simulations, and every line of it takes part.
/// </summary>
/// <remarks>
/// It is loaded beside the library of the other tests, and this assembly is loaded a second time to use it.
/// </remarks>
internal sealed class SimulatedLibrary : AssemblyLoadContext
{
    /// <summary>Nothing in the library may use these except through a replacement: a simulation would not control it.</summary>
    private static readonly string[] Uncontrolled =
    [
        "System.Environment::get_TickCount64", "System.Guid::NewGuid", "System.Random::get_Shared", "System.Random::.ctor",
        "System.Diagnostics.Stopwatch::GetTimestamp", "System.Threading.Tasks.Task::Run", "System.Threading.Tasks.Task::Delay",
        "System.Threading.Tasks.Task::WaitAsync", "System.Threading.Tasks.Task`1::WaitAsync", "System.Threading.Tasks.Task::WhenEach",
        "System.Threading.Tasks.Task::ConfigureAwait", "System.Threading.Tasks.Task`1::ConfigureAwait",
        "System.Threading.Tasks.TaskScheduler::get_Default", "System.Threading.Tasks.TaskFactory::StartNew",
        "System.Threading.ThreadPool::QueueUserWorkItem", "System.Threading.ThreadPool::UnsafeQueueUserWorkItem",
        "System.Threading.Thread::.ctor", "System.Threading.PeriodicTimer::.ctor", "System.Threading.Timer::.ctor",
        "System.Threading.SemaphoreSlim::WaitAsync", "System.Threading.CancellationTokenSource::CancelAfter",
        "System.Threading.CancellationTokenSource::CancelAsync", "System.Threading.Tasks.Parallel::ForEachAsync",
    ];

    private static readonly AssemblyName Own = typeof(SimulatedLibrary).Assembly.GetName();

    /// <summary>What scenarios use of the library and of the service.</summary>
    private static readonly string[] Used =
        ["CachingApi.Caching.", "CachingApi.Redis.", "CachingApi.RateLimiting.", "CachingApi.Sessions.Session"];

    private static readonly string Folder = Path.GetDirectoryName(typeof(SimulatedLibrary).Assembly.Location)!;

    private readonly string _from;
    private readonly Dictionary<string, Type> _types = [];
    private readonly Dictionary<string, MethodInfo> _members = [];

    /// <param name="from">The folder of the library's assemblies, which may be of a mutant; <c>null</c> for the one under test.</param>
    public SimulatedLibrary(string? from = null) : base("simulation")
    {
        _from = from ?? Folder;
        foreach (var type in typeof(SimulatedLibrary).Assembly.GetTypes())
        {
            foreach (var stands in type.GetCustomAttributes<StandsForAttribute>())
            {
                _types.Add(stands.Type, type);
            }

            foreach (var method in type.GetMethods(BindingFlags.Static | BindingFlags.Public | BindingFlags.DeclaredOnly))
            {
                foreach (var replaces in method.GetCustomAttributes<ReplacesAttribute>())
                {
                    _members.Add(replaces.Member, method);
                }
            }
        }
    }

    /// <summary>Calls <see cref="Explorer.Run(string[])"/> on the simulated library.</summary>
    public string[] Explore(string scenario, ulong firstSeed, int count, TimeSpan limit, bool withSteps) => Call(
        nameof(Explorer.Run),
        [scenario, $"{firstSeed}", $"{count}", $"{(int)limit.TotalSeconds}", $"{Environment.ProcessorCount}", $"{withSteps}"]);

    /// <summary>Calls <see cref="Explorer.Trace"/> on the simulated library.</summary>
    public string[] Trace(string scenario, ulong seed) => Call(nameof(Explorer.Trace), [scenario, $"{seed}"]);

    protected override Assembly? Load(AssemblyName assemblyName) => assemblyName.Name switch
    {
        "CachingApi.Caching" or "CachingApi.Redis" or "CachingApi" => LoadFromStream(Rewritten(assemblyName.Name)),
        var name when name == Own.Name => LoadFromAssemblyPath(typeof(SimulatedLibrary).Assembly.Location),
        _ => null,
    };

    /// <summary>Whether no scenario uses a type, so that it may call what a simulation does not control.</summary>
    private static bool IsUnused(string type) => type is "CachingApi.Caching.Operations.Warming" or "CachingApi.Redis.RedisInfo"
        || (type.StartsWith("CachingApi.", StringComparison.Ordinal)
            && !Used.Any(name => type.StartsWith(name, StringComparison.Ordinal)));

    private string[] Call(string method, string[] arguments)
    {
        var explorer = LoadFromAssemblyName(Own).GetType(typeof(Explorer).FullName!)!;
        return explorer.GetMethod(method, [typeof(string[])])!.CreateDelegate<Func<string[], string[]>>()(arguments);
    }

    private MemoryStream Rewritten(string name)
    {
        using var resolver = new DefaultAssemblyResolver();
        resolver.AddSearchDirectory(_from);
        resolver.AddSearchDirectory(Folder);
        using var module = ModuleDefinition.ReadModule(
            Path.Combine(_from, $"{name}.dll"), new ReaderParameters { AssemblyResolver = resolver });
        foreach (var method in module.GetTypes().SelectMany(type => type.Methods).Where(method => method.HasBody))
        {
            foreach (var instruction in method.Body.Instructions)
            {
                if (instruction.Operand is MethodReference called)
                {
                    Replace(module, method, instruction, called);
                }
            }
        }

        foreach (var reference in module.GetTypeReferences().Where(reference => _types.ContainsKey(reference.FullName)).ToArray())
        {
            var type = module.ImportReference(_types[reference.FullName]);
            (reference.Scope, reference.Namespace, reference.Name) = (type.Scope, type.Namespace, type.Name);
        }

        var rewritten = new MemoryStream();
        module.Write(rewritten);
        rewritten.Position = 0;
        return rewritten;
    }

    private void Replace(ModuleDefinition module, MethodDefinition method, Instruction instruction, MethodReference called)
    {
        var type = called.DeclaringType.GetElementType().FullName;
        var member = $"{type}::{called.Name}({string.Join(',', called.Parameters.Select(parameter => parameter.ParameterType.Name))})";
        if (instruction.Previous?.OpCode == OpCodes.Constrained || !_members.TryGetValue(member, out var replacement))
        {
            var owner = method.DeclaringType;
            while (owner.DeclaringType is not null)
            {
                owner = owner.DeclaringType;
            }

            if (!_types.ContainsKey(type) && Uncontrolled.Contains($"{type}::{called.Name}") && !IsUnused(owner.FullName))
            {
                throw new NotSupportedException($"{method.FullName} calls {member}, which a simulation does not control.");
            }

            return;
        }

        var imported = module.ImportReference(replacement);
        var arguments = (called.DeclaringType as GenericInstanceType)?.GenericArguments
            .Concat((called as GenericInstanceMethod)?.GenericArguments ?? [])
            ?? (called as GenericInstanceMethod)?.GenericArguments;
        if (arguments is not null)
        {
            var generic = new GenericInstanceMethod(imported);
            foreach (var argument in arguments)
            {
                generic.GenericArguments.Add(argument);
            }

            imported = generic;
        }

        (instruction.OpCode, instruction.Operand) = (OpCodes.Call, imported);
    }
}
