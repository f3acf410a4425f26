// The live page: signs in, reads the statistics of all processes every two seconds and shows the changes. The session is in a cookie that
// scripts cannot read; a browser that does not keep the cookie gets a token, which is in this script's memory only.
'use strict';

const PATIENCE = 5000; // ms that an answer may take

let isSignedIn = false;
let isComplete = false; // whether the history and the experiments have been asked for
let known = new Map();  // the processes, and when each has answered last (s)
let token_ = null;
let timer = null;

const ask = (path, options = {}) => fetch(path, {
  ...options,
  cache: 'no-store',
  credentials: token_ ? 'omit' : 'same-origin',
  signal: AbortSignal.timeout(options.patience ?? PATIENCE),
  headers: { ...(token_ ? { Authorization: `Bearer ${token_}` } : {}), ...(options.body ? { 'Content-Type': 'application/json' } : {}) },
});

const waitOf = answer => Math.max(1, Number(answer.headers.get('Retry-After')) || 1);
const inSeconds = wait => wait === 1 ? 'in a second' : `in ${wait} seconds`;

// --- The session

/** Signs in: null, or the problem. */
async function signIn(email, password) {
  let answer;
  const logIn = transport => ask('sessions', { method: 'POST', body: JSON.stringify({ email, password, transport, shortLived: true }) });
  try {
    answer = await logIn('cookie');
    if (answer.status === 201 && (await ask('sessions')).status === 401) {
      // Over http, some browsers keep the cookie on no host, not even on localhost.
      answer = await logIn('bearer');
      if (answer.status === 201) token_ = (await answer.json()).token;
    }
  } catch {
    return 'The service cannot be reached.';
  }

  switch (answer.status) {
    case 201: return null;
    case 400: return 'An e-mail address and a password are needed.';
    case 401: return 'The e-mail address or the password is wrong.';
    case 429: return `Too many attempts. Try again ${inSeconds(waitOf(answer))}.`;
    case 503: return `The service cannot check passwords at the moment, because a server behind it is away. Try again ${inSeconds(waitOf(answer))}.`;
    default: return `The service answered ${answer.status}, which is a defect.`;
  }
}

/** Shows the numbers. A reload of the page finds that it was signed in, and asks with the cookie that the browser has kept. */
async function open() {
  isSignedIn = true;
  history.replaceState({ isSignedIn: !token_ }, '');
  $('sign-in').hidden = true;
  $('live').hidden = $('sign-out').hidden = false;
  state('Waiting for the first numbers', '');
  build();
  buildPath();
  buildTiles();
  isComplete = false;
  await look();
}

/** Shows the form. */
function close(message = '') {
  isSignedIn = false;
  token_ = null;
  clearTimeout(timer);
  stopRenewing();
  history.replaceState(null, '');
  [answers, seen, times, marks] = [[], [], [], []];
  known = new Map();
  chosen = ALL;
  for (const chart of charts) chart.data = undefined;
  report([]);
  $('live').hidden = $('sign-out').hidden = $('try').hidden = true;
  $('sign-in').hidden = false;
  $('sign-in-error').textContent = message;
  $('email').focus();
  if (!$('email').value || !$('password').value) hint();
}

async function signOut() {
  await endLoad();
  if (isSignedIn) ask('sessions/current', { method: 'DELETE', keepalive: true }).catch(() => { /* it ends by itself */ });
  close();
}

/** Fills in the development login, which every installation by ./dev run has. */
async function hint() {
  const answer = await fetch('development-login', { cache: 'no-store', credentials: 'omit' }).catch(() => null);
  if (answer?.status !== 200) return;
  const { email, password } = await answer.json();
  [$('email').value, $('password').value] = [email, password];
  $('hint').textContent = `Development: ${email} with the password ${password}.`;
  $('hint').hidden = false;
}

// --- The numbers

function state(text, kind) {
  if ($('state-text').textContent !== text) $('state-text').textContent = text;
  $('state').className = `state ${kind}`;
}

