// Use the page of a server in a real Chromium as a reader would, and tell in JSON what was seen.
// stdin: {home, chromium, url, text, long, token_url, token, shots}
import { readFileSync } from 'node:fs';
import { start } from '../../../scripts/browser.mjs';

const asked = JSON.parse(readFileSync(0, 'utf8'));
const { browser, barriers } = await start(asked.home, asked.chromium);
const seen = { said: [], elsewhere: [], barriers: [], wide: [] };

async function open(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) seen.said.push(message.text());
  });
  page.on('pageerror', (error) => seen.said.push(String(error)));
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== new URL(url).origin) seen.elsewhere.push(request.url());
  });
  await page.goto(url);
  return page;
}

// Playwright's own waiting runs in the page, whose policy forbids it.
async function until(page, condition) {
  for (let left = 6000; left > 0; left -= 1) {
    if (await page.evaluate(condition)) return;
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  throw new Error(`never came true: ${condition}; ${await page.innerText('main')}`);
}

const ready = (page) => until(page, 'document.querySelectorAll("#model option").length > 0');

async function look(page, view) {
  // By the protocol: the page's own policy lets no script in that is not its own.
  seen.barriers.push(...await barriers(page, view));
}

const tokens = (page) => page.$$eval('#tokens .token', (all) => all.map((each) => ({
  lead: each.dataset.lead, mark: each.dataset.mark ?? null,
  colour: getComputedStyle(each).textDecorationColor, label: each.getAttribute('aria-label'),
})));

const panel = (page) => page.evaluate(() => ({
  at: Number(document.activeElement.dataset.at),
  title: document.getElementById('panel-title').textContent,
  mixture: document.getElementById('panel-mixture').textContent,
  experts: Object.fromEntries([...document.querySelectorAll('#panel-experts tbody tr')].map((row) =>
    [row.dataset.expert, [...row.querySelectorAll('td')].map((each) => each.textContent)])),
  likeliest: [...document.querySelectorAll('#panel-top li')].map((each) => each.textContent),
}));

const legend = (page) => page.$$eval('#legend tbody tr', (rows) => rows.map((row) =>
  [row.dataset.expert ?? 'mixture', ...[...row.querySelectorAll('td')].map((c) => c.textContent)]));

async function scored(page, act) {
  const answer = page.waitForResponse((found) => found.url().endsWith('/v1/score'));
  await act();
  await (await answer).finished();
  await until(page, 'document.getElementById("status").textContent.includes("perplexity")');
}

async function reads(page) {
  await ready(page);
  await page.fill('#text', asked.text);
  await scored(page, () => page.click('#score'));
  seen.tokens = await tokens(page);
  seen.legend = await legend(page);
  seen.strip = await page.$$eval('#strip polygon', (all) => all.length);
  await page.locator('#token-0').focus();
  seen.panels = [];
  for (const key of ['Home', 'ArrowRight', 'ArrowRight', 'End', 'ArrowLeft', 'ArrowUp']) {
    await page.keyboard.press(key);
    seen.panels.push(await panel(page));
  }
  await page.locator('#token-5').hover();
  seen.hovered = await page.textContent('#panel-title');
}

async function chooses(page) {
  await scored(page, () => page.selectOption('#model', 'forest:simple'));
  seen.simple = { tokens: await tokens(page), legend: await legend(page) };
  await scored(page, () => page.selectOption('#model', 'forest:bayes'));
  const first = page.locator('#legend tbody tr input').first();
  await first.focus();
  await page.keyboard.press('Space');
  seen.ticked = { tokens: await tokens(page), legend: await legend(page),
    note: await page.textContent('#legend-note'),
    held: await page.evaluate('document.activeElement.type') };
  await page.keyboard.press('Space');
}

async function writes(page) {
  await page.selectOption('#model', 'forest');
  await page.fill('#text', 'In the beginning');
  await page.fill('#length', '12');
  await scored(page, () => page.click('#score'));
  const before = (await tokens(page)).length;
  const first = page.waitForRequest((found) => found.url().endsWith('/v1/completions'));
  await page.click('#write');
  await first;
  await until(page, 'document.getElementById("stop").hidden');
  await until(page, 'document.getElementById("status").textContent.includes("perplexity")');
  seen.written = { before, after: (await tokens(page)).length, text: await page.inputValue('#text'),
    legend: await legend(page) };
  let written = 0;
  for (let tries = 0; tries < 10 && (tries === 0 || written >= 90); tries += 1) { // until the click is in time
    await page.fill('#text', 'In');
    await page.fill('#length', '100');
    await page.click('#write');
    await until(page, 'document.querySelectorAll(".token").length > 4');
    await page.click('#stop', { timeout: 500 }).catch(() => {}); // gone, where all was written
    await until(page, 'document.getElementById("status").textContent.includes("perplexity")');
    written = (await tokens(page)).length;
  }
  seen.stopped = { tokens: written, text: await page.inputValue('#text'),
    error: await page.textContent('#error'), focus: await page.evaluate('document.activeElement.id') };
  await page.locator('#legend tbody tr input').first().uncheck();
  await page.fill('#length', '3');
  const some = page.waitForRequest((found) => found.url().endsWith('/v1/completions'));
  await page.click('#write');
  seen.some = (await some).postDataJSON().model;
  await until(page, 'document.getElementById("stop").hidden');
}

async function keyboardAlone(page) {
  await ready(page);
  const to = async (id) => {
    for (let presses = 0; presses < 30; presses += 1) {
      if (await page.evaluate((wanted) => document.activeElement.matches(wanted), id)) return;
      await page.keyboard.press('Tab');
    }
    throw new Error(`Tab does not lead to ${id}`);
  };
  await to('#text');
  await page.keyboard.type('In the beginning');
  await to('#model');
  await page.keyboard.type('forest:gated');
  await to('#score');
  await scored(page, () => page.keyboard.press('Enter'));
  await to('.token');
  await page.keyboard.press('ArrowRight');
  const told = await panel(page);
  await page.evaluate('document.activeElement.blur()');
  await page.keyboard.press('Shift+Tab');
  await to('[role=tab]');
  await page.keyboard.press('ArrowRight');
  await page.waitForSelector('#lineage rect');
  seen.keys = { told, model: await page.inputValue('#model'),
    tab: await page.evaluate('document.activeElement.id') };
}

async function forest(page) {
  await page.click('#tab-forest');
  await page.waitForSelector('#lineage rect');
  seen.forest = {
    head: await page.$$eval('#heat-table thead th', (all) => all.map((each) => each.textContent)),
    rows: await page.$$eval('#heat-table tbody tr', (all) => all.map((row) =>
      [...row.children].map((each) => each.textContent))),
    best: await page.$$eval('#heat-table td.best', (all) => all.map((each) => each.textContent)),
    boxes: await page.$$eval('#lineage title', (all) => all.map((each) => each.textContent)),
    edges: await page.$$eval('#lineage path', (all) => all.length),
    table: await page.$$eval('#lineage-table tbody tr', (all) => all.map((row) =>
      [...row.children].map((each) => each.textContent))),
  };
}

async function views(scheme, width) {
  const page = await open(asked.url, { colorScheme: scheme, viewport: { width, height: 740 } });
  const name = `${scheme} ${width}`;
  await ready(page);
  await look(page, `${name} empty`);
  await page.fill('#text', asked.text);
  await scored(page, () => page.click('#score'));
  await page.locator('#token-3').click();
  await look(page, `${name} text`);
  const measure = async (view) => {
    const wide = await page.evaluate('document.scrollingElement.scrollWidth');
    if (wide > width) seen.wide.push(`${name} ${view}: ${wide}`);
  };
  await measure('text');
  if (asked.shots) await page.screenshot({ path: `${asked.shots}/${name} text.png`, fullPage: true });
  await forest(page);
  await look(page, `${name} forest`);
  await measure('forest');
  const paper = await page.evaluate('getComputedStyle(document.body).backgroundColor');
  await page.context().close();
  return paper;
}

async function withToken() {
  const page = await open(asked.token_url);
  await page.waitForSelector('#token:visible');
  seen.login = { error: await page.textContent('#error') };
  await look(page, 'login');
  await page.fill('#token', asked.token);
  await page.keyboard.press('Enter');
  await ready(page);
  await page.fill('#text', asked.text);
  await scored(page, () => page.click('#score'));
  seen.login.tokens = (await tokens(page)).length;
  seen.login.after = await page.textContent('#error');
  seen.login.shown = await page.isVisible('#login');
  await page.fill('#text', asked.long);
  await page.click('#score');
  await until(page, 'document.getElementById("error").textContent !== ""');
  seen.refused = await page.textContent('#error');
  seen.login.kept = await page.evaluate(
    'JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])');
  await page.context().close();
}

const page = await open(asked.url);
await reads(page);
await chooses(page);
await writes(page);
await page.context().close();
const other = await open(asked.url);
await keyboardAlone(other);
await other.context().close();
seen.papers = [];
for (const [scheme, width] of [['light', 1200], ['dark', 1200], ['light', 360], ['dark', 360]]) {
  seen.papers.push(await views(scheme, width));
}
await withToken();
await browser.close();
console.log(JSON.stringify(seen));
