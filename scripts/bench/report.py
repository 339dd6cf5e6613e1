#!/usr/bin/env python
"""How large a report is and how long a browser takes to open it, with N experts on N domains.

    python scripts/bench/report.py                    # 100 experts, 100 domains
    python scripts/bench/report.py --experts=8 --domains=16 --out=report.html

The numbers in it are random, the page is the real one (btm/report/html). It is opened by the
Chromium of scripts/chromium, from its file, five times in new contexts: milliseconds until
something is seen, until all is drawn, and of CPU time in the page's own thread, which other work on
the machine changes less.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from btm.forest.relatives import Parent, Relative
from btm.report import html
from btm.steps.report import facts as told
from btm.steps.report.samples import TOKENS

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("CHROMIUM", ROOT / ".chromium"))
OPEN = """
const { start } = await import(process.argv[3]);
const { browser } = await start(process.argv[1], '/usr/bin/chromium');
const took = [];
for (let n = 0; n < 5; n += 1) {
  const page = await (await browser.newContext({ viewport: { width: 1360, height: 950 } })).newPage();
  page.on('pageerror', (error) => { throw error; });
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Performance.enable', { timeDomain: 'threadTicks' });
  await page.goto(process.argv[2]);
  await page.waitForSelector('html[data-drawn]', { state: 'attached' });
  const { metrics } = await cdp.send('Performance.getMetrics');
  const cpu = metrics.find((each) => each.name === 'TaskDuration').value;
  took.push(await page.evaluate((seconds) => [
    performance.getEntriesByType('paint').find((each) => each.name === 'first-contentful-paint').startTime,
    Number(document.documentElement.dataset.drawn), 1000 * seconds], cpu));
  await page.context().close();
}
await browser.close();
console.log(JSON.stringify(took));
"""


def facts(experts: int, domains: int, rng: np.random.Generator) -> told.Facts:
    """Make the facts of a forest with random numbers, every part of them there."""
    names = [f"expert_{n:03}" for n in range(experts)]
    return told.Facts(
        "synthetic", "experts/synthetic", "2026-01-01T00:00:00+00:00", "0", "llama",
        lineage(names, rng), evaluation(names, domains, rng), ways(rng),
        [sample(names, n, rng) for n in range(8)], [curve(name, rng) for name in ["seed", *names]],
        cycle(names, rng), [cost("seed", 0), *(cost(name, 10**9) for name in names)],
        [told.Holding(name, 100, 10**9) for name in ("elms", "scores", "evals")],
        [told.Reading("reader", "test", 1000, name, "f1", 0.5, 0.4, 0.6) for name in names[:8]],
        [{"model": name, "kind": "ELM", "task acc": "0.5"} for name in names[:8]],
        [told.Language("en", names[:2], names[:2], 20.0, 30.0, 1.0)],
        [card(name) for name in ["seed", *names]],
        told.Rebuilding("btm run", {}, {}, []),
    )  # fmt: skip


def lineage(names: list[str], rng: np.random.Generator) -> list[Relative]:
    """Half of the experts descend from the seed, the others from ten of those each."""
    made = [Relative("seed", "seed", "ELM", "there", ["all"], [], 10**9, 10**9)]
    half = names[: len(names) // 2]
    for n, name in enumerate(names):
        chosen = ["seed"] if n < len(half) else list(rng.choice(half, min(10, len(half)), False))
        parents = [Parent(each, each, 1 / len(chosen)) for each in chosen]
        made.append(Relative(name, name, "ELM", "there", [name], parents, 10**9, 2 * 10**9))
    return made


def evaluation(names: list[str], domains: int, rng: np.random.Generator) -> told.Evaluation:
    """Each expert is best on its own domain, by chance more or less."""
    columns = ["ensemble", "average", "seed", *names]
    ppl = np.exp(rng.normal(4, 0.6, (domains, len(columns))))
    ppl[:, 0] /= 3
    weights = rng.dirichlet(np.full(len(names), 0.03), domains).round(4).tolist()
    shards = [told.Domain(f"domain_{n:03}/test", n % 2 == 1, 8192) for n in range(domains)]
    return told.Evaluation(
        "synthetic", "2026-01-01T00:00:00+00:00", "gated", "token", 1024, shards, columns,
        ["ensemble", "average", "seed", *["expert"] * len(names)],
        [[float(f"{value:.4g}") for value in row] for row in ppl], [1.0] * domains, names,
        weights, weights,
    )  # fmt: skip


def ways(rng: np.random.Generator) -> told.Ways:
    """Twelve rows of a comparison."""
    rows = [
        told.Way(
            f"model {n}",
            "average",
            1 if n else 100,
            1e9,
            10**10,
            1e20,
            True,
            *rng.uniform(10, 40, 2),
        )
        for n in range(12)
    ]
    return told.Ways("compare.json", "2026-01-01T00:00:00+00:00", 1024, "model 1", rows)


def sample(names: list[str], n: int, rng: np.random.Generator) -> told.Sample:
    """A text of random words."""
    weights = rng.dirichlet(np.full(8, 0.3), TOKENS).round(3).tolist()
    nats = rng.gamma(2, 1.5, (TOKENS, 8)).round(3).tolist()
    words = [f" word{value}" for value in rng.integers(0, 99, TOKENS)]
    return told.Sample(f"domain_{n:03}/test", n % 2 == 1, words, [0], names[:8], weights,
                       [row[0] for row in nats], nats)  # fmt: skip


def curve(name: str, rng: np.random.Generator) -> told.Curve:
    """As many points as a report keeps."""
    steps = list(range(100, 8100, 100))
    losses = (4 - np.log1p(np.arange(80)) / 4 + rng.normal(0, 0.1, 80)).round(4).tolist()
    speeds = rng.normal(1e5, 1e3, 80).round(0).tolist()
    valid = [loss if n % 10 == 0 else None for n, loss in enumerate(losses)]
    tokens = [step * 4096 for step in steps]
    return told.Curve(name, "ELM", 8000, steps, tokens, losses, [3e-4] * 80, speeds, valid)


def cycle(names: list[str], rng: np.random.Generator) -> told.Cycle:
    """Every tenth expert was killed once."""
    tries = [told.Try("seed", "seed", 1, "done", 0.0, 3600.0)]
    for n, name in enumerate(names):
        begun = 3600.0 + 900 * (n // 8)
        if n % 10 == 0:
            tries.append(
                told.Try(f"train-{name}", "train", 1, "killed", begun, begun + 300, "signal 9")
            )
            begun += 330
        tries.append(told.Try(f"train-{name}", "train", 2, "done", begun, begun + 800))
        tries.append(told.Try(f"score-{name}", "score", 1, "done", begun + 800, begun + 860))
    jobs = [
        told.JobRow(
            f"train-{name}", "running", 2, "4000/8000", 3.21, 10**5, "1 h 02 min", "seed", ""
        )
        for name in names
    ]
    return told.Cycle("0123456789ab", "at work", "slurm", tries, [], jobs)


def cost(name: str, before: int) -> told.Cost:
    """Make the costs of a model of 125 M parameters."""
    return told.Cost(name, "ELM", [name] if before else ["a", "b"], 10**9, 7.5e17, before + 10**9,
                     1.5e18, 125_000_000, 5 * 10**8)  # fmt: skip


def card(name: str) -> dict[str, object]:
    """Make a card as long as those of real forests."""
    text = "0951b0a4bfc4b973f5d310167568cee56d6a6b665fb1ddee87d18111269c0ca1"
    settings = {f"trainer.key_{n}": n for n in range(24)}
    return {"kind": "ELM", "name": name, "domains": [name], "sha256": text, "settings": settings,
            "valid_nats": 3.21, "tokens": 10**9, "data": {name: text}, "parents": {"seed": {"weight": 1.0, "sha256": text}}}  # fmt: skip


def main() -> None:
    """Write the page, say how large it is, open it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=100)
    parser.add_argument("--domains", type=int, default=100)
    parser.add_argument("--out", type=Path, help="keep the page here")
    asked = parser.parse_args()
    file = (asked.out or Path(tempfile.mkdtemp()) / "report.html").resolve()
    made = asdict(facts(asked.experts, asked.domains, np.random.default_rng(0)))
    begun = time.perf_counter()
    file.write_text(html.page("synthetic", made))
    print(f"{asked.experts} experts, {asked.domains} domains: {file.stat().st_size / 1e6:.2f} MB, "
          f"rendered in {time.perf_counter() - begun:.2f} s")  # fmt: skip
    node = next(iter(HOME.glob("node_modules/node-linux-*/bin/node")), "node")
    words = [node, "--input-type=module", "-e", OPEN, str(HOME), file.as_uri()]
    words += [(ROOT / "scripts/browser.mjs").as_uri()]
    took = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    names = ("first painted", "all drawn", "CPU of the page")
    for name, each in zip(names, np.transpose(took), strict=True):
        print(
            f"{name}: {', '.join(f'{ms:.0f}' for ms in each)} ms; median {np.median(each):.0f} ms"
        )


if __name__ == "__main__":
    main()
