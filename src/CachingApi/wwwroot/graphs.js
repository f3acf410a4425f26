// The graphs. Each line computes its value from the answer now and the one some seconds ago.
'use strict';

const COLORS = 5; // of the lines of a graph

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
  title: 'Hit ratio', note: 'by tier',
  help: 'Solid: of the reads, the share that memory answers. Dashed: of the rest, the share that Redis answers.', format: show.ratio, range: [0, 1], empty: 'No look-ups lately', lines: [],
};

const charts = [
  hitRatio,
  {
    title: 'Look-ups', note: 'by the tier that answered',
    help: 'Where the reads were answered: the fewer reach the source, the better.', format: show.rate, empty: 'No look-ups lately',
    lines: [
      { label: 'memory', color: 1, value: (now, then) => rate(now, then, stats => sumTier(stats, 'memory', tier => tier.hits)) },
      { label: 'Redis', color: 3, value: (now, then) => rate(now, then, stats => sumTier(stats, 'redis', tier => tier.hits)) },
      { label: 'stale', color: 5, value: (now, then) => rate(now, then, stats => sumTier(stats, 'redis', tier => tier.staleServed)) },
      { label: 'source', color: 2, value: (now, then) => rate(now, then, stats => sumTier(stats, 'source', tier => tier.loads)) },
    ],
  },
  {
    title: 'Latency', note: 'p50 solid, p99 dashed, of the last minute',
    help: 'The scale is logarithmic: memory answers in microseconds, Redis in a fraction of a millisecond, a load takes longer.', format: show.milliseconds, log: true, empty: 'Nothing was measured lately',
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
    title: 'Loads', note: 'from the source, and callers that shared one',
    help: 'Coalesced callers waited for a load that another caller had begun, so they caused none.', hides: true, format: show.rate,
    lines: [
      { label: 'loads', color: 2, value: (now, then) => rate(now, then, stats => sumTier(stats, 'source', tier => tier.loads)) },
      { label: 'failed', color: 4, value: (now, then) => rate(now, then, stats => sumTier(stats, 'source', tier => tier.errors)) },
      { label: 'coalesced', color: 1, value: (now, then) => rate(now, then, stats => sum(stats.caches, cache => cache.coalesced)) },
    ],
  },
  {
    title: 'Evictions', note: 'entries removed to make room',
    help: 'Entries leave when their tier is full. Many evictions and a low hit ratio mean that the tier is too small.', hides: true, format: show.rate,
    lines: [
      { label: 'memory', color: 1, value: (now, then) => rate(now, then, stats => sumTier(stats, 'memory', tier => tier.evictions)) },
      { label: 'Redis', color: 3, value: (now, then) => rateOfNodes(now, then, cacheNodes, node => node.evictedKeys) },
    ],
  },
  {
    title: 'Redis memory', note: 'of the cache',
    help: 'When the bound is reached, Redis evicts by its policy.', format: show.bytes, empty: 'Redis does not answer',
    lines: [
      { label: 'used', color: 3, fill: true, value: now => sumNodes(cacheNodes(now.stats), node => node.memoryBytes) },
      { label: 'bound', color: 5, dashed: true, value: now => sumNodes(cacheNodes(now.stats), node => node.maxMemoryBytes) || null },
    ],
  },
  {
    title: 'Redis network', note: 'of all servers that answer',
    help: 'What Redis receives and sends. Reads that memory answers cost none of it.', format: show.bytesRate, empty: 'Redis does not answer',
    lines: [
      { label: 'received', color: 1, value: (now, then) => rateOfNodes(now, then, liveNodes, node => node.networkInBytes) },
      { label: 'sent', color: 2, value: (now, then) => rateOfNodes(now, then, liveNodes, node => node.networkOutBytes) },
    ],
  },
  {
    title: 'Write queue', note: 'write-behind, of all processes',
    help: 'Changes that are acknowledged and not in the database yet. Dead letters wait for an operator.', hides: true, format: show.count, empty: 'No write-behind queue is known',
    lines: [
      { label: 'waiting', color: 1, fill: true, value: now => now.stats.writeBehind?.queueLength ?? null },
      { label: 'dead letters', color: 2, value: now => now.stats.writeBehind?.deadLetters ?? null },
    ],
  },
  {
    title: 'Limits', note: 'decisions',
    help: 'Allowed and denied requests of all policies; without Redis, each process counts on its own.', hides: true, format: show.rate,
    lines: [
      { label: 'allowed', color: 3, value: (now, then) => rate(now, then, limitsOf(policy => policy.allowed)) },
      { label: 'denied', color: 2, value: (now, then) => rate(now, then, limitsOf(policy => policy.denied + policy.deniedLocally)) },
      { label: 'without Redis', color: 4, value: (now, then) => rate(now, then, limitsOf(policy => policy.fallback)) },
    ],
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
    chart.figure = element('figure', {},
      element('figcaption', {}, element('h2', {}, chart.title, element('span', {}, chart.note)), element('ul', { class: 'key' }, ...chart.items)),
      chart.plot,
      element('p', { class: 'help' }, chart.help));
    $('charts').append(chart.figure);
    draw(chart);
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
    hooks: { setCursor: [graph => say(chart, graph.cursor.idx)], draw: [drawMarks] },
  }, [times, ...chart.data], chart.plot);
  say(chart, null);
}

