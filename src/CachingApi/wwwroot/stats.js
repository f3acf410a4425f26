// The statistics so far: of each process, of all together, and how they change.
'use strict';

const EVERY = 2000;      // ms between two looks
const KEEP = 15 * 60;    // s that are kept to be drawn
const SMOOTH = 10;       // s that a rate or a ratio is taken over
const HISTORY_STEP = 10; // s between two answers that a process keeps
const ABSENT = 60;       // s that a process is missed when it no longer answers
const ALL = '';          // the choice of all processes

/** The answers so far, oldest first: { time (s), processes }; processes is null if there was no answer. */
let answers = [];

/** What is shown of the answers: { time (s), stats }, of the chosen process or of all together. */
let seen = [];

let chosen = ALL;

const sum = (list, value) => list.reduce((all, item) => all + (value(item) ?? 0), 0);
const most = values => values.some(value => value !== null && value !== undefined) ? Math.max(...values.filter(value => value !== null && value !== undefined)) : null;
const tierOf = (cache, name) => cache.tiers.find(tier => tier.tier === name);
const sumTier = (stats, name, value) => sum(stats.caches, cache => value(tierOf(cache, name)));
const lookups = tier => tier.hits + tier.misses + tier.staleServed + tier.errors;
const share = (part, whole) => whole > 0 ? part / whole : null;

// --- Several processes

/** The statistics of the chosen process, or of all together; null if there are none. */
function shown(processes) {
  if (!processes) return null;
  if (chosen !== ALL) return processes.find(one => one.instance === chosen) ?? null;
  return processes.length === 1 ? processes[0] : together(processes);
}

/** All processes as one: counts are added, and of latencies the highest is taken. Redis and the queue are the same for all. */
function together(processes) {
  const caches = [...new Set(processes.flatMap(one => one.caches.map(cache => cache.cache)))];
  const keysOf = (list, key) => [...new Set(processes.flatMap(one => list(one).map(key)))];
  return {
    ...processes[0],
    instance: processes.map(one => `${one.instance} ${one.startedAt}`).join(', '),
    startedAt: null,
    degraded: processes.flatMap(one => one.degraded.map(part => ({ ...part, instance: one.instance }))),
    circuitOpen: processes.some(one => one.circuitOpen),
    followsChanges: processes.some(one => one.followsChanges),
    caches: caches.map(name => cacheTogether(processes.map(one => one.caches.find(cache => cache.cache === name)).filter(Boolean))),
    operations: keysOf(one => one.operations, known => `${known.tier} ${known.operation}`).map(name => {
      const all = processes.map(one => one.operations.find(known => `${known.tier} ${known.operation}` === name)).filter(Boolean);
      return { ...all[0], latency: latencyTogether(all.map(known => known.latency)) };
    }),
    redis: keysOf(one => one.redis, node => node.node)
      .map(name => processes.map(one => one.redis.find(node => node.node === name)).filter(Boolean))
      .map(reports => reports.find(node => node.up) ?? reports[0]),
    writeBehind: processes.map(one => one.writeBehind).find(Boolean) ?? null,
    limits: keysOf(one => one.limits, policy => policy.policy).map(name => {
      const all = processes.map(one => one.limits.find(policy => policy.policy === name)).filter(Boolean);
      return {
        policy: name,
        ...Object.fromEntries(['allowed', 'denied', 'deniedLocally', 'fallback'].map(field => [field, sum(all, policy => policy[field])])),
      };
    }),
  };
}

function cacheTogether(all) {
  const tiers = all[0].tiers.map(({ tier }) => {
    const parts = all.map(cache => tierOf(cache, tier));
    const counts = Object.fromEntries(['hits', 'negative', 'misses', 'staleServed', 'errors', 'loads', 'entries', 'evictions']
      .map(field => [field, parts.some(part => part[field] !== null && part[field] !== undefined) ? sum(parts, part => part[field]) : null]));
    return { tier, ...counts, hitRatio: share(counts.hits, lookups(counts)), latency: latencyTogether(parts.map(part => part.latency).filter(Boolean)) };
  });
  const [memory, redis] = tiers;
  const hits = memory.hits + redis.hits + redis.staleServed;
  return {
    ...all[0],
    tiers,
    hitRatio: share(hits, memory.hits + lookups(redis)),
    coalesced: sum(all, cache => cache.coalesced),
    refusedFills: sum(all, cache => cache.refusedFills),
    writeBehind: all.map(cache => cache.writeBehind).find(Boolean) ?? null,
    warmUp: all.map(cache => cache.warmUp).filter(Boolean).sort((one, other) => new Date(other.startedAt) - new Date(one.startedAt))[0] ?? null,
    hotKeys: [...new Set(all.flatMap(cache => cache.hotKeys.map(key => key.id)))]
      .map(id => ({ id, perSecond: sum(all, cache => cache.hotKeys.find(key => key.id === id)?.perSecond) }))
      .sort((one, other) => other.perSecond - one.perSecond)
      .slice(0, 10),
  };
}

