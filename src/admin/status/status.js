// The status page: asks for status.json every two seconds and draws what it says. It shows no figure that is older than
// that without saying so.
'use strict';

const PERIOD = 2000; // ms between two questions
const PATIENCE = 5000; // ms until an answer is given up
const KIB = 1024;
const SVG = 'http://www.w3.org/2000/svg';

let heard = null; // when the last answer came
let last = null; // what it said

// --- building blocks: text is only ever set as text

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function put(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

// --- words for numbers

function count(value) {
  return value === null || value === undefined ? '–' : Math.round(value).toLocaleString('en');
}

function rate(value) {
  if (value >= 100) return count(value);
  return String(Number(value.toFixed(value >= 10 ? 1 : 2)));
}

function speed(value) {
  return `${octets(value).join(' ')}/s`;
}

function octets(value) {
  if (value === null || value === undefined) return ['–', ''];
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= KIB && unit < units.length - 1) { value /= KIB; unit += 1; }
  return [value >= 100 || unit === 0 ? value.toFixed(0) : value.toFixed(1), units[unit]];
}

function span(seconds) {
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)}\u00a0µs`;
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)}\u00a0ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)}\u00a0ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function clock(date) {
  return date.toLocaleTimeString('en-GB');
}

function percent(part, all) {
  return all > 0 ? `${(100 * part / all).toFixed(part === all ? 0 : 1)} %` : '–';
}

// --- pictures

/** A bar from left to right; the text beside it says the same. */
function bar(share, kind) {
  const picture = shape('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  picture.append(shape('rect', { class: 'f0', width: 100, height: 10, rx: 1 }));
  const width = Math.max(0, Math.min(1, share || 0)) * 100;
  if (width > 0) picture.append(shape('rect', { class: kind || 'f1', width: Math.max(width, 1), height: 10, rx: 1 }));
  return picture;
}

/** Several parts of one bar, in the order of their colours. */
function stack(shares) {
  const picture = bar(0);
  let from = 0;
  shares.forEach((share, index) => {
    const width = Math.max(0, Math.min(1, share || 0)) * 100;
    if (width > 0) picture.append(shape('rect', { class: `f${index + 1}`, x: from, width, height: 10 }));
    from += width;
  });
  return picture;
}

/** The least of 1, 2, 5 times a power of ten that is not below it; of octets, times 1024 and so on. */
function roof(value, least) {
  if (value <= least) return least;
  const unit = least === KIB ? KIB ** Math.floor(Math.log(value) / Math.log(KIB)) : 1;
  const power = 10 ** Math.floor(Math.log10(value / unit));
  return unit * [1, 2, 5, 10].map(step => step * power).find(step => step >= value / unit * 0.999);
}

/** Curves over the last minutes: { name, values, show }. What they say stands in the legend and in the label as well. */
function chart(id, title, times, curves, least) {
  // In pixels of this screen, so that its words are as large as all others.
  const width = Math.max(200, document.getElementById(id).clientWidth), em = parseFloat(getComputedStyle(document.body).fontSize);
  const height = 11 * em, bottom = 1.4 * em, top = 0.6 * em;
  const now = times[times.length - 1];
  const since = Math.min(now - 60, times[0]);
  const most = roof(Math.max(0, ...curves.flatMap(curve => curve.values)), least);
  const left = (1 + 0.45 * Math.max(...[0.5, 1].map(part => curves[0].show(most * part).length))) * em;
  const x = time => left + (width - left) * (time - since) / (now - since);
  const y = value => top + (height - top - bottom) * (1 - value / most);
  const said = curves.map(curve => `${curve.name} ${curve.show(curve.values[curve.values.length - 1])}`).join(', ');
  const picture = shape('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${title}: now ${said}` });
  for (const part of [0, 0.5, 1]) {
    picture.append(shape('line', { class: 'grid', x1: left, x2: width, y1: y(most * part), y2: y(most * part) }));
    picture.append(shape('text', { x: left - 0.4 * em, y: y(most * part) + 0.27 * em, 'text-anchor': 'end' }, curves[0].show(most * part)));
  }
  for (const [part, anchor] of [[0, 'start'], [0.5, 'middle'], [1, 'end']]) {
    const time = since + (now - since) * part;
    const text = part === 1 ? 'now' : `${span(now - time)} ago`;
    picture.append(shape('text', { x: x(time), y: height - 0.2 * em, 'text-anchor': anchor }, text));
  }
  curves.forEach((curve, index) => {
    const points = curve.values.map((value, at) => `${x(times[at]).toFixed(1)},${y(value).toFixed(1)}`);
    if (index === 0) {
      const edge = `${x(now).toFixed(1)},${y(0)} ${x(times[0]).toFixed(1)},${y(0)}`;
      picture.append(shape('polygon', { class: 'area f1', points: `${points.join(' ')} ${edge}` }));
    }
    picture.append(shape('polyline', { class: `curve s${index + 1}`, points: points.join(' ') }));
  });
  const legend = element('div', { class: 'legend' });
  curves.forEach((curve, index) => {
    const sample = shape('svg', { viewBox: '0 0 32 12', 'aria-hidden': 'true' });
    sample.append(shape('line', { class: `curve s${index + 1}`, x1: 0, x2: 32, y1: 6, y2: 6 }));
    const value = element('b', {}, curve.show(curve.values[curve.values.length - 1]));
    legend.append(element('span', {}, sample, `${curve.name} `, value));
  });
  put(id, picture, legend);
}

