using CachingApi.Redis;
using StackExchange.Redis;

namespace CachingApi.Caching;

/// <remarks>The stamps of tags: see <see cref="TagTable"/>.</remarks>
internal sealed partial class RedisTier
{
    /// <summary>
    /// How long a stamp is kept. After that, the tag gets another stamp, and the entries that carry the tag are loaded again.
    /// </summary>
    private static readonly TimeSpan StampTtl = TimeSpan.FromDays(30);

    private static readonly string TagStamp = Lua.Load(typeof(RedisTier), "tag_stamp.lua");

    /// <summary>The stamp of a tag, which gets a first one if it has none; <c>null</c> if Redis is away.</summary>
    public async Task<long?> GetStampAsync(string cache, string tag, CancellationToken cancel)
    {
        var (answered, held) = await calls.TryAsync("tag", _ => Gets.SendAsync(StampKey(cache, tag)), cancel);
        return !answered ? null
            : held.HasValue && held.TryParse(out long stamp) ? stamp
            : await RunTagStampAsync("current", cache, tag, cancel);
    }

    /// <summary>Gives a tag another stamp, which the script publishes; <c>null</c> if Redis is away.</summary>
    public Task<long?> ReplaceStampAsync(string cache, string tag, CancellationToken cancel) =>
        RunTagStampAsync("remove", cache, tag, cancel);

    private async Task<long?> RunTagStampAsync(string what, string cache, string tag, CancellationToken cancel)
    {
        // The tag comes last in a message; the fields before it contain no line break.
        var message = backplane.Message(BackplaneEvent.TagRemoved, cache, tag, "\n").Split('\n', 2);
        RedisValue[] arguments = [what, (long)StampTtl.TotalMilliseconds, backplane.Channel, message[0], message[1]];
        var (answered, stamp) = await calls.TryAsync(
            "tag", db => db.ScriptEvaluateAsync(TagStamp, [StampKey(cache, tag)], arguments), cancel);
        return answered ? (long)stamp! : null;
    }

    private string StampKey(string cache, string tag) => $"{redis.KeyPrefix}:{cache}:tag:{tag}";
}
