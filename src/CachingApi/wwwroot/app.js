// The live page: signs in, reads /cache/stats every two seconds and draws the changes. The session's token is in this
// script's memory only.
'use strict';

const EVERY = 2000;          // ms between two looks
const KEEP = 15 * 60;        // s that are kept to be drawn
const COLORS = 5;             // of the lines of a graph
const SMOOTH = 10;           // s that a rate or a ratio is taken over
const PATIENCE = 5000;       // ms that an answer may take
const LATELY = 5;            // answers whose processes the banner covers
const WARN = 15 * 60 * 1000; // ms that the banner shows a warm-up that kept nothing

const $ = id => document.getElementById(id);

/** An element with text or children, never with markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// --- Numbers in words

const number = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3, notation: 'compact' });
const none = '–';
const unknown = 'not known';
const notYet = 'Nothing yet';
const or = format => value => value === null || value === undefined ? none : format(value);

const show = {
  count: or(value => number.format(value)),
  rate: or(value => `${short.format(value)}/s`),
  ratio: or(value => `${(value * 100).toFixed(value > 0.995 && value < 1 ? 2 : 1)} %`),
  milliseconds: or(value => value < 0.1 ? `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} µs` : value < 1 ? `${value.toFixed(2)} ms` : value < 100 ? `${value.toFixed(1)} ms` : `${number.format(value)} ms`),
  seconds: or(value => value < 10 ? `${value.toFixed(1)} s` : `${number.format(value)} s`),
  bytes: or(value => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
    return `${unit === 0 ? value.toFixed(0) : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
  }),
};
show.bytesRate = or(value => `${show.bytes(value)}/s`);

// --- The history

/** The answers so far, oldest first: { time (s), stats }; stats is null if there was no answer. */
let seen = [];

const sum = (list, value) => list.reduce((all, item) => all + (value(item) ?? 0), 0);
const tierOf = (cache, name) => cache.tiers.find(tier => tier.tier === name);
const sumTier = (stats, name, value) => sum(stats.caches, cache => value(tierOf(cache, name)));
const lookups = tier => tier.hits + tier.misses + tier.staleServed + tier.errors;

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

/** The answer of the same process some seconds ago; null if there is none, or if the process has restarted since. */
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

const served = stats => sumTier(stats, 'memory', tier => tier.hits) + sumTier(stats, 'redis', tier => tier.hits + tier.staleServed);
const asked = stats => sumTier(stats, 'memory', tier => tier.hits) + sumTier(stats, 'redis', lookups);
const limitsOf = kind => stats => sum(stats.limits, policy => kind(policy));

// --- The graphs: each line computes its value from the answer now and the one some seconds ago

const perCache = (name, tier) => (now, then) => {
  const of = value => stats => { const cache = stats.caches.find(known => known.cache === name); return cache ? value(tierOf(cache, tier)) : 0; };
  return ratio(now, then, of(counts => counts.hits), of(lookups));
};

/** Two lines for each cache that the service has. */
const linesOf = caches => caches.flatMap((name, index) => [
  { label: name, color: index % COLORS + 1, value: perCache(name, 'memory') },
  { label: `${name}, Redis`, color: index % COLORS + 1, dashed: true, value: perCache(name, 'redis') },
]);

const hitRatio = {
  title: 'Hit ratio', note: 'memory solid; Redis dashed, of the rest', format: show.ratio, range: [0, 1], empty: 'No look-ups lately', lines: [],
};

