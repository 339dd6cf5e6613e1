"""The tasks of lm-evaluation-harness: found by name, their questions built, and run on a model.

lm_eval is an optional dependency, and is imported within the functions.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.bench import OWN_TAG, OWN_TASKS, BenchConfig
from btm.errors import UserError, first_line, unknown
from btm.report.benchmarks import Metric

if TYPE_CHECKING:
    from btm.steps.bench.harness import ForestLM

# Draws of a bootstrap, for the standard error of metrics that have no formula for it.
_DRAWS = 1000
_ENVIRONMENT = {
    "DISABLE_MULTIPROC": "1",  # lm-eval would fork for a bootstrap, within our threads
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Unit:
    """A task, or a group with all its tasks, which is run and kept as one."""

    name: str
    loaded: Mapping[str, Any]  # as lm-eval's TaskManager has it
    requests: int
    documents: int
    text_sha256: str  # of all that is asked, with its answers, and of how it is counted


@contextlib.contextmanager
def harness(download: bool) -> Iterator[None]:
    """Have lm-eval quiet within the block, and off the network unless it may `download`.

    A metric that lm-eval does not have is a program on the Hub, which is never fetched. The
    settings are this process's own and are put back.
    """
    import datasets
    import evaluate
    import huggingface_hub.constants as hub
    from datasets.utils.logging import disable_progress_bar

    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    disable_progress_bar()
    offline = [(evaluate.config, "HF_EVALUATE_OFFLINE")]
    if not download:
        offline += [(datasets.config, "HF_DATASETS_OFFLINE"), (hub, "HF_HUB_OFFLINE")]
    was = [getattr(*each) for each in offline]
    for place, name in offline:
        setattr(place, name, True)
    try:
        yield
    finally:
        for (place, name), value in zip(offline, was, strict=True):
            setattr(place, name, value)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what lm-eval prints, its log and its bars of progress off the screen."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def require_files(names: Sequence[str], bench: BenchConfig) -> None:
    """Require the folders and the YAML files that a command names."""
    for folder in bench.include:
        if not Path(folder).is_dir():
            raise UserError(f"bench.include={folder}: no such folder; wanted one with task files")
    for name in names:
        if _is_file(name) and not Path(name).is_file():
            raise UserError(f"tasks: {name}: no such file; wanted the YAML file of a task")
        if "/" in name and Path(name).is_dir():
            raise UserError(
                f"tasks: {name}: a folder; wanted names of tasks: give bench.include=[{name}] and "
                "the names in it"
            )


def find(
    names: Sequence[str], bench: BenchConfig, own: Path | None = None, *, unreported: bool = False
) -> list[Unit]:
    """Build the questions of tasks, groups, tags and YAML files; `own` is the folder of the
    forest's own.

    `unreported` asks of other documents than those that a benchmark reports, but for the forest's
    own tasks, whose text the caller has chosen. `UserError` for a task that there is not, whose
    data is not here, that runs code, or that has no other documents.
    """
    from lm_eval.tasks import TaskManager

    folders = [*bench.include, *([] if own is None else [str(own)])]
    with silence():
        manager = TaskManager(include_path=folders, include_defaults=False)
        # lm-eval's own tasks are 14,000 files, which take ten seconds to look through.
        if not all(_is_file(name) or name in manager.all_tasks for name in names):
            manager = TaskManager(include_path=folders)
    units: dict[str, Unit] = {}
    for name in names:
        for unit in _units(name, manager, bench, unreported):
            units.setdefault(unit.name, unit)
    return list(units.values())


def run(unit: Unit, model: "ForestLM", bench: BenchConfig) -> dict[str, list[Metric]]:
    """Ask a model all questions of a unit; return the metrics of each task, the group's first."""
    from lm_eval.evaluator import evaluate

    with silence():
        found = evaluate(
            model,
            dict(unit.loaded),
            limit=bench.limit,
            bootstrap_iters=_DRAWS,
            log_samples=False,
        )
    assert found is not None  # it is None in other processes than the first
    results = {**(found.get("groups") or {}), **found["results"]}
    better = found.get("higher_is_better", {})
    return {
        name: _in_order(_metrics(values, better.get(name, {})), unit.loaded["tasks"].get(name))
        for name, values in results.items()
    }


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _units(name: str, manager: Any, bench: BenchConfig, unreported: bool) -> Iterator[Unit]:
    """Load what a name stands for: a task, the tasks of a tag, or a group, which stays whole."""
    if not _is_file(name) and name not in manager.all_tasks:
        raise unknown("task", name, {OWN_TAG, *OWN_TASKS, *manager.all_tasks})
    _refuse_code(name, manager, bench)
    try:
        with silence():
            loaded = manager.load([name])
    except Exception as error:  # each task fails in its own way
        raise _not_loaded(name, error, bench) from None
    if loaded.get("groups"):
        yield _unit(name, loaded, bench, unreported)
        return
    for task, built in loaded["tasks"].items():
        alone = {"tasks": {task: built}, "groups": {}, "group_map": {}}
        yield _unit(task, alone, bench, unreported)