/** What a counter grew by in a second, at each time but the first. */
function rates(history, name) {
  const values = history.tracks[name], at = history.at;
  const grown = [];
  for (let index = 1; index < values.length; index += 1) {
    // The last piece may be shorter than the others: over so short a time a single login would be a mountain.
    const from = at[index] - at[index - 1] < history.period_s * 0.8 ? Math.max(0, index - 2) : index - 1;
    const time = at[index] - at[from];
    grown.push(time > 0 ? Math.max(0, (values[index] - values[from]) / time) : 0);
  }
  return grown;
}

function difference(one, other) {
  return one.map((value, index) => Math.max(0, value - other[index]));
}

// --- parts of the page

function tile(name, value, unit, more, kind) {
  const number = element('b', {}, value);
  if (unit) number.append(' ', element('span', { class: 'unit' }, unit));
  return element('div', { class: `tile ${kind || ''}` }, element('span', {}, name), number, element('span', {}, more || '\u00a0'));
}

/** Rows of a table of counters: { label, recent, total, kind }, longest first. */
function rows(list, nothing) {
  const shown = list.filter(row => row.total > 0).sort((a, b) => b.recent - a.recent || b.total - a.total).slice(0, 8);
  if (shown.length === 0) return element('p', { class: 'none' }, nothing);
  const most = Math.max(1, ...shown.map(row => row.recent));
  const made = element('div', { class: 'rows' });
  for (const row of shown) {
    const value = element('b', {}, count(row.recent), ' ', element('i', {}, `of ${count(row.total)} in all`));
    made.append(element('div', {}, element('p', {}, element('span', {}, row.label), value), bar(row.recent / most, row.kind)));
  }
  return made;
}

function facts(list) {
  const made = element('dl', {});
  for (const [name, text, picture] of list) {
    const value = element('dd', {}, text);
    if (picture) value.append(picture);
    made.append(element('dt', {}, name), value);
  }
  return made;
}

function badge(kind, text) {
  const mark = { good: '✓', warn: '!', bad: '✗' }[kind] || '·';
  return element('span', { class: `badge ${kind}` }, `${mark} ${text}`);
}

function level(share) {
  return share > 0.95 ? 'f3' : share > 0.8 ? 'f2' : 'f1';
}

function tiles(status, now) {
  const { sessions, counts, stages } = status;
  const made = [tile('Sessions', count(sessions.imap + sessions.pop3), '', `IMAP ${count(sessions.imap)} · POP3 ${count(sessions.pop3)}`)];
  const moved = octets(now.bytes);
  if (status.process === 'front') {
    made.push(tile('Logins', rate(now.logins_ok), 'per s', `${rate(now.logins_client)} refused per s`));
    made.push(tile('Failures of ours', rate(now.logins_own), 'per s', 'directory, nodes, ourselves', now.logins_own > 0 ? 'bad' : ''));
    const login = stages.login;
    made.push(tile('A login takes', login && login.p50_s !== null ? span(login.p50_s) : '–', '',
      login && login.p99_s !== null ? `95\u00a0% ${span(login.p95_s)} · 99\u00a0% ${span(login.p99_s)}` : 'nobody has logged in lately'));
    const down = status.nodes.filter(node => node.state === 'down').length;
    made.push(tile('Nodes', `${status.nodes.length - down}`, `of ${status.nodes.length}`, down ? `${down} down` : 'none is known to be down', down ? 'bad' : ''));
  } else {
    made.push(tile('Hand-overs', rate(now.handed_over), 'per s', `${rate(now.handovers - now.handed_over)} refused per s`));
    const over = stages['hand-over'];
    made.push(tile('A hand-over takes', over && over.p50_s !== null ? span(over.p50_s) : '–', '',
      over && over.p99_s !== null ? `95\u00a0% ${span(over.p95_s)} · 99\u00a0% ${span(over.p99_s)}` : 'none was made lately'));
    const stored = sum(counts.stored, row => row.result === 'stored');
    made.push(tile('Messages stored', rate(now.stored), 'per s', `${count(stored.recent)} lately · ${count(stored.total)} in all`));
  }
  const connections = status.process === 'front' ? `${count(status.connections.open)} connections` : 'to and from real servers';
  made.push(tile('Relayed', moved[0], `${moved[1]}/s`, connections));
  put('tiles', ...made);
}

