using System.Buffers;
using System.Diagnostics.CodeAnalysis;
using System.Text;
using CachingApi.Caching.Hybrid;
using Microsoft.Extensions.Caching.Hybrid;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

/// <summary>
/// <see cref="HybridCache"/> as a cache of the engine: one load across all processes, no stale set, removals that other processes see at
/// once, and a deadline for Redis. A memory hit compares the stamps of the entry's tags and looks nothing else up.
/// </summary>
internal sealed partial class TieredHybridCache : HybridCache
{
    private const string AllTags = "*";
    private const ReadSkips AllWrites = ReadSkips.MemoryWrite | ReadSkips.RedisWrite;
    private const ReadSkips AllSkips = AllWrites | ReadSkips.MemoryRead | ReadSkips.RedisRead | ReadSkips.Load;

    private static readonly TimeSpan DefaultExpiration = TimeSpan.FromMinutes(5);

    private readonly HybridCacheSettings _settings;
    private readonly CacheEngine _engine;
    private readonly Replacement _replacement;
    private readonly HybridFormat _format;
    private readonly HybridCodecs _codecs;
    private readonly TagTable _tags;
    private readonly ILogger _log;

    public TieredHybridCache(
        IOptions<HybridCacheSettings> settings,
        CacheEngine engine,
        Replacement replacement,
        HybridFormat format,
        HybridCodecs codecs,
        ILogger<TieredHybridCache> log)
    {
        (_settings, _engine, _replacement, _log) = (settings.Value, engine, replacement, log);
        (_format, _tags, _codecs) = (format, format.Tags, codecs);
        var definition = new CacheDefinition<HybridValue>(_settings.Name)
        {
            FreshUntil = FreshUntil,
            MaxLoads = _settings.MaximumLoads,
            LimitsItsEntries = true,
        };

        // An early refresh would run a caller's factory after the caller's request, with services of a scope that has ended.
        var options = new CacheOptions
        {
            Ttl = _settings.MaximumExpiration,
            MemoryTtl = _settings.MaximumExpiration,
            MemoryEntries = _settings.MemoryEntries,
            EarlyRefresh = false,
            Jitter = 0,
        };
        Entries = new(definition, options, _format, engine);
    }

    /// <summary>The cache of the engine that holds the entries.</summary>
    public Cache<HybridValue> Entries { get; }

    /// <summary>The tags that this process tracks.</summary>
    public TagTable Tags => _tags;

    public override ValueTask<T> GetOrCreateAsync<TState, T>(
        string key,
        TState state,
        Func<TState, CancellationToken, ValueTask<T>> factory,
        HybridCacheEntryOptions? options = null,
        IEnumerable<string>? tags = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(factory);
        cancellationToken.ThrowIfCancellationRequested();
        var skips = SkipsOf(options);
        if (!IsValid(key))
        {
            return (skips & ReadSkips.Load) == 0 ? factory(state, cancellationToken) : default;
        }

        return (skips & ReadSkips.MemoryRead) == 0 && TryFind<T>(key, out var value)
            ? new(value)
            : CreateAsync(
                key,
                (state, factory),
                static (call, _, cancel) => call.factory(call.state, cancel),
                skips,
                options,
                tags,
                cancellationToken);
    }

    /// <summary>As above; the factory decides how long its value is kept.</summary>
    public ValueTask<T> GetOrCreateAsync<TState, T>(
        string key,
        TState state,
        Func<TState, HybridCacheLoad, CancellationToken, ValueTask<T>> factory,
        HybridCacheEntryOptions? options,
        IEnumerable<string>? tags,
        CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        var skips = SkipsOf(options);
        if (!IsValid(key))
        {
            return (skips & ReadSkips.Load) == 0 ? factory(state, new(ExpirationOf(options)), cancel) : default;
        }

        return (skips & ReadSkips.MemoryRead) == 0 && TryFind<T>(key, out var value)
            ? new(value)
            : CreateAsync(key, state, factory, skips, options, tags, cancel);
    }

    /// <summary>The value if it is cached.</summary>
    public ValueTask<HybridCacheResult<T>> TryGetAsync<T>(string key, HybridCacheEntryOptions? options, CancellationToken cancel)
    {
        cancel.ThrowIfCancellationRequested();
        var skips = SkipsOf(options) | ReadSkips.Load;
        return !IsValid(key) ? default
            : (skips & ReadSkips.MemoryRead) == 0 && TryFind<T>(key, out var value) ? new(new HybridCacheResult<T>(true, value))
            : ReadAsync<object?, T>(key, null, null, skips, options, tags: null, cancel);
    }

    public override async ValueTask SetAsync<T>(
        string key,
        T value,
        HybridCacheEntryOptions? options = null,
        IEnumerable<string>? tags = null,
        CancellationToken cancellationToken = default)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var (skips, named) = (SkipsOf(options), TagsOf(tags));
        if (!IsValid(key) || named is null || (skips & AllWrites) == AllWrites)
        {
            return;
        }