def _refuse_code(name: str, manager: Any, bench: BenchConfig) -> None:
    """Refuse a task that runs what a model writes before it is loaded: that may run code too."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = None if _is_file(name) else manager.task_index[name]
    path = Path(name) if entry is None else entry.yaml_path
    if path is None:
        return
    try:
        is_unsafe = load_yaml(path, resolve_func=False).get("unsafe_code")
    except Exception as error:  # what cannot be looked at is not loaded either
        raise _not_loaded(name, error, bench) from None
    if is_unsafe:
        raise _runs_code(name)


def _runs_code(name: str) -> UserError:
    return UserError(
        f"task {name}: it runs the code that a model writes (unsafe_code), which btm bench never "
        "does: use lm-eval's own command in a box (docs/benchmarks.md)"
    )


def _not_loaded(name: str, error: Exception, bench: BenchConfig) -> UserError:
    """Say in one line why a task does not load; without its data set, how to get that."""
    why = first_line(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    absent = kinds & {"ConnectionError", "OfflineModeIsEnabled", "DatasetNotFoundError"}
    if absent or isinstance(error, FileNotFoundError):
        remedy = "" if bench.download else "; bench.download=true fetches it"
        return UserError(f"task {name}: its data set is not on this machine ({why}){remedy}")
    return UserError(f"task {name}: it does not load: {type(error).__name__}: {why}")


def _unit(
    name: str, loaded: Mapping[str, Any], bench: BenchConfig, unreported: bool = False
) -> Unit:
    """Build the questions of a unit, count them and sum them up in a hash."""
    digest, requests, documents = hashlib.sha256(), 0, 0
    for task_name, task in sorted(loaded["tasks"].items()):
        _refuse(task_name, task)
        _settle(task, bench)
        if unreported and task_name not in OWN_TASKS:
            _turn_to_unreported(task_name, task)
        try:
            with silence():
                task.build_all_requests(limit=bench.limit)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"task {task_name}: its questions cannot be built: {why}") from None
        digest.update(f"{task_name}\n{_counted(task)}\n".encode())
        for each in task.instances:
            asked = [each.request_type, each.doc, each.args, each.repeats]
            digest.update(json.dumps(asked, sort_keys=True, default=str).encode() + b"\n")
        requests += len(task.instances)
        documents += len({each.doc_id for each in task.instances})
    return Unit(name, loaded, requests, documents, digest.hexdigest())


def _refuse(name: str, task: Any) -> None:
    """Refuse a task that runs what a model writes, asks for pictures, or needs remote code."""
    if getattr(task, "UNSAFE_CODE", False):
        raise _runs_code(name)
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"task {name}: it shows pictures or sound, and the models read text alone")


def _settle(task: Any, bench: BenchConfig) -> None:
    """Set the examples before a question, as lm-eval's own command does.

    A task whose file says 0 keeps that: its questions hold their examples themselves.
    """
    own = task.get_config("num_fewshot")
    if own is None or (bench.few_shot is not None and own != 0):
        task.set_config(key="num_fewshot", value=bench.few_shot or 0)
    task.set_fewshot_seed(seed=bench.seed)


def _turn_to_unreported(name: str, task: Any) -> None:
    """Have a task asked of its validation split, or of its training split where the validation
    split is what a benchmark reports.
    """
    from lm_eval.api.task import ConfigurableTask

    own = type(task)
    if not isinstance(task, ConfigurableTask) or own.test_docs is not ConfigurableTask.test_docs:
        raise UserError(f"task {name}: its Python chooses the documents, so that none are left out")
    splits = [task.config.test_split, task.config.validation_split, task.config.training_split]
    reported, *others = dict.fromkeys(split for split in splits if split)
    if not others:
        raise UserError(
            f"task {name}: it has no documents but those that btm bench reports ({reported}), and "
            "weights that were searched on these would look better than they are: leave it out"
        )
    task.set_config(key="test_split", value=others[0])


def _counted(task: Any) -> str:
    """Write how a task's answers are counted: metrics, filters, generation, and its version."""
    keys = ("output_type", "metric_list", "process_results", "filter_list", "generation_kwargs")
    parts = [getattr(task.config, key, None) for key in keys]
    # Beside the version lm-eval keeps the path of the file, which is no part of the task.
    metadata = getattr(task.config, "metadata", None)
    version = metadata.get("version") if isinstance(metadata, dict) else metadata
    return json.dumps([*parts, version], sort_keys=True, default=_called)


def _called(value: Any) -> str:
    """Name a function of a task: its address, which `str` has, differs from run to run."""
    return getattr(value, "__qualname__", type(value).__qualname__)


def _metrics(values: Mapping[str, Any], better: Mapping[str, Any]) -> list[Metric]:
    """Read the metrics of one task out of lm-eval's table."""
    found = []
    for key, value in values.items():
        name, comma, variant = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        error = values.get(f"{name}_stderr,{variant}")
        called = name if variant == "none" else f"{name} ({variant})"
        found.append(Metric(called, _finite(value), _finite(error), better.get(name)))
    return found


def _in_order(metrics: list[Metric], task: Any) -> list[Metric]:
    """Put metrics in the order of the task's file; lm-eval's table has lost it."""
    order = list(getattr(task, "_metric_fn_list", ()))
    known = {name: number for number, name in enumerate(order)}
    return sorted(metrics, key=lambda each: known.get(each.name.partition(" ")[0], len(order)))


def _finite(value: Any) -> float | None:
    """Convert a number for JSON, which has no NaN: what is none, as "N/A", is None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
