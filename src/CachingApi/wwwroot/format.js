// Elements and numbers in words, for the other scripts of the page.
'use strict';

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
  milliseconds: or(value => value < 0.1 ? `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} µs` : value < 1 ? `${value.toFixed(2)} ms` : value < 100 ? `${value.toFixed(1)} ms` : value < 10_000 ? `${number.format(value)} ms` : `${number.format(value / 1000)} s`),
  seconds: or(value => value < 10 ? `${value.toFixed(1)} s` : `${number.format(value)} s`),
  bytes: or(value => {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
    return `${unit === 0 ? value.toFixed(0) : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
  }),
};
show.bytesRate = or(value => `${show.bytes(value)}/s`);
