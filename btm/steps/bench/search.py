"""Search the weights of a linear average by benchmark: `average.search=tasks`.

A candidate is averaged, asked all questions of the tasks, and deleted. The first draws the experts,
alike, halfway to the seed. Each later one is the best so far with Gaussian noise on its logits: a
(1+1)-evolution strategy, whose steps follow Rechenberg's rule of one success in five. It needs no
gradient, which an accuracy does not have.

The questions are never those that `btm bench` reports: the forest's own tasks are made of the valid
splits, and other tasks are asked of their validation split, or of their training split.

The state is written after each candidate, so a search that is killed goes on.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from btm.config.bench import OWN_TASKS, asks_own
from btm.config.schema import Config
from btm.data.ends import ends_of_folders
from btm.errors import UserError
from btm.forest import ELM, Forest, Model, publish
from btm.forest.card import Candidate
from btm.forest.suites import open_suites
from btm.models import weights as wt
from btm.models.gradient_of_average import Matrix, groups_of
from btm.report import Reporter, quiet
from btm.report.benchmarks import chief
from btm.steps import held_out
from btm.steps import recipe as finding
from btm.steps import search as searching
from btm.steps.bench import tasks, text_tasks
from btm.steps.bench.subjects import alone, context_of
from btm.steps.bench.tasks import Unit
from btm.steps.search import Found
from btm.system import durable
from btm.system.json_files import read_object

_STEP = 1.0  # standard deviation of the first noise on logits
_GROWTH = 1.5  # of the step at a success; at a failure the fourth root of its inverse


@dataclass(frozen=True)
class Tried:
    """A candidate: its logits, (G, E), and the first metric of each unit."""

    logits: list[list[float]]
    figures: dict[str, float | None]  # None: infinite, or undefined
    lower_is_better: list[str]  # the units whose figure is a loss


@dataclass(frozen=True)
class _Problem:
    """What is searched: models, and the questions that their averages are asked."""

    elms: list[ELM]
    units: list[Unit]
    asked: str  # all that the result depends on, in words


def search(config: Config, forest: Forest, name: str, reporter: Reporter = quiet) -> Found | None:
    """Try `average.budget` averages; find the one of the largest mean gain over the first; None
    where the average `name` is what this search has found before.
    """
    budget, groups = config.average.budget, config.average.groups
    with tasks.harness(config.bench.download):
        problem = _problem(config, forest, reporter)
        if searching.stands(config, forest, name, problem.asked):
            return None
        made = searching.recipe_of(config, forest)  # each candidate is asked as it will be kept
        file = searching.state_file(forest, problem.asked + (json.dumps(made) if made else ""))
        tried = _read(file)
        while len(tried) < budget:
            logits_GE = proposed(tried, _first(config, problem.elms))
            weights, layers = searching.named(searching.softmax(logits_GE), problem.elms, groups)
            with _trial(config, forest, weights, layers, reporter) as candidate:
                figures, losses = _ask(config, forest, problem.units, candidate, reporter)
            tried.append(Tried(logits_GE.tolist(), figures, losses))
            durable.write_json(file, {"tried": [asdict(each) for each in tried]})
            said = ", ".join(f"{unit} {_said(value)}" for unit, value in figures.items())
            reporter.line(f"{name}: average {len(tried)} of {budget}: {said}")
    return _found(config, problem, tried, file)


def plan(config: Config, forest: Forest) -> str:
    """Say what a search will do; `UserError` if it cannot, before anything is computed."""
    with tasks.harness(config.bench.download):
        problem = _problem(config, forest, quiet)
    counted = ", ".join(f"{unit.name} {unit.requests:,}" for unit in problem.units)
    return f"searched ({config.average.budget} averages; requests to each: {counted})"


def gains(tried: Sequence[Tried]) -> list[float]:
    """Compute the gain of each candidate over the first: the mean over the units of the relative
    gain of its figure. One without a figure has none: −∞.

    `UserError` where the first has none, so that nothing can be compared with it.
    """
    first = tried[0]
    if lacking := [unit for unit, value in first.figures.items() if value is None]:
        raise UserError(
            f"average.search=tasks: the first average has no finite figure on {lacking[0]}: leave "
            "that task out"
        )
    return [_gain(each, first) for each in tried]


def _gain(tried: Tried, first: Tried) -> float:
    total = 0.0
    for unit, base in first.figures.items():
        value = tried.figures[unit]
        if value is None or base is None:
            return -np.inf
        gain = (value - base) / (abs(base) or 1.0)  # of nothing right at first: what is right now
        total += -gain if unit in first.lower_is_better else gain
    return total / len(first.figures)


def proposed(tried: Sequence[Tried], first_GE: Matrix) -> Matrix:
    """Propose the logits of the next candidate, (G, E): a function of those before it."""
    if not tried:
        return first_GE
    found, best, step = gains(tried), 0, _STEP
    for number in range(1, len(tried)):
        is_better = found[number] > found[best]
        step *= _GROWTH if is_better else _GROWTH**-0.25
        best = number if is_better else best
    noise = np.random.default_rng(len(tried)).standard_normal(first_GE.shape)
    return np.asarray(np.array(tried[best].logits) + step * noise)


def _problem(config: Config, forest: Forest, reporter: Reporter) -> _Problem:
    """Collect the models, the questions and the words of a search."""
    elms, chosen = searching.weighed(config, forest), config.average
    floats = [t.name for t in wt.tensors(elms[0].path).values() if t.is_float]
    groups_of(floats, chosen.groups)
    units = _units(config, forest, elms, reporter)
    on = ", ".join(f"{unit.name} ({unit.text_sha256[:16]})" for unit in units)
    limit = "" if config.bench.limit is None else f"the first {config.bench.limit} "
    asked = (
        f"task search, {chosen.budget} averages, each asked {limit}questions that btm bench does "
        f"not report, of {on}; context {context_of(_models(elms), config.bench.context)}; over "
        f"{searching.in_words(elms, chosen.groups)}"
    )
    return _Problem(elms, units, asked)


def _models(elms: Sequence[ELM]) -> list[Model]:
    return [Model(elm.name, elm.path, elm.card.sha256, "ELM", elm.card) for elm in elms]


def _units(config: Config, forest: Forest, elms: Sequence[ELM], reporter: Reporter) -> list[Unit]:
    """Build the questions; the forest's own are made of the valid splits, and are not kept."""
    names = config.tasks or list(OWN_TASKS)
    tasks.require_files(names, config.bench)
    if not asks_own(names):
        return tasks.find(names, config.bench, unreported=True)
    suite = open_suites(config)
    experts = forest.experts(config.average.experts)
    shards = [suite.shard(d, "valid") for d in finding.meant_for(config, experts)]
    held_out.refuse(forest, suite, shards, elms, reporter)
    with tempfile.TemporaryDirectory() as scratch:
        text_tasks.write(Path(scratch), suite, shards)
        return tasks.find(names, config.bench, Path(scratch), unreported=True)


