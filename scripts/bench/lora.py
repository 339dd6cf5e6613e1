"""LoRA experts: what an adapter is worth against a full expert, and against a sparse one whose file
has as many bytes; what averages of factors lose; what experts that share a base take.

    python scripts/bench/lora.py

A seed is trained once on the demo suite; from it experts of two domains are branched and trained by
the same number of steps on the same batches: full, adapters of several ranks, and sparse ones of the
density whose file is as large as the adapter's. All are measured on the domain's test split. What
stands in the folder is not made again, so a killed run goes on.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from btm import steps
from btm.cli.compose import compose
from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.data.batches import windows
from btm.ensemble import adapters
from btm.forest import ELM, Forest, adapter, delta
from btm.models import adapted, causal_lm, inference, low_rank
from btm.train.trainee import validate

RANKS = (1, 4, 16)
MAIN = 4
HEAD, ENTRY = 4_800, 2.95  # bytes of a sparse expert's file: its header, and a change, about
BATCH = (16, 128)  # of the timed forward pass


@dataclass(frozen=True)
class Bench:
    """Where all is, and how it is trained."""

    options: argparse.Namespace

    def config(self, *words: str) -> Config:
        options = self.options
        fixed = [
            "experiment=demo",
            f"forest={options.folder / 'forest'}",
            f"data.out={options.folder / 'data'}",
            "branch=copy",
            "merge.force=true",
            "trainer.precision=fp32",
            "score.max_tokens=1024",
            "seed.steps=480",
            "trainer.steps=120",
            "trainer.threads=1",
        ]
        return compose([*fixed, *options.words, *words])

    @property
    def forest(self) -> Forest:
        return Forest(self.config().forest_root)

    def expert(self, name: str, domain: str, *words: str) -> ELM:
        """Return an expert, grown if need be."""
        name = f"{name}-{domain.replace('_', '-')}"
        config = self.config(*words)
        if name not in self.forest:
            if not self.forest.has_branch(name):
                steps.branch(config, name, domain)
            begun = time.process_time()
            steps.train(config, name)
            steps.merge(config, name)
            print(f"  grown: {name} ({time.process_time() - begun:.0f} CPU-s)", flush=True)
        return self.forest[name]

    def full(self, domain: str, seed: int) -> ELM:
        words = [f"trainer.seed={seed}", f"trainer.lr={self.options.full_lr}"]
        return self.expert(f"full-s{seed}", domain, *words)

    def lora(self, domain: str, seed: int, rank: int) -> ELM:
        words = ["trainer.adapter=lora", f"trainer.lora_rank={rank}", f"trainer.lora_alpha={rank}"]
        words += [f"trainer.seed={seed}", f"trainer.lr={self.options.lora_lr}"]
        return self.expert(f"lora{rank}-s{seed}", domain, *words)

    def sparse(self, domain: str, seed: int, rank: int) -> ELM:
        """Return the sparse expert whose file is about as large as that of the adapter."""
        like = self.lora(domain, 0, rank)
        changes = (like.card.adapter["bytes"] - HEAD) / ENTRY
        density = round(changes / like.card.parameters, 4)
        words = [f"trainer.delta_density={density}", f"trainer.seed={seed}"]
        words.append(f"trainer.lr={self.options.sparse_lr}")
        return self.expert(f"sparse{rank}-s{seed}", domain, *words)

    def nats(self, model: "causal_lm.PreTrainedModel", domain: str) -> float:
        """Return nats per token on a domain's test split."""
        config = self.config()
        shard = steps.open_suite(config).shard(domain, "test")
        return validate(model, windows(shard, config.trainer.seq_len))

    def nats_of(self, folder: Path, domain: str) -> float:
        return self.nats(causal_lm.load_model(folder), domain)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("bench-lora"))
    parser.add_argument("--domains", nargs=2, default=["bible", "speeches"])
    parser.add_argument("--ranks", nargs="+", type=int, default=RANKS)
    parser.add_argument(
        "--seeds", type=int, default=1, help="of full experts, and at the main rank"
    )
    parser.add_argument("--full-lr", type=float, default=4e-3)
    parser.add_argument("--lora-lr", type=float, default=3e-2)
    parser.add_argument("--sparse-lr", type=float, default=2e-2)
    parser.add_argument("words", nargs="*", help="further words, trainer.steps=20")
    bench = Bench(parser.parse_args())
    steps.prepare(bench.config())
    seed = steps.seed(bench.config())
    print(
        f"{seed.card.parameters:,} parameters; {', '.join(bench.options.domains)}, "
        f"{bench.config().trainer.steps} steps; full difference in fp16 "
        f"{2 * seed.card.parameters:,} bytes"
    )
    at_equal_bytes(bench)
    averages(bench)
    memory(bench)


