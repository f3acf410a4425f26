using System.Collections.Concurrent;
using System.Reflection;
using Microsoft.Extensions.DependencyInjection;

namespace CachingApi.Caching.Tests.Simulation;

/// <summary>
/// The services of one simulated process: singletons, made when they are first asked for. Unlike a <see cref="ServiceProvider"/>, it keeps
/// what it has learned about the registrations for the next process, so a process costs no reflection.
/// </summary>
/// <param name="given">Services that exist before the process: see <see cref="Given{T}"/>.</param>
internal sealed class SimulatedServices(SimulatedServices.Registrations registrations, params object[] given)
    : IKeyedServiceProvider, IServiceScopeFactory, IAsyncDisposable
{
    private readonly List<object> _made = [];
    private object?[] _instances = new object?[registrations.Count];

    /// <summary>Registers a service that each process is given.</summary>
    public static void AddGiven<T>(IServiceCollection services) where T : class =>
        services.AddSingleton(provider => ((SimulatedServices)provider).Given<T>());

    private T Given<T>() => given.OfType<T>().Single();

    public object? GetService(Type serviceType) => Get(registrations.Of(serviceType, key: null));

    public object? GetKeyedService(Type serviceType, object? serviceKey) => Get(registrations.Of(serviceType, serviceKey));

    public object GetRequiredKeyedService(Type serviceType, object? serviceKey) =>
        GetKeyedService(serviceType, serviceKey) ?? throw new InvalidOperationException($"There is no {serviceType}.");

    public IServiceScope CreateScope() => new Scope(this);

    public async ValueTask DisposeAsync()
    {
        foreach (var service in Enumerable.Reverse(_made))
        {
            if (service is IAsyncDisposable asynchronous)
            {
                await asynchronous.DisposeAsync();
            }
            else
            {
                (service as IDisposable)?.Dispose();
            }
        }
    }

    private object? Get(Service? service)
    {
        if (service is null)
        {
            return null;
        }

        if (service.Place >= _instances.Length)
        {
            Array.Resize(ref _instances, registrations.Count);
        }

        if (_instances[service.Place] is not { } instance)
        {
            instance = service.Make(this); // which may make other services, and room for them
            _instances[service.Place] = instance;
            if (!ReferenceEquals(instance, this))
            {
                _made.Add(instance);
            }
        }

        return instance;
    }

    private sealed class Scope(IServiceProvider services) : IServiceScope
    {
        public IServiceProvider ServiceProvider => services;

        public void Dispose()
        {
            // It has no services of its own.
        }
    }

    /// <summary>A registration, which has the same place in every process.</summary>
    internal sealed record Service(int Place, Func<SimulatedServices, object> Make);

    /// <summary>The registrations of all processes of a scenario.</summary>
    internal sealed class Registrations(IServiceCollection services)
    {
        private readonly ConcurrentDictionary<(Type Type, object? Key), Service?> _services = new();
        private readonly ConcurrentDictionary<(ServiceDescriptor Descriptor, Type Type), Service> _registered = new();
        private readonly Lock _lock = new();

        public int Count { get; private set; }

        public Service? Of(Type type, object? key)
        {
            if (_services.TryGetValue((type, key), out var service))
            {
                return service;
            }

            lock (_lock)
            {
                return _services[(type, key)] = Find(type, key);
            }
        }

        private Service? Find(Type type, object? key)
        {
            if (type == typeof(IServiceProvider) || type == typeof(IServiceScopeFactory))
            {
                return new(Count++, process => process);
            }

            if (type.IsGenericType && type.GetGenericTypeDefinition() == typeof(IEnumerable<>))
            {
                var item = type.GetGenericArguments()[0];
                var all = Registered(item, key).ToArray();
                return new(Count++, process =>
                {
                    var items = Array.CreateInstance(item, all.Length);
                    for (var at = 0; at < all.Length; at++)
                    {
                        items.SetValue(process.Get(all[at]), at);
                    }

                    return items;
                });
            }

            return Registered(type, key).LastOrDefault();
        }

        private IEnumerable<Service> Registered(Type type, object? key) => services
            .Where(each => Equals(each.ServiceKey, key)
                && (each.ServiceType == type || (type.IsGenericType && each.ServiceType == type.GetGenericTypeDefinition())))
            .Select(each => _registered.GetOrAdd((each, type), _ => new(Count++, Maker(each, type))));

        private static Func<SimulatedServices, object> Maker(ServiceDescriptor of, Type type)
        {
            if (of.IsKeyedService)
            {
                return process => of.KeyedImplementationFactory!(process, of.ServiceKey);
            }

            if (of.ImplementationFactory is { } factory)
            {
                return process => factory(process);
            }

            if (of.ImplementationInstance is { } instance)
            {
                return _ => instance;
            }

            var made = of.ImplementationType!.IsGenericTypeDefinition
                ? of.ImplementationType.MakeGenericType(type.GetGenericArguments())
                : of.ImplementationType;
            var constructor = made.GetConstructors().MaxBy(each => each.GetParameters().Length)!;
            var (invoker, parameters) = (ConstructorInvoker.Create(constructor), constructor.GetParameters());
            return process =>
            {
                var arguments = new object?[parameters.Length];
                for (var at = 0; at < arguments.Length; at++)
                {
                    arguments[at] = process.GetService(parameters[at].ParameterType)
                        ?? throw new InvalidOperationException($"{made} needs {parameters[at].ParameterType}, which is not registered.");
                }

                return invoker.Invoke(arguments.AsSpan());
            };
        }
    }
}
