// What stands beside the graphs: the banner, the request path, the tiles and the tables.
'use strict';

const WARN = 15 * 60 * 1000; // ms that the banner shows a warm-up that kept nothing

// --- The request path

const stations = [
  {
    id: 'memory', name: 'Memory', note: 'of each process', title: 'The fastest tier.',
    arriving: (now, then) => rate(now, then, asked),
    answered: (now, then) => rate(now, then, stats => sumTier(stats, 'memory', tier => tier.hits)),
    latency: now => gets(now.stats, 'memory')?.recentP99,
  },
  {
    id: 'redis', name: 'Redis', note: 'shared by all processes', title: 'Asked only if memory has no fresh entry.',
    arriving: (now, then) => rate(now, then, stats => sumTier(stats, 'redis', lookups)),
    answered: (now, then) => rate(now, then, stats => sumTier(stats, 'redis', tier => tier.hits + tier.staleServed)),
    latency: now => gets(now.stats, 'redis')?.recentP99,
  },
  {
    id: 'source', name: 'Source', note: 'PostgreSQL or Open-Meteo', title: 'Loaded only if Redis has no fresh entry, either. Callers share a load.',
    arriving: (now, then) => rate(now, then, loads),
    answered: (now, then) => rate(now, then, loads),
    latency: now => slowest(now.stats, latency => latency.recentP99),
  },
];

function buildPath() {
  $('path').replaceChildren(element('li', { class: 'station' }, element('b', {}, 'Clients'), element('span', { class: 'note' }, 'reads through the caches')));
  for (const station of stations) {
    station.flow = element('b', {}, none);
    station.line = element('i', { 'aria-hidden': 'true' });
    station.share = element('span', {}, none);
    station.p99 = element('span', { class: 'note' }, none);
    $('path').append(
      element('li', { class: 'arrow' }, station.flow, station.line),
      element('li', { class: 'station', title: station.title, id: `station-${station.id}` },
        element('b', {}, station.name), element('span', { class: 'note' }, station.note), station.share, station.p99));
  }
}

function showPath(now, then) {
  const reads = then ? rate(now, then, asked) : null;
  for (const station of stations) {
    const arriving = now.stats ? station.arriving(now, then) : null;
    const answered = now.stats ? station.answered(now, then) : null;
    const part = arriving > 0 ? answered / arriving : null;
    station.flow.textContent = show.rate(arriving);
    station.line.style.height = `${arriving > 0 && reads > 0 ? Math.max(2, Math.round(10 * Math.sqrt(Math.min(1, arriving / reads)))) : 1}px`;
    station.share.textContent = station.id === 'source'
      ? `loads ${show.rate(answered)}; ${show.rate(now.stats ? rate(now, then, stats => sum(stats.caches, cache => cache.coalesced)) : null)} share one`
      : `answers ${show.ratio(part)}${station.id === 'redis' ? ' of the rest' : ''}`;
    station.p99.textContent = `p99 ${show.milliseconds(now.stats ? station.latency(now) : null)}`;
  }
  const saved = now.stats && asked(now.stats) > 0 ? Math.max(0, 1 - loads(now.stats) / asked(now.stats)) : null;
  $('saved').textContent = saved === null
    ? 'Loads saved: none yet.'
    : `Loads saved: ${show.ratio(saved)}. ${show.count(asked(now.stats))} reads have needed ${show.count(loads(now.stats))} loads since the start.`;
}

// --- The tiles

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

function buildTiles() {
  $('tiles').replaceChildren();
  for (const tile of tiles) {
    tile.number = element('dd', {}, none);
    tile.small = element('dd', { class: 'note' }, '\u00a0');
    $('tiles').append(element('div', {}, element('dt', {}, tile.label), tile.number, tile.small));
  }
}

function showTiles(now, then) {
  for (const tile of tiles) {
    tile.number.textContent = now.stats ? tile.value(now, then) : none;
    tile.number.className = now.stats ? tile.tone?.(now) ?? '' : '';
    tile.small.textContent = tile.small.title = now.stats ? tile.note(now, then) : unknown;
  }
}

// --- The banner

/** Shows the degraded parts and their effects: pairs of a name and a sentence. */
function report(parts) {
  const text = parts.flat().join('\n');
  if ($('degraded').dataset.text === text) return; // a screen reader would read it again
  $('degraded').dataset.text = text;
  $('degraded').hidden = parts.length === 0;
  $('degraded-list').replaceChildren(...parts.map(([name, sentence]) => element('li', {}, element('b', {}, `${name}: `), sentence)));
}

/** The degraded parts of each process, and the warm-ups that kept nothing. */
function degradedParts(processes) {
  const nameOf = (name, stats) => processes.length > 1 ? `${name}, process ${stats.instance}` : name;
  const parts = processes.flatMap(stats =>
    [...stats.degraded.map(part => [part.part, `${part.problem} ${part.effect}`]), ...emptyWarmUps(stats)]
      .map(([name, sentence]) => [nameOf(name, stats), sentence]));
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

  if (isSignedIn) report(parts);
}

// --- The tables

/** Whether a part of a table has the focus, or is selected: new rows would take it away. */
const isInUse = table => table.contains(document.activeElement)
  || !getSelection().isCollapsed && table.contains(getSelection().anchorNode);

/** Fills a table. A heading that begins with ! is that of a column of text; on a narrow screen each cell shows its heading. */
function fill(table, head, rows) {
  if (isInUse(table)) return;
  const names = head.map(text => text.replace('!', ''));
  const classOf = index => index === 0 || head[index].startsWith('!') ? { class: 'text' } : {};
  table.replaceChildren(
    element('thead', {}, element('tr', {}, ...names.map((name, index) => element('th', { scope: 'col', ...classOf(index) }, name)))),
    element('tbody', {}, ...rows.map(cells => element('tr', isQuiet(cells) ? { class: 'quiet' } : {}, ...cells.map((cell, index) => index === 0
      ? element('th', { scope: 'row', ...classOf(index) }, cell)
      : element('td', { 'data-name': names[index], ...classOf(index) }, cell))))));
  fit(table);
}

/** Whether a row has only zeros and unknown values. On a narrow screen, such a row is one line. */
const isQuiet = ([, ...values]) => values.every(value => value === none || value === '0');

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

  const hot = stats.caches.flatMap(cache => cache.hotKeys.map(key => ({ cache: cache.cache, ...key })))
    .sort((one, other) => other.perSecond - one.perSecond).slice(0, 10);
  $('hot-none').hidden = hot.length > 0;
  fill($('hot'), ['Key', 'Reads per second'],
    hot.map(key => [keyButton(`${key.cache}:${key.id}`), key.perSecond < 0.1 ? '< 0.1' : short.format(key.perSecond)]));

  const warmed = stats.caches.filter(cache => cache.warmUp);
  $('warm-ups-part').hidden = warmed.length === 0;
  fill($('warm-ups'),
    ['Cache', '!Result', 'To load', 'Loaded', 'Kept', 'Failed', 'Began'],
    warmed.map(({ cache, warmUp }) => [cache, resultOf(warmUp), show.count(warmUp.total), show.count(warmUp.done), show.count(warmUp.kept), show.count(warmUp.failed),
      new Date(warmUp.startedAt).toLocaleTimeString('en-GB')]));
}
