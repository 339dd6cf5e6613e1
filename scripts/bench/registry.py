"""How long `btm ls` takes on a forest of 10,000 ELMs: the query, and the whole command.

    python scripts/bench/registry.py --count 10000

Makes a forest of that many real cards (folders with a card.json; the weights are beside the point)
with three parents each, and measures with an index that is not there yet, with one that is, after
one ELM was removed and one added, and with none that could be written.
"""

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from btm.cli.verbs import Output
from btm.config.schema import LsConfig
from btm.forest import index, ledger, listing
from btm.forest.card import Card, Parent
from btm.forest.lineage import Lineage


def make(root: Path, count: int) -> None:
    """Make a forest of a seed and `count` - 1 experts, each from three ELMs before it."""
    rng = random.Random(0)
    facts = {
        "schema": 1,
        "architecture": "a" * 64,
        "model_type": "llama",
        "tokenizer_sha256": "b" * 64,
    }
    root.mkdir(parents=True)
    (root / "forest.json").write_text(json.dumps(facts, indent=1) + "\n")
    cards: list[Card] = []
    for number in range(count):
        parents = (
            rng.sample(cards[: max(1, number // 100)], min(3, max(1, number // 100)))
            if cards
            else []
        )
        card = Card(
            name=f"expert{number:05}" if number else "seed",
            domains=[f"domain{number % 500:03}"],
            sha256=f"{rng.getrandbits(256):064x}",
            tokenizer_sha256="b" * 64,
            parents={p.name: Parent(1 / len(parents), rng.random(), p.sha256) for p in parents},
            branch_method="posterior" if parents else "none",
            ancestors=ledger.lineage(parents)[-20:],
            steps=1000,
            tokens=rng.randrange(10**9),
            flops=1e15,
            parameters=1_000_000,
            data={f"domain{number % 500:03}": f"{rng.getrandbits(256):064x}"},
            valid_nats=rng.uniform(2, 5),
            created=f"2026-{1 + number % 12:02}-01T00:00:00+00:00",
            versions={"btm": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        )
        cards.append(replace(card, total_tokens=card.tokens))
        folder = root / "elms" / card.name
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(json.dumps(cards[-1].to_json(), indent=1))


def seconds(
    act: Callable[[], object], repeat: int = 5, before: Callable[[], object] = lambda: None
) -> str:
    """Return the median and the least of `repeat` runs, and the processor time of the least."""
    times = []
    for _ in range(repeat):
        before()
        begun, used = time.perf_counter(), processor()
        act()
        times.append((time.perf_counter() - begun, processor() - used))
    median = statistics.median(wall for wall, _ in times)
    return f"median {median:.2f} s, least {min(times)[0]:.2f} s; processor {min(cpu for _, cpu in times):.2f} s"


def processor() -> float:
    """Return the processor time of this process and of the commands that it ran."""
    return sum(os.times()[:4])


def command(root: Path, *words: str) -> Callable[[], object]:
    """Return what runs ``btm ls`` as a person would."""
    line = [sys.executable, "-m", "btm.cli", "ls", f"forest={root}", *words]
    return lambda: subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    count = parser.parse_args().count
    work = Path(tempfile.mkdtemp(prefix="btm-registry-"))
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    root = work / "forest"
    try:
        make(root, count)
        measure(root, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def measure(root: Path, work: Path) -> None:
    """Print every figure."""
    file = index.location(root)
    some = LsConfig(parent="seed", sort="valid_nats", limit=20)

    out = Output(as_json=True, stdout=io.StringIO(), stderr=io.StringIO())

    def rows() -> None:
        out.rows(listing.rows(root, LsConfig()), "")

    def change() -> None:
        names = sorted(path.name for path in (root / "elms").iterdir())
        shutil.rmtree(root / "elms" / names[0])
        card = json.loads((root / "elms" / names[1] / "card.json").read_text())
        (root / "elms" / "added").mkdir(exist_ok=True)
        (root / "elms" / "added" / "card.json").write_text(json.dumps(card | {"name": "added"}))

    def spoiled() -> None:
        os.environ["XDG_CACHE_HOME"] = str(
            work / "cache" / "btm" / "index" / file.name
        )  # a file, no folder

    print("no index yet           ", seconds(rows, 3, lambda: file.unlink(missing_ok=True)))
    print("index, all rows as JSON", seconds(rows))
    print("index, 20 best of seed ", seconds(lambda: listing.rows(root, some)))
    print("one removed, one added ", seconds(rows, 3, change))
    print("lineage of all         ", seconds(lambda: Lineage.of(root), 3))
    print("btm ls --json          ", seconds(command(root, "--json"), 3))
    print("btm ls, 20 rows        ", seconds(command(root, "ls.limit=20"), 3))
    print("btm ls of an empty one ", seconds(command(empty(work)), 3))
    print(f"index: {file.stat().st_size:,} bytes")
    spoiled()
    print("no index possible      ", seconds(rows, 3))


def empty(work: Path) -> Path:
    """Return a forest without ELMs: what the command itself takes."""
    (work / "empty").mkdir()
    shutil.copy(work / "forest" / "forest.json", work / "empty")
    return work / "empty"


if __name__ == "__main__":
    main()