const charts = [
  hitRatio,
  {
    title: 'Look-ups', note: 'by the tier that answered', format: show.rate, empty: 'No look-ups lately',
    lines: [
      { label: 'memory', color: 1, value: (now, then) => rate(now, then, stats => sumTier(stats, 'memory', tier => tier.hits)) },
      { label: 'Redis', color: 3, value: (now, then) => rate(now, then, stats => sumTier(stats, 'redis', tier => tier.hits)) },
      { label: 'stale', color: 5, value: (now, then) => rate(now, then, stats => sumTier(stats, 'redis', tier => tier.staleServed)) },
      { label: 'source', color: 2, value: (now, then) => rate(now, then, stats => sumTier(stats, 'source', tier => tier.loads)) },
    ],
  },
  {
    title: 'Latency', note: 'p50 solid, p99 dashed, of the last minute', format: show.milliseconds, log: true, empty: 'Nothing was measured lately',
    lines: [
      { label: 'memory p50', color: 1, value: now => gets(now.stats, 'memory')?.recentP50 ?? null },
      { label: 'memory p99', color: 1, dashed: true, value: now => gets(now.stats, 'memory')?.recentP99 ?? null },
      { label: 'Redis p50', color: 3, value: now => gets(now.stats, 'redis')?.recentP50 ?? null },
      { label: 'Redis p99', color: 3, dashed: true, value: now => gets(now.stats, 'redis')?.recentP99 ?? null },
      { label: 'load p50', color: 2, value: now => slowest(now.stats, latency => latency.recentP50) },
      { label: 'load p99', color: 2, dashed: true, value: now => slowest(now.stats, latency => latency.recentP99) },
    ],
  },
  {
    title: 'Loads', note: 'from the source, and callers that shared one', format: show.rate,
    lines: [
      { label: 'loads', color: 2, value: (now, then) => rate(now, then, stats => sumTier(stats, 'source', tier => tier.loads)) },
      { label: 'failed', color: 4, value: (now, then) => rate(now, then, stats => sumTier(stats, 'source', tier => tier.errors)) },
      { label: 'coalesced', color: 1, value: (now, then) => rate(now, then, stats => sum(stats.caches, cache => cache.coalesced)) },
    ],
  },
  {
    title: 'Evictions', note: 'entries removed to make room', format: show.rate,
    lines: [
      { label: 'memory', color: 1, value: (now, then) => rate(now, then, stats => sumTier(stats, 'memory', tier => tier.evictions)) },
      { label: 'Redis', color: 3, value: (now, then) => rateOfNodes(now, then, cacheNodes, node => node.evictedKeys) },
    ],
  },
  {
    title: 'Redis memory', note: 'of the cache', format: show.bytes, empty: 'Redis does not answer',
    lines: [
      { label: 'used', color: 3, fill: true, value: now => sumNodes(cacheNodes(now.stats), node => node.memoryBytes) },
      { label: 'bound', color: 5, dashed: true, value: now => sumNodes(cacheNodes(now.stats), node => node.maxMemoryBytes) || null },
    ],
  },
  {
    title: 'Redis network', note: 'of all servers that answer', format: show.bytesRate, empty: 'Redis does not answer',
    lines: [
      { label: 'received', color: 1, value: (now, then) => rateOfNodes(now, then, liveNodes, node => node.networkInBytes) },
      { label: 'sent', color: 2, value: (now, then) => rateOfNodes(now, then, liveNodes, node => node.networkOutBytes) },
    ],
  },
  {
    title: 'Write queue', note: 'write-behind, of all processes', format: show.count, empty: 'No write-behind queue is known',
    lines: [
      { label: 'waiting', color: 1, fill: true, value: now => now.stats.writeBehind?.queueLength ?? null },
      { label: 'dead letters', color: 2, value: now => now.stats.writeBehind?.deadLetters ?? null },
    ],
  },
  {
    title: 'Limits', note: 'decisions', format: show.rate,
    lines: [
      { label: 'allowed', color: 3, value: (now, then) => rate(now, then, limitsOf(policy => policy.allowed)) },
      { label: 'denied', color: 2, value: (now, then) => rate(now, then, limitsOf(policy => policy.denied + policy.deniedLocally)) },
      { label: 'without Redis', color: 4, value: (now, then) => rate(now, then, limitsOf(policy => policy.fallback)) },
    ],
  },
];

/** Of the caches that have loaded lately, the slowest. */
function slowest(stats, value) {
  const all = stats.caches.map(cache => tierOf(cache, 'source').latency).filter(Boolean).map(value).filter(one => one !== null);
  return all.length ? Math.max(...all) : null;
}

