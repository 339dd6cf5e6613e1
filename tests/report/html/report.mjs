// Read a report in a real Chromium, from its file, and tell in JSON what was seen.
// stdin: {home, chromium, url, live}
import { readFileSync } from 'node:fs';
import { start } from '../../../scripts/browser.mjs';

const asked = JSON.parse(readFileSync(0, 'utf8'));
const { browser, barriers } = await start(asked.home, asked.chromium);
const seen = { said: [], elsewhere: [], barriers: [], papers: [], wide: [] };

async function open(options, url = asked.url) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  page.on('console', (message) => seen.said.push(message.text()));
  page.on('pageerror', (error) => seen.said.push(String(error)));
  page.on('request', (request) => {
    if (!/^(file|data):/.test(request.url())) seen.elsewhere.push(request.url());
  });
  if (url === asked.live) await page.clock.install();
  await page.goto(url);
  await page.waitForSelector('html[data-drawn]', { state: 'attached' });
  return page;
}

async function look(page, view) {
  seen.barriers.push(...await barriers(page, view));
  seen.papers.push(await page.evaluate('getComputedStyle(document.body).backgroundColor'));
}

const rows = (page, part) => page.$$eval(`#${part} table tbody tr`, (all) =>
  all.map((row) => [...row.children].map((cell) => cell.textContent)));
const openAll = (page) => page.evaluate(() => document.querySelectorAll('details')
  .forEach((each) => { each.open = true; }));
const told = (page, part) => page.textContent(`#${part} .told`);

const light = await open({ colorScheme: 'light' });
seen.title = await light.textContent('h1');
seen.parts = await light.$$eval('nav a', (all) => all.map((each) => each.textContent));
seen.missing = await light.$$eval('section > .absent', (all) =>
  Object.fromEntries(all.map((each) => [each.parentElement.id, each.textContent])));
seen.weights = await light.$$eval('#lineage svg > g > text', (all) => {
  const boxes = all.map((each) => [each.textContent, each.getBoundingClientRect()]);
  return { number: boxes.length, over: boxes.flatMap(([text, box], at) => boxes.slice(at + 1)
    .filter(([, other]) => Math.min(box.right, other.right) > Math.max(box.left, other.left) + 1
      && Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top) > 4).map(([other]) => `${text} ${other}`)) };
});
seen.ticks = await light.$$eval('#models [class^="plot-"] text', (all) =>
  all.map((each) => each.textContent).filter((text) => /^[0-9](\.[0-9])?$/.test(text)));
await light.locator('#heat [role="application"]').focus();
seen.first = await told(light, 'heat');
await light.keyboard.press('ArrowRight');
await light.keyboard.press('ArrowDown');
seen.moved = await told(light, 'heat');
await light.selectOption('#heat select', 'seed');
seen.ratio = await light.textContent('#heat caption, #heat .legend');
await light.locator('#tokens .tokens').focus();
await light.keyboard.press('End');
seen.token = await told(light, 'tokens');
await openAll(light);
await light.waitForSelector('#heat table td', { state: 'attached' });
seen.tables = {};
for (const part of ['models', 'lineage', 'curves', 'cycle', 'costs']) seen.tables[part] = await rows(light, part);
seen.jobs = await light.$eval('#cycle table', (made) => [made.caption.textContent,
  [...made.tHead.rows[0].cells].map((cell) => cell.scope), made.tBodies[0].rows[0].cells[0].scope]);
seen.heat = await rows(light, 'heat');
seen.texts = await light.$$eval('#tokens .token', (all) => all.map((each) => each.lastChild.textContent));
seen.command = await light.textContent('#rebuilding pre');
await look(light, 'light');
await light.selectOption('#scheme', 'dark');
seen.chosen = await light.evaluate('getComputedStyle(document.body).backgroundColor');
const dark = await open({ colorScheme: 'dark' });
await openAll(dark);
await look(dark, 'dark');
const phone = await open({ viewport: { width: 390, height: 800 } });
seen.wide.push(await phone.evaluate('document.documentElement.scrollWidth - innerWidth'));
const paper = await open({ viewport: { width: 718, height: 1000 } }); // px: A4 between margins of 1 cm
await paper.emulateMedia({ media: 'print' });
seen.paper = await paper.evaluate(() => {
  dispatchEvent(new Event('beforeprint')); // after which a browser waits for nothing
  const name = (each) => `${each.closest('section')?.id ?? 'page'}: ${each.tagName} ${each.getAttribute('class') ?? ''}`;
  const wanted = [...document.querySelectorAll('h1, #about, .tiles > *, section > :not(.row), #foot')];
  const all = [...document.querySelectorAll('main *')].filter((each) => !each.closest('.hidden, svg *'));
  const isClipped = (each) => getComputedStyle(each).overflow !== 'visible'
    && (each.scrollWidth > each.clientWidth + 1 || each.scrollHeight > each.clientHeight + 1);
  return {
    printed: wanted.length,
    hidden: wanted.filter((each) => !each.checkVisibility() || each.getBoundingClientRect().height < 1).map(name),
    cut: all.filter((each) => isClipped(each) || each.getBoundingClientRect().right > innerWidth + 1).map(name),
    tables: document.querySelectorAll('details table, #cards dl').length,
    closed: document.querySelectorAll('details:not([open])').length,
  };
});
const live = await open({}, asked.live); // in an hour, by the page's clock, which is put forward
seen.late = await live.$$eval('.caution', (all, said) => all.filter((each) => each.textContent.startsWith(said))
  .reduce((found, each) => ({ ...found, [each.parentElement.id]: [...found[each.parentElement.id] ?? [],
    each.textContent] }), {}), 'forest.json is not');
const hour = () => live.clock.fastForward(3_601_000);
const mark = () => live.evaluate('window.read = true'); // gone with a page that is read again
await live.evaluate('scrollTo({ top: 700, behavior: "instant" })');
await mark();
const again = live.waitForEvent('load');
await hour();
await again;
await live.waitForSelector('html[data-drawn]', { state: 'attached' });
seen.live = { again: await live.evaluate('!window.read'), top: await live.evaluate('scrollY') };
await live.uncheck('.live input');
await mark();
await hour();
seen.live.rests = await live.evaluate('window.read === true');
await browser.close();
console.log(JSON.stringify(seen));
