"""Sparse experts: what their difference from the parent is worth at each density, and what its file
weighs.

    python scripts/bench/sparse.py

A seed is trained once on the embedded suite; from it experts of one domain are branched, trained by
the same schedule on the same batches, and merged: dense, sparse momentum and a random mask that
stays, over densities and, at 5 %, over seeds (of batches and mask). `cut` is the dense expert with
all but its largest changes put back. All are measured on the domain's test split. Experts of two
domains are then averaged: two that are sparse in their differences, two that are sparse in their
weights. What stands in the folder is not made again, so a killed run goes on.
"""

import argparse
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data.batches import Batches, windows
from btm.forest import Forest, delta
from btm.models import causal_lm, weights
from btm.models.average import average
from btm.train import loop
from btm.train.checkpoint import parameters
from btm.train.schedule import Schedule
from btm.train.sparse import masks as momentum
from btm.train.sparse import trainee as sparse_training
from btm.train.trainee import validate
from btm.train.training import Training

DENSITIES = (0.2, 0.1, 0.05, 0.02)
MAIN = 0.05
MODEL = "{hidden_size: 96, intermediate_size: 256, num_hidden_layers: 4, num_attention_heads: 4}"


@dataclass(frozen=True)
class Bench:
    """Where all is, and how it is trained."""

    words: list[str]
    domains: list[str]
    sparse_lr: float

    def config(self, *words: str) -> Config:
        return compose([*self.words, *words])

    @property
    def forest(self) -> Forest:
        return Forest(self.config().forest_root)

    def expert(self, kind: str, density: float, seed: int, domain: str) -> Path:
        """Return the folder of an expert, grown if need be."""
        name = f"{kind}-{100 * density:g}-{domain.replace('_', '-')}-s{seed}"
        words = [f"trainer.seed={seed}", f"trainer.delta_density={density}"]
        if kind != "dense":
            words += [f"trainer.delta_mask={kind}", f"trainer.lr={self.sparse_lr}"]
        config = self.config(*words)
        if name not in self.forest:
            if not self.forest.has_branch(name):
                steps.branch(config, name, domain)
            steps.train(config, name)
            steps.merge(config, name)
            print(f"  grown: {name}", flush=True)
        return self.forest[name].path

    def sparse_weights(self, domain: str) -> Path:
        """Return an expert whose matrices, not their differences, are sparse: the paper's own
        use.
        """
        target = self.forest.root / "sparse-weights" / domain
        if target.exists():
            return target
        config = self.config(f"trainer.delta_density={MAIN}", f"trainer.lr={self.sparse_lr}")
        folder = target.with_name(f"{domain}-making")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.forest["seed"].path, folder)
        t, shard = config.trainer, steps.open_suite(config).shard(domain, "train")
        batches = Batches([shard], t.seq_len, t.batch_size, t.seed)
        trainee = SparseWeights(
            causal_lm.load_trainable(folder, "cpu"), batches, folder, t, t.steps
        )
        plan = Schedule.of(t, horizon=t.steps)
        loop.loop(Training(folder, batches, t, plan, t.steps), trainee)
        folder.rename(target)
        print(f"  grown: sparse weights of {domain}", flush=True)
        return target

    def nats(self, model: "causal_lm.PreTrainedModel", domain: str) -> float:
        """Return nats per token on a domain's test split."""
        config = self.config()
        shard = steps.open_suite(config).shard(domain, "test")
        return validate(model, windows(shard, config.trainer.seq_len))

    def nats_of(self, folder: Path, domain: str) -> float:
        return self.nats(causal_lm.load_model(folder), domain)

    def averaged(self, folders: list[Path]) -> Path:
        """Return the uniform average of model folders."""
        target = self.forest.root / "averaged" / "-".join(folder.name for folder in folders)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        average(dict.fromkeys(folders, 1.0), target)
        causal_lm.copy_files(folders[0], target)
        return target