const memoryBound = stats => {
  const bound = sumNodes(cacheNodes(stats), node => node.maxMemoryBytes);
  return bound === null ? unknown : bound === 0 ? 'without a bound' : `of ${show.bytes(bound)}, ${cacheNodes(stats)[0].maxMemoryPolicy ?? 'policy not known'}`;
};

const tiles = [
  { label: 'Hit ratio', value: (now, then) => show.ratio(ratio(now, then, served, asked)), note: () => `last ${SMOOTH} seconds` },
  { label: 'Look-ups', value: (now, then) => show.rate(rate(now, then, asked)), note: now => `${show.count(asked(now.stats))} in all` },
  {
    label: 'Redis get, p99', value: now => show.milliseconds(gets(now.stats, 'redis')?.recentP99),
    note: now => isRedisSilent(now.stats) ? unknown : `last minute; p50 ${show.milliseconds(gets(now.stats, 'redis')?.recentP50)}`,
  },
  { label: 'Redis memory', value: now => show.bytes(sumNodes(cacheNodes(now.stats), node => node.memoryBytes)), note: now => memoryBound(now.stats) },
  { label: 'Write queue', value: now => show.count(now.stats.writeBehind?.queueLength), note: now => now.stats.writeBehind ? `lag ${show.seconds(now.stats.writeBehind.lagSeconds)}` : unknown },
  {
    label: 'Redis circuit', value: now => now.stats.circuitOpen ? 'open' : 'closed', tone: now => now.stats.circuitOpen ? 'bad' : '',
    note: now => now.stats.circuitOpen ? 'reads go to memory or the source' : isRedisSilent(now.stats) ? 'Redis does not answer'
      : isDegraded(now.stats, 'Redis (cache)') ? 'Redis is not used yet' : 'Redis is asked',
  },
  {
    label: 'Change capture', value: now => isDegraded(now.stats, 'PostgreSQL') ? none : now.stats.followsChanges ? 'here' : 'not here',
    note: now => isDegraded(now.stats, 'PostgreSQL') ? 'PostgreSQL does not answer' : now.stats.followsChanges ? 'this process reads changes' : 'another process, or none',
  },
];

// --- Drawing

let range = 300;
let paused = false;
/** The data of the graphs: seconds, then for each line of each graph its values. */
let times = [];
const colorOf = index => getComputedStyle(document.documentElement).getPropertyValue(`--c${index}`).trim();
const token = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function build() {
  $('charts').replaceChildren();
  for (const chart of charts) {
    chart.data = chart.lines.map((_, index) => chart.data?.[index] ?? []);
    chart.values = chart.lines.map(() => element('b', {}, none));
    chart.items = chart.lines.map((line, index) =>
      element('li', {}, element('i', { class: `c${line.color}${line.dashed ? ' dashed' : ''}`, 'aria-hidden': 'true' }), line.label, chart.values[index]));
    chart.plot = element('div', { class: 'plot', 'aria-hidden': 'true', 'data-empty': notYet });
    $('charts').append(element('figure', {},
      element('figcaption', {}, element('h2', {}, chart.title, element('span', {}, chart.note)), element('ul', { class: 'key' }, ...chart.items)),
      chart.plot));
    draw(chart);
  }

  $('tiles').replaceChildren();
  for (const tile of tiles) {
    tile.number = element('dd', {}, none);
    tile.small = element('dd', { class: 'note' }, '\u00a0');
    $('tiles').append(element('div', {}, element('dt', {}, tile.label), tile.number, tile.small));
  }
}

