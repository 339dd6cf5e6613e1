"""The documents that ELMs were trained on, kept by digest in ``trained-on/<sha256>.docs``.

A card names the train shards of its ELM by sha256, but text can be packed anew at any time. So the
digests of a shard's documents are kept in the forest when a training on it begins, and an
evaluation can always tell whether a document that it reads was trained on. A file holds the digests
sorted, each once, as uint64 in little endian, and then the SHA-256 of those bytes.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from btm.data.shards import Shard, Suite
from btm.data.splits import DIGEST
from btm.errors import UserError
from btm.forest.branch import Branch
from btm.forest.card import Card
from btm.forest.forest import Forest
from btm.forest.lineage import ELM, Key, Lineage
from btm.forest.paths import Paths, digests_name
from btm.system import durable

Digests = NDArray[np.uint64]  # sorted, each once, (D,)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SEAL = hashlib.sha256().digest_size


def record(paths: Paths, shards: Iterable[Shard]) -> None:
    """Keep the digests of the documents of `shards`; shards that have none are left out."""
    for shard in shards:
        file = paths.trained_on(shard.sha256)
        digests = None if file.exists() else of_shard(shard)
        if digests is None:
            continue
        body = digests.astype(DIGEST).tobytes()
        with durable.publish_file(file) as handle:
            handle.write(body + hashlib.sha256(body).digest())


def record_standing(forest: Forest, suite: Suite) -> None:
    """Keep the digests of what models of a forest were trained on, while a suite still has it.

    They are recorded when a training begins; a forest that an older btm grew gets them so.
    """
    nodes = Lineage.of(forest.root).nodes.values()
    wanted = {sha256 for node in nodes for sha256 in node.data}
    shards = [suite.shard(domain, "train") for domain in suite.domains()]
    record(forest.paths, [shard for shard in shards if shard.sha256 in wanted])


def of_shard(shard: Shard) -> Digests | None:
    """Sort the digests of the documents of a shard; None if it has none."""
    return None if shard.digests is None else np.unique(np.asarray(shard.digests))


def copy(source: Path, target: Path, card: Card) -> None:
    """Copy the digests of a model's own train shards from one folder to another, where `source` has
    them; `UserError` if they are damaged.

    The folders are forests' own (`Paths.digests`), or what was exported.
    """
    for sha256 in filter(_SHA256.fullmatch, card.data.values()):  # a card may come from outside
        name = digests_name(sha256)
        if not (source / name).is_file() or (target / name).exists():
            continue
        data = _sealed(source / name)
        with durable.publish_file(target / name) as handle:
            handle.write(data)


def read(paths: Paths, sha256: str) -> Digests | None:
    """Read the digests of a train shard; None if nobody kept them, `UserError` if damaged."""
    try:
        return np.frombuffer(_sealed(paths.trained_on(sha256))[:-_SEAL], DIGEST)
    except FileNotFoundError:
        return None


def _sealed(file: Path) -> bytes:
    """Read a file of digests whole; `UserError` if it is damaged."""
    data = file.read_bytes()
    if problem := _problem(data):
        raise UserError(f"{file}: {problem}: restore it from a copy, or delete it")
    return data


def damage(file: Path) -> str:
    """Say what is wrong with a file of digests; an empty string if nothing is."""
    return _problem(file.read_bytes())


def _problem(data: bytes) -> str:
    body, seal = data[:-_SEAL], data[-_SEAL:]
    whole = len(data) >= _SEAL and len(body) % DIGEST.itemsize == 0
    return "" if whole and hashlib.sha256(body).digest() == seal else "bytes changed"


def shards_of(lineage: Lineage, card: Card) -> set[str]:
    """List the train shards (sha256) of a model and of all its ancestors.

    What an ancestor was trained on that neither stands nor left a tombstone is not known.
    """
    keys = {Key(ELM, spent.name, spent.sha256) for spent in card.ancestors}
    keys |= {Key(ELM, name, parent.sha256) for name, parent in card.parents.items()}
    found = set(card.data.values())
    for key in keys & lineage.nodes.keys():
        found |= lineage.nodes[key].data
        if not card.ancestors:  # a card from before they were listed: by its parents' cards
            found.update(*(lineage.nodes[other].data for other in lineage.ancestors(key)))
    return found


def not_needed(forest: Forest) -> list[Path]:
    """List the files of digests that no model of the forest was trained on.

    While a branch is in the making all stay, since only its result says what it reads.
    """
    branches = forest.branches()  # before the ELMs: one that is merged meanwhile is among these
    kept = _needed(Lineage.of(forest.root), branches)
    if kept is None:
        return []
    return [file for file in forest.paths.trained_ons() if file.stem not in kept]


def _needed(lineage: Lineage, branches: Iterable[Branch]) -> set[str] | None:
    """Collect the train shards of all models that stand; None while a branch has no result."""
    kept: set[str] = set()
    for key, node in lineage.nodes.items():
        if node.state != "there":
            continue
        kept |= node.data
        kept.update(*(lineage.nodes[other].data for other in lineage.ancestors(key)))
    for branch in branches:
        try:
            result = branch.result
        except UserError:
            return None
        if result is None:
            return None
        kept.update((result.get("data") or {}).values())
    return kept


def among(digests: Digests, sorted_digests: Digests) -> NDArray[np.bool_]:
    """Mark those of `digests` that stand in `sorted_digests`, (D,)."""
    if not len(sorted_digests):
        return np.zeros(len(digests), bool)
    at = np.searchsorted(sorted_digests, digests).clip(max=len(sorted_digests) - 1)
    return sorted_digests[at] == digests


def hits(held_out: Digests, shards: Iterable[tuple[str, Digests]]) -> dict[str, Digests]:
    """Find which of the `held_out` digests stand in each train shard (sha256, digests).

    Shards with none of them are left out. Both sides are sorted, so that each search goes on near
    the last: 100 shards of a million documents take seconds.
    """
    found = {}
    for sha256, digests in shards:
        mine = held_out[among(held_out, digests)]
        if len(mine):
            found[sha256] = mine
    return found
