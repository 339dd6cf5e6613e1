"""Settings of the verbs that ask the registry; part of `btm.config.schema`."""

from dataclasses import dataclass


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