function draw(chart) {
  chart.graph?.destroy();
  const axis = { stroke: token('muted'), font: '11px system-ui, sans-serif', grid: { stroke: token('grid'), width: 1 }, ticks: { show: false } };
  chart.graph = new uPlot({
    width: chart.plot.clientWidth || 300,
    height: chart.plot.clientHeight || 170,
    legend: { show: false },
    cursor: { sync: { key: 'all' }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
    scales: {
      x: { range: () => span() },
      y: chart.log
        ? { distr: 3, range: (_, low, high) => low === null || !(low > 0) ? [0.01, 100] : [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high * 1.01))] }
        : { range: chart.range ? () => chart.range.map((bound, index) => bound + (index ? 0.02 : -0.005)) : (_, low, high) => [0, high > 0 ? high * 1.12 : 1] },
    },
    axes: [
      { ...axis, size: 26, space: 64, values: (_, ticks) => ticks.map(clock) },
      {
        ...axis, size: 62, space: 34,
        incrs: chart.format === show.bytes || chart.format === show.bytesRate ? powersOfTwo : chart.format === show.count ? wholeNumbers : undefined,
        ...(chart.log ? { splits: (_, __, low, high) => decades(low, high), filter: (_, ticks) => ticks } : {}),
        values: (_, ticks) => ticks.map(tick => chart.range && tick > 1 ? '' : axisText(chart, tick)),
      },
    ],
    series: [{}, ...chart.lines.map(line => ({
      label: line.label,
      stroke: colorOf(line.color),
      fill: line.fill ? `${colorOf(line.color)}22` : undefined,
      width: 1.75,
      dash: line.dashed ? [5, 4] : undefined,
      spanGaps: false,
      points: { show: false },
    }))],
    hooks: { setCursor: [graph => say(chart, graph.cursor.idx)] },
  }, [times, ...chart.data], chart.plot);
  say(chart, null);
}

/** The first and last second of the graphs: the history, up to the chosen range. */
function span() {
  const end = times.at(-1) ?? Date.now() / 1000;
  return [Math.max(end - range, Math.min(times[0] ?? end, end - 30)), end];
}

const powersOfTwo = Array.from({ length: 50 }, (_, power) => 2 ** power);
const wholeNumbers = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map(step => step * 10 ** power)).flat();

/** Powers of ten, every other one where they are many. */
function decades(low, high) {
  const all = Array.from({ length: Math.round(Math.log10(high / low)) + 1 }, (_, power) => Number((low * 10 ** power).toPrecision(6)));
  return all.length > 4 ? all.filter((_, power) => power % 2 === 0) : all;
}