        // A write that has begun is finished, even if its caller cancels: other processes must not keep the value before it.
        await _tags.LearnAsync(named, CancellationToken.None);
        await _replacement.SetAsync(
            Entries.Key(key),
            ValueOf(value, named, ExpirationOf(options), isKept: true),
            new(skips, MemoryTtlOf(options)),
            CancellationToken.None);
    }

    public override ValueTask RemoveAsync(string key, CancellationToken cancellationToken = default)
    {
        cancellationToken.ThrowIfCancellationRequested();
        return IsValid(key) ? new(_engine.Invalidation.InvalidateAsync(Entries, key, CancellationToken.None)) : default;
    }

    public override ValueTask RemoveAsync(IEnumerable<string> keys, CancellationToken cancellationToken = default) =>
        new(Task.WhenAll((keys ?? []).Distinct().Select(key => RemoveAsync(key, cancellationToken).AsTask())));

    public override ValueTask RemoveByTagAsync(string tag, CancellationToken cancellationToken = default)
    {
        cancellationToken.ThrowIfCancellationRequested();
        return tag is AllTags ? new(Entries.ClearAsync(CancellationToken.None))
            : string.IsNullOrWhiteSpace(tag) || !IsWellFormed(tag) ? default
            : new(RemoveTagAsync(tag));
    }

    public override ValueTask RemoveByTagAsync(IEnumerable<string> tags, CancellationToken cancellationToken = default) =>
        new(Task.WhenAll((tags ?? []).Distinct().Select(tag => RemoveByTagAsync(tag, cancellationToken).AsTask())));

    /// <summary>Removes an entry from the memory of this process alone.</summary>
    public void RemoveFromMemory(string key)
    {
        ArgumentNullException.ThrowIfNull(key);
        Entries.EvictFromMemory(key);
    }

    /// <summary>The value that memory holds, if it may be served.</summary>
    private bool TryFind<T>(string key, [MaybeNullWhen(false)] out T value)
    {
        if (Find(key) is { } entry
            && _format.Parse(entry) is var parsed
            && (parsed.Codec as HybridCodec<T> ?? CodecOf<T>(parsed)) is { } codec)
        {
            Entries.CountMemoryHit(entry.Kind is EntryKind.Negative);
            value = codec.Read(entry, parsed);
            return true;
        }

        value = default;
        return false;
    }

    /// <summary>The entry that memory holds, if it may be served.</summary>
    private CacheEntry? Find(string key) =>
        _engine.CacheAside.Find(Entries.Key(key)) is { } entry && _format.Parse(entry).HasCurrentTags ? entry : null;

    private async ValueTask<T> CreateAsync<TState, T>(
        string key,
        TState state,
        Func<TState, HybridCacheLoad, CancellationToken, ValueTask<T>> factory,
        ReadSkips skips,
        HybridCacheEntryOptions? options,
        IEnumerable<string>? tags,
        CancellationToken cancel) =>
        (await ReadAsync(key, state, factory, skips, options, tags, cancel)).Value!;

    private async ValueTask<HybridCacheResult<T>> ReadAsync<TState, T>(
        string key,
        TState state,
        Func<TState, HybridCacheLoad, CancellationToken, ValueTask<T>>? factory,
        ReadSkips skips,
        HybridCacheEntryOptions? options,
        IEnumerable<string>? tags,
        CancellationToken cancel)
    {
        if ((skips & ReadSkips.MemoryRead) == 0 && Find(key) is { } held)
        {
            // It was not served, so it may be of another type.
            CodecOf<T>(key, held, _format.Parse(held));
        }

        var named = TagsOf(tags);
        var read = new Read<TState, T>(this, key, state, factory, named, ExpirationOf(options));
        var left = new ReadOptions(skips | ReadSkips.MemoryRead, MemoryTtlOf(options));
        var call = new ReadCall<HybridValue>(read.LoadAsync, Admit: null, left) { Check = read };
        var result = await _engine.CacheAside.GetAsync(Entries.Key(key), call, cancel);
        if (!result.Found)
        {
            return default;
        }

        var parsed = _format.Parse(result.Entry);
        return CodecOf<T>(key, result.Entry, parsed) is { } codec ? new(true, codec.Read(result.Entry, parsed)) : default;
    }

    private async Task RemoveTagAsync(string tag)
    {
        if (!await _tags.RemoveAsync(tag, CancellationToken.None))
        {
            // While Redis is away, a clear of the cache is queued: it removes the tag's entries, too.
            await Entries.ClearAsync(CancellationToken.None);
        }
    }

    private HybridValue<T> ValueOf<T>(T value, IReadOnlyList<Tag> tags, TimeSpan expiration, bool isKept) =>
        ValueOf(value, StampsOf(tags), expiration, isKept);

    private HybridValue<T> ValueOf<T>(T value, StampedTag[]? stamped, TimeSpan expiration, bool isKept) =>
        new(value, _codecs.Of<T>()) { IsKept = isKept && stamped is not null, Expiration = expiration, Tags = stamped ?? [] };

    /// <summary>The stamps that are in force; <c>null</c> if one is not known.</summary>
    private StampedTag[]? StampsOf(IReadOnlyList<Tag> tags)
    {
        var stamped = tags.Count == 0 ? [] : new StampedTag[tags.Count];
        for (var i = 0; i < stamped.Length; i++)
        {
            // The stamp is read before it is known whether it is in force, so that one from before an interruption is not used.
            stamped[i] = new(tags[i], tags[i].Stamp);
            if (!_tags.IsKnown(tags[i]))
            {
                return null;
            }
        }

        return stamped;
    }

    private DateTimeOffset FreshUntil(HybridValue value, DateTimeOffset now)
    {
        if (!value.IsKept)
        {
            return now;
        }

        return now + (Bounded(value.Expiration)!.Value * (1 - (_settings.Jitter * Random.Shared.NextDouble())));
    }

    /// <summary>The codec of an entry's payload; <c>null</c> if another build wrote it in another format, which counts as a miss.</summary>
    /// <exception cref="InvalidOperationException">This process uses the key for another type, too.</exception>
    private HybridCodec<T>? CodecOf<T>(string key, CacheEntry entry, HybridEntry parsed)
    {
        if ((parsed.Codec as HybridCodec<T> ?? CodecOf<T>(parsed)) is { } codec)
        {
            return codec;
        }

        var (typeName, wanted) = (HybridFormat.TypeNameIn(entry), _codecs.Of<T>().TypeName);
        return typeName != wanted && _codecs.Know(typeName)
            ? throw new InvalidOperationException(
                $"The key '{key}' holds a {typeName} and is read as a {wanted}: use different keys for different types.")
            : null;
    }

    private HybridCodec<T>? CodecOf<T>(HybridEntry parsed)
    {
        var codec = _codecs.Of<T>();
        if (parsed.Format != codec.Format)
        {
            return null;
        }

        parsed.Codec = codec;
        return codec;
    }

    private ReadSkips SkipsOf(HybridCacheEntryOptions? options) =>
        (ReadSkips)(options?.Flags ?? _settings.DefaultEntryOptions?.Flags ?? HybridCacheEntryFlags.None) & AllSkips;

    private TimeSpan ExpirationOf(HybridCacheEntryOptions? options) =>
        options?.Expiration ?? _settings.DefaultEntryOptions?.Expiration ?? DefaultExpiration;

    /// <summary>An entry's own expiration also bounds its time in memory, unless it has a shorter one for that.</summary>
    private TimeSpan? MemoryTtlOf(HybridCacheEntryOptions? options) => Bounded(
        options?.LocalCacheExpiration ?? options?.Expiration ?? _settings.DefaultEntryOptions?.LocalCacheExpiration);

    private TimeSpan? Bounded(TimeSpan? expiration) =>
        expiration > _settings.MaximumExpiration ? _settings.MaximumExpiration
        : expiration < TimeSpan.Zero ? TimeSpan.Zero
        : expiration;

    /// <summary>The tags of a caller; <c>null</c> if one is not valid Unicode, and two of them could be one in Redis.</summary>
    private Tag[]? TagsOf(IEnumerable<string>? tags)
    {
        if (tags is null)
        {
            return [];
        }

        var names = tags.Distinct().ToArray();
        foreach (var name in names)
        {
            if (string.IsNullOrWhiteSpace(name) || name is AllTags)
            {
                throw new ArgumentException($"A tag must be neither empty nor '{AllTags}', which stands for all entries.", nameof(tags));
            }

            if (!IsWellFormed(name))
            {
                Log.NotUnicode(_log, "tag");
                return null;
            }
        }

        return Array.ConvertAll(names, _tags.Get);
    }

    private bool IsValid(string key)
    {
        if (string.IsNullOrWhiteSpace(key) || key.Length > _settings.MaximumKeyLength || key.AsSpan().ContainsAnyInRange('\0', '\x1F'))
        {
            Log.InvalidKey(_log, key?.Length ?? 0, _settings.MaximumKeyLength);
            return false;
        }

        if (!IsWellFormed(key))
        {
            Log.NotUnicode(_log, "key");
            return false;
        }

        return true;
    }

    private static bool IsWellFormed(string text)
    {
        ReadOnlySpan<char> rest = text;
        while (rest.IndexOfAnyInRange('\uD800', '\uDFFF') is var at and >= 0)
        {
            if (Rune.DecodeFromUtf16(rest[at..], out _, out var consumed) is not OperationStatus.Done)
            {
                return false;
            }

            rest = rest[(at + consumed)..];
        }

        return true;
    }

    private static partial class Log
    {
        [LoggerMessage(1, LogLevel.Warning,
            "A value is not cached: its key has {Length} characters; 1 to {Limit} are allowed, and no control characters")]
        public static partial void InvalidKey(ILogger log, int length, int limit);

        [LoggerMessage(2, LogLevel.Warning, "A {What} is not valid Unicode: the value is not cached")]
        public static partial void NotUnicode(ILogger log, string what);
    }
}
