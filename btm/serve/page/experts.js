// Colours and letters of experts, and what their weights come to when some are left out.

// Okabe and Ito's palette, which readers with any kind of colour vision tell apart; grey for black,
// which a dark page would hide. From the ninth expert on, colours return with another underline.
const PALETTE = ['#E69F00', '#56B4E9', '#009E73', '#F0E442', '#0072B2', '#D55E00', '#CC79A7',
  '#999999'];
const DEEP = new Set(['#0072B2']); // those on which black letters cannot be read
const LETTERS = 26;

const numbers = new Map();

/** Give the expert of this name its number, which it keeps whatever model is chosen. */
export function look(name) {
  if (!numbers.has(name)) numbers.set(name, numbers.size);
  const number = numbers.get(name);
  const lap = Math.floor(number / LETTERS);
  const colour = PALETTE[number % PALETTE.length];
  return {
    letter: String.fromCharCode(65 + (number % LETTERS)) + (lap || ''),
    colour,
    isDeep: DEEP.has(colour),
    round: Math.floor(number / PALETTE.length) % 4,
  };
}

export function letterOf(name) {
  const { letter, colour, isDeep, round } = look(name);
  const made = document.createElement('span');
  made.className = isDeep ? 'letter deep' : 'letter';
  made.dataset.round = round;
  made.style.setProperty('--mine', colour);
  made.textContent = letter;
  made.setAttribute('aria-hidden', 'true');
  return made;
}

/** Make tokens of the lists of /v1/score. */
export function ofScore(scored) {
  const names = Object.keys(scored.members);
  return scored.tokens.map((text, at) => ({
    text,
    logp: scored.logprobs[at],
    top: scored.top_logprobs?.[at] ?? null,
    weights: Object.fromEntries(names.map((n) => [n, scored.members[n].posterior[at] ?? 0])),
    logps: Object.fromEntries(names.map((n) => [n, scored.members[n].logprobs[at]])),
  }));
}

/** Make tokens of a part of a stream, which tells no losses of single experts. */
export function ofPart(choice) {
  return (choice.logprobs?.tokens ?? []).map((text, at) => ({
    text,
    logp: choice.logprobs.token_logprobs[at],
    top: null,
    weights: choice.btm_posterior?.[at] ?? {},
    logps: {},
  }));
}

/** Weigh a token by the experts that are shown: their weights sum to 1 again. */
export function weighed(token, shown, isWhole) {
  const sum = shown.reduce((total, name) => total + (token.weights[name] ?? 0), 0);
  const weights = shown.map((name) => (sum > 0 ? (token.weights[name] ?? 0) / sum : 0));
  const lead = sum > 0 ? shown[weights.indexOf(Math.max(...weights))] : null;
  return { weights, lead, logp: isWhole ? token.logp : mixed(token, shown, weights) };
}

function mixed(token, shown, weights) {
  let p = 0;
  for (const [at, name] of shown.entries()) {
    if (!weights[at]) continue;
    if (token.logps[name] == null) return null;
    p += weights[at] * Math.exp(token.logps[name]);
  }
  return p > 0 ? Math.log(p) : null;
}

/** Sum up a text: of each expert its mean loss, mean weight and share of the tokens it leads. */
export function totals(tokens, views, shown) {
  const of = (values) => {
    const known = values.filter((value) => value != null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  };
  const loss = (logp) => (logp == null ? null : -logp);
  return {
    mixture: of(views.map((view) => loss(view.logp))),
    experts: shown.map((name, at) => ({
      name,
      nats: of(tokens.map((token) => loss(token.logps[name]))),
      weight: of(views.map((view) => view.weights[at])),
      leads: views.filter((view) => view.lead === name).length / (views.length || 1),
    })),
  };
}
