// Keeps a page up to date, and tells values of plots at the pointer. Without it, all can be read as well.

const QUIET_MS = 5000;        // no word for so long: the line is dead
const REFRESH_MS = 300000;    // fetch the page again, for exact means in plots and new times on their axes
const AT_LEAST_MS = 5000;     // between two fetches

const link = document.getElementById('link');
let places = new Map();       // name → elements
let plots = [];
let refreshed = -AT_LEAST_MS;
let refreshing = false;

/* ---- figures ---- */

function collect() {
  places = new Map();
  for (const element of document.querySelectorAll('[data-live]')) {
    const name = element.dataset.live;
    if (!places.has(name)) places.set(name, []);
    places.get(name).push(element);
  }
  plots = plots.filter(plot => plot.figure.isConnected);
  for (const figure of document.querySelectorAll('figure.plot')) {
    if (figure.querySelector('.area') && !plots.some(plot => plot.figure === figure)) plots.push(new Plot(figure));
  }
}

function write(name, [text, is]) {
  for (const element of places.get(name) ?? []) {
    if (element.textContent !== text) element.textContent = text;
    if (is) {
      element.dataset.is = is;
      element.title = is;
    } else {
      delete element.dataset.is;
      element.removeAttribute('title');
    }
  }
}

// Three digits and a unit, as the server writes them.
function watts(mw) {
  if (mw === null || mw === undefined) return '–';
  if (mw === 0) return '0 W';
  let value = mw / 1000, unit = 0;
  const units = ['mW', 'W', 'kW', 'MW', 'GW', 'TW', 'PW'];
  if (value < 0.9995) value *= 1000; else unit = 1;
  for (; value >= 999.5 && unit + 1 < units.length; unit++) value /= 1000;
  return value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2) + ' ' + units[unit];
}

const utc = ms => new Date(ms).toISOString().slice(0, 19).replace('T', ' ');

/* ---- plots ---- */

const SVG = 'http://www.w3.org/2000/svg';

function mark(parent, name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}

class Plot {
  constructor(figure) {
    const data = figure.dataset;
    this.figure = figure;
    this.id = data.livePlot;
    this.stacked = data.form === 'stacked';
    this.from = Number(data.from);
    this.step = Number(data.step);
    this.count = Number(data.count);
    this.max = Number(data.max);
    this.area = figure.querySelector('.area');
    this.svg = figure.querySelector('svg.plot');
    this.when = figure.querySelector('.when');
    this.tracks = [...figure.querySelectorAll('svg.marks path')].map(path => ({
      path,
      key: path.dataset.key,
      values: path.dataset.v.split(',').map(v => v === '' ? null : Number(v)),
      latest: null,
      seen: 0,
    }));
    this.legend = new Map();
    for (const entry of figure.querySelectorAll('.legend li')) {
      const value = entry.querySelector('.v');
      this.legend.set('sum' in entry.dataset ? null : entry.dataset.key,
        { value, mean: value.textContent, mark: entry.dataset.mark ?? '' });
    }
    this.at = null;           // step at the pointer
    this.anchor = null;       // where a selection began
    this.cross = mark(this.svg, 'line', { class: 'cross', y1: '0', y2: '100%', visibility: 'hidden' });
    this.chosen = mark(this.svg, 'rect', { class: 'chosen', y: '0', height: '100%', visibility: 'hidden' });
    this.listen();
  }

  get busy() { return this.at !== null; }

  x(step) { return (100 * step / this.count).toFixed(2) + '%'; }

  time(step) { return this.from + this.step * step; }

  stepAt(event) {
    const box = this.area.getBoundingClientRect();
    const step = Math.floor((event.clientX - box.left) / box.width * this.count);
    return Math.min(Math.max(step, 0), this.count - 1);
  }

