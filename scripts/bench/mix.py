"""Whether `btm mix` orders mixtures as training on them does: rank correlations against mixtures
that are really trained.

    python scripts/bench/mix.py experiment=demo [--scales 0.1 0.25 0.5 1] [--csv=FILE]

Every mixture goes on from the forest's seed for as many steps, and tokens, as one expert had, with
its rate, schedule, batches and optimizer; windows of its domains take turns in sixteenths of a
batch. Its loss is measured on the valid split of every domain that is evaluated, and so is the
average that `btm mix` would make, at each scale. Spearman's rank correlation of the two over the
mixtures is taken for each target domain; printed are its mean over the targets, and how often the
mixture that is ranked first is the best, or costs less than a hundredth of a nat.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data.batches import Batches, windows
from btm.data.shards import Shard, Suite
from btm.forest import Forest
from btm.forest.suites import evaluated_suites
from btm.models import causal_lm
from btm.report.tables import table
from btm.train import optimizers, trainee
from btm.train.schedule import Schedule

PARTS = 16  # shares of a mixture are multiples of 1/16
MIXTURES = (
    {"bible": 8, "speeches": 8},
    {"code_python": 8, "python_docs": 8},
    {"speeches": 4, "wordnet": 4, "python_docs": 8},
    {"spanish": 8, "metamath": 4, "pronunciation": 4},
    {
        "bible": 2,
        "code_python": 2,
        "metamath": 2,
        "pronunciation": 2,
        "python_docs": 2,
        "spanish": 2,
        "speeches": 2,
        "wordnet": 2,
    },
)
CLOSE = 0.01  # nats/token


def main() -> None:
    """Train the mixtures, rank them, and print how well the ranks agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    config = compose(words, "mix")
    suite = evaluated_suites(config)
    targets = suite.domains()
    trained = [trained_on(config, suite, mixture, targets) for mixture in MIXTURES]
    rows = []
    for scale in arguments.scales:
        for target in targets:
            predicted = proxies(config, scale, target)
            for number, shares in enumerate(MIXTURES):
                real = trained[number][target]
                rows.append((scale, target, number, str(shares), predicted[number], real))
    columns = ["scale", "target", "number", "mixture", "average", "trained"]
    found = pd.DataFrame(rows, columns=columns)
    known = {domain for elm in Forest(config.forest_root).experts() for domain in elm.card.domains}
    found["novel"] = ~found.target.isin(known)
    if arguments.csv:
        found.to_csv(arguments.csv, index=False)
    print(table(agreement(found), f"{config.forest_root}: {len(MIXTURES)} mixtures, each target"))


def trained_on(
    config: Config, suite: Suite, mixture: Mapping[str, int], targets: list[str]
) -> dict[str, float]:
    """Train the seed on a mixture, as an expert is trained; return {target: nats per token}."""
    forest, trainer = Forest(config.forest_root), config.trainer
    card = forest[next(iter(mixture))].card  # an expert's, whose steps and rate it has
    shards: list[Shard] = []
    for domain, parts in mixture.items():
        shards += [suite.shard(domain, "train")] * parts
    assert len(shards) == PARTS, f"{mixture}: wanted {PARTS} parts"
    device = causal_lm.pick_device(trainer.device)
    model = causal_lm.load_trainable(forest[config.seed.name].path, device)
    batches = Batches(shards, trainer.seq_len, trainer.batch_size, trainer.seed, order=str(mixture))
    schedule = Schedule.of(replace(trainer, lr=card.lr), horizon=card.steps)
    optimizer = optimizers.make_optimizer(model, trainer)
    for step in range(card.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(step)
        ids = torch.from_numpy(batches.batch(step)).to(device)
        loss = causal_lm.mean_nll(model, ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.clip)
        optimizer.step()
        optimizer.zero_grad()
    print(f"trained on {mixture}: {float(loss.detach()):.3f} nats/token on the last batch")
    return {
        target: trainee.validate(
            model, windows(suite.shard(target, "valid"), config.window, config.score.max_tokens)
        )
        for target in targets
    }


def proxies(config: Config, scale: float, target: str) -> list[float]:
    """Measure the averages that `btm mix` ranks the mixtures by, in the order of `MIXTURES`."""
    chosen = replace(
        config.mix,
        scale=scale,
        candidates=[{n: float(parts) for n, parts in each.items()} for each in MIXTURES],
    )
    named = replace(config.eval, name=f"bench-{scale:g}-{target}".replace("_", "-"))
    ranking = steps.mix(replace(config, mix=chosen, domain=target, eval=named))
    found = {tuple(sorted(each.shares)): each.mean for each in ranking.mixtures}
    return [found[tuple(sorted(each))] for each in MIXTURES]


def agreement(found: pd.DataFrame) -> list[dict]:
    """Make a row for each scale and kind of target: mean rank correlation, hits of the best."""
    rows = []
    for (scale, novel), part in found.groupby(["scale", "novel"]):
        correlations, best, close = [], 0, 0
        for _, own in part.groupby("target"):
            correlations.append(own.average.rank().corr(own.trained.rank()))
            chosen = own.loc[own.average.idxmin()].trained
            best += chosen == own.trained.min()
            close += chosen <= own.trained.min() + CLOSE
        rows.append(
            {
                "scale": scale,
                "targets": "novel" if novel else "trained on",
                "number": len(correlations),
                "Spearman, mean": float(np.mean(correlations)),
                "least": float(np.min(correlations)),
                "first is best": best,
                f"within {CLOSE} nats": close,
            }
        )
    return rows


if __name__ == "__main__":
    main()