function sum(table, which) {
  const found = table.filter(which);
  const add = key => found.reduce((all, row) => all + row[key], 0);
  return { recent: add('recent'), total: add('total') };
}

function nodes(status) {
  const list = status.nodes;
  if (list.length === 0) return put('nodes', element('p', { class: 'none' }, 'The table of nodes is empty.'));
  const most = Math.max(1, ...list.map(node => node.sessions.imap + node.sessions.pop3));
  const order = ['down', 'troubled', 'up', 'quiet'];
  list.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state) || a.name.localeCompare(b.name, 'en', { numeric: true }));
  const kinds = { up: 'good', down: 'bad', troubled: 'warn' };
  const body = element('tbody', {});
  for (const node of list) {
    const { imap, pop3 } = node.sessions;
    const open = node.open.count > 0 ? `${span(node.open.p50_s)}, ${span(node.open.p95_s)}` : '–';
    const failed = node.links.failed > 0 ? count(node.links.failed) : '0';
    body.append(element('tr', {}, element('td', {}, element('b', {}, node.name)), element('td', {}, badge(kinds[node.state], node.state)),
      element('td', { class: 'n' }, count(imap)), element('td', { class: 'n' }, count(pop3)),
      element('td', { class: 'fill' }, stack([imap / most, pop3 / most])),
      element('td', { class: 'n' }, count(node.links_ready)), element('td', { class: 'n' }, open), element('td', { class: 'n' }, failed)));
  }
  const names = [['home'], ['state'], ['IMAP', 'n'], ['POP3', 'n'], ['sessions', 'fill'], ['links ready', 'n'], ['opens in (50 %, 95 %)', 'n'], ['failed', 'n']];
  const head = element('tr', {}, ...names.map(([name, kind]) => element('th', { scope: 'col', class: kind || '' }, name)));
  put('nodes', element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, head), body)));
}

/** From the median to 99 %, on one logarithmic scale for all. */
function stages(status) {
  const order = ['accept', 'tls', 'policy', 'authenticate', 'link', 'opening', 'login', 'hand-over', 'first-byte'];
  const found = order.filter(name => status.stages[name] && status.stages[name].count > 0);
  if (found.length === 0) return put('stages', element('p', { class: 'none' }, 'Nothing has happened lately.'));
  const place = seconds => Math.max(0, Math.min(1, (Math.log10(Math.max(seconds, 1e-5)) + 5) / 6.5)) * 100;
  const body = element('tbody', {});
  for (const name of found) {
    const times = status.stages[name];
    const picture = bar(0);
    let from = 0;
    [times.p50_s, times.p95_s, times.p99_s].map(place).forEach((to, index) => {
      picture.append(shape('rect', { class: `f1 part${index}`, x: from, width: Math.max(to - from, 0), height: 10 }));
      from = Math.max(from, to);
    });
    body.append(element('tr', {}, element('td', {}, name), element('td', { class: 'fill' }, picture),
      ...[times.p50_s, times.p95_s, times.p99_s].map(time => element('td', { class: 'n' }, span(time)))));
  }
  const head = element('tr', {}, ...['stage', '', '50 %', '95 %', '99 %'].map((name, at) => element('th', { scope: 'col', class: ['', 'fill', 'n', 'n', 'n'][at] }, name)));
  const scale = element('p', { class: 'none' }, 'Half of them, 95 % and 99 % took no longer. Bars are logarithmic.');
  put('stages', element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, head), body)), scale);
}

