"""Who descends from whom, by weighted branches, and how much of what it began with came from where.

The parameters that a child begins with are θ = Σ_p w_p θ_p. So the share of an ancestor is the
product of the weights along a path, summed over all paths; what training then made of them is not
counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from btm.errors import UserError, unknown
from btm.forest import index, tombstone
from btm.forest.card import Card
from btm.forest.forest import Forest

ELM, BRANCH, DERIVED = index.ELM, tombstone.BRANCH, index.DERIVED


class Key(NamedTuple):
    """One model: a name may have stood for several, which the sha256 of their weights tells
    apart.
    """

    kind: str
    name: str
    sha256: str  # of a branch: empty


@dataclass(frozen=True)
class Node:
    """A model of the forest, or one that was: `state` is there, removed or gone (deleted by
    hand).
    """

    key: Key
    state: str = "there"
    domains: list[str] = field(default_factory=list)
    parents: dict[Key, float] = field(default_factory=dict)
    ancestors: frozenset[Key] = frozenset()
    data: frozenset[str] = frozenset()
    note: str = ""

    @property
    def label(self) -> str:
        """Its name with what is not usual about it."""
        said = [] if self.key.kind == ELM else [self.key.kind]
        said += [] if self.state == "there" else [self.state]
        return self.key.name + (f" ({' '.join(said)})" if said else "")


@dataclass(frozen=True)
class Lineage:
    """Every model of a forest, what it was made of and what was made of it."""

    nodes: dict[Key, Node]
    children: dict[Key, dict[Key, float]]

    @classmethod
    def of(cls, root: Path) -> "Lineage":
        """Read the lineage of the forest at `root`: ELMs, derived models, branches in the making,
        and tombstones.
        """
        branches = _branches(root)  # first: one that is merged meanwhile is found among the ELMs
        nodes = {node.key: node for node in [*_removed(root), *_standing(root), *branches]}
        for node in list(nodes.values()):
            for key in [*node.parents, *node.ancestors]:
                nodes.setdefault(key, Node(key, "gone"))
        children: dict[Key, dict[Key, float]] = {key: {} for key in nodes}
        for node in nodes.values():
            for parent, weight in node.parents.items():
                children[parent][node.key] = weight
        return cls(nodes, children)

    def find(self, name: str, where: str, kind: str | None = None) -> Node:
        """Find the model called `name`: an ELM, or else a removed one, a branch or a derived model.

        With a `kind`, only models of that kind are looked at. `UserError` if there is none.
        """
        among = [node for node in self.nodes.values() if kind in (None, node.key.kind)]
        named = [node for node in among if node.key.name == name]
        if not named:
            raise unknown(kind or "model", name, {node.key.name for node in among}, where)
        order = [
            (ELM, "there"),
            (ELM, "removed"),
            (BRANCH, "there"),
            *((kind, "there") for kind in DERIVED),
            (ELM, "gone"),
        ]
        return min(named, key=lambda node: (order.index((node.key.kind, node.state)), node.note))

    def ancestors(self, key: Key) -> dict[Key, float | None]:
        """Compute {ancestor: share}, nearest first; None where an ELM in between is not known."""
        shares = _spread(key, lambda at: self.nodes[at].parents)
        return shares | dict.fromkeys(self.nodes[key].ancestors - shares.keys() - {key})

    def descendants(self, key: Key) -> dict[Key, float | None]:
        """Compute {descendant: share of `key` in it}, parents before children; None where an ELM in
        between is not known.
        """
        shares = _spread(key, lambda at: self.children[at])
        lost = [n.key for n in self.nodes.values() if key in n.ancestors and n.key not in shares]
        return shares | dict.fromkeys(sorted(lost))


def _spread(start: Key, edges: Callable[[Key], Mapping[Key, float]]) -> dict[Key, float | None]:
    """Follow `edges` from `start` to {reached: sum over paths of the product of weights}.

    The order is topological; `start` is left out.
    """
    waits = {start: 0}
    stack = [start]
    while stack:
        for key in edges(stack.pop()):
            if key not in waits:
                stack.append(key)
                waits[key] = 0
            waits[key] += 1
    shares = {start: 1.0}
    order, ready = [], [start]
    while ready:
        key = ready.pop()
        order.append(key)
        for other, weight in edges(key).items():
            shares[other] = shares.get(other, 0.0) + shares[key] * weight
            waits[other] -= 1
            if not waits[other] and other != start:
                ready.append(other)
    circular = waits.keys() - set(order)  # forged: no weights can name themselves
    return {key: shares[key] for key in order[1:]} | dict.fromkeys(sorted(circular))


def _standing(root: Path) -> list[Node]:
    """Read the ELMs and the derived models."""
    return [
        Node(
            Key(e.kind, e.name, e.sha256),
            domains=e.domains,
            parents={Key(ELM, name, sha256): e.parents[name] for name, sha256 in d.parents.items()},
            ancestors=frozenset(Key(ELM, name, sha256) for name, sha256 in d.ancestors),
            data=frozenset(d.data),
            note=e.damaged,
        )
        for e, d in index.descents(root)
    ]


def _removed(root: Path) -> list[Node]:
    return [_of_tombstone(stone.name, stone.card) for stone in tombstone.all_of(root)]


def _of_tombstone(name: str, card: Card) -> Node:
    return Node(
        Key(ELM, name, card.sha256),
        "removed",
        card.domains,
        {Key(ELM, parent, p.sha256): p.weight for parent, p in card.parents.items()},
        frozenset(Key(ELM, spent.name, spent.sha256) for spent in card.ancestors),
        frozenset(card.data.values()),
    )


def _branches(root: Path) -> list[Node]:
    nodes = []
    for made in Forest(root).branches():
        try:
            origin, parents = made.origin, made.parents
            spent = origin.get("ancestors", [])
            ancestors = frozenset(Key(ELM, s["name"], s["sha256"]) for s in spent)
        except (UserError, TypeError, KeyError) as error:
            nodes.append(Node(Key(BRANCH, made.name, ""), note=f"{made.path}: {error}"))
            continue
        edges = {Key(ELM, name, p.sha256): p.weight for name, p in parents.items()}
        nodes.append(Node(Key(BRANCH, made.name, ""), "there", origin["domains"], edges, ancestors))
    return nodes
