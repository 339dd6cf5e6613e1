// The Chromium of scripts/chromium and axe-core, for the tests of pages, scripts/axe.mjs and scripts/bench/report.py.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

/** Start the browser; `home` is the folder that scripts/chromium made, `executablePath` Chromium itself. */
export async function start(home, executablePath) {
  const load = createRequire(`${resolve(home)}/`);
  const { chromium } = await import(pathToFileURL(load.resolve('playwright-core')).href)
    .then((found) => found.default ?? found);
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
  const axe = readFileSync(load.resolve('axe-core/axe.min.js'), 'utf8');

  /** List the barriers that axe-core finds on a page, a line for each rule that it breaks. */
  async function barriers(page, view) {
    await page.evaluate(axe);
    const { violations, passes } = await page.evaluate('axe.run(document)');
    if (passes.length < 10) throw new Error(`${view}: axe looked at nothing`);
    return violations.map((each) => `${view}: ${each.id}: ${each.help}: `
      + each.nodes.map((node) => node.html.slice(0, 160)).slice(0, 3).join(' '));
  }

  return { browser, barriers };
}
