// Side by side, in one run, so that the ratios hold on any machine: ./dev bench, or one part of it: ./dev bench eviction
using System.Runtime.InteropServices;
using CachingApi.Benchmarks;

// The measured hosts also handle the signal, but end only themselves.
using var stop = PosixSignalRegistration.Create(PosixSignal.SIGTERM, _ => Environment.Exit(143));

var (postgres, redis, state) = (Connection("Postgres"), Connection("Redis"), Connection("RedisState"));
switch (args)
{
    case ["eviction", var redisServer]:
        await EvictionBenchmark.RunAsync(redisServer);
        break;
    case ["engine"]:
        await EngineBenchmark.RunAsync(redis);
        break;
    case ["http"]:
        await HttpAsync(isBrief: false);
        break;
    case ["brief"]:
        await HttpAsync(isBrief: true);
        break;
    case ["rate-limit"]:
        await RateLimitBenchmark.RunAsync(redis);
        break;
    case ["write-behind"]:
        await WriteBehindBenchmark.RunAsync(postgres, redis, state);
        break;
    case ["stock", var url, var database, var cache]:
        await StockService.RunAsync(url, database, cache);
        break;
    case ["bare", var url]:
        await BareService.RunAsync(url);
        break;
    default:
        await HttpAsync(isBrief: false);
        await EngineBenchmark.RunAsync(redis);
        await RateLimitBenchmark.RunAsync(redis);
        await WriteBehindBenchmark.RunAsync(postgres, redis, state);
        break;
}

async Task HttpAsync(bool isBrief)
{
    await using var benchmark = new HttpBenchmark(postgres, redis, state, isBrief);
    await benchmark.RunAsync();
}

static string Connection(string server) => Environment.GetEnvironmentVariable($"ConnectionStrings__{server}") ?? "";
