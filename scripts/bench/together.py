"""Several uneven volunteers for one expert against one machine, at equal tokens.

    python scripts/bench/together.py --out FOLDER [--csv FILE] [--momentum 0.5] [--rounds 60]
    scripts/hivemind; python scripts/bench/together.py --out FOLDER --hivemind .venv-hivemind/bin/python

Four volunteers, each a process with a home, a forest and a shard of the text of their own, train one
expert by a store in a folder. They are as fast as 1, 1/2, 1/2 and 1/4 of a machine: the slow ones are
stopped (SIGSTOP) for that part of the time. The last one joins after a quarter of the rounds, the
third is killed (SIGKILL) after half of them and does not come back. One machine then trains the same
branch on all of the text, for the tokens that the rounds counted. With --hivemind the same four then
train under hivemind for as many rounds, each step an update of one's own, an average of all at the
end of each round (--hivemind-batch: sequences of a step). The text is the source of Python's
standard library; a twelfth of its files is held out, and the losses are of it. Killed, the same
command goes on (hivemind begins anew); delete FOLDER/store to begin the rounds anew.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, replace
from pathlib import Path

import hivemind_swarm
import numpy as np
import pandas as pd
import uneven

from btm import steps
from btm.cli.compose import compose
from btm.commons import opening
from btm.commons.member import enter, remember
from btm.commons.together import rounds
from btm.commons.together.rounds import Progress
from btm.config.schema import Config
from btm.data.batches import windows
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.report.tables import table
from btm.train.trainee import validate

DOMAIN, HELD_OUT = "python", "held-out"
SHARES = {"ann": 4, "ben": 2, "cem": 2, "dan": 1}  # of the speed, and of the text
LATE, KILLED = "dan", "cem"
MEASURED = 400_000  # tokens of held-out text, at most
TRAINER = ["trainer.threads=1", "trainer.seq_len=128", "data.splits=pool"]


@dataclass(frozen=True)
class Bench:
    """The settings of a bench, and where it keeps what it makes."""

    out: Path
    steps: int
    rounds: int
    batch: int
    lr: float
    outer_lr: float
    momentum: float

    @property
    def tokens(self) -> int:
        """Tokens of the expert."""
        return self.steps * self.batch * 128

    @property
    def url(self) -> str:
        """The store."""
        return f"file://{self.out / 'store'}"

    def words(self, forest: Path, *more: str) -> list[str]:
        """Words of btm for a forest."""
        small = [f"trainer.batch_size={self.batch}", f"trainer.lr={self.lr}"]
        small += ["trainer.checkpoint_every=100000", "merge.force=true"]
        return ["experiment=commons_smoke", f"forest={forest}", *TRAINER, *small, *more]

    def text(self, name: str) -> list[str]:
        """Words for a shard of the text."""
        return [f"data.root={self.out / 'text' / name}", f"data.out={self.out / 'data' / name}"]


def main() -> None:
    """Make what is missing, and print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--steps", type=int, default=900, help="of one machine")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16, help="sequences of 128 tokens")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--outer-lr", type=float, default=0.7)
    parser.add_argument("--momentum", type=float, default=0.7)
    parser.add_argument("--hivemind", help="the Python of .venv-hivemind: adds its row")
    parser.add_argument("--hivemind-batch", type=int, default=4, help="sequences of its step")
    given = parser.parse_args()
    bench = Bench(
        given.out.resolve(),
        *(given.steps, given.rounds, given.batch, given.lr, given.outer_lr, given.momentum),
    )
    os.environ["OMP_WAIT_POLICY"] = "passive"
    bench.out.mkdir(parents=True, exist_ok=True)
    write_text(bench.out / "text")
    grow_seed(bench)
    at = train_together(bench)
    row = measured(bench, at)
    if given.hivemind:
        row |= by_hivemind(bench, at, given)
    print(table([row], "nats per token of held-out text"))
    if given.csv:
        before = [pd.read_csv(given.csv)] if given.csv.exists() else []
        pd.concat([*before, pd.DataFrame([row])]).to_csv(given.csv, index=False)