function failures(status) {
  const mistakes = { authenticate: 'wrong or refused', link: 'too many sessions, or in use', opening: 'too many sessions, or in use' };
  const list = status.counts.failures.map(row => ({
    label: row.blame === 'administrator' ? 'held or drained by an administrator' : row.blame === 'client' ? `client: ${mistakes[row.stage] || row.stage}` : `${row.blame}, at ${row.stage}`,
    recent: row.recent, total: row.total, kind: row.blame === 'client' ? 'f1' : row.blame === 'administrator' ? 'f2' : 'f3',
  }));
  const held = sum(status.counts.logins, row => row.result === 'held');
  const part = element('div', {}, facts([['held, not tried', `${count(held.recent)} lately, ${count(held.total)} in all`]]));
  put('failures', rows(list, 'No login has failed.'), part);
}

function directory(status) {
  const { servers, followed, stale } = status.directory;
  const cache = status.counts.cache;
  const of = result => sum(cache, row => row.result === result).recent;
  const [hit, miss, memory] = [of('hit'), of('miss'), of('stale')];
  const asked = hit + miss + memory;
  const list = servers.map(server => [server.name, badge(server.up ? 'good' : 'bad', server.up ? 'up' : 'down')]);
  const follows = followed.filter(one => one.count > 0).map(one => one.by).join(', ');
  list.push(['changes', follows ? badge('good', `followed by ${follows}`) : badge('warn', 'not followed now')]);
  list.push(['answers', stale ? badge('bad', 'from memory: no server answers') : badge('good', 'fresh')]);
  list.push(['cache', `${percent(hit, asked)} of ${count(asked)} known`, stack([hit / asked, miss / asked, memory / asked])]);
  for (const result of ['unavailable', 'ambiguous', 'entry']) {
    const found = sum(status.counts.lookups, row => row.result === result);
    if (found.total > 0) list.push([result, `${count(found.recent)} lately, ${count(found.total)} in all`]);
  }
  const ended = sum(status.counts.revoked, () => true);
  if (ended.total > 0) list.push(['sessions revoked', `${count(ended.recent)} lately, ${count(ended.total)} in all`]);
  put('directory', facts(list));
}

function results(id, table, good, nothing, more) {
  const list = table.map(row => ({
    label: [row.kind, row.result].filter(Boolean).join(': '), recent: row.recent, total: row.total, kind: row.result === good ? 'f4' : 'f2',
  }));
  put(id, rows(list, nothing), ...more);
}

function defence(status) {
  const { open, limit, unauthenticated } = status.connections;
  const list = [];
  if (limit) list.push(['connections', `${count(open)} of ${count(limit)}`, bar(open / limit, level(open / limit))]);
  if (status.process === 'front') list.push(['not logged in', count(unauthenticated), bar(unauthenticated / Math.max(open, 1), 'f2')]);
  const shed = status.counts.shed.map(row => ({ label: `closed unserved: ${row.reason}`, recent: row.recent, total: row.total, kind: 'f2' }));
  const shaken = status.counts.handshakes.filter(row => row.result !== 'ok')
    .map(row => ({ label: `link handshake: ${row.result}`, recent: row.recent, total: row.total, kind: 'f3' }));
  const policy = status.counts.policy.map(row => ({ label: `policy ${row.command}: ${row.result}`, recent: row.recent, total: row.total, kind: 'f1' }));
  const part = element('div', {}, rows([...shed, ...shaken, ...policy], 'Nobody was sent away.'));
  put('defence', ...(list.length ? [facts(list)] : []), part);
}

function processFacts(status, now) {
  const { memory, descriptors, panics, certificates } = status;
  const used = octets(memory.used).join(' ');
  const part = memory.limit ? memory.used / memory.limit : null;
  const list = [
    ['memory', memory.limit ? `${used} of ${octets(memory.limit).join(' ')}` : used, part === null ? null : bar(part, level(part))],
    ['descriptors', `${count(descriptors.open)} of ${count(descriptors.limit)}`, bar(descriptors.open / descriptors.limit, level(descriptors.open / descriptors.limit))],
    ['CPU', `${(now.cpu * 100).toFixed(now.cpu < 0.1 ? 1 : 0)} % of a core`],
    ['panics', panics > 0 ? badge('bad', count(panics)) : badge('good', 'none')],
  ];
  for (const { name, expires } of certificates) {
    const left = expires - status.now;
    const kind = left < 0 ? 'bad' : left < 14 * 86400 ? 'warn' : 'good';
    list.push([`TLS ${name}`, badge(kind, left < 0 ? 'has expired' : `${span(left)} left`)]);
  }
  put('process', facts(list));
}

