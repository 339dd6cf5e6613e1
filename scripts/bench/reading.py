#!/usr/bin/env python
"""Does merging experts help a reader? Extractive questions, choices and inference about WordNet's
glosses, by the seed, the average, the best expert and the forest, on the same questions.

    python scripts/build_corpora.py --suite readers
    python scripts/bench/reading.py --forest=FOLDER [--tasks=choice,nli,qa] [--suite=corpora/readers]
                                    [--average=fitted] [--train=600] [--test=300] [--seeds=0,1]
                                    [--csv=docs/results/readers]

The forest is one of lexicographer files (data.root=corpora/readers/text, or links to some of its
folders); questions are of the domains of its experts, and none of test is about a gloss that it was
trained on. A row trains one reader a seed, on one thread; what is shown is the mean over questions
(and seeds) and the difference to the seed on the same questions, each with its 95 % interval by the
bootstrap over questions. A row that stands in --out is not measured again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from btm.cli.compose import compose
from btm.forest import Forest, find_model
from btm.readers import train
from btm.readers.ground import Ground
from btm.readers.intervals import interval
from btm.readers.reader import Reader
from btm.readers.registry import Spec, resolve
from btm.readers.setting import Example
from btm.report.tables import TableRow, table
from btm.system.durable import make_folder, write_json

READERS = {"qa": "extractive_qa", "choice": "multiple_choice", "nli": "nli"}
METRICS = {"qa": "f1", "choice": "accuracy", "nli": "accuracy"}
ALL = 100  # experts, more than any forest here has
# How a forest reads, by task: {row: options}.
MIXED: dict[str, dict[str, dict[str, object]]] = {
    "qa": {
        "forest: a head each, posterior": {"experts": ALL},
        "forest: a head each, argmax": {"experts": 1},
        "forest: one head, posterior": {"experts": ALL, "heads": "shared"},
    },
    "choice": {
        "forest: posterior": {"experts": ALL},
        "forest: argmax": {"experts": 1},
    },
    "nli": {
        "forest: a head each, posterior": {"experts": ALL, "heads": "own"},
        "forest: a head each, argmax": {"experts": 1, "heads": "own"},
        "forest: one head, posterior": {"experts": ALL},
        "words alone, no model": {"states": False, "likelihood": False},
    },
}


def main() -> None:
    """Print a table for each task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forest", required=True)
    parser.add_argument("--suite", type=Path, default=Path("corpora/readers"))
    parser.add_argument("--tasks", default="choice,nli,qa")
    parser.add_argument("--average", default="fitted")
    parser.add_argument("--train", type=int, default=600, help="questions of train, at most")
    parser.add_argument("--test", type=int, default=300, help="questions of test, at most")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, help="default: as the reader's own settings say")
    parser.add_argument("--out", type=Path, help="where rows are kept; default: FOREST/evals")
    parser.add_argument("--csv", type=Path, help="folder that gets TASK.csv")
    given = parser.parse_args()
    torch.set_num_threads(1)
    forest = Forest(given.forest)
    out = make_folder(given.out or Path(given.forest) / "evals" / "reading")
    for task in given.tasks.split(","):
        rows = {
            name: measured(out, forest, task, name, models, options, given)
            for name, models, options in subjects(forest, task, given.average)
        }
        print(table(shown(rows), f"{task}, {METRICS[task]}: {len(rows['seed'])} test questions"))
        if given.csv:
            pd.DataFrame(figures(rows)).to_csv(
                make_folder(given.csv) / f"{task}.csv", index=False, float_format="%.4f"
            )


def subjects(
    forest: Forest, task: str, average: str
) -> Iterator[tuple[str, list[str], dict[str, object]]]:
    """Yield each row: its name, the models that it stands on, the options of its reader."""
    experts = [elm.name for elm in forest.experts()]
    yield "seed", ["seed"], {}
    yield f"average ({average})", [f"averages/{average}"], {}
    if task == "choice":
        for name in experts:
            yield f"expert {name}", [name], {}
    for name, options in MIXED[task].items():
        yield name, experts if "forest" in name else ["seed"], options