def write_text(folder: Path) -> None:
    """Deal the standard library's files: a twelfth is held out, the rest is shared and whole."""
    if folder.is_dir():
        return
    library = Path(sysconfig.get_paths()["stdlib"])
    found = [path for path in sorted(library.rglob("*.py")) if 2000 < path.stat().st_size < 200_000]
    found = [path for path in found if not {"site-packages", "test", "tests"} & set(path.parts)]
    slots = [name for name, share in SHARES.items() for _ in range(share)]
    making = folder.with_name(f"{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    trained_on = [path for number, path in enumerate(found) if number % 12]
    turn = {path: slots[number % len(slots)] for number, path in enumerate(trained_on)}
    for path in found:
        name = "__".join(path.relative_to(library).parts) + ".txt"
        for part in ["all", turn[path]] if path in turn else [HELD_OUT]:
            (making / part).mkdir(parents=True, exist_ok=True)
            (making / part / name).write_text(path.read_text(errors="replace"))
    making.rename(folder)


def grow_seed(bench: Bench) -> None:
    """Train a seed on the demo's text, of the size of experiment=commons_smoke."""
    forest = bench.out / "forest"
    if (forest / "elms/seed/card.json").exists():
        return
    words = ["experiment=commons_smoke", f"forest={forest}", f"data.out={bench.out / 'demo'}"]
    words += ["trainer.threads=1", "trainer.batch_size=16", "trainer.seq_len=128", "seed.steps=400"]
    btm("prepare", *words)
    btm("seed", *words)


def btm(*words: str) -> None:
    """Run a command of btm; the bench ends where it fails."""
    done = subprocess.run([sys.executable, "-m", "btm.cli", *words], check=False)
    if done.returncode:
        sys.exit(f"btm {' '.join(words)}: exit code {done.returncode}")


def train_together(bench: Bench) -> Progress:
    """Let the volunteers train until all tokens are; return the rounds."""
    at_home(bench, "boss")
    if not (bench.out / "store").exists():
        shutil.rmtree(bench.out / "people", ignore_errors=True)
        at_home(bench, "boss")
        asked = [f"commons.wanted={{{DOMAIN}: {bench.tokens}}}", "commons.lease=90"]
        asked += [f"commons.volunteers={len(SHARES)}", "commons.round_seconds=300"]
        asked += [f"commons.round_tokens={bench.tokens // bench.rounds}"]
        asked += [f"commons.outer_lr={bench.outer_lr}"]
        asked += [f"commons.outer_momentum={bench.momentum}"]
        opening.init(compose([f"forest={bench.out / 'forest'}", f"to={bench.url}", *asked]))
        for name in SHARES:
            at_home(bench, name)
            member = enter(compose([f"from={bench.url}"]), make_key=True)
            member.register(name)
            remember(member, speed=1000.0 * SHARES[name])
        at_home(bench, "boss")
    member, running = enter(compose([f"from={bench.url}"])), {}
    killed = bench.out / "people" / KILLED / "killed"
    try:
        while True:
            at = rounds.progress(member.look(), DOMAIN)
            done, gone = len(at.ends), [name for name, p in running.items() if p.poll()]
            if gone:
                sys.exit(f"{gone[0]} failed: {bench.out}/people/{gone[0]}/log")
            if KILLED in running and done >= bench.rounds // 2:
                running.pop(KILLED).kill()
                killed.touch()
            for name in SHARES:
                is_due = name != LATE or done >= bench.rounds // 4
                if name not in running and is_due and not (name == KILLED and killed.exists()):
                    running[name] = begin(bench, name)
            if at.is_over and all(process.poll() is not None for process in running.values()):
                return at
            time.sleep(1)
    finally:
        for process in running.values():
            process.kill()


def at_home(bench: Bench, name: str) -> Path:
    """Be somebody from now on."""
    home = bench.out / "people" / name
    home.mkdir(parents=True, exist_ok=True)
    os.environ["BTM_HOME"] = str(home)
    return home


def begin(bench: Bench, name: str) -> "subprocess.Popen[bytes]":
    """Start the process of a volunteer, at their speed."""
    home = bench.out / "people" / name
    words = bench.words(home / "forest", f"domain={DOMAIN}", *bench.text(name))
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "btm.cli", "commons", "train", *words, f"from={bench.url}"],
            stdout=log,
            stderr=log,
            env=os.environ | {"BTM_HOME": str(home)},
        )
    uneven.slow_down(process, SHARES[name] / max(SHARES.values()))
    return process


