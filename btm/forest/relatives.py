"""The lineage of a forest as pages draw it: the explorer of `btm serve`, and `btm report`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from btm.forest import index, tombstone
from btm.forest.index import Entry
from btm.forest.lineage import ELM, Key, Lineage, Node


@dataclass(frozen=True)
class Parent:
    """A parent, and its share of the parameters that a child began with."""

    id: str
    name: str
    weight: float


@dataclass(frozen=True)
class Relative:
    """One model of a lineage: a name may have stood for several, so each has an id."""

    id: str
    name: str
    kind: str  # ELM, average, student, MoE or branch
    state: str  # there, removed, or gone (deleted by hand)
    domains: list[str]
    parents: list[Parent]
    tokens: int | None  # that it was itself trained on; None where no card tells
    total_tokens: int | None  # with those of its ancestors


def relatives(root: Path) -> list[Relative]:
    """List the ELMs by name, then what was made of them, and last what is no more."""
    lineage, tokens = Lineage.of(root), _tokens(root)
    nodes = lineage.nodes.values()
    order = sorted(nodes, key=lambda n: (n.state != "there", n.key.kind != ELM, n.key))
    return [_relative(node, tokens.get(node.key)) for node in order]


def _relative(node: Node, entry: Entry | None) -> Relative:
    parents = [Parent(_id(key), key.name, weight) for key, weight in node.parents.items()]
    known = entry is not None and not entry.damaged
    return Relative(
        _id(node.key),
        node.key.name,
        node.key.kind,
        node.state,
        list(node.domains),
        parents,
        entry.tokens if entry is not None and known else None,
        entry.total_tokens if entry is not None and known else None,
    )


def _id(key: Key) -> str:
    return f"{key.kind}:{key.name}:{key.sha256[:16]}"


def _tokens(root: Path) -> Mapping[Key, Entry]:
    """Find what the cards tell of all models, removed ones too."""
    stones = [Entry.of(stone.name, stone.card) for stone in tombstone.all_of(root)]
    entries = [*stones, *index.entries(root)]
    return {Key(entry.kind, entry.name, entry.sha256): entry for entry in entries}
