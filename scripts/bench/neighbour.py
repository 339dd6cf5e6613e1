#!/usr/bin/env python
"""What training keeps of its speed when other programs keep the cores busy, and what waiting
passively costs alone.

    nice -n -10 python scripts/bench/neighbour.py                     # pico, two threads, two busy neighbours
    nice -n -10 python scripts/bench/neighbour.py --model tiny --busy 1 --rounds 8
    python scripts/bench/neighbour.py --quick                         # a small model, short turns: does it run?

Threads of OpenMP meet at a barrier after every operation. One that waits there either *spins*,
libgomp's own way, which is soonest where every thread has a core, or sleeps (*passive*:
OMP_WAIT_POLICY=passive), which leaves the core to whoever has work, the very thread that is waited
for among them. *btm* spins until others want the cores (btm/train/kernels/waiting.py). *one thread*
waits for nobody.

Each way to wait is a process of its own that trains the same batches for some seconds at a time. A
round gives each a turn alone and one beside `--busy` processes that compute without end; before a
turn it has some seconds to settle. The fair share is what a scheduler gives that is fair to every
thread: cores / (threads + busy processes), one at most, of the best median rate alone. On a machine
with other work, `chrt -f 10` with `--busy 0` shows rates alone, undisturbed. The losses of all ways
with as many threads have to be equal, step by step, to the last bit.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

WAYS = ("spin", "passive", "btm", "one thread")


class Trainer:
    """A training in a process of its own that goes on for as long as it is told, then waits."""

    def __init__(self, way: str, args: argparse.Namespace) -> None:
        sizes = [
            f"--batch-size={args.batch_size}",
            f"--seq-len={args.seq_len}",
            f"--model={args.model}",
        ]
        threads = 1 if way == "one thread" else args.threads
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), f"--child={way}", f"--threads={threads}", *sizes],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.losses: list[float] = []
        self.alone: list[float] = []
        self.beside: list[float] = []
        self.turn(0.0, 0.0)  # it has begun, and is warm

    def turn(self, settle: float, seconds: float) -> float:
        """Train for `settle` seconds, and then for so many more, a step at least; return the
        latter's tokens/s.
        """
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{settle} {seconds}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.losses += answer["losses"]
        return answer["rate"]

    def end(self) -> None:
        """Let it go."""
        self.process.communicate()


def child(args: argparse.Namespace) -> None:
    """Train on random tokens: for each pair of seconds that comes in, send the rate and the losses
    out.
    """
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):  # read by libgomp as torch loads it
        os.environ.pop(variable, None)
    if args.child == "passive":
        os.environ["OMP_WAIT_POLICY"] = "passive"
    import torch

    from btm.train.kernels import waiting

    torch.set_num_threads(args.threads)
    with waiting.considerate() if args.child == "btm" else nullcontext():
        step = training(args)
        for line in sys.stdin:
            settle, seconds = map(float, line.split())
            losses, _ = steps_for(settle, step)
            timed, elapsed = steps_for(seconds, step)
            rate = len(timed) * args.batch_size * args.seq_len / elapsed
            print(json.dumps({"rate": rate, "losses": losses + timed}), flush=True)


def training(args: argparse.Namespace) -> Callable[[], float]:
    """Return a function that does the next step of a training and returns its loss."""
    import numpy as np

    from btm.cli.compose import compose
    from btm.models import causal_lm, configs
    from btm.train import kernels, optimizers, trainee

    config = compose([f"model={args.model}", f"trainer.batch_size={args.batch_size}"])
    trainer = config.trainer
    model = causal_lm.new_model(
        configs.make_config(config.model, config.data.vocab_size, 0), seed=0
    ).train()
    optimizer = optimizers.make_optimizer(model, trainer)
    kernels.prepare(model)
    precision = causal_lm.pick_precision(trainer.precision, "cpu")
    shape = (args.batch_size, args.seq_len + 1)
    draws = np.random.default_rng(0)

    def step() -> float:
        tokens = draws.integers(0, model.config.vocab_size, shape)
        loss = trainee.backward(model, tokens, trainer, precision)
        divisor = optimizers.shrink(optimizers.gradient_norm(model), trainer.clip)
        trainee.apply(optimizer, 1e-3, divisor)
        return float(loss)

    return step


def steps_for(seconds: float, step: Callable[[], float]) -> tuple[list[float], float]:
    """Return the losses of the steps of some seconds, one at least, and the seconds that they
    took.
    """
    losses, begun = [], time.perf_counter()
    while not losses or time.perf_counter() - begun < seconds:
        losses.append(step())
    return losses, time.perf_counter() - begun


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` processes computing while the block runs."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.3)  # until they have started
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(trainers: dict[str, Trainer], args: argparse.Namespace) -> None:
    """Give every training a turn alone and a turn beside the neighbours, round by round."""
    for number in range(args.rounds):
        for trainer in trainers.values():
            trainer.alone.append(trainer.turn(args.settle, args.seconds))
        with busy(args.busy):
            for trainer in trainers.values() if args.busy else ():
                trainer.beside.append(trainer.turn(args.settle, args.seconds))
        row = {name: [*map(round, t.alone[-1:] + t.beside[-1:])] for name, t in trainers.items()}
        print(f"round {number + 1} of {args.rounds}, tokens/s alone and beside: {row}", flush=True)


def require_equal_losses(trainers: dict[str, Trainer]) -> int:
    """Return how many steps all have done; `SystemExit` if a loss depends on how threads wait."""
    shortest = min(len(trainer.losses) for trainer in trainers.values())
    for way in ("passive", "btm"):
        if trainers[way].losses[:shortest] != trainers["spin"].losses[:shortest]:
            raise SystemExit(
                f"{way}: losses that differ; to wait in another way must not change a bit"
            )
    return shortest


def report(trainers: dict[str, Trainer], args: argparse.Namespace) -> None:
    """Print medians, and what each keeps of its fair share."""
    cores = len(os.sched_getaffinity(0))
    best = max(statistics.median(trainer.alone) for trainer in trainers.values())
    fair = best * min(1.0, cores / (args.threads + args.busy))
    print(f"\n{args.model}, {args.batch_size} x {args.seq_len} tokens a step, {cores} cores")
    print(f"{args.threads} threads, {args.busy} busy neighbours: fair share {fair:,.0f} tokens/s")
    print(f"{'':12}{'alone':>10}{'of spin':>10}{'beside':>10}{'of the fair share':>20}")
    for name, trainer in trainers.items():
        pairs = zip(trainer.alone, trainers["spin"].alone, strict=True)
        ratio = statistics.median(own / spin for own, spin in pairs)
        beside = statistics.median(trainer.beside) if trainer.beside else math.nan
        alone = statistics.median(trainer.alone)
        print(f"{name:12}{alone:>10,.0f}{ratio:>10.3f}{beside:>10,.0f}{beside / fair:>20.2f}")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="pico", help="a bundle of conf/model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=2, help="processes that compute without end")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--settle", type=float, default=3.0, help="before each turn, not timed")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)
    if args.quick:
        args.batch_size, args.seq_len, args.rounds, args.busy = 1, 32, 1, 1
        args.settle, args.seconds = 0.0, 0.3
    trainers = {way: Trainer(way, args) for way in (WAYS[:3] if args.quick else WAYS)}
    try:
        measure(trainers, args)
    finally:
        for trainer in trainers.values():
            trainer.end()
    print(f"losses of {require_equal_losses(trainers)} steps are equal to the last bit")
    report(trainers, args)


if __name__ == "__main__":
    main()