class SparseWeights(sparse_training.SparseTrainee):
    """A model whose matrices are 0 outside the mask, and whose small weights are pruned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.masks:
            self.origin[name].zero_()

    def write(self, folder: Path, dtype: str) -> None:
        causal_lm.write(folder, self.model, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("results/bench-sparse"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES)
    parser.add_argument(
        "--domains", nargs=2, default=["bible", "code_python"], help="the first is measured"
    )
    parser.add_argument(
        "--sparse-lr", type=float, default=0.02, help="few entries take larger steps"
    )
    parser.add_argument("words", nargs="*", help="settings of btm that differ: trainer.steps=50")
    options = parser.parse_args()
    words = [
        "experiment=demo",
        f"data.out={options.folder / 'data'}",
        f"forest={options.folder / 'forest'}",
        f"model.config={MODEL}",
        "branch=copy",
        "merge.force=true",
        "seed.steps=800",
        "seed.lr=5e-3",
        "trainer.steps=160",
        "trainer.lr=4e-3",
        "trainer.batch_size=8",
        "trainer.threads=1",
        "trainer.carry=fresh",
        "trainer.log_every=50",
        "trainer.precision=fp32",
        "score.max_tokens=1024",
        *options.words,
    ]
    bench = Bench(words, options.domains, options.sparse_lr)
    steps.prepare(bench.config())
    seed = steps.seed(bench.config())
    domain, n = options.domains[0], seed.card.parameters
    print(
        f"{n:,} parameters; {domain}, {bench.config().trainer.steps} steps; dense delta in fp16 "
        f"{2 * n:,} bytes"
    )
    table(bench, options, domain, n)
    averages(bench, options.domains)


def table(bench: Bench, options: argparse.Namespace, domain: str, n: int) -> None:
    """Print the losses over densities."""
    seeds = range(options.seeds)
    parent = bench.nats_of(bench.forest["seed"].path, domain)
    dense = [bench.nats_of(bench.expert("dense", 1.0, s, domain), domain) for s in seeds]
    print(f"parent {parent:.3f}; dense expert {spread(dense)}")
    print(
        "| density | sparse momentum | random mask | cut from dense | share of the dense gain | "
        "bytes | of dense |"
    )
    print("|---|---|---|---|---|---|---|")
    for density in options.densities:
        mine = seeds if density == MAIN else range(1)
        grown = {
            kind: [bench.expert(kind, density, s, domain) for s in mine]
            for kind in ("momentum", "random")
        }
        losses = {kind: [bench.nats_of(p, domain) for p in paths] for kind, paths in grown.items()}
        cut_ = [cut(bench, bench.expert("dense", 1.0, s, domain), density, domain) for s in mine]
        gains = [
            (parent - a) / (parent - b) for a, b in zip(losses["momentum"], dense, strict=False)
        ]
        size = max((path / delta.FILE).stat().st_size for path in grown["momentum"])
        print(
            f"| {100 * density:g} % | {spread(losses['momentum'])} | {spread(losses['random'])} | "
            f"{spread(cut_)} "
            f"| {100 * min(gains):.0f} % | {size:,} | {size / (2 * n):.3f} |"
        )
        for seed, row in enumerate(zip(losses["momentum"], losses["random"], strict=True)):
            print(
                f"  seed {seed}: random − momentum {row[1] - row[0]:+.4f}, parent − random "
                f"{parent - row[1]:+.4f}"
            )
        check_budget(bench, grown["momentum"] + grown["random"], density, n)
    paper = [bench.nats_of(bench.expert("normalised", MAIN, s, domain), domain) for s in seeds]
    print(f"{100 * MAIN:g} %, entries regrown by the paper's |m|/√v: {spread(paper)}")
    lost = [rounding(bench, bench.expert("dense", 1.0, s, domain), domain) for s in seeds]
    print(
        f"nats lost by float16 values, all changes of the dense expert: {max(map(abs, lost)):.1e} "
        "at most"
    )


def check_budget(bench: Bench, paths: list[Path], density: float, n: int) -> None:
    """Exit unless every expert differs from its parent in no more than the budget."""
    before = weights.tensors(bench.forest["seed"].path)
    for path in paths:
        differ = sum(
            int((t.raw() != before[name].raw()).sum()) for name, t in weights.tensors(path).items()
        )
        if not differ <= round(density * n) == bench.forest[path.name].card.delta["budget"]:
            raise SystemExit(
                f"{path.name}: {differ:,} parameters differ, the budget is {round(density * n):,}"
            )


def changes_of(
    bench: Bench, expert: Path
) -> "tuple[causal_lm.PreTrainedModel, dict[str, torch.Tensor]]":
    """Return the seed, and what an expert adds to it."""
    model, trained = causal_lm.load_model(bench.forest["seed"].path), causal_lm.load_model(expert)
    before, after = parameters(model), parameters(trained)
    return model, {name: after[name] - before[name] for name in before}


def cut(bench: Bench, expert: Path, density: float, domain: str) -> float:
    """Return the nats of an expert that keeps its largest changes alone."""
    model, changes = changes_of(bench, expert)
    budget = round(density * sum(change.numel() for change in changes.values()))
    masks = momentum.largest(changes, budget)
    for name, parameter in parameters(model).items():
        parameter += changes[name] * masks[name]
    return bench.nats(model, domain)


def rounding(bench: Bench, expert: Path, domain: str) -> float:
    """Return what an expert loses if its changes are rounded to float16."""
    model, changes = changes_of(bench, expert)
    for name, parameter in parameters(model).items():
        parameter += changes[name].half().float()
    return bench.nats(model, domain) - bench.nats_of(expert, domain)


def averages(bench: Bench, domains: list[str]) -> None:
    """Print what the average of two experts is worth, sparse in their differences or in their
    weights.
    """
    rows = {
        "seed": [bench.forest["seed"].path] * 2,
        "dense": [bench.expert("dense", 1.0, 0, d) for d in domains],
        "sparse differences": [bench.expert("momentum", MAIN, 0, d) for d in domains],
        "sparse weights": [bench.sparse_weights(d) for d in domains],
    }
    print(
        f"mean nats of {' and '.join(domains)}\n| | own expert | average of the two "
        "|\n|---|---|---|"
    )
    for kind, pair in rows.items():
        own = statistics.mean(bench.nats_of(f, d) for f, d in zip(pair, domains, strict=True))
        both = own
        if pair[0] != pair[1]:
            mean = bench.averaged(pair)
            both = statistics.mean(bench.nats_of(mean, d) for d in domains)
        print(f"| {kind} | {own:.3f} | {both:.3f} |")


def spread(values: list[float]) -> str:
    """Return the mean, and of several the smallest and largest."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"


if __name__ == "__main__":
    main()