def _first(config: Config, elms: Sequence[ELM]) -> Matrix:
    """Weigh the experts alike, and all together as much as the seed, if it is among them."""
    among = [elm.card.is_expert for elm in elms]
    shares = [1.0 / among.count(is_expert) for is_expert in among]
    return np.tile(np.log(shares), (1 + len(config.average.groups), 1))


@contextmanager
def _trial(
    config: Config,
    forest: Forest,
    parents: Mapping[str, float],
    layers: Mapping[str, Mapping[str, float]],
    reporter: Reporter,
) -> Iterator[Model]:
    """Make a candidate as it would be published, and delete it when the block ends."""
    chosen = replace(config, average=replace(config.average, layers=layers))
    settings = finding.settings_of(chosen, forest, parents, lambda: open_suites(config), reporter)
    with publish.trial(forest, parents, settings, reporter.alive) as folder:
        yield Model("candidate", folder, wt.sha256(folder), "average", None)


def _ask(
    config: Config, forest: Forest, units: Sequence[Unit], candidate: Model, reporter: Reporter
) -> tuple[dict[str, float | None], list[str]]:
    """Ask a candidate all questions; return the first metric of each unit, and which are losses."""
    from btm.steps.bench.harness import ForestLM, Settings

    ends = frozenset(ends_of_folders(forest.tokenizer, [candidate.path]).ids)
    model = ForestLM(forest, alone(candidate, ends), Settings.of(config), reporter)
    figures: dict[str, float | None] = {}
    losses = []
    for unit in units:
        metric = chief(unit.name, tasks.run(unit, model, config.bench))
        if metric is None or metric.higher_is_better is None:
            raise UserError(
                f"task {unit.name}: it does not say whether more of its first metric is better, so "
                "nothing can be searched by it: leave it out"
            )
        figures[unit.name] = metric.value
        if not metric.higher_is_better:
            losses.append(unit.name)
    return figures, losses


def _found(config: Config, problem: _Problem, tried: Sequence[Tried], file: Path) -> Found:
    """Take the best candidate, the first of equals, and list all of them."""
    found = gains(tried)
    best = int(np.argmax(found))
    candidates = []
    for each in tried:
        weights_GE = searching.softmax(np.array(each.logits))
        weights, layers = searching.named(weights_GE, problem.elms, config.average.groups)
        candidates.append(Candidate(weights, layers, each.figures))
    figures = "; ".join(
        f"{unit} {_said(value)}, at first {_said(tried[0].figures[unit])}"
        for unit, value in tried[best].figures.items()
    )
    said = f"{problem.asked}; found average {best + 1} there: {figures}"
    return Found(candidates[best].weights, candidates[best].layers, said, file, candidates)


def _said(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _read(file: Path) -> list[Tried]:
    """Read the state of a search that was killed; none if there is none."""
    with suppress(UserError, TypeError):
        return [Tried(**each) for each in read_object(file, tried=list)["tried"]]
    return []
