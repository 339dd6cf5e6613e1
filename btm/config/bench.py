"""Settings of benchmarks: the models that lm-evaluation-harness measures, and how."""

from collections.abc import Sequence
from dataclasses import dataclass

from btm.config.checks import check_least, check_models, check_path, check_seed, require
from btm.config.choices import ENSEMBLE
from btm.config.keys import key

OWN_TAG = "btm"  # the tag of the tasks that are made of the forest's own test text
OWN_TASKS = ("btm_rolling", "btm_next", "btm_next_word", "btm_line_end", "btm_order")


@dataclass
class BenchConfig:
    """Tasks of lm-evaluation-harness: which, on how many of their questions, and how."""

    models: list[str] = key(
        [],
        "what is measured: forest (the ensemble), forest:RULE, or models as models= names them; "
        "empty: the ensemble and each of its members",
    )
    include: list[str] = key(
        [], "folders of task files (YAML) of your own; Python beside them is run"
    )
    limit: int | None = key(None, "documents of each task, at most; null: all")
    few_shot: int | None = key(
        None, "examples before each question; null: as the task has it; a task that says 0 keeps it"
    )
    batch_size: int = key(16, "requests per forward pass")
    context: int | None = key(
        None, "tokens of context, at most; null: those that every member has positions for"
    )
    seed: int = key(1234, "seed of the examples of bench.few_shot and of sampled answers")
    download: bool = key(
        False, "fetch data sets of tasks that are not on this machine from the Hugging Face Hub"
    )


def is_ensemble(name: str) -> bool:
    """Tell whether a word of bench.models means the ensemble, under any rule."""
    return name == ENSEMBLE or name.startswith(f"{ENSEMBLE}:")


def asks_own(names: Sequence[str]) -> bool:
    """Tell whether one of these tasks is made of the forest's own test text."""
    return any(name == OWN_TAG or name in OWN_TASKS for name in names)


def check_bench(bench: BenchConfig) -> None:
    """Raise `UserError` naming the first key of `bench` whose value makes no sense."""
    check_models(bench.models, "bench.models")
    for folder in bench.include:
        check_path(folder, "bench.include")
    for word in ("limit", "context"):
        value, least = getattr(bench, word), 2 if word == "context" else 1
        require(value is None or value >= least, f"bench.{word}", value, f"wanted {least} or more")
    few = bench.few_shot
    require(few is None or few >= 0, "bench.few_shot", few, "wanted 0 or more, or null")
    check_least(bench, "bench", 1, "batch_size")
    check_seed(bench.seed, "bench.seed")
