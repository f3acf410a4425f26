// Experiments ("Try it"), the entry of one key in each tier, and dead letters.
'use strict';

const RENEW = 4000;      // ms between two renewals of the load, which ends after 10 s without one
const MAX_EVENTS = 4;    // that are listed
const MAX_LETTERS = 20;  // dead letters that are listed
const SPENT = 15;        // requests that spend a limit
const LONG = 30_000;     // ms that an experiment may take

/** What the visitor has done: { number, time (s) }, for the graphs. */
let marks = [];
let counted = 0;
let loading = null;

/** Adds an event to the list and to the graphs; returns a function that replaces its text, and removes the hint if the text is a problem. */
function note(what, look) {
  marks = [...marks, { number: ++counted, time: Date.now() / 1000 }].slice(-40);
  const text = element('span', {}, what);
  const hint = element('span', { class: 'note' }, look);
  const item = element('li', {}, element('b', {}, `${counted} `), element('span', { class: 'note' }, `${new Date().toLocaleTimeString('en-GB')} `), text, ' ', hint);
  item.value = counted;
  $('events').prepend(item);
  while ($('events').children.length > MAX_EVENTS) $('events').lastChild.remove();
  return (result, isProblem = false) => {
    text.textContent = result;
    if (isProblem) hint.remove();
  };
}

/** The problem that an answer describes, in words. */
async function problemOf(answer) {
  if (answer.status === 429) return `Too many requests: try again ${inSeconds(waitOf(answer))}.`;
  const problem = await answer.json().catch(() => ({}));
  return Object.values(problem.errors ?? {}).flat().join(' ') || problem.detail || problem.title || `The service answered ${answer.status}.`;
}

/** Sends a request of an experiment: the body of the answer, or null after the problem was shown. */
async function send(method, path, body, done = () => {}) {
  try {
    const answer = await ask(path, { method, patience: LONG, ...(body ? { body: JSON.stringify(body) } : {}) });
    if (answer.ok) return answer.status === 200 || answer.status === 202 && body ? await answer.json() : {};
    done(await problemOf(answer), true);
  } catch {
    done('The service did not answer.', true);
  }
  return null;
}

// --- Try it

/** Shows the experiments that this service allows; there are none in production unless they are enabled. */
async function offerLab() {
  const answer = await ask('lab').catch(() => null);
  $('try').hidden = !answer?.ok;
  if (!answer?.ok) return;
  const lab = await answer.json();
  $('lab-user').textContent = `users:${lab.userId}`;
  $('faults').hidden = lab.faults.length === 0;
  if (lab.load && !loading) renew({ rate: lab.load.rate, keys: lab.load.keys }); // it was started before a reload
}

const strategyHints = { 'write-through': 'The next read is a hit with the new version.', invalidate: 'The next read of the user is a miss: see Loads.', 'write-behind': 'The answer comes before the commit. Write queue shows changes that wait: lock the table users first.' };
const faultHints = {
  'redis-frozen': 'Watch Latency and the tile Redis circuit: reads wait for the deadline a few times, then the circuit opens and they go to memory or the source. They stay correct.',
  'backplane-cut': 'Watch Look-ups: while messages may be lost, memory is not used, and Redis answers instead.',
  'database-locked': 'Watch Loads: loads wait, hits do not. After a deadline a stale entry is served, or the answer is 503.',
};

const experiments = {
  async load() {
    if (loading) return endLoad();
    const request = { rate: Number($('load-rate').value), keys: Number($('load-keys').value) };
    const done = note(`${request.rate} reads per second of ${request.keys} users begin.`, 'Watch Look-ups: the source answers the first read of each user, then memory answers nearly all.');
    if (await send('PUT', 'lab/load', request, done)) renew(request);
  },
  async stampede() {
    const callers = Number($('stampede-callers').value);
    const done = note(`${callers} callers read one evicted entry at the same time.`, 'Watch Loads: one load, and all other callers share it.');
    const result = await send('POST', 'lab/stampede', { callers }, done);
    if (result) done(`${show.count(callers)} callers: ${show.count(result.loads)} loaded, ${show.count(result.shared)} shared the load, ${show.count(result.hits)} hits, ${show.count(result.refused)} refused; p50 ${show.milliseconds(result.p50)}, p99 ${show.milliseconds(result.p99)}.`);
  },
  async update(strategy) {
    const done = note(`A change by ${strategy}.`, strategyHints[strategy]);
    const result = await send('POST', 'lab/update', { strategy }, done);
    if (result) done(`A change by ${strategy}: version ${result.version} after ${show.milliseconds(result.milliseconds)}, ${result.committed ? 'committed' : 'accepted, not committed yet'}.`);
  },
  async evict() {
    const key = $('lab-user').textContent;
    const done = note(`${key} is evicted from all tiers.`, 'Its next read loads it once.');
    await send('DELETE', `cache/entries?key=${encodeURIComponent(key)}`, null, done);
  },
  async warm() {
    const done = note('The newest 200 users are loaded.', 'Clear the cache first: then Loads shows them now, and the first reads of these users are hits.');
    await send('POST', 'cache/warm', { cache: 'users', top: 200 }, done);
  },
  async drop() {
    const done = note('The cache users is cleared in all processes, by a new generation of its keys.', 'Watch Hit ratio: it falls at once, and recovers as entries are loaded again.');
    await send('DELETE', 'cache/namespaces/users', null, done);
  },
  async limit() {
    const policy = $('limit-policy').value;
    const done = note(`${SPENT} requests to ${policy}.`, 'Watch Limits. Ten permits per ten seconds: the rest is denied with 429.');
    const statuses = await Promise.all(Array.from({ length: SPENT }, () => ask(`limits/${policy}`).then(answer => answer.status, () => 0)));
    const count = status => statuses.filter(one => one === status).length;
    done(`${SPENT} requests to ${policy}: ${count(200)} allowed, ${count(429)} denied.`);
  },
  async fault(fault) {
    const seconds = Number($('fault-seconds').value);
    const done = note(`${faultName[fault]} for ${seconds} seconds.`, faultHints[fault]);
    await send('POST', 'lab/faults', { fault, seconds }, done);
  },
};

