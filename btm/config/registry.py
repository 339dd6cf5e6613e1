"""Settings of the verbs that ask the registry; part of `btm.config.schema`."""

from dataclasses import dataclass

from btm.config.checks import check_choice, check_least, check_moment, check_name
from btm.config.keys import key

ELM_STATES = ("ELM", "average", "student", "MoE", "branch", "trained", "damaged", "removed")
ELM_ORDERS = ("name", "domain", "tokens", "total_tokens", "parameters", "valid_nats", "created")
DRAWINGS = ("text", "mermaid", "graphviz")
DIFFS = ("module", "tensor")


@dataclass
class LsConfig:
    """Which models and branches are listed, and in what order."""

    name: str | None = key(None, "list names that match this pattern, law*; null: all")
    domain: str | None = key(None, "list models trained on this domain; null: on any")
    parent: str | None = key(None, "list models branched from this ELM; null: from any")
    ancestor: str | None = key(
        None,
        "list models that descend from this ELM through any number of branches; null: from any",
    )
    since: str | None = key(
        None,
        "list models merged at this time or later, 2026-11-25 or 2026-11-25T13:00; null: at "
        "any time",
    )
    before: str | None = key(None, "list models merged earlier than this time; null: at any time")
    state: str | None = key(None, "list models in this state; null: in any but removed", ELM_STATES)
    removed: bool = key(False, "list removed models too")
    sort: str = key("name", "order of the list", ELM_ORDERS)
    reverse: bool = key(False, "reverse the order")
    limit: int = key(0, "largest number of rows; 0: all")


@dataclass
class RemoveConfig:
    """What the tombstone says."""

    reason: str = key("", "why the model is removed; its tombstone records it")


@dataclass
class LineageConfig:
    """How a lineage is drawn."""

    format: str = key("text", "how the lineage is drawn", DRAWINGS)


@dataclass
class DiffConfig:
    """What two models are compared by."""

    by: str = key(
        "module", "whether two models are compared module by module or tensor by tensor", DIFFS
    )


def check_ls(ls: LsConfig) -> None:
    """Raise `UserError` naming the first key of `ls` whose value makes no sense."""
    for word in ("domain", "parent", "ancestor"):
        if (name := getattr(ls, word)) is not None:
            check_name(name, f"ls.{word}")
    check_least(ls, "ls", 0, "limit")
    check_choice(ls.sort, "ls.sort", ELM_ORDERS)
    if ls.state is not None:
        check_choice(ls.state, "ls.state", ELM_STATES)
    check_moment(ls.since, "ls.since")
    check_moment(ls.before, "ls.before")


def check_lineage(lineage: LineageConfig) -> None:
    """Raise `UserError` if `lineage.format` is no drawing."""
    check_choice(lineage.format, "lineage.format", DRAWINGS)


def check_diff(diff: DiffConfig) -> None:
    """Raise `UserError` if `diff.by` is nothing that models are compared by."""
    check_choice(diff.by, "diff.by", DIFFS)