  listen() {
    const area = this.area;
    area.addEventListener('pointermove', event => this.show(this.stepAt(event)));
    area.addEventListener('pointerleave', () => { if (this.anchor === null) this.hide(); });
    area.addEventListener('pointerdown', event => {
      if (event.button !== 0 || event.pointerType === 'touch') return;
      this.anchor = this.stepAt(event);
      area.setPointerCapture(event.pointerId);
      event.preventDefault();
      area.focus({ focusVisible: false });
    });
    area.addEventListener('pointerup', event => {
      if (this.anchor === null) return;
      const dragged = Math.abs(this.stepAt(event) - this.anchor) >= 2;
      if (dragged) this.zoom(); else this.letGo();
    });
    area.addEventListener('pointercancel', () => this.hide());
    area.addEventListener('blur', () => this.hide());
    area.addEventListener('keydown', event => {
      const last = this.count - 1;
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -last, End: last }[event.key];
      if (by !== undefined) {
        // From nowhere: to the left begins with the newest, to the right with the oldest.
        const from = this.at ?? (by === -1 || by === -10 ? last - by : by === 1 || by === 10 ? -by : 0);
        const to = Math.min(Math.max(from + by, 0), last);
        if (event.shiftKey) this.anchor ??= this.at ?? to; else this.letGo();
        this.show(to);
      } else if (event.key === 'Enter' && this.anchor !== null) {
        this.zoom();
      } else if (event.key === 'Escape') {
        this.hide();
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  show(step) {
    this.at = step;
    const x = this.x(step + 0.5);
    this.cross.setAttribute('x1', x);
    this.cross.setAttribute('x2', x);
    this.cross.setAttribute('visibility', 'visible');
    let text = utc(this.time(step)) + ' UTC';
    if (this.anchor !== null) {
      const [a, b] = this.selection();
      this.chosen.setAttribute('x', this.x(a));
      this.chosen.setAttribute('width', this.x(b - a));
      this.chosen.setAttribute('visibility', 'visible');
      text = utc(this.time(a)) + ' – ' + utc(this.time(b)) + ' UTC: let go or press enter to zoom';
    }
    this.when.textContent = text;
    let sum = null;
    for (const track of this.tracks) {
      const value = track.values[step];
      if (value !== null) sum = (sum ?? 0) + value;
      this.tell(track.key, value);
    }
    this.tell(null, sum);
  }

  tell(key, value) {
    const entry = this.legend.get(key);
    if (entry) entry.value.textContent = (value === null ? '' : entry.mark) + watts(value);
  }

  selection() { return [Math.min(this.anchor, this.at), Math.max(this.anchor, this.at) + 1]; }

  letGo() {
    this.anchor = null;
    this.chosen.setAttribute('visibility', 'hidden');
  }

  hide() {
    this.letGo();
    this.at = null;
    this.cross.setAttribute('visibility', 'hidden');
    this.when.textContent = this.when.dataset.rest;
    for (const { value, mean } of this.legend.values()) value.textContent = mean;
  }

  zoom() {
    const [a, b] = this.selection();
    const url = new URL(location.href);
    url.searchParams.delete('range');
    for (const [name, step] of [['from', a], ['until', b]]) {
      url.searchParams.set(name, new Date(this.time(step)).toISOString().replace('.000Z', 'Z'));
    }
    location.assign(url);
  }

  // Takes milliwatts by track at a moment; says whether they fit.
  append(t, mw) {
    const own = new Set(this.tracks.map(track => track.key));
    let others = null;
    for (const [key, value] of mw) if (!own.has(key) && value !== null) others = (others ?? 0) + value;
    // A track that isn't there: only those beyond the largest few are added up.
    if (others !== null && !own.has('')) return false;
    let step = Math.floor((t - this.from) / this.step);
    if (step >= this.count + this.count / 2) return false;
    let moved = 0;
    for (; step >= this.count; step--, moved++) {
      this.from += this.step;
      for (const track of this.tracks) {
        track.values.shift();
        track.values.push(null);
        track.seen = 0;
      }
    }
    if (step < 0) return true;
    let sum = 0;
    for (const track of this.tracks) {
      const value = track.key === '' ? others : mw.get(track.key) ?? null;
      if (value !== null) {
        const before = track.values[step];
        if (track.seen === 0 && before !== null) track.seen = 1;
        track.seen += 1;
        track.values[step] = before === null ? value : before + (value - before) / track.seen;
      }
      sum = this.stacked ? sum + (track.values[step] ?? 0) : Math.max(sum, track.values[step] ?? 0);
    }
    if (sum > this.max) return false;
    this.draw();
    if (moved > 0) this.move(moved);
    if (this.at !== null) this.show(this.at);
    return true;
  }

  draw() {
    const base = new Array(this.count).fill(0);
    const y = value => Math.round(1000 - 1000 * value / this.max);
    for (const { path, values } of this.tracks) {
      let d = '';
      for (let i = 0; i < this.count; i++) {
        if (values[i] === null) continue;
        const start = i;
        let back = '';
        for (; i < this.count && values[i] !== null; i++) {
          const top = base[i] + values[i];
          if (this.stacked) {
            d += (i === start ? `M${i} ${y(base[i])}` : '') + `V${y(top)}H${i + 1}`;
            back = `V${y(base[i])}H${i}` + back;
            base[i] = top;
          } else {
            d += (i === start ? `M${i} ${y(top)}` : `V${y(top)}`) + `H${i + 1}`;
          }
        }
        if (this.stacked) d += back + 'Z';
      }
      path.setAttribute('d', d);
    }
  }

  // Times and gaps go left by so many steps.
  move(steps) {
    for (const tick of this.svg.querySelectorAll('[data-t]')) {
      const x = 100 * (Number(tick.dataset.t) - this.from) / (this.step * this.count);
      for (const name of tick.tagName === 'line' ? ['x1', 'x2'] : ['x']) tick.setAttribute(name, x.toFixed(2) + '%');
      if (x < 0) tick.remove();
    }
    for (const gap of this.svg.querySelectorAll('.gap')) {
      gap.setAttribute('x', (parseFloat(gap.getAttribute('x')) - 100 * steps / this.count).toFixed(2) + '%');
      if (parseFloat(gap.getAttribute('x')) < 0) gap.remove();
    }
    const span = this.figure.querySelector('.span');
    span.textContent = utc(this.from) + ' – ' + utc(this.time(this.count)).slice(11) + ' UTC';
  }
}

/* ---- bars ---- */

function bars(set) {
  for (const bar of document.querySelectorAll('[data-bar]')) {
    const parts = [...bar.querySelectorAll('rect')];
    for (const rect of parts) {
      const value = set.get(rect.dataset.key);
      if (value !== undefined) rect.dataset.mw = value;
    }
    if (parts.some(rect => rect.dataset.mw === undefined)) continue;
    const sum = parts.reduce((sum, rect) => sum + Number(rect.dataset.mw), 0);
    let x = 0;
    for (const rect of parts) {
      const width = sum > 0 ? 100 * Number(rect.dataset.mw) / sum : 0;
      rect.setAttribute('x', x.toFixed(2) + '%');
      rect.setAttribute('width', width.toFixed(2) + '%');
      x += width;
    }
  }
}

/* ---- the line to the daemon ---- */

let source = null, quiet = null, retry = null, delay = 1000, lost = null;
const mw = new Map();

function state(name, text) {
  if (!link) return;
  link.dataset.state = document.body.dataset.link = name;
  if (link.textContent !== text) link.textContent = text;
}

function connect() {
  close();
  if (document.hidden) return;
  if (lost === null) state('wait', 'connecting');
  mw.clear();
  source = new EventSource(document.body.dataset.liveUrl);
  source.onmessage = event => take(JSON.parse(event.data));
  source.onerror = again;
  quiet = setTimeout(again, 2 * QUIET_MS);
}

function close() {
  source?.close();
  source = null;
  clearTimeout(quiet);
  clearTimeout(retry);
}

function again() {
  close();
  lost ??= Date.now();
  state('lost', 'disconnected since ' + utc(lost).slice(11) + ' UTC');
  retry = setTimeout(connect, delay * (0.5 + Math.random()));
  delay = Math.min(delay * 2, 30000);
}

function take(change) {
  clearTimeout(quiet);
  quiet = setTimeout(again, QUIET_MS);
  delay = 1000;
  const back = lost !== null;
  lost = null;
  state('live', 'live');
  for (const [name, value] of Object.entries(change.set)) write(name, value);
  bars(new Map(Object.entries(change.bar ?? {})));
  for (const [key, value] of Object.entries(change.mw)) mw.set(key, value);
  let fits = true;
  for (const plot of plots) if (plot.id === change.plot) fits = plot.append(change.t, mw) && fits;
  if (back || !fits || change.shape !== document.body.dataset.shape || performance.now() - refreshed > REFRESH_MS) refresh();
}

// Fetches the page again and takes over what has changed as a whole.
async function refresh() {
  if (refreshing || performance.now() - refreshed < AT_LEAST_MS || plots.some(plot => plot.busy)) return;
  refreshing = true;
  try {
    const answer = await fetch(location.href, { cache: 'no-store' });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const parts = from => [...from.querySelectorAll('[data-part]')].map(part => part.id).join();
    // Another page by now, such as that of the first node in place of the one that tells how to get it.
    if (parts(page) !== parts(document)) return location.reload();
    for (const part of document.querySelectorAll('[data-part]')) {
      const fresh = page.getElementById(part.id);
      if (fresh && !part.contains(document.activeElement)) part.replaceWith(document.adoptNode(fresh));
    }
    document.body.dataset.shape = page.body.dataset.shape;
    collect();
  } catch {
    // No answer: the line will be found dead, and tried again, by the stream.
  } finally {
    refreshing = false;
    refreshed = performance.now();
  }
}

collect();
if (document.body.dataset.liveUrl) {
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      close();
      state('wait', 'paused');
    } else {
      lost ??= Date.now();
      state('wait', 'connecting');
      connect();
    }
  });
  connect();
}
