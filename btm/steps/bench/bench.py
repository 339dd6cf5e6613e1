"""Measure the ensemble and single models on tasks of lm-evaluation-harness: `btm bench`.

A row of the file, one model on one task, is written as soon as it is measured and names all that
its numbers depend on; a row that stands under the same identity is not measured again.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from btm.config.bench import OWN_TASKS, asks_own
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.forest import Forest, Model
from btm.forest.paths import Paths
from btm.forest.suites import evaluated_suites
from btm.report import Reporter, quiet
from btm.report.benchmarks import Benchmarks, Measured, from_json
from btm.steps import held_out
from btm.steps.bench import tasks, text_tasks
from btm.steps.bench.subjects import Subject, context_of, find_all, subject
from btm.steps.bench.tasks import Unit
from btm.steps.plan import Plan
from btm.system import durable


def bench(config: Config, reporter: Reporter = quiet) -> Benchmarks:
    """Measure every model on every task; write ``evals/<name>-bench.json`` after each.

    The tasks ``btm`` are made of the forest's test text first. `UserError` for a task or a model
    that there is not, and for test text that one of the models was trained on.
    """
    forest = Forest(config.forest_root)
    models = find_all(config, forest)
    asked: list[Measured] = []
    with tasks.harness(config.bench.download):
        units = _units(config, forest, models, Paths(forest.root), reporter)
        for name in models:
            row = subject(config, forest, name, reporter)
            asked += _measure(config, forest, row, units, reporter)
    return _kept(config, asked)


def plan_of_bench(config: Config) -> list[Plan]:
    """Plan `bench`: for each model the tasks that are still to be asked, with their requests.

    What an ensemble is fitted to, with ``domain=``, is not known yet, so then none of its rows is
    taken to stand.
    """
    forest = Forest(config.forest_root)
    models = find_all(config, forest)
    with tempfile.TemporaryDirectory() as scratch, tasks.harness(config.bench.download):
        units = _units(config, forest, models, Paths(scratch), quiet)
        return [_plan(config, forest, name, members, units) for name, members in models.items()]


def bench_file(config: Config) -> Path:
    """Name the file that benchmarks are written to."""
    return Paths(config.forest_root).benchmarks(config.eval.name)


def _plan(
    config: Config, forest: Forest, name: str, members: Sequence[Model], units: Sequence[Unit]
) -> Plan:
    left = list(units)
    if not config.domain or len(members) == 1:
        row, standing = subject(config, forest, name), _standing(config)
        left = [unit for unit in units if _blank(config, row, unit).identity not in standing]
    if not left:
        return Plan.nothing("bench", name)
    counted = ", ".join(f"{unit.name} {unit.requests:,}" for unit in left)
    return Plan(
        "bench",
        name,
        f"{len(left)} of {len(units)} tasks, requests: {counted}",
        reads=tuple(model.path for model in members),
        writes=(bench_file(config),),
    )


def _units(
    config: Config,
    forest: Forest,
    models: Mapping[str, Sequence[Model]],
    place: Paths,
    reporter: Reporter,
) -> list[Unit]:
    """Find what is asked; the forest's own tasks are made, at `place`, where they are meant."""
    names, own = config.tasks or list(OWN_TASKS), None
    tasks.require_files(names, config.bench)
    if asks_own(names):
        suite = evaluated_suites(config)
        shards = [suite.shard(name, "test") for name in config.eval.domains or suite.domains()]
        _refuse_seen(forest, suite, shards, models, reporter)
        own = place.own_tasks(suite.name)
        text_tasks.write(own, suite, shards)
    reporter.line(f"building the questions of {', '.join(names)}")
    return tasks.find(names, config.bench, own)


def _refuse_seen(
    forest: Forest,
    suite: Suite,
    shards: Sequence[Shard],
    models: Mapping[str, Sequence[Model]],
    reporter: Reporter,
) -> None:
    """Refuse test text that a model was trained on."""
    members = {model.path: model for each in models.values() for model in each}
    held_out.refuse(forest, suite, shards, members.values(), reporter)


def _measure(
    config: Config, forest: Forest, row: Subject, units: Sequence[Unit], reporter: Reporter
) -> list[Measured]:
    """Return a model's rows of all units; those that are missing are measured and written."""
    from btm.steps.bench.harness import ForestLM, Settings

    found, model = [], ForestLM(forest, row, Settings.of(config), reporter)
    for unit in units:
        blank = _blank(config, row, unit)
        measured = _standing(config).get(blank.identity)
        if measured is None:
            reporter.line(f"{row.name} on {unit.name}: {unit.requests:,} requests")
            measured = replace(blank, metrics=tasks.run(unit, model, config.bench))
            _write(config, _kept(config, [measured]))
        found.append(replace(measured, model=row.name))
    return found


def _blank(config: Config, row: Subject, unit: Unit) -> Measured:
    """Make a row without its metrics, with its identity."""
    chosen, is_mixed = config.bench, row.kind == "ensemble"
    blank = Measured(
        model=row.name,
        kind=row.kind,
        members={model.name: model.sha256 for model in row.members},
        weights={m.name: weight for m, weight in zip(row.members, row.prior, strict=True)},
        rule=asdict(row.ensemble) if is_mixed else None,
        router_sha256=row.router_sha256,
        task=unit.name,
        text_sha256=unit.text_sha256,
        documents=unit.documents,
        requests=unit.requests,
        settings={
            "few_shot": chosen.few_shot,
            "limit": chosen.limit,
            "context": context_of(row.members, chosen.context),
            "seed": chosen.seed,
            "lm_eval": version("lm_eval"),
        },
    )
    of = {key: value for key, value in asdict(blank).items() if key not in ("metrics", "identity")}
    text = json.dumps(of, sort_keys=True, ensure_ascii=False)
    return replace(blank, identity=hashlib.sha256(text.encode()).hexdigest())


def _standing(config: Config) -> dict[str, Measured]:
    """Read the rows of the file, by identity; none where there is no file of ours."""
    try:
        rows = from_json(json.loads(bench_file(config).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {row.identity: row for row in rows}


def _kept(config: Config, asked: Sequence[Measured]) -> Benchmarks:
    """Put rows before those of the file that they do not replace: of other models or tasks."""
    new = {(row.model, row.task) for row in asked}
    others = [row for row in _standing(config).values() if (row.model, row.task) not in new]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Benchmarks(config.forest_root, list(asked), now, others)


def _write(config: Config, found: Benchmarks) -> None:
    durable.write_json(bench_file(config), found.to_json())
