"""Eight experts end to end: a cycle of btm against nanoGPT run eight times.

    python scripts/bench/cycle.py --nanogpt DIR --steps 60 --rounds 2

Both begin with the same GPT-2 of 7 M parameters and train one on each domain of the demo suite, on
the same batches in the same precision, and both must end with the same losses. nanoGPT's loop
(scripts/bench/contenders.py) is started for one domain after the other, with all cores, not
compiled (as its README has it for CPUs) and compiled. btm's time is that of the whole command ``btm
run``: branching, training as many at once as it has measured to be best, merging.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from train import SIZES, Contender, architecture

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data.batches import Batches
from btm.forest import Forest
from btm.models import causal_lm, configs

CONTENDERS = ("nanoGPT", "nanoGPT, compiled")


def begin(folder: Path, args: argparse.Namespace) -> tuple[list[str], Config]:
    """Plant a forest whose seed is untrained; return the words of its cycle, and what they mean."""
    made = architecture("gpt2", "tiny")
    file = folder / "config.json"
    file.write_text(json.dumps(made.config))
    words = [
        f"model.file={file}",
        f"data.out={args.data}",
        f"forest={folder / 'forest'}",
        "seed.steps=0",
    ]
    words += [
        f"trainer.steps={args.steps}",
        f"trainer.batch_size={args.batch_size}",
        "trainer.log_every=1",
    ]
    words += [
        f"trainer.seq_len={args.seq_len}",
        "trainer.lr=6e-4",
        "trainer.decay=constant",
        "trainer.warmup=0",
    ]
    words += [
        f"trainer.precision={args.precision}",
        "branch=copy",
        "parent=seed",
        "run.average=false",
    ]
    words += ["eval.domains=[bible]", "score.max_tokens=2000"]
    config = compose(words)
    steps.prepare(config)
    steps.seed(config)
    return words, config


def ours(words: list[str], config: Config) -> tuple[float, list[float]]:
    """Run the cycle; return its seconds and each domain's last loss."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "btm.cli", "run", *words], check=True, capture_output=True
    )
    seconds = time.perf_counter() - begun
    forest = Forest(config.forest_root)
    losses = [
        (forest[d].path / "metrics.jsonl") for d in steps.open_suite(config).training_domains()
    ]
    return seconds, [json.loads(file.read_text().splitlines()[-1])["loss"] for file in losses]


def theirs(
    name: str, folder: Path, config: Config, args: argparse.Namespace
) -> tuple[float, list[float]]:
    """Run the loop on one domain after the other; return all their seconds and each domain's last
    loss.
    """
    suite, t = steps.open_suite(config), config.trainer
    total, losses = 0.0, []
    for domain in suite.training_domains():
        own = folder / domain
        shutil.copytree(Forest(config.forest_root)["seed"].path, own)
        batches = Batches([suite.shard(domain, "train")], t.seq_len, t.batch_size, t.seed)
        rows = np.stack([batches.batch(step) for step in range(args.steps)])
        np.save(own / "batches.npy", rows.astype(np.uint16))
        settings = {"steps": args.steps, "warm_up": args.steps, "nanogpt": args.nanogpt, "lr": t.lr}
        settings |= {"seq_len": t.seq_len, "precision": args.precision, "threads": os.cpu_count()}
        (own / "settings.json").write_text(json.dumps(settings))
        begun = time.perf_counter()
        contender = Contender(name, own, sys.executable)
        contender.end()
        total += time.perf_counter() - begun
        losses.append(contender.losses[-1])
        shutil.rmtree(own)
    return total, losses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nanogpt", required=True, help="a clone of nanoGPT")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--data", default="data", help="where the demo suite is, or is prepared")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    args = parser.parse_args()
    found: dict[str, list[float]] = {"btm run": [], **{name: [] for name in args.contenders}}
    for turn in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            words, config = begin(Path(folder), args)
            seconds, wanted = ours(words, config)
            found["btm run"].append(seconds)
            print(f"round {turn + 1}: btm run {seconds:.1f} s", flush=True)
            for name in args.contenders:
                seconds, losses = theirs(name, Path(folder), config, args)
                off = max(abs(a - b) for a, b in zip(losses, wanted, strict=True))
                found[name].append(seconds)
                print(
                    f"round {turn + 1}: {name} {seconds:.1f} s, losses within {off:.4f}", flush=True
                )
                if off > 0.02:
                    raise SystemExit("losses do not agree")
    parameters = causal_lm.count_parameters(
        configs.make_config(architecture("gpt2", "tiny"), SIZES["tiny"][4], 0)
    )
    print(
        f"{parameters:,} parameters, 8 domains, {args.steps} steps of "
        f"{args.batch_size * args.seq_len:,} tokens"
    )
    for name, times in found.items():
        ratios = [a / b for a, b in zip(times, found["btm run"], strict=True)]
        print(
            f"{name:20}{statistics.median(times):8.1f} s{statistics.median(ratios):7.2f} of btm's"
        )


if __name__ == "__main__":
    main()
