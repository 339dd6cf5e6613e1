"""Settings of the verbs that ask the registry; part of `btm.config.schema`."""

from dataclasses import dataclass

from btm.config.checks import check_choice, check_least, check_moment, check_name

ELM_STATES = ("ELM", "average", "branch", "trained", "damaged", "removed")
ELM_ORDERS = ("name", "domain", "tokens", "total_tokens", "parameters", "valid_nats", "created")
DRAWINGS = ("text", "mermaid", "graphviz")
DIFFS = ("module", "tensor")


@dataclass
class LsConfig:
    """Which ELMs, averages and branches are listed, and in what order."""

    name: str | None = None  # a pattern: law*
    domain: str | None = None  # trained on it
    parent: str | None = None  # branched from it
    ancestor: str | None = None  # descended from it, through any number of branches
    since: str | None = None  # merged then or later: 2026-11-25, or 2026-11-25T13:00
    before: str | None = None  # merged earlier
    # ELM | average | branch | trained | damaged | removed; null: all but removed
    state: str | None = None
    removed: bool = False  # what was removed too
    sort: str = "name"  # name | domain | tokens | total_tokens | parameters | valid_nats | created
    reverse: bool = False
    limit: int = 0  # rows at most; 0: all


@dataclass
class RemoveConfig:
    """What the tombstone says."""

    reason: str = ""


@dataclass
class LineageConfig:
    """How a lineage is drawn."""

    format: str = "text"  # text | mermaid | graphviz


@dataclass
class DiffConfig:
    """What two models are compared by."""

    by: str = "module"  # module | tensor


def check_ls(ls: LsConfig) -> None:
    """Raise `UserError` naming the first key of `ls` whose value makes no sense."""
    for key in ("domain", "parent", "ancestor"):
        if (name := getattr(ls, key)) is not None:
            check_name(name, f"ls.{key}")
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
