"""Uniform averages of experts against the seed, beside how far apart their text is.

    python scripts/bench/apart.py --csv apart.csv experiment=demo

Each set of two experts or more is averaged in memory and measured on the valid splits of its own
domains, and so is the seed: the difference of the mean losses, in nats/token. Beside it stands what
`btm average` warns by, the Jensen-Shannon divergence of the text that they were trained on
(btm/steps/apart.py), and the mean cosine of their differences from the seed. The last lines say how
often a bound on either is wrong about an average being worse than the seed. Nothing is written into
the forest. All further words are btm's.
"""

import argparse
import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data.batches import windows
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.steps import apart
from btm.train import trainee

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Row:
    """A set of experts: the divergence of their text, their cosine, what their average loses."""

    experts: str
    bits: float
    cosine: float
    nats: float  # more than the seed's; below 0 where the average is better


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, help="write all sets there")
    parser.add_argument("--tokens", type=int, default=4096, help="of each valid split")
    options, words = parser.parse_known_args()
    rows = sorted(measure(compose(words), options.tokens), key=lambda row: row.bits)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow(
                    {k: f"{v:.4f}" if k != "experts" else v for k, v in asdict(row).items()}
                )
    print(*shown(rows), sep="\n")


def measure(config: Config, tokens: int) -> Iterator[Row]:
    """Yield a row for each set of experts of the forest."""
    forest, suite = Forest(config.forest_root), open_suites(config)
    names = [elm.name for elm in forest.experts()]
    domains = {name: forest[name].card.domains[0] for name in names}
    read = {n: windows(suite.shard(d, "valid"), config.window, tokens) for n, d in domains.items()}
    tokenizer = apart.tokenizer_of(suite)
    counts = {n: apart.count(suite.shard(d, "train"), tokenizer) for n, d in domains.items()}
    model = load(forest, config.seed.name)
    first: State = {key: value.clone() for key, value in model.state_dict().items()}
    states: dict[str, State] = {name: load(forest, name).state_dict() for name in names}
    far = {name: vector(states[name]) - vector(first) for name in names}

    def nats(state: State, some: Sequence[str]) -> float:
        model.load_state_dict(state)
        return sum(trainee.validate(model, read[name]) for name in some) / len(some)

    seed = {name: nats(first, [name]) for name in names}
    for size in range(2, len(names) + 1):
        for some in itertools.combinations(names, size):
            mean = {key: sum(states[n][key] for n in some) / size for key in first}
            yield Row(
                "+".join(some),
                apart.divergence(np.array([counts[n] for n in some]), np.ones(size)),
                np.mean(
                    [cosine(far[a], far[b]) for a, b in itertools.combinations(some, 2)]
                ).item(),
                nats(mean, some) - sum(seed[n] for n in some) / size,
            )


def load(forest: Forest, name: str) -> Any:
    return causal_lm.load_model(forest[name].path, "cpu", dtype=torch.float32)


def vector(state: State) -> torch.Tensor:
    return torch.cat([value.flatten() for value in state.values()])


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def shown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the pairs and the set of all as a table of Markdown, then how well bounds tell."""
    yield "| experts | bits | cosine | average − seed, nats/token |"
    yield "|---|---|---|---|"
    most = max(row.experts.count("+") for row in rows)
    for row in rows:
        if row.experts.count("+") in (1, most):
            yield f"| {row.experts} | {row.bits:.3f} | {row.cosine:.3f} | {row.nats:+.3f} |"
    worse = sum(row.nats > 0 for row in rows)
    wrong = sum((row.bits > apart.FAR) != (row.nats > 0) for row in rows)
    yield f"{len(rows)} sets, {worse} averages worse than the seed"
    yield f"more than {apart.FAR:g} bits: wrong about {wrong}"
    bounds = [row.cosine for row in rows]
    least = min(sum((row.cosine < at) != (row.nats > 0) for row in rows) for at in bounds)
    yield f"the best bound on the cosine: wrong about {least}"


if __name__ == "__main__":
    main()
