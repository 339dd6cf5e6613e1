"""What a mixture of experts gives and costs: each router, beside averages trained the same steps.

    python scripts/bench/moe.py experiment=demo [--steps 120] [--csv=FILE]

The words are those of `btm compare`. A copy of the forest is worked on, with its dense LM where one
stands. Every row is scored on the same tokens; FLOPs are a token's, and models run are FLOPs over
those of one ELM. Rows that are trained have taken as many steps on
the same text, at the same rate.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data.batches import Batches
from btm.forest.card import Card
from btm.models import weights
from btm.report.tables import table
from btm.train import loop
from btm.train.schedule import Schedule, default_lr
from btm.train.training import Training

# Words of each mixture; STEPS stands for the number of training steps.
MIXTURES = {
    "random-2": ["moe.router=random"],
    "domain-2": ["moe.router=domain"],
    "ridge-1": ["moe.top_k=1"],
    "ridge-2": [],
    "btx-router-1": ["moe.router=btx", "moe.top_k=1", "moe.steps=STEPS"],
    "btx-router-2": ["moe.router=btx", "moe.steps=STEPS"],
    "btx-all-1": ["moe.router=btx", "moe.top_k=1", "moe.train=all", "moe.steps=STEPS"],
    "btx-all-2": ["moe.router=btx", "moe.train=all", "moe.steps=STEPS"],
    "base-router-1": ["moe.router=base", "moe.steps=STEPS"],
    "base-all-1": ["moe.router=base", "moe.train=all", "moe.steps=STEPS"],
}
TRAINED = "average, trained"  # all its weights, the same steps


def main() -> None:
    """Make every mixture in a copy of the forest, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    root = Path(compose(words, "compare").forest_root)
    with tempfile.TemporaryDirectory() as place:
        for name in (root.name, f"{root.name}-dense"):
            if (root.parent / name).is_dir():
                shutil.copytree(root.parent / name, Path(place) / name)
        words = [*words, f"forest={Path(place) / root.name}"]
        rows = measure(words, arguments.steps, Path(place))
    print(table(rows, f"{root}: perplexity; {arguments.steps} steps where trained"))
    if arguments.csv:
        pd.DataFrame(rows).to_csv(arguments.csv, index=False)


def measure(words: list[str], n_steps: int, place: Path) -> list[dict]:
    """Make the models, then compare them."""
    quiet, seconds = ["average.measure=false"], {}
    base = ["weights=uniform", "average.method=linear", "average.name=uniform"]
    average = steps.average(compose([*words, *quiet, *base], "average"))
    trained = place / "trained"
    seconds[TRAINED] = timed(lambda: train(compose(words, "compare"), average, trained, n_steps))
    for name, own in MIXTURES.items():
        own = [word.replace("STEPS", str(n_steps)) for word in own]
        config = compose([*words, *quiet, *own, f"moe={name}"], "moe")
        seconds[name] = timed(lambda config=config: steps.moe(config))
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    config = compose([*words, f"models=[{trained}]"], "compare")
    found = steps.compare(config).rows
    one = next(row.inference_flops_per_token for row in found if row.kind == "top-1")
    rows = []
    for row in found:
        name = TRAINED if row.model == str(trained) else row.model
        rows.append(
            {
                "model": name,
                "kind": row.kind,
                "models run": row.inference_flops_per_token / one,
                "FLOPs/token": row.inference_flops_per_token,
                "in-domain": row.in_domain and row.in_domain.perplexity,
                "novel": row.novel and row.novel.perplexity,
                "seconds to make": seconds.get(name),
            }
        )
    return rows


def train(config: Config, average: Path, folder: Path, n_steps: int) -> None:
    """Train a copy of an average on the text of all its domains, in one mix."""
    shutil.copytree(average, folder)
    suite, trainer = steps.open_suites(config), config.trainer
    domains = Card.read(average / "card.json").domains
    shards = [suite.shard(domain, "train") for domain in domains]
    pieces = [piece for shard in shards for piece in shard.pieces(trainer.seq_len + 1)]
    trainer = replace(trainer, lr=trainer.lr or default_lr(weights.parameters(folder)))
    loop.train(
        Training(
            folder,
            Batches(pieces, trainer.seq_len, trainer.batch_size, trainer.seed, order="btx-all-2"),
            trainer,
            Schedule.of(trainer, horizon=n_steps),
            n_steps,
        )
    )


def timed(work) -> float:
    """Do `work`; return the seconds it took."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