const latencyTogether = all => all.length === 0 ? null : {
  recentCount: sum(all, latency => latency.recentCount),
  recentP50: most(all.map(latency => latency.recentP50)),
  recentP99: most(all.map(latency => latency.recentP99)),
  count: sum(all, latency => latency.count),
  p50: most(all.map(latency => latency.p50)),
  p99: most(all.map(latency => latency.p99)),
};

/** The answers of the last 15 minutes that the processes have kept: each of the longest history, with the nearest of the others. */
function fromHistory(histories, offset) {
  const timeOf = stats => (new Date(stats.at).getTime() + offset) / 1000;
  const [longest, ...others] = [...histories].sort((one, other) => other.stats.length - one.stats.length);
  return (longest?.stats ?? []).map(stats => {
    const time = timeOf(stats);
    const distance = one => Math.abs(timeOf(one) - time);
    const near = others
      .map(history => history.stats.reduce((best, one) => !best || distance(one) < distance(best) ? one : best, null))
      .filter(one => one && distance(one) <= HISTORY_STEP / 2);
    return { time, processes: [stats, ...near] };
  });
}

// --- One look

/** The cache's servers whose numbers are current: none while the circuit is open, because the service does not ask them then. */
const cacheNodes = stats => stats.circuitOpen ? [] : stats.redis.filter(node => node.role === 'cache' && node.up);
const liveNodes = stats => stats.redis.filter(node => node.up);
const isRedisSilent = stats => stats.circuitOpen || stats.redis.some(node => node.role === 'cache') && !cacheNodes(stats).length;

/** The sum over servers; null if there is none, or if one does not report the number. */
const sumNodes = (nodes, value) => nodes.length && nodes.every(node => value(node) !== null) ? sum(nodes, value) : null;

/** Whether the service lists a part as degraded. */
const isDegraded = (stats, part) => stats.degraded.some(one => one.part === part);

/** The latency of look-ups in a tier; of a Redis that does not answer, nothing current is known. */
const gets = (stats, tier) => tier === 'redis' && isRedisSilent(stats)
  ? null
  : stats.operations.find(known => known.tier === tier && known.operation === 'get')?.latency;

/** Of the caches that have loaded lately, the slowest. */
function slowest(stats, value) {
  const all = stats.caches.map(cache => tierOf(cache, 'source').latency).filter(Boolean).map(value);
  return most(all);
}

const served = stats => sumTier(stats, 'memory', tier => tier.hits) + sumTier(stats, 'redis', tier => tier.hits + tier.staleServed);
const asked = stats => sumTier(stats, 'memory', tier => tier.hits) + sumTier(stats, 'redis', lookups);
const loads = stats => sumTier(stats, 'source', tier => tier.loads);
const limitsOf = kind => stats => sum(stats.limits, policy => kind(policy));

// --- Two looks

/** The answer of the same processes some seconds ago; null if there is none, or if one has restarted since. */
function before(at) {
  const now = seen[at];
  let found = null;
  for (let index = at - 1; index >= 0 && now.time - seen[index].time <= SMOOTH + EVERY / 1000; index--) {
    const { stats } = seen[index];
    if (stats && stats.instance === now.stats.instance && stats.startedAt === now.stats.startedAt) found = seen[index];
  }
  return found;
}

/** The growth of a number per second; null if it is not known. */
function rate(now, then, value) {
  if (!then) return null;
  const [new_, old] = [value(now.stats), value(then.stats)];
  return new_ === null || old === null || new_ < old ? null : (new_ - old) / (now.time - then.time);
}

/** The growth per second over the servers whose number is known now and then; the others would add their whole count at once. */
function rateOfNodes(now, then, nodesOf, value) {
  if (!then) return null;
  const pairs = nodesOf(now.stats)
    .map(node => [node, nodesOf(then.stats).find(old => old.node === node.node)].map(one => one ? value(one) : null))
    .filter(([new_, old]) => new_ !== null && old !== null && new_ >= old);
  return pairs.length ? sum(pairs, ([new_, old]) => new_ - old) / (now.time - then.time) : null;
}

/** The share of a part in all recent events; null if there were none. */
function ratio(now, then, part, whole) {
  if (!then) return null;
  const all = whole(now.stats) - whole(then.stats);
  const some = part(now.stats) - part(then.stats);
  return all > 0 && some >= 0 ? Math.min(1, some / all) : null;
}
