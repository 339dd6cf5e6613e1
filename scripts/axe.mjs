// Ask axe-core for barriers on pages of a built site, light and dark.
//   node scripts/axe.mjs HOME CHROMIUM PAGE…     prints JSON: a line for each barrier
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { start } from './browser.mjs';

const [home, chromium, ...pages] = process.argv.slice(2);
const { browser, barriers } = await start(home, chromium);
const found = [];
const papers = new Set();
for (const colorScheme of ['light', 'dark']) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 1280, height: 900 }, bypassCSP: true });
  const page = await context.newPage();
  for (const file of pages) {
    await page.goto(pathToFileURL(resolve(file)).href);
    found.push(...await barriers(page, `${file}, ${colorScheme}`));
    papers.add(await page.evaluate('getComputedStyle(document.body).backgroundColor'));
  }
}
await browser.close();
if (papers.size < 2) throw new Error('light and dark look the same');
console.log(JSON.stringify(found, null, 1));
