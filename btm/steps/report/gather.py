"""Gather the facts of a forest and write its report."""

import math
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm import __version__
from btm.config.schema import Config
from btm.errors import UserError, command
from btm.forest import Forest
from btm.forest.paths import Paths
from btm.forest.relatives import relatives
from btm.report import html
from btm.steps.plan import Plan
from btm.steps.report import evaluations, holdings, results
from btm.steps.report.facts import Cycle, Evaluation, Facts, Rebuilding, Sample, Ways
from btm.steps.report.outdated import outdated
from btm.steps.report.samples import samples
from btm.system import durable
from btm.system.json_files import Json


def report(
    config: Config,
    cycle: Cycle | None = None,
    rebuilding: Rebuilding | None = None,
    live: int = 0,
) -> Path:
    """Write the report of a forest, of the evaluation eval.name, and return its file.

    `cycle` and `rebuilding` are told by rooms above this one (btm/launch, btm/cli). A page that is
    `live` reads itself again after so many seconds, while it is watched (btm watch).
    """
    facts = replace(gather(config, cycle, rebuilding), live=live)
    file = report_file(config)
    with durable.publish_file(file) as out:
        out.write(html.page(f"{facts.forest}: report", to_json(facts)).encode())
    return file


def to_json(facts: Facts) -> Json:
    """Convert facts to JSON values; a number that is not finite is null, for JSON has none."""
    values: Json = _finite(asdict(facts))
    return values


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_file(config: Config) -> Path:
    """Name the file of the report: `to`, or evals/<name>-report.html."""
    named = Paths(config.forest_root).report(config.eval.name)
    return named if config.to is None else Path(config.to)


def plan_of_report(config: Config) -> Plan:
    """Plan `report`: the file that it writes."""
    Forest(config.forest_root)
    file = report_file(config)
    return Plan("report", file.name, f"writes {file}; trains and scores nothing", writes=(file,))


def gather(
    config: Config,
    cycle: Cycle | None = None,
    rebuilding: Rebuilding | None = None,
) -> Facts:
    """Collect all that a report shows; what is missing is said in `absent`, a sentence a part."""
    forest = Forest(config.forest_root)
    paths, absent = forest.paths, _Absent(config)
    result, found = _evaluated(config, paths, absent)
    ways = _ways(config, paths, result, absent)
    texts = [] if result is None else _samples(config, result, absent)
    models = holdings.models(paths)
    curves = holdings.curves(paths, models)
    readings = results.readings(paths)
    tasks = results.measured_tasks(paths, config.eval.name)
    languages = results.languages([card for _, _, card in models], found)
    absent.unless(cycle, "cycle", "No cycle has left its records here (btm run keeps them).")
    absent.unless(curves, "curves", "No model here has kept the course of its training.")
    absent.unless(readings, "readers", "No reader was measured (btm read eval, btm read compare).")
    absent.unless(tasks, "benchmarks", f"No task was measured ({absent.hint('bench')}).")
    said = "The cards of the experts name no language (card.languages)."
    absent.unless(languages, "languages", said)
    absent.unless(rebuilding, "rebuilding", "The forest records no settings.")
    return Facts(
        forest.root.resolve().name,
        str(forest.root),
        datetime.now(UTC).isoformat(timespec="seconds"),
        __version__,
        str(forest.facts.get("model_type", "")),
        relatives(forest.root),
        found,
        ways,
        texts,
        curves,
        cycle,
        holdings.costs(models),
        holdings.disk(forest.root),
        readings,
        tasks,
        languages,
        holdings.cards(models),
        rebuilding,
        absent.said,
        outdated(config, models, result),
    )


class _Absent:
    """Says why parts of a report are missing."""

    def __init__(self, config: Config) -> None:
        self._root = config.forest_root
        self.said: dict[str, str] = {}

    def hint(self, verb: str) -> str:
        """Write the command that makes a part."""
        return command(verb, forest=self._root)

    def say(self, part: str, sentence: str) -> None:
        """Note why a part is missing."""
        self.said[part] = sentence

    def unless(self, found: object, part: str, sentence: str) -> None:
        """Note it where nothing was found."""
        if not found:
            self.say(part, sentence)


def _ways(config: Config, paths: Paths, result: Json | None, absent: _Absent) -> Ways | None:
    """Read the comparison, or else put side by side what the evaluation has."""
    try:
        return evaluations.ways(paths, config.eval.name, result)
    except (UserError, KeyError, TypeError, ValueError) as error:
        absent.say("ways", f"It could not be read: {error}.")
        return None


def _evaluated(
    config: Config, paths: Paths, absent: _Absent
) -> tuple[Json | None, Evaluation | None]:
    """Read the evaluation, as its file has it and as facts; `UserError` if one that was asked for
    is not there, or damaged.
    """
    name = config.eval.name
    try:
        result = evaluations.read_evaluation(paths, name)
        if result is not None:
            return result, evaluations.evaluation(result, paths.evaluation(name).stem)
        said = f"No evaluation stands in this forest yet: {absent.hint('eval')} makes one."
    except (UserError, KeyError, TypeError, ValueError, StopIteration) as error:
        if isinstance(error, UserError) and name is not None:
            raise
        said = f"The evaluation could not be read: {error}."
    for part in ("evaluation", "ways", "samples"):
        absent.say(part, said)
    return None, None


def _samples(config: Config, result: Json, absent: _Absent) -> list[Sample]:
    try:
        return samples(config, result)
    except (UserError, KeyError, ValueError) as error:
        absent.say("samples", f"No sample is shown: {error}.")
        return []