function head(status) {
  const name = status.node ? `node ${status.node}` : status.process;
  document.title = `${name} on ${status.host} · PigeonAir`;
  document.getElementById('who').textContent = `${name} on ${status.host}`;
  document.getElementById('facts').textContent = `version ${status.version} · up ${span(Math.max(0, status.now - status.started))} · ${clock(new Date(status.now * 1000))}`;
  document.getElementById('window').textContent = span(Math.max(1, status.window_s));
  const state = document.getElementById('state');
  const text = status.ready ? '✓ ready' : `✗ not ready: ${status.trouble.join(', ')}`;
  if (state.textContent !== text) state.textContent = text;
  state.className = `badge ${status.ready ? 'good' : 'bad'}`;
  for (const part of document.querySelectorAll('[data-of]')) part.hidden = part.dataset.of !== status.process;
}

function draw(status) {
  const { history, counts } = status;
  document.body.className = status.process;
  const now = {};
  const curves = {};
  for (const name of Object.keys(history.tracks)) {
    curves[name] = rates(history, name);
    // Over the last two periods, so that a figure stays long enough to be read.
    const recent = curves[name].slice(-2);
    now[name] = recent.length ? recent.reduce((all, value) => all + value, 0) / recent.length : 0;
  }
  head(status);
  tiles(status, now);
  const times = history.at.slice(1);
  if (times.length > 0) {
    if (status.process === 'front') {
      chart('logins', 'Logins per second', times, [
        { name: 'logged in', values: curves.logins_ok, show: rate },
        { name: 'refused, the client’s doing', values: curves.logins_client, show: rate },
        { name: 'failed, ours', values: curves.logins_own, show: rate },
        { name: 'held or drained', values: curves.logins_ordered, show: rate },
      ], 1);
    } else {
      chart('handed', 'Hand-overs per second', times, [
        { name: 'handed over', values: curves.handed_over, show: rate },
        { name: 'refused or failed', values: difference(curves.handovers, curves.handed_over), show: rate },
      ], 1);
    }
    chart('sessions', 'Sessions', history.at, [
      { name: 'sessions', values: history.tracks.sessions, show: count },
      ...(status.process === 'front' ? [{ name: 'connections, logged in or not', values: history.tracks.connections, show: count }] : []),
    ], 10);
  }
  if (times.length > 0) {
    chart('traffic', 'Relayed', times, [{ name: 'to clients and servers', values: curves.bytes, show: speed }], KIB);
  }
  stages(status);
  defence(status);
  processFacts(status, now);
  if (status.process === 'front') {
    nodes(status);
    failures(status);
    directory(status);
    const { uncertain, connections } = status.delivery;
    const more = facts([['MTA connections', count(connections)],
      ['uncertain', uncertain > 0 ? badge('warn', `${count(uncertain)}: may be there twice`) : badge('good', 'none')]]);
    results('deliveries', counts.deliveries, 'delivered', 'No mail has come.', [element('div', {}, more)]);
  } else {
    results('handovers', counts.handovers, 'ok', 'No session has come.', []);
    results('stored', counts.stored, 'stored', 'No mail has come.', []);
  }
}

// --- asking

function silent(why) {
  const alarm = document.getElementById('alarm');
  const since = heard ? `No answer since ${clock(heard)}` : 'No answer yet';
  alarm.textContent = `${since}: ${why}. ${last ? 'What is below is what was said then.' : ''}`;
  alarm.hidden = false;
  document.body.classList.add('silent');
  const state = document.getElementById('state');
  state.textContent = '✗ no answer';
  state.className = 'badge bad';
}

async function ask() {
  try {
    const answer = await fetch('status.json', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`it says ${answer.status}`);
    const status = await answer.json();
    // Another process with the same address has other files.
    if (last && (last.started !== status.started || last.version !== status.version)) return location.reload();
    last = status;
    heard = new Date();
    document.getElementById('alarm').hidden = true;
    document.getElementById('all').hidden = false;
    document.body.classList.remove('silent');
    draw(status);
  } catch (error) {
    silent(error.name === 'TimeoutError' ? 'the process does not answer in time' : error instanceof TypeError ? 'the process cannot be reached' : error.message);
  }
  setTimeout(ask, PERIOD);
}

ask();