/** Draws the numbered events of the list under "Try it". */
function drawMarks(graph) {
  const { ctx, bbox } = graph;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = token('muted');
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3, 3]);
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  let last = -Infinity;
  let row = 0;
  for (const { number, time } of marks) {
    const x = Math.round(graph.valToPos(time, 'x', true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    row = x - last < 16 * devicePixelRatio ? (row + 1) % 4 : 0; // numbers that are close stand below each other
    last = x;
    ctx.beginPath();
    ctx.globalAlpha = 0.5;
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.globalAlpha = 1;
    ctx.fillText(number, x + 3 * devicePixelRatio, bbox.top + (10 + 11 * row) * devicePixelRatio);
  }
  ctx.restore();
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

/** Adds the latest of what is seen to the graphs. */
function plot() {
  const now = seen.at(-1);
  const then = now.stats ? before(seen.length - 1) : null;
  times.push(now.time);
  for (const chart of charts) chart.lines.forEach((line, index) => chart.data[index].push(now.stats ? line.value(now, then) ?? null : null));
}

/** Draws everything anew, after another choice of process or when the history has arrived. */
function plotAll() {
  const all = answers.map(({ time, processes }) => ({ time, stats: shown(processes) }));
  times = [];
  seen = [];
  for (const chart of charts) chart.data = chart.lines.map(() => []);
  for (const one of all) {
    seen.push(one);
    plot();
  }
}

/** Removes what is too old to be drawn. */
function forget() {
  while (times.length && times[0] < times.at(-1) - KEEP) {
    answers.shift();
    seen.shift();
    times.shift();
    for (const chart of charts) for (const values of chart.data) values.shift();
  }
}

function redraw() {
  const idle = charts.filter(chart => chart.hides && !isUsed(chart));
  $('idle').hidden = idle.length === 0;
  $('idle').textContent = `Idle in this time span, so not drawn: ${idle.map(chart => chart.title).join(', ')}.`;
  for (const chart of charts) {
    const wasHidden = chart.figure.hidden;
    chart.figure.hidden = idle.includes(chart);
    if (chart.figure.hidden) continue;
    if (wasHidden) chart.graph.setSize({ width: chart.plot.clientWidth, height: chart.plot.clientHeight });
    chart.graph.setData([times, ...chart.data]);
    say(chart, chart.graph.cursor.idx);
  }
}

/** Whether a graph has a value other than zero in the time span. */
function isUsed(chart) {
  const first = times.findIndex(time => time >= span()[0]);
  return chart.data.some(values => values.slice(Math.max(0, first)).some(value => value));
}