def measured(bench: Bench, at: Progress) -> dict[str, object]:
    """Train on one machine for as many tokens, and measure both; also with a quarter of the batch,
    which so few tokens might favour.
    """
    ann = Forest(bench.out / "people/ann/forest")
    root = alone(bench, at.tokens, bench.batch)
    quarter = alone(bench, at.tokens, max(1, bench.batch // 4))
    held_out = with_text(compose(bench.words(root, *bench.text(HELD_OUT))), HELD_OUT)
    steps.prepare(held_out)
    seed, one = (nats(held_out, Forest(root)[name].path) for name in ("seed", DOMAIN))
    small = nats(held_out, Forest(quarter)[DOMAIN].path)
    together = nats(held_out, ann[DOMAIN].path)
    parts = [name for end in at.ends for name in end.counted]
    late = sum(name.endswith(f"/{end.round - 1}.json") for end in at.ends for name in end.counted)
    by = rounds.tokens_by_key(at)
    sizes = [p.stat().st_size for p in (bench.out / "store").rglob("rounds/*/*.safetensors")]
    facts = json.loads((ann[DOMAIN].path / "card.json").read_text())
    print(facts["notes"][0])
    return {
        "tokens": at.tokens,
        "rounds": len(at.ends),
        "outer lr": at.together.lr,
        "momentum": at.together.momentum,
        "contributions": len(parts),
        "a round late": late,
        "shares": " ".join(f"{count / at.tokens:.2f}" for count in by.values()),
        "MB each": round(max(sizes) / 1e6, 3),
        "seed": round(seed, 4),
        "one machine": round(one, 4),
        "one, a quarter of the batch": round(small, 4),
        "four": round(together, 4),
        "difference": round(together - one, 4),
    }


def by_hivemind(bench: Bench, at: Progress, given: argparse.Namespace) -> dict[str, object]:
    """Train by hivemind in rounds of as many tokens, which it may exceed, and measure."""
    batch, rounds = given.hivemind_batch, bench.rounds
    texts, root = {}, bench.out / "forest-of-texts"  # which learns of suites that no other has
    if not root.exists():
        shutil.copytree(bench.out / "forest", root)
    for name in SHARES:
        config = with_text(compose(bench.words(root, *bench.text(name))), DOMAIN)
        steps.prepare(config)
        texts[name] = bench.out / f"{name}.npy"
        np.save(texts[name], open_suites(config).shard(DOMAIN, "train").tokens)
    swarm = hivemind_swarm.Swarm(
        python=str(Path(given.hivemind).absolute()),
        out=bench.out / f"hivemind-{batch}-{rounds}-{at.tokens}-{bench.lr:g}",
        model=bench.out / "forest/elms/seed",
        tokens=texts,
        shares=SHARES,
        late=LATE,
        killed=KILLED,
        rounds=rounds,
        round_sequences=round(at.tokens / (128 * rounds)),
        batch=batch,
        lr=bench.lr,
    )
    model, sequences = hivemind_swarm.train(swarm)
    tokens = 128 * sum(sequences.values())
    held_out = with_text(compose(bench.words(root, *bench.text(HELD_OUT))), HELD_OUT)
    steps.prepare(held_out)
    found = nats(held_out, model)
    return {
        "hivemind": round(found, 4),
        "hivemind: batch": batch,
        "hivemind: tokens": tokens,
        "hivemind: shares": " ".join(f"{128 * n / tokens:.2f}" for n in sequences.values()),
    }


def alone(bench: Bench, tokens: int, batch: int) -> Path:
    """Train on one machine, on all of the text; return its forest."""
    root, only = bench.out / f"one-{tokens}-{batch}", replace(bench, batch=batch)
    config = with_text(compose(only.words(root, *bench.text("all"))), DOMAIN)
    if (root / "elms" / DOMAIN).exists():
        return root
    if not root.exists():
        shutil.copytree(bench.out / "forest", root)
    steps.prepare(config)
    count = round(tokens / (batch * 128))
    config = replace(config, trainer=replace(config.trainer, steps=count))
    forest = Forest(root)
    if not forest.has_branch(DOMAIN):
        forest.branch(DOMAIN, DOMAIN, {"seed": 1.0})
    steps.train(config, DOMAIN)
    steps.merge(config, DOMAIN)
    return root


def with_text(config: Config, domain: str) -> Config:
    """Return the settings with a suite of one domain, the text in data.root."""
    source = replace(config.imports, source=config.data.root)
    return steps.text_of(replace(config, imports=source, domain=domain))


def nats(config: Config, folder: Path) -> float:
    """Measure a model on the held-out text."""
    shard, length = open_suites(config).shard(HELD_OUT, "train"), config.trainer.seq_len
    return validate(causal_lm.load_model(folder), windows(shard, length, MEASURED))


if __name__ == "__main__":
    main()
