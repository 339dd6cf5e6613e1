// The server's API: JSON, streams of events, and refusals as errors with a status.

let token = ''; // in memory alone: a store would outlive the page

export class Refused extends Error {
  constructor(status, said) {
    super(said?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = said?.code;
    this.param = said?.param;
  }
}

export function useToken(given) {
  token = given;
}

async function send(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = { headers, signal };
  if (body !== undefined) {
    headers['Content-Type'] = 'application/json';
    Object.assign(options, { method: 'POST', body: JSON.stringify(body) });
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(0, { message: 'the server does not answer; is it still running?' });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Refused(answer.status, said?.error);
}

export async function models() {
  return (await (await send('v1/models')).json()).data;
}

export async function forest(evaluation) {
  const query = evaluation ? `?eval=${encodeURIComponent(evaluation)}` : '';
  return (await send(`v1/forest${query}`)).json();
}

/** Score a text, with the likeliest tokens where the server allows as many. */
export async function score(model, prompt, signal) {
  try {
    return await (await send('v1/score', { model, prompt, top: 5 }, signal)).json();
  } catch (error) {
    if (error.param !== 'top') throw error;
    return (await send('v1/score', { model, prompt }, signal)).json();
  }
}

/** Yield the parts of a completion as they come. */
export async function* write(model, prompt, temperature, length, signal) {
  const body = { model, prompt, temperature, max_tokens: length, logprobs: 0, stream: true,
    btm_posterior: true };
  const answer = await send('v1/completions', body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let kept = ''; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (kept + value).split('\n\n');
    kept = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, '');
      if (data === '[DONE]') return;
      const part = JSON.parse(data);
      if (part.error) throw new Refused(200, part.error);
      yield part.choices[0];
    }
  }
}