function clock(tick) {
  const [start, end] = span();
  return new Date(tick * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', second: end - start <= 120 ? '2-digit' : undefined });
}

const axisText = (chart, value) => chart.format === show.ratio ? `${Math.round(value * 100)} %` : chart.format(value).replace(/\.0+(?= )/, '');

/** The values beside the lines' names: those under the pointer, else the latest. */
function say(chart, index) {
  chart.data.forEach((values, line) => {
    const value = values.length ? values[index ?? values.length - 1] : null;
    chart.values[line].textContent = chart.format(value);
    chart.items[line].hidden = chart.lines.length > 4 && !values.some(any => any !== null);
  });
  chart.plot.dataset.empty = times.length < 2 ? notYet : chart.empty ?? notYet; // a rate needs two answers
  chart.plot.classList.toggle('empty', !chart.data.some(values => values.some(value => value !== null)));
}

/** Draws the graph by cache again if there are other caches than before. */
function learn(caches) {
  if (caches.join() === hitRatio.lines.filter(line => !line.dashed).map(line => line.label).join()) return;
  hitRatio.lines = linesOf(caches);
  hitRatio.data = hitRatio.lines.map(() => times.map(() => null));
  build();
}

/** Adds a new answer, or null if there was none, to the history. */
function take(stats) {
  if (stats) learn(stats.caches.map(cache => cache.cache));
  seen.push({ time: Date.now() / 1000, stats });
  const last = seen.length - 1;
  const now = seen[last];
  const then = stats ? before(last) : null;
  times.push(now.time);
  for (const chart of charts) chart.lines.forEach((line, index) => chart.data[index].push(stats ? line.value(now, then) ?? null : null));

  while (times.length && times[0] < now.time - KEEP) {
    seen.shift();
    times.shift();
    for (const chart of charts) for (const values of chart.data) values.shift();
  }

  if (stats) {
    for (const tile of tiles) {
      tile.number.textContent = tile.value(now, then);
      tile.number.className = tile.tone?.(now) ?? '';
      tile.small.textContent = tile.small.title = tile.note(now, then);
    }
    fillTables(stats);
    report(degradedParts());
    const others = new Set(seen.slice(-30).map(one => one.stats?.instance).filter(Boolean)).size;
    $('instance').textContent = `Process ${stats.instance}, since ${new Date(stats.startedAt).toLocaleTimeString('en-GB')}`
      + (others > 1 ? `; ${others} processes answer in turn; each point comes from one of them` : '');
  }

  $('live').classList.toggle('old', !stats);
  if (!stats) {
    for (const tile of tiles) {
      tile.number.textContent = none;
      tile.number.className = '';
      tile.small.textContent = tile.small.title = unknown;
    }
  }

  if (!paused) redraw();
}

/** Shows the degraded parts and their effects: pairs of a name and a sentence. */
function report(parts) {
  const text = parts.flat().join('\n');
  if ($('degraded').dataset.text === text) return; // a screen reader would read it again
  $('degraded').dataset.text = text;
  $('degraded').hidden = parts.length === 0;
  $('degraded-list').replaceChildren(...parts.map(([name, sentence]) => element('li', {}, element('b', {}, `${name}: `), sentence)));
}

/** The degraded parts of each process that has answered lately: behind a load balancer, processes answer in turn. */
function degradedParts() {
  const processes = new Map(seen.slice(-LATELY).filter(one => one.stats).map(({ stats }) => [stats.instance, stats]));
  const parts = [...processes.values()].flatMap(stats =>
    [...stats.degraded.map(part => [part.part, `${part.problem} ${part.effect}`]), ...emptyWarmUps(stats)]
      .map(([name, sentence]) => [processes.size > 1 ? `${name}, process ${stats.instance}` : name, sentence]));
  return parts.sort(([one], [other]) => one.localeCompare(other));
}

/** The warm-ups that kept nothing, for some minutes. The table of warm-ups shows them longer. */
const emptyWarmUps = stats => stats.caches
  .filter(({ warmUp }) => warmUp?.finishedAt && warmUp.total > 0 && warmUp.kept === 0 && new Date(stats.at) - new Date(warmUp.finishedAt) < WARN)
  .map(({ cache, warmUp }) => [`Warm-up of ${cache}`,
    `It kept nothing: ${show.count(warmUp.done)} of ${show.count(warmUp.total)} loaded, 0 kept, ${show.count(warmUp.failed)} failed. The first read of each entry goes to the source.`]);

/** Reports why there are no numbers. If /health/ready is on this port, it names the degraded servers, also without a session. */
async function reportOutage(problem) {
  const last = seen.findLast(one => one.stats)?.time;
  const numbers = last ? `The tables show the numbers of ${new Date(last * 1000).toLocaleTimeString('en-GB')}.` : 'There are no numbers yet.';
  const parts = [['No numbers', `${problem} ${numbers}`]];
  try {
    const answer = await fetch('health/ready', { cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(PATIENCE) });
    const { checks } = await answer.json();
    for (const [name, key] of [['PostgreSQL', 'postgres'], ['Redis', 'redis']]) {
      if (checks[key] !== 'healthy') parts.push([name, `${checks[key].replace(':', ',')}.`]);
    }
  } catch { /* it is not on this port, or does not answer either */ }

  if (session) report(parts);
}

function redraw() {
  for (const chart of charts) {
    chart.graph.setData([times, ...chart.data]);
    say(chart, chart.graph.cursor.idx);
  }
}

/** Fills a table. A heading that begins with ! is that of a column of text; on a narrow screen each cell shows its heading. */
function fill(table, head, rows) {
  const names = head.map(text => text.replace('!', ''));
  const classOf = index => index === 0 || head[index].startsWith('!') ? { class: 'text' } : {};
  table.replaceChildren(
    element('thead', {}, element('tr', {}, ...names.map((name, index) => element('th', { scope: 'col', ...classOf(index) }, name)))),
    element('tbody', {}, ...rows.map(cells => element('tr', {}, ...cells.map((cell, index) => index === 0
      ? element('th', { scope: 'row', ...classOf(index) }, cell)
      : element('td', { 'data-name': names[index], ...classOf(index) }, cell))))));
  fit(table);
}

/** Shows each row as a card if the columns do not fit beside each other. */
function fit(table) {
  table.classList.remove('cards');
  table.classList.toggle('cards', table.offsetWidth > table.parentElement.clientWidth);
}

const boundOf = node => node.maxMemoryBytes === 0 ? 'none' : show.bytes(node.maxMemoryBytes);

/** The result of a warm-up, in words. */
function resultOf({ finishedAt, total, kept, failed }) {
  if (!finishedAt) return 'running';
  if (total === 0) return 'nothing to load';
  if (kept === total) return 'kept all';
  return element('span', { class: kept === 0 ? 'bad' : 'warn' }, kept === 0 ? 'kept nothing' : failed ? 'failed in part' : 'kept in part');
}

function fillTables(stats) {
  fill($('caches'),
    ['Cache', 'Hit ratio: of all look-ups', 'Memory hits', 'Memory hit share: of all look-ups', 'Entries in memory', 'Evicted from memory',
      'Redis hits', 'Redis hit share: of look-ups that missed memory', 'Served stale', 'Misses', 'Loads', 'Failed loads', 'Load p99, last minute', 'Coalesced', 'Refused fills'],
    stats.caches.map(cache => {
      const [memory, redis, source] = ['memory', 'redis', 'source'].map(name => tierOf(cache, name));
      return [cache.cache, show.ratio(cache.hitRatio), show.count(memory.hits), show.ratio(memory.hitRatio), show.count(memory.entries), show.count(memory.evictions),
        show.count(redis.hits), show.ratio(redis.hitRatio), show.count(redis.staleServed), show.count(redis.misses), show.count(source.loads), show.count(source.errors),
        show.milliseconds(source.latency?.recentP99), show.count(cache.coalesced), show.count(cache.refusedFills)];
    }));
  fill($('redis'),
    ['Server', '!For', '!State', 'Memory', 'Bound', '!Policy', 'Keys', 'Evicted', 'Expired'],
    stats.redis.map(node => [node.node, node.role, node.up ? 'up' : element('span', { class: 'bad' }, 'does not answer'), show.bytes(node.memoryBytes), boundOf(node),
      node.maxMemoryPolicy ?? none, show.count(node.keys), show.count(node.evictedKeys), show.count(node.expiredKeys)]));
  fill($('limits'),
    ['Policy', 'Allowed', 'Denied', 'Denied from memory', 'Without Redis'],
    stats.limits.map(policy => [policy.policy, show.count(policy.allowed), show.count(policy.denied), show.count(policy.deniedLocally), show.count(policy.fallback)]));

  const warmed = stats.caches.filter(cache => cache.warmUp);
  $('warm-ups-part').hidden = warmed.length === 0;
  fill($('warm-ups'),
    ['Cache', '!Result', 'To load', 'Loaded', 'Kept', 'Failed', 'Began'],
    warmed.map(({ cache, warmUp }) => [cache, resultOf(warmUp), show.count(warmUp.total), show.count(warmUp.done), show.count(warmUp.kept), show.count(warmUp.failed),
      new Date(warmUp.startedAt).toLocaleTimeString('en-GB')]));
}

// --- The session

let session = null;
let timer = null;

const ask = (path, options = {}) => fetch(path, {
  ...options,
  cache: 'no-store',
  credentials: 'omit',
  signal: AbortSignal.timeout(PATIENCE),
  headers: { ...(session ? { Authorization: `Bearer ${session}` } : {}), ...(options.body ? { 'Content-Type': 'application/json' } : {}) },
});

const waitOf = answer => Math.max(1, Number(answer.headers.get('Retry-After')) || 1);
const inSeconds = wait => wait === 1 ? 'in a second' : `in ${wait} seconds`;

async function signIn(email, password) {
  let answer;
  try {
    answer = await ask('sessions', { method: 'POST', body: JSON.stringify({ email, password, transport: 'bearer' }) });
  } catch {
    return 'The service cannot be reached.';
  }

  switch (answer.status) {
    case 201:
      session = (await answer.json()).token;
      return null;
    case 400: return 'An e-mail address and a password are needed.';
    case 401: return 'The e-mail address or the password is wrong.';
    case 429: return `Too many attempts. Try again ${inSeconds(waitOf(answer))}.`;
    case 503: return `The service cannot check passwords at the moment, because a server behind it is away. Try again ${inSeconds(waitOf(answer))}.`;
    default: return `The service answered ${answer.status}, which is a defect.`;
  }
}

/** Ends the session; also when the page closes. */
function signOut(message = '') {
  if (session) ask('sessions/current', { method: 'DELETE', keepalive: true }).catch(() => { /* it ends by itself */ });
  session = null;
  clearTimeout(timer);
  seen = [];
  times = [];
  for (const chart of charts) chart.data = undefined;
  report([]);
  $('live').hidden = $('sign-out').hidden = true;
  $('sign-in').hidden = false;
  $('sign-in-error').textContent = message;
  $('email').focus();
}

function state(text, kind) {
  if ($('state-text').textContent !== text) $('state-text').textContent = text;
  $('state').className = `state ${kind}`;
}

async function look() {
  let wait = EVERY;
  try {
    const answer = await ask('cache/stats');
    if (answer.status === 401) return signOut('Your session has ended. Sign in again.');
    if (answer.status === 403) return signOut('This account is not an administrator’s: it may not see these numbers.');
    if (answer.ok) {
      take(await answer.json());
      state(paused ? 'Paused' : 'Live', paused ? 'warn' : 'live');
    } else {
      wait = Math.max(EVERY, waitOf(answer) * 1000);
      take(null);
      if (answer.status === 429) {
        state(`Asked too often: goes on ${inSeconds(wait / 1000)}`, 'warn');
      } else if (answer.status === 503) {
        state(`A server behind the service is away: no session can be checked. Tries again ${inSeconds(wait / 1000)}`, 'bad');
        await reportOutage('The service cannot check sessions: users cannot log in, and a request that needs a session is answered with 503.');
      } else {
        state(`The service answered ${answer.status}, which is a defect. Tries again ${inSeconds(wait / 1000)}`, 'bad');
        await reportOutage(`The service has answered ${answer.status}.`);
      }
    }
  } catch (error) {
    const problem = error.name === 'TimeoutError' ? 'The service does not answer in time.' : 'The service cannot be reached.';
    take(null);
    state(`${problem} Tries again`, 'bad');
    await reportOutage(problem);
  }

  if (session) timer = setTimeout(look, wait);
}

$('sign-in-form').addEventListener('submit', async event => {
  event.preventDefault();
  const [email, password, button] = [$('email'), $('password'), event.submitter ?? event.target.querySelector('button')];
  button.disabled = true;
  $('sign-in-error').textContent = '';
  const problem = await signIn(email.value, password.value);
  button.disabled = false;
  $('sign-in-error').textContent = problem ?? '';
  if (problem) {
    password.select();
    return;
  }

  password.value = '';
  $('sign-in').hidden = true;
  $('live').hidden = $('sign-out').hidden = false;
  state('Waiting for the first numbers', '');
  build();
  look();
});

$('sign-out').addEventListener('click', () => signOut());
$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', paused);
  $('pause').textContent = paused ? 'Go on' : 'Pause';
  state(paused ? 'Paused' : 'Live', paused ? 'warn' : 'live');
  if (!paused) redraw();
});
document.querySelectorAll('input[name=range]').forEach(input => input.addEventListener('change', () => {
  range = Number(input.value) * 60;
  redraw();
}));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { if (session) charts.forEach(draw); });
new ResizeObserver(() => {
  if (!session) return;
  for (const chart of charts) chart.graph?.setSize({ width: chart.plot.clientWidth, height: chart.plot.clientHeight });
  document.querySelectorAll('table').forEach(fit);
}).observe($('charts'));
addEventListener('pagehide', () => signOut());

$('sign-in').hidden = false;
$('email').focus();
