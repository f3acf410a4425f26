using CachingApi.Caching.Hybrid;
using CachingApi.Redis;
using Microsoft.Extensions.Options;

namespace CachingApi.Caching;

[OptionsValidator]
internal sealed partial class RedisOptionsValidator : IValidateOptions<RedisOptions>;

[OptionsValidator]
internal sealed partial class CachingOptionsValidator : IValidateOptions<CachingOptions>;

[OptionsValidator]
internal sealed partial class CacheOptionsValidator : IValidateOptions<CacheOptions>;

[OptionsValidator]
internal sealed partial class WriteBehindOptionsValidator : IValidateOptions<WriteBehindOptions>;

[OptionsValidator]
internal sealed partial class HybridCacheSettingsValidator : IValidateOptions<HybridCacheSettings>;