def measured(
    out: Path,
    forest: Forest,
    task: str,
    name: str,
    models: Sequence[str],
    options: Mapping[str, object],
    given: argparse.Namespace,
) -> np.ndarray:
    """Measure a row, unless that is done: a value for each question, the mean over seeds."""
    key = "".join(c if c.isalnum() else "-" for c in name)
    file = out / f"{task}-{key}-{given.train}-{given.test}-{given.epochs}-{given.seeds}.json"
    if not file.exists():
        begun = time.process_time()
        values = [
            once(forest, task, models, options, given, int(seed)) for seed in given.seeds.split(",")
        ]
        write_json(file, np.mean(values, axis=0).tolist())
        print(f"{task}: {name}: {time.process_time() - begun:.0f} s of CPU", flush=True)
    return np.array(json.loads(file.read_bytes()))


def once(
    forest: Forest,
    task: str,
    models: Sequence[str],
    options: Mapping[str, object],
    given: argparse.Namespace,
    seed: int,
) -> np.ndarray:
    """Train a reader and measure it on test; without epochs, choices are not trained."""
    config = compose([f"reader={READERS[task]}"], "read train").reader
    spec = Spec(config.questions, config.input, config.model, config.output, options)
    parts = resolve(spec)
    kind = "forest" if len(models) > 1 else "expert"
    ground = Ground(forest, kind, [find_model(forest, model) for model in models])
    domains = [domain for elm in forest.experts() for domain in elm.card.domains]
    some = questions(parts.read, given.suite / task, domains, given)
    reader = Reader.new(spec, parts, ground, some, seed)
    if task != "choice":  # what is learnt there changes no answer
        how = replace(config, seed=seed, epochs=given.epochs or config.epochs)
        train.fit(reader, reader.input.items(some["train"], answered=True), how)
    return reader.measure(some["test"])[METRICS[task]]


def questions(
    read, source: Path, domains: Sequence[str], given: argparse.Namespace
) -> dict[str, list[Example]]:
    """Read the questions of some domains: as many of each domain, at most so many in all."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in source.iterdir():
            rows = file.read_text(encoding="utf-8")
            if file.suffix == ".json":
                whole = json.loads(rows)
                whole["data"] = [each for each in whole["data"] if each["title"] in domains]
                rows = json.dumps(whole, ensure_ascii=False)
            else:
                lines = rows.splitlines(keepends=True)
                rows = "".join(line for line in lines if json.loads(line)["domain"] in domains)
            (Path(scratch) / file.name).write_text(rows, encoding="utf-8")
        found = {split: read(Path(scratch), split) for split in ("train", "test")}
    rng = np.random.default_rng(0)
    for split, count in (("train", given.train), ("test", given.test)):
        order = rng.permutation(len(found[split]))[:count]
        found[split] = [found[split][n] for n in sorted(order)]
    return found


def figures(rows: Mapping[str, np.ndarray]) -> Iterator[dict[str, object]]:
    """Yield each row's mean and its difference to the seed, with the ends of their intervals."""
    for name, values in rows.items():
        own, gain = interval(values), interval(values - rows["seed"])
        yield {
            "on": name,
            "mean": own.mean,
            "low": own.low,
            "high": own.high,
            "over the seed": gain.mean,
            "gain low": gain.low,
            "gain high": gain.high,
            "questions": len(values),
        }


def shown(rows: Mapping[str, np.ndarray]) -> list[TableRow]:
    """Write means and differences to the seed with their intervals."""
    found: list[TableRow] = []
    for name, values in rows.items():
        own, gain = interval(values), interval(values - rows["seed"])
        found.append(
            {
                "reader on": name,
                "mean": f"{own.mean:.3f} [{own.low:.3f}, {own.high:.3f}]",
                "over the seed": ""
                if name == "seed"
                else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
            }
        )
    return found


if __name__ == "__main__":
    main()
