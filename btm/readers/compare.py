"""The step of `btm read compare`: does merging experts help anybody answer anything?

One reader is trained on the forest, mixed by the domain posterior, one on an average, the seed and
the dense LM each, and one on every expert. All are measured on the same questions. The row `argmax`
asks for each question the reader of the expert whose posterior of its support is greatest.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest, derived
from btm.forest.index import AVERAGE
from btm.forest.readers import all_of
from btm.readers import steps
from btm.readers.ground import Ground
from btm.readers.intervals import Interval, interval
from btm.readers.modules import Measures
from btm.readers.setting import Example
from btm.report import Reporter, quiet
from btm.steps.plan import Plan
from btm.system import durable
from btm.system.json_files import Json

FOREST, ARGMAX = "forest", "argmax"


@dataclass(frozen=True)
class Row:
    """One way of standing on a forest, and what it comes to."""

    on: str  # forest, average, seed, dense, argmax
    model: str  # what that is, by name
    values: dict[str, Interval]  # by metric
    behind: dict[str, Interval]  # the forest minus it, on the same questions


@dataclass(frozen=True)
class Comparison:
    """The rows of a comparison on one split of questions."""

    reader: str
    split: str
    questions: int
    rows: list[Row]
    notes: list[str] = field(default_factory=list)  # rows that there are none of, and why
    readers: dict[str, str] = field(default_factory=dict)  # {name: sha256 of its weights}

    def to_json(self) -> Json:
        """Write it as a file of evals/ has it."""
        return asdict(self)


def compare(config: Config, reporter: Reporter = quiet) -> tuple[Comparison, Path]:
    """Train what is not trained, measure all, and write evals/reader-NAME-compare.json."""
    forest, name = Forest(config.forest_root), steps.name_of(config)
    notes: list[str] = []
    examples: list[Example] = []
    found: dict[str, Measures] = {}
    models: dict[str, str] = {}
    for on, chosen in _chosen(config, forest, notes):
        own = replace(chosen, reader=replace(config.reader, name=f"{name}-{on}"))
        models[on] = own.expert or own.average.name or FOREST
        examples, found[on] = _measured(own, forest, reporter)
    experts = _experts(config, forest)
    if not all(example.setting.support for example in examples):
        notes.append("no row argmax: questions have no support to tell the expert by")
    elif len(experts) > 1:
        each = {}
        for expert in experts:
            _, each[expert] = _measured(_of_expert(config, expert, name), forest, reporter)
        found[ARGMAX] = _of_argmax(config, examples, each)
        models[ARGMAX] = f"one of {len(experts)} experts"
    rows = [_row(on, models[on], values, found[FOREST]) for on, values in found.items()]
    names = {f"{name}-{on}" for on in found}
    names |= {f"{name}-of-{expert}" for expert in experts if ARGMAX in found}
    used = {card.name: card.sha256 for _, card in all_of(forest.root) if card.name in names}
    made = Comparison(name, config.reader.split, len(examples), rows, notes, used)
    file = forest.paths.reading(name, "compare")
    durable.write_json(file, made.to_json())
    return made, file


def plan_of_compare(config: Config) -> list[Plan]:
    """Plan `compare`: the readers that are to be trained, and the file of numbers."""
    forest, name = Forest(config.forest_root), steps.name_of(config)
    plans = [
        steps.plan_of_train(replace(own, reader=replace(config.reader, name=f"{name}-{on}")))
        for on, own in _chosen(config, forest, [])
    ]
    plans += [
        steps.plan_of_train(_of_expert(config, expert, name)) for expert in _experts(config, forest)
    ]
    file = forest.paths.reading(name, "compare")
    return [*plans, Plan("read compare", name, "all of them, side by side", writes=(file,))]


def _of_expert(config: Config, expert: str, name: str) -> Config:
    """Return the settings of the reader that stands on one expert alone."""
    reader = replace(config.reader, name=f"{name}-of-{expert}")
    return replace(config, on="expert", expert=expert, reader=reader)


def _chosen(config: Config, forest: Forest, notes: list[str]) -> Iterator[tuple[str, Config]]:
    """Yield each row that one model, or the mixture, stands for."""
    without = replace(config, expert=None, average=replace(config.average, name=None))
    yield FOREST, replace(without, on=FOREST)
    averages = [model.path.name for model in derived(forest) if model.kind == AVERAGE]
    average = config.average.name or (averages[0] if len(averages) == 1 else None)
    if average is None:
        notes.append(f"no row average: give average=NAME; {forest.root} has {len(averages)}")
    else:
        own = replace(config.average, name=average)
        yield "average", replace(without, on="average", average=own)
    if config.seed.name in forest:
        yield "seed", replace(without, on="expert", expert=config.seed.name)
    dense = forest.root.with_name(f"{forest.root.name}-dense")
    if Forest.stands(dense) and "dense" in Forest(dense):
        yield "dense", replace(without, on="expert", expert=f"{dense}:dense")
    else:
        notes.append(f"no row dense: {dense} has no dense LM (btm run baseline=dense)")


def _experts(config: Config, forest: Forest) -> list[str]:
    return config.ensemble.experts or [elm.name for elm in forest.experts()]


def _measured(config: Config, forest: Forest, reporter: Reporter) -> tuple[list[Example], Measures]:
    """Train a reader, unless it stands, and measure it."""
    reporter.line(f"reader {config.reader.name}")
    _, card = steps.train(config, reporter)
    reader, card = steps.load(config, forest)
    return steps.measure(config, reader, card)


def _of_argmax(
    config: Config, examples: Sequence[Example], values: Mapping[str, Measures]
) -> dict[str, NDArray[np.float64]]:
    """Take each question's values from the reader of the likeliest expert of its support."""
    ground = Ground.of(replace(config, on=FOREST))
    if ground is None:
        raise UserError("on=forest: there is no forest")
    texts = [ground.tokens("\n".join(e.setting.support)).ids[: ground.context] for e in examples]
    weights = np.stack([each.weights for each in ground.encode(texts, pooled=True)])
    best, experts = weights.argmax(axis=1), list(values)
    metrics = values[experts[0]]
    places = np.arange(len(best))
    return {
        metric: np.stack([values[expert][metric] for expert in experts])[best, places]
        for metric in metrics
    }


def _row(on: str, model: str, values: Measures, forest: Measures) -> Row:
    of_all = {metric: interval(each) for metric, each in values.items()}
    behind = {metric: interval(forest[metric] - each) for metric, each in values.items()}
    return Row(on, model, of_all, behind)