def at_equal_bytes(bench: Bench) -> None:
    """Print the losses over bytes: nats per token, the mean over domains."""
    options, seed = bench.options, bench.forest["seed"]
    seeds, domains = range(options.seeds), options.domains
    parent = statistics.mean(bench.nats_of(seed.path, d) for d in domains)
    full = [mean_nats(bench, [bench.full(d, s) for d in domains]) for s in seeds]
    print(f"parent {parent:.3f}; full expert {spread(full)}")
    print(
        "| rank | LoRA | of the full gain | bytes | density | sparse | of the full gain | bytes "
        "| of the full difference |\n|---|---|---|---|---|---|---|---|---|"
    )

    def gain(losses: list[float]) -> str:
        whole = parent - statistics.mean(full)
        return f"{100 * (parent - statistics.mean(losses)) / whole:.0f} %"

    for rank in options.ranks:
        mine = seeds if rank == MAIN else range(1)
        lora = [[bench.lora(d, s, rank) for d in domains] for s in mine]
        sparse = [[bench.sparse(d, s, rank) for d in domains] for s in mine]
        losses = [[mean_nats(bench, each) for each in kind] for kind in (lora, sparse)]
        sizes = [
            statistics.mean((elm.path / file).stat().st_size for elm in kind[0])
            for kind, file in ((lora, adapter.FILE), (sparse, delta.FILE))
        ]
        density = 100 * sparse[0][0].card.delta["density"]
        share = sizes[0] / (2 * seed.card.parameters)
        print(
            f"| {rank} | {spread(losses[0])} | {gain(losses[0])} | {sizes[0]:,.0f} "
            f"| {density:.3g} % | {spread(losses[1])} | {gain(losses[1])} | {sizes[1]:,.0f} "
            f"| {share:.3f} |",
            flush=True,
        )


def averages(bench: Bench) -> None:
    """Print what averages of two experts are worth: of products, as ``btm average`` makes them, and
    of factors.
    """
    domains = bench.options.domains
    one = bench.lora(domains[0], 0, MAIN)
    rows = {
        "full experts": [bench.full(d, 0) for d in domains],
        "adapters that began alike": [one, bench.lora(domains[1], 0, MAIN)],
        "adapters that began apart": [one, bench.lora(domains[1], 1, MAIN)],
    }
    print(
        f"mean nats of {' and '.join(domains)}\n| | own expert | average of products "
        "| average of factors | \\|Δ\\| of the matrices |\n|---|---|---|---|---|"
    )
    for kind, pair in rows.items():
        own = mean_nats(bench, pair)
        name = kind.replace(" ", "-")
        words = [f"average.name={name}", "average.measure=false", "average.method=linear"]
        config = bench.config(*words)
        config.weights = {elm.name: 1.0 for elm in pair}
        steps.average(config)
        made = bench.forest.paths.average(name).path
        both = statistics.mean(bench.nats_of(made, d) for d in domains)
        cells = ["—", "—"]
        if kind != "full experts":
            model, apart = of_factors(bench, pair)
            cells[0] = f"{statistics.mean(bench.nats(model, d) for d in domains):.3f}"
            cells[1] = f"{100 * apart:.0f} %"
        print(f"| {kind} | {own:.3f} | {both:.3f} | {cells[0]} | {cells[1]} |", flush=True)


def of_factors(bench: Bench, pair: list[ELM]) -> tuple["causal_lm.PreTrainedModel", float]:
    """Return the seed with the averages of two adapters' factors, and how far its products are from
    the average of products, relative to that (Frobenius).
    """
    one, other = (adapter.read(elm.path / adapter.FILE).tensors for elm in pair)
    mixed = {
        name: replace(c, a=(c.a + other[name].a) / 2, b=(c.b + other[name].b) / 2)
        for name, c in one.items()
    }
    exact = low_rank.average([(0.5, one), (0.5, other)])
    apart = sum(np.sum((mixed[n].product() - exact[n].product()) ** 2) for n in exact)
    size = sum(np.sum(exact[n].product() ** 2) for n in exact)
    base = causal_lm.load_model(bench.forest["seed"].path)
    return adapted.sharing(base, mixed), float(np.sqrt(apart / size))


def memory(bench: Bench) -> None:
    """Print the bytes that experts take together, and the time of a forward pass, shared and
    whole.
    """
    how, options = LoadConfig(), bench.options
    elms = [bench.lora(domain, 0, rank) for rank in options.ranks for domain in options.domains]
    shared = [adapters.load(elm.path, "cpu", how) for elm in elms]
    whole = [inference.load(elm.path, "cpu", how) for elm in elms]
    base = bench.forest["seed"].load()
    print(
        f"{len(elms)} experts: {held(shared):,} bytes of tensors shared, {held(whole):,} whole; "
        f"the base alone {held([base]):,}"
    )
    tokens = torch.randint(0, 500, BATCH, generator=torch.Generator().manual_seed(0))
    largest = max(
        float((logits(a, tokens) - logits(b, tokens)).abs().max())
        for a, b in zip(shared, whole, strict=True)
    )
    print(f"largest |Δ| of a logit, shared against whole: {largest:.1e}")
    main_ = 2 * list(options.ranks).index(MAIN)
    for rows in ((1, 1), BATCH):
        part = tokens[: rows[0], : rows[1]]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(41):  # in turn, as other work on the machine comes and goes
            for found, model in zip(times, (shared[main_], whole[main_]), strict=True):
                begun = time.perf_counter()
                logits(model, part)
                found.append(time.perf_counter() - begun)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        print(
            f"forward of {rows[0]} x {rows[1]} tokens, rank {MAIN}: {ratio:.2f} of the whole's time"
        )


def logits(model: "causal_lm.PreTrainedModel", tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return causal_lm.logits_of(model(input_ids=tokens, use_cache=False))


def held(models: "list[causal_lm.PreTrainedModel]") -> int:
    """Return the bytes of all parameters, those that are shared counted once."""
    found = {
        p.untyped_storage().data_ptr(): p.numel() * p.element_size()
        for model in models
        for p in model.parameters()
    }
    return sum(found.values())


def mean_nats(bench: Bench, experts: list[ELM]) -> float:
    """Return the mean of experts on the test splits of their own domains."""
    return statistics.mean(bench.nats_of(elm.path, elm.card.domains[0]) for elm in experts)


def spread(values: list[float]) -> str:
    """Return the mean, and of several the smallest and largest."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"


if __name__ == "__main__":
    main()