const faultName = { 'redis-frozen': 'The cache’s Redis does not answer', 'backplane-cut': 'The connections of the backplane break', 'database-locked': 'The table users is locked' };

/** Renews the load until it is stopped, or until the service refuses twice. */
function renew(request) {
  $('load').textContent = 'Stop the load';
  let refused = 0;
  const renewal = loading = setInterval(async () => {
    let problem = '';
    const done = await send('PUT', 'lab/load', request, text => { problem = text; });
    refused = done ? 0 : refused + 1;
    if (refused < 2 || loading !== renewal) return;
    stopRenewing();
    note('The load ends, because it cannot be renewed.', problem);
  }, RENEW);
}

function stopRenewing() {
  clearInterval(loading);
  loading = null;
  $('load').textContent = 'Start the load';
}

async function endLoad() {
  if (!loading) return;
  stopRenewing();
  const done = note('The load ends.', '');
  await send('DELETE', 'lab/load', null, done);
}

$('try').addEventListener('click', async event => {
  const button = event.target.closest('button');
  if (!button) return;
  const [name, argument] = button.dataset.try.split(' ');
  if (button.ariaBusy === 'true') return;
  button.ariaBusy = 'true'; // a disabled button would lose the focus
  await experiments[name](argument);
  button.ariaBusy = 'false';
});

// --- One entry in all tiers

const keyButton = key => {
  const button = element('button', { type: 'button', class: 'link', title: 'Shows the entry in each tier' }, key);
  button.addEventListener('click', () => {
    $('entry-key').value = key;
    lookUp(key);
    $('entry-key').scrollIntoView({ block: 'center' });
  });
  return button;
};

async function lookUp(key) {
  $('entry-problem').textContent = '';
  const found = await send('GET', `cache/entries?key=${encodeURIComponent(key)}`, null, text => { $('entry-problem').textContent = text; });
  $('entry-part').hidden = !found;
  if (!found) return;
  const row = (name, format) => [name, ...[found.memory, found.redis].map(format)];
  const seconds = value => value === null || value === undefined ? none : show.seconds(value);
  fill($('entry'), ['Property', '!Memory of the process that answers', '!Redis'], [
    row('State', tier => tier.state),
    row('Version', tier => tier.version === null || tier.version === undefined ? none : tier.version === 0 ? 'none' : show.count(tier.version)),
    row('Age', tier => seconds(tier.ageSeconds)),
    row('Fresh for', tier => seconds(tier.ttlSeconds)),
    row('Usable for', tier => seconds(tier.usableForSeconds)),
    row('Size', tier => tier.sizeBytes === null || tier.sizeBytes === undefined ? none : show.bytes(tier.sizeBytes)),
  ]);
  $('entry-note').textContent = `Key in Redis: ${found.redisKey ?? 'not known, because Redis is away'}. ${found.leaseHeld ? 'A process is loading it now.' : 'No process is loading it.'}`;
}

$('entry-form').addEventListener('submit', event => {
  event.preventDefault();
  lookUp($('entry-key').value.trim());
});

// --- Dead letters

/** Lists the dead letters if their number has changed, and until the list has as many as the statistics, which are older. */
async function showDeadLetters(stats) {
  const count = stats?.writeBehind?.deadLetters ?? 0;
  if (String(count) === $('letters').dataset.count) return;
  $('letters').dataset.count = '';
  $('letters-part').hidden = count === 0;
  if (count === 0) return;
  const letters = await send('GET', `cache/dead-letters?limit=${MAX_LETTERS}`, null, text => { $('letters-problem').textContent = text; });
  if (letters?.length === Math.min(count, MAX_LETTERS)) $('letters').dataset.count = count;
  fill($('letters'), ['Entity', 'Version', '!Reason', 'Accepted', '!Decision'], (letters ?? []).map(letter => [
    keyButton(`${letter.cache}:${letter.key}`), show.count(letter.version), letter.reason, new Date(letter.acceptedAt).toLocaleTimeString('en-GB'),
    element('span', {}, decision('Retry', letter, 'POST', '/retry'), ' ', decision('Drop', letter, 'DELETE', '')),
  ]));
}

function decision(name, letter, method, end) {
  const button = element('button', { type: 'button', class: 'quiet', 'aria-label': `${name} the write of ${letter.cache}:${letter.key}` }, name);
  button.addEventListener('click', async () => {
    $('letters-problem').textContent = '';
    await send(method, `cache/dead-letters/${letter.id}${end}?cache=${letter.cache}`, null, text => { $('letters-problem').textContent = text; });
    button.blur();
    $('letters').dataset.count = '';
    await showDeadLetters(seen.at(-1)?.stats);
  });
  return button;
}
