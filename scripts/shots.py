#!/usr/bin/env python
"""Take pictures of what people look at: the report, the explorer and three pages of the site, by the
Chromium of scripts/chromium, in light and in dark.

    python scripts/shots.py                              # a report of made numbers, and the site
    python scripts/shots.py --forest=experts/demo        # its own report, its explorer, and the site
    python scripts/shots.py --forest=experts/demo --parts report explorer --out=shots

The pictures are whole pages, PNG, for eyes alone: no test reads them.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("CHROMIUM", ROOT / ".chromium"))
PAGES = ("index", "choosing", "cli")  # of the site: a landing page, figures, tables and commands
PARTS = ("report", "explorer", "site")
TEXT = (
    "In the beginning God created the heaven.\n\ndef get(self, key):\n    return self.data[key]\n"
)
WAIT = 120  # seconds that a server has to begin
TAKE = """
const { start } = await import(process.argv[1]);
const { home, chromium, out, shots, text } = JSON.parse(process.argv[2]);
const { browser } = await start(home, chromium);
for (const colorScheme of ['light', 'dark']) {
  for (const [name, url] of shots) {
    const page = await (await browser.newContext({ colorScheme, viewport: { width: 1280, height: 900 } })).newPage();
    page.setDefaultTimeout(120_000);
    page.on('pageerror', (error) => { throw error; });
    await page.goto(url);
    if (name === 'report') await page.waitForSelector('html[data-drawn]', { state: 'attached' });
    if (name === 'explorer') {
      await page.waitForSelector('#model option', { state: 'attached' });
      await page.fill('#text', text);
      await page.click('#score');
      await page.waitForSelector('.token');
      await page.locator('#token-3').click();
    }
    await page.screenshot({ path: `${out}/${name}-${colorScheme}.png`, fullPage: true });
    await page.context().close();
  }
}
await browser.close();
"""


def report(forest: str | None, folder: Path) -> Path:
    """Write the report of a forest; without one a page of made numbers, as scripts/bench has them."""
    file = folder / "report.html"
    if forest is not None:
        subprocess.run([_btm(), "report", f"forest={forest}", f"to={file}"], check=True)
        return file
    from bench.report import facts
    from btm.report import html

    made = asdict(facts(8, 16, np.random.default_rng(0)))
    file.write_text(html.page("synthetic", made))
    return file


def site(folder: Path) -> Path:
    """Build the site; return its folder."""
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "site"


@contextmanager
def serving(forest: str) -> Iterator[str]:
    """Serve a forest meanwhile; gives the address of its explorer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with subprocess.Popen([_btm(), "serve", f"forest={forest}", f"serve.port={port}"]) as server:
        try:
            _await(url, server)
            yield url
        finally:
            server.terminate()


def _await(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers; `SystemExit` if it ends, or does not in time."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("btm serve does not answer")


def _btm() -> str:
    """Find the btm of this Python."""
    return str(Path(sys.executable).with_name("btm"))


def take(shots: list[tuple[str, str]], out: Path) -> None:
    """Take pictures of (name, address) in both schemes."""
    node = next(iter(HOME.glob("node_modules/node-linux-*/bin/node")), "node")
    chromium = shutil.which("chromium") or "chromium"
    asked = {"home": str(HOME), "chromium": chromium, "out": str(out), "shots": shots, "text": TEXT}
    words = [node, "--input-type=module", "-e", TAKE, (ROOT / "scripts/browser.mjs").as_uri()]
    subprocess.run([*words, json.dumps(asked)], check=True)


def main() -> None:
    """Take the pictures that were asked for, and name them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forest", help="folder of a forest; none: no explorer")
    parser.add_argument("--out", type=Path, default=Path("shots"), help="folder of the pictures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if not (HOME / "node_modules/playwright-core").exists():
        raise SystemExit("no Chromium here: scripts/chromium")
    with tempfile.TemporaryDirectory() as scratch:
        folder, shots = Path(scratch), []
        if "report" in asked.parts:
            shots.append(("report", report(asked.forest, folder).as_uri()))
        if "site" in asked.parts:
            built = site(folder)
            shots += [(f"site-{name}", (built / f"{name}.html").as_uri()) for name in PAGES]
        take(shots, asked.out)
        if "explorer" in asked.parts and asked.forest is not None:
            with serving(asked.forest) as url:
                take([("explorer", url)], asked.out)
    for file in sorted(asked.out.glob("*.png")):
        print(file)


if __name__ == "__main__":
    main()