/** Adds a new answer, or null if there was none. */
function take(processes) {
  answers.push({ time: Date.now() / 1000, processes });
  seen.push({ time: answers.at(-1).time, stats: shown(processes) });
  const now = seen.at(-1);
  if (now.stats) learn(now.stats.caches.map(cache => cache.cache));
  plot();
  forget();

  const then = now.stats ? before(seen.length - 1) : null;
  showTiles(now, then);
  showPath(now, then);
  $('live').classList.toggle('old', !now.stats);
  if (processes) {
    for (const one of processes) known.set(one.instance, now.time);
    for (const [name, time] of known) if (now.time - time > ABSENT) known.delete(name);
    const absent = [...known.keys()].filter(name => !processes.some(one => one.instance === name));
    report([...degradedParts(processes),
      ...absent.map(name => [`Process ${name}`, `It has not answered for ${Math.round(now.time - known.get(name))} s. The numbers of all together are without it.`])]);
    offerProcesses([...known.keys()].sort(), processes);
  }
  if (now.stats) {
    fillTables(now.stats);
    showDeadLetters(now.stats);
  }
  if (!paused) redraw();
}

/** The processes to choose from, if there is more than one. */
function offerProcesses(names, processes) {
  $('instance').textContent = names.length === 1
    ? `Process ${names[0]}, since ${new Date(processes[0].startedAt).toLocaleTimeString('en-GB')}`
    : processes.length === names.length ? `${names.length} processes` : `${processes.length} of ${names.length} processes answer`;
  if ($('processes').dataset.names === names.join()) return;
  $('processes').dataset.names = names.join();
  $('processes-part').hidden = names.length === 1;
  $('processes').replaceChildren(
    element('option', { value: ALL }, 'All together'), ...names.map(name => element('option', { value: name }, name)));
  if (chosen !== ALL && !names.includes(chosen)) {
    chosen = ALL;
    plotAll();
  }
  $('processes').value = chosen;
}

/** Adds what the processes have kept of the time before. */
async function recall() {
  const answer = await ask('cache/stats/history').catch(() => null);
  const last = answers.at(-1);
  if (!answer?.ok || !last?.processes) return;
  const offset = last.time * 1000 - new Date(last.processes[0].at).getTime();
  const past = fromHistory(await answer.json(), offset).filter(one => one.time < answers[0].time && one.time > last.time - KEEP);
  answers = [...past, ...answers];
  plotAll();
  if (!paused) redraw();
}

async function look() {
  let wait = EVERY;
  try {
    const answer = await ask('cache/stats/processes');
    if (answer.status === 401) return close('Your session has ended. Sign in again.');
    if (answer.status === 403) return close('This account is not an administrator’s: it may not see these numbers.');
    if (answer.ok) {
      take((await answer.json()).processes);
      if (!isComplete) {
        isComplete = true;
        recall();
        offerLab();
      }
      state(paused ? 'Graphs paused' : 'Live', paused ? 'warn' : 'live');
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

  if (isSignedIn) timer = setTimeout(look, wait);
}

// --- The page

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
  open();
});

$('sign-out').addEventListener('click', signOut);
$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', paused);
  $('pause').textContent = paused ? 'Go on' : 'Pause the graphs';
  state(paused ? 'Graphs paused' : 'Live', paused ? 'warn' : 'live');
  if (!paused) redraw();
});
$('processes').addEventListener('change', () => {
  chosen = $('processes').value;
  plotAll();
  redraw();
});
document.querySelectorAll('input[name=range]').forEach(input => input.addEventListener('change', () => {
  range = Number(input.value) * 60;
  redraw();
}));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { if (isSignedIn) charts.forEach(draw); });
new ResizeObserver(() => {
  if (!isSignedIn) return;
  for (const chart of charts) if (!chart.figure.hidden) chart.graph?.setSize({ width: chart.plot.clientWidth, height: chart.plot.clientHeight });
  document.querySelectorAll('table').forEach(fit);
}).observe($('charts'));
addEventListener('pagehide', () => { if (loading) ask('lab/load', { method: 'DELETE', keepalive: true }).catch(() => { /* it ends by itself */ }); });

if (history.state?.isSignedIn) {
  open();
} else {
  $('sign-in').hidden = false;
  $('email').focus();
  hint();
}
