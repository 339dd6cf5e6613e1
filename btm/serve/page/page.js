// The page: what is asked of the server, and what is shown of its answer.

import * as api from './api.js';
import { look, ofPart, ofScore, totals, weighed } from './experts.js';
import { showForest } from './forest.js';
import * as panel from './panel.js';
import * as drawn from './tokens.js';

const get = (id) => document.getElementById(id);
const state = {
  models: [], tokens: [], views: [], members: [], hidden: new Set(), at: 0, text: null, rule: '',
  running: null, // of the request under way, if any: what stops it
};

const shown = () => state.members.filter((name) => !state.hidden.has(name));
const model = () => state.models.find((each) => each.id === get('model').value);

/** Name the model that writes: an ensemble of the ticked experts alone where some are not. */
function writer() {
  const whole = model();
  const ticked = whole.btm.members.filter((name) => !state.hidden.has(name));
  const some = whole.btm.kind === 'ensemble' && ticked.length > 0
    && ticked.length < whole.btm.members.length;
  return some ? `${whole.id}[${ticked}]` : whole.id;
}

function say(text) {
  get('status').textContent = text;
}

function complain(error) {
  get('error').textContent = error ? error.message : '';
  if (error?.status === 401) {
    get('login').hidden = false;
    get('token').focus();
  }
}

/** Do one thing with the server at a time; what goes wrong is said. */
async function work(task) {
  state.running?.abort();
  const mine = new AbortController();
  state.running = mine;
  complain(null);
  try {
    await task(mine.signal);
  } catch (error) {
    if (error.name !== 'AbortError') {
      if (!state.running || state.running === mine) say('');
      complain(error);
    }
  } finally {
    if (state.running === mine) {
      state.running = null;
      get('stop').hidden = true;
    }
  }
}

/** Look at the tokens anew, through the experts that are ticked. */
function lookAgain(from = 0) {
  const names = shown();
  const isWhole = names.length === state.members.length;
  state.views.length = from;
  for (const token of state.tokens.slice(from)) {
    state.views.push(weighed(token, names, isWhole));
  }
  if (from) drawn.append(state.tokens, state.views, names, from);
  else drawn.draw(state.tokens, state.views, names);
  drawn.drawStrip(state.views, names);
  const found = totals(state.tokens, state.views, names);
  panel.sum(state.members, state.hidden, found, tick);
  panel.note(state.members, state.hidden, state.rule);
  get('result').hidden = get('side').hidden = state.tokens.length === 0;
  if (state.tokens.length) choose(Math.min(state.at, state.tokens.length - 1));
}

function tick(name, isOn) {
  if (isOn) state.hidden.delete(name);
  else if (shown().length > 1) state.hidden.add(name); // of none there is nothing to see
  lookAgain();
}

function choose(at, options = {}) {
  const names = shown();
  state.at = at;
  drawn.mark(at, options);
  panel.tell(state.tokens, state.views, names, at);
}

async function showScore(text, signal) {
  const asked = model();
  say('Reading …');
  const scored = await api.score(asked.id, text, signal);
  state.text = text;
  state.members = Object.keys(scored.members);
  state.rule = asked.id.split(':')[1] ?? '';
  state.tokens = ofScore(scored);
  for (const name of [...state.hidden]) {
    if (!state.members.includes(name)) state.hidden.delete(name);
  }
  lookAgain();
  const mean = scored.tokens.length ? scored.nats / scored.tokens.length : null;
  say(scored.tokens.length
    ? `${scored.tokens.length} tokens, ${drawn.nats(mean)} nats each, perplexity `
      + scored.perplexity.toPrecision(4)
    : 'There is no token to score.');
}

function scoreText() {
  const text = get('text').value;
  if (text === '') {
    complain(new Error('There is no text yet: paste one, or have one written.'));
    get('text').focus();
    return;
  }
  work((signal) => showScore(text, signal));
}

async function writeOn(signal) {
  const area = get('text');
  const [temperature, length] = [get('temperature'), get('length')];
  for (const field of [temperature, length]) if (!field.reportValidity()) return;
  state.at = 0;
  if (area.value === '') Object.assign(state, { tokens: [], members: model().btm.members, text: '' });
  else if (state.text !== area.value) await showScore(area.value, signal);
  lookAgain();
  say('Writing …');
  get('stop').hidden = false;
  let text = area.value;
  const parts = api.write(writer(), text, temperature.valueAsNumber, length.valueAsNumber, signal);
  try {
    for await (const choice of parts) {
      const from = state.tokens.length;
      text += choice.text;
      area.value = text;
      state.tokens.push(...ofPart(choice));
      if (state.tokens.length > from) lookAgain(from);
    }
  } catch (error) {
    if (error.name !== 'AbortError') throw error;
  }
  // The stream tells no losses of single experts; and the text may be of other tokens when it is
  // read than when it was written.
  if (state.running?.signal === signal && text !== '') await finish(text);
}

/** Score what was written, whether it came to its end or was stopped. */
async function finish(text) {
  get('stop').hidden = true;
  const last = new AbortController();
  state.running = last;
  try {
    await showScore(text, last.signal);
  } finally {
    if (state.running === last) state.running = null;
  }
}

function fillModels() {
  const chosen = get('model').value;
  const groups = [['Ensembles', (m) => m.btm.kind === 'ensemble'],
    ['One model', (m) => m.btm.kind !== 'ensemble']];
  get('model').replaceChildren(...groups.map(([label, test]) => {
    const group = document.createElement('optgroup');
    group.label = label;
    group.append(...state.models.filter(test).map((each) => new Option(each.id)));
    return group;
  }).filter((group) => group.children.length));
  if (state.models.some((each) => each.id === chosen)) get('model').value = chosen;
}

async function begin() {
  complain(null);
  try {
    state.models = await api.models();
    get('login').hidden = true;
  } catch (error) {
    complain(error);
    return;
  }
  const whole = state.models.find((each) => each.btm.kind === 'ensemble') ?? state.models[0];
  whole.btm.members.forEach(look); // so that colours do not hang on what is chosen first
  fillModels();
  const count = whole.btm.members.length;
  get('where').textContent = `${count} expert${count === 1 ? '' : 's'}, ${location.host}`;
}

function openTab(name) {
  for (const each of ['text', 'forest']) {
    const isOpen = each === name;
    get(`tab-${each}`).setAttribute('aria-selected', isOpen);
    get(`tab-${each}`).tabIndex = isOpen ? 0 : -1;
    get(`view-${each}`).hidden = !isOpen;
  }
  if (name === 'forest') showForest().catch(complain);
}

function listen() {
  get('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    scoreText();
  });
  get('text').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    scoreText();
  });
  get('write').addEventListener('click', () => work(writeOn));
  get('stop').addEventListener('click', () => stop());
  get('model').addEventListener('change', () => {
    if (state.tokens.length && get('text').value !== '') scoreText();
  });
  get('login').addEventListener('submit', (event) => {
    event.preventDefault();
    api.useToken(get('token').value.trim());
    begin();
  });
  get('evaluation').addEventListener('change', () => {
    showForest(get('evaluation').value).catch(complain);
  });
  for (const name of ['text', 'forest']) {
    get(`tab-${name}`).addEventListener('click', () => openTab(name));
    get(`tab-${name}`).addEventListener('keydown', (event) => {
      if (!['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
      const other = name === 'text' ? 'forest' : 'text';
      openTab(other);
      get(`tab-${other}`).focus();
    });
  }
  drawn.listen(choose);
}

function stop() {
  get('stop').hidden = true;
  get('write').focus(); // a button that goes takes the focus with it
  state.running?.abort();
}

listen();
begin();
