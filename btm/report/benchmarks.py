"""Benchmarks of models by tasks, as evals/<name>-bench.json has them, and their table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from btm.report.tables import TableRow
from btm.system.json_files import Json

SCHEMA = 1


@dataclass(frozen=True)
class Metric:
    """One number of a task."""

    name: str  # acc, bits_per_byte, exact_match (flexible-extract)
    value: float | None  # None: infinite, or undefined
    stderr: float | None = None
    higher_is_better: bool | None = None


def chief(task: str, metrics: Mapping[str, Sequence[Metric]]) -> Metric | None:
    """Return the first metric of a task, or of a group; None if there is none."""
    own = metrics.get(task) or next(iter(metrics.values()), [])
    return own[0] if own else None


@dataclass(frozen=True)
class Measured:
    """One model on one task, or on one group of tasks, and all that its numbers depend on."""

    model: str  # forest, forest:gated, law, averages/deploy
    kind: str  # ensemble, or the kind of the model
    members: dict[str, str]  # {name: sha256 of the weights}
    weights: dict[str, float]  # the prior of each member
    rule: Json | None  # the ensemble's settings, fitted ones too; None: one model
    router_sha256: str | None  # of the router that weighs the members, if one does
    task: str
    text_sha256: str  # of every question and its answer, and of how answers are counted
    documents: int
    requests: int
    settings: Json  # few_shot, limit, context, seed, version of lm-eval
    metrics: dict[str, list[Metric]] = field(default_factory=dict)  # {task: …}; a group's own first
    identity: str = ""  # sha256 of all of these but the metrics

    @property
    def chief(self) -> Metric | None:
        """The first metric of the task, or of the group."""
        return chief(self.task, self.metrics)


@dataclass(frozen=True)
class Benchmarks:
    """The rows of one command, and those of earlier ones beside them in the file."""

    forest: str
    measured: list[Measured]
    created: str
    others: list[Measured] = field(default_factory=list)  # kept in the file, and not asked now
    schema: int = SCHEMA

    def to_json(self) -> Json:
        """Return the content of the file; what was asked last comes first."""
        rows = [asdict(each) for each in (*self.measured, *self.others)]
        return {"schema": self.schema, "forest": self.forest, "created": self.created, "rows": rows}


def from_json(values: Mapping[str, Any]) -> list[Measured]:
    """Read the rows of a file; `ValueError` or `TypeError` if it is not one of this schema."""
    if values.get("schema") != SCHEMA:
        raise ValueError(f"schema {values.get('schema')}")
    rows = []
    for row in values["rows"]:
        metrics = {task: [Metric(**each) for each in own] for task, own in row["metrics"].items()}
        rows.append(Measured(**row | {"metrics": metrics}))
    return rows


def table(measured: Sequence[Measured]) -> list[TableRow]:
    """Make the table: a row a model, a column a task, in it the task's first metric."""
    rows: dict[str, TableRow] = {}
    for each in measured:
        row = rows.setdefault(each.model, {"model": each.model, "kind": each.kind})
        row[_column(each)] = _said(each.chief)
    return list(rows.values())


def _column(measured: Measured) -> str:
    """Name the column of a task: its first metric, and which way is better."""
    chief = measured.chief
    if chief is None:
        return measured.task
    arrow = {True: " ↑", False: " ↓", None: ""}[chief.higher_is_better]
    return f"{measured.task} {chief.name}{arrow}"


def _said(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "–"
    error = f" ± {metric.stderr:.2g}" if metric.stderr else ""
    return f"{metric.value:.4g}{error}"
