"""Near-duplicates between what is held out and what is trained on, over all domains of a suite.

They are looked for in the packed tokens, so that a domain whose text is elsewhere is compared as
well. What was found stands in each domain's meta.json. With ``data.near_duplicates=drop`` its train
split is written again without what is near a held-out document.
"""

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from btm.config.choices import SPLITS
from btm.data.minhash import LIKENESS, SHINGLE, Index, signatures
from btm.data.shards import META, NEAR, Shard, read_meta
from btm.errors import UserError
from btm.system.durable import publish_folder, write_json
from btm.system.json_files import Json

_HELD_OUT = ("valid", "test")
_CHUNK = 1 << 22  # tokens copied at once
Place = tuple[Path, str]  # a domain's folder, and a split
# The documents of a place that have a near-duplicate, by the place where that stands.
Near = Mapping[Place, Mapping[Place, set[int]]]


def look(folders: Sequence[Path], beside: Sequence[Path], progress: Callable[[str], None]) -> None:
    """Compare the domains of a suite that were never compared with all others.

    `folders` are those of the suite, `beside` those of other suites. Keeps 1 KiB for each held-out
    document.
    """
    metas = {folder: read_meta(folder) or {} for folder in folders}
    asked = [folder for folder, meta in metas.items() if NEAR not in meta]
    if not asked:
        return
    progress(f"looking for near-duplicates of held-out documents ({len(asked)} new domains)")
    near = _search([*folders, *beside], frozenset(asked))
    dropping = frozenset(f for f in asked if metas[f]["settings"].get(NEAR) == "drop")
    for folder in asked:
        _note(folder, metas[folder], near, dropping)


def _note(folder: Path, meta: Json, near: Near, dropping: Collection[Path]) -> None:
    """Write what was found into the meta.json of a domain, and drop what is to be dropped."""
    noted = {}
    for split in SPLITS:
        left = {
            place: documents
            for place, documents in sorted(near.get((folder, split), {}).items())
            if not _is_dropped((folder, split), dropping) and not _is_dropped(place, dropping)
        }
        noted[split] = {
            "documents": len(set().union(*left.values())),
            "found_in": {_name(place, folder.parent): len(left[place]) for place in left},
        }
    meta[NEAR] = {"likeness": LIKENESS, "shingle": SHINGLE, "splits": noted}
    doomed = set().union(*near.get((folder, "train"), {}).values())
    if folder in dropping and doomed:
        _drop(folder, meta, doomed)
    else:
        write_json(folder / META, meta)


def _is_dropped(place: Place, dropping: Collection[Path]) -> bool:
    """Tell whether what is near a held-out document is dropped from a place."""
    folder, split = place
    return split == "train" and folder in dropping


def _search(folders: Sequence[Path], asked: Collection[Path]) -> Near:
    """Compare each train split with what is held out, where one of the two is of `asked`."""
    places: list[Place] = []
    homes, numbers, rows = [], [], []
    for folder in folders:
        for split in _HELD_OUT:
            for documents, signatures_DS in signatures(Shard.open(folder, split)):
                homes.append(np.full(len(documents), len(places)))
                numbers.append(documents)
                rows.append(signatures_DS)
            places.append((folder, split))
    near: dict[Place, dict[Place, set[int]]] = {}
    if not rows:
        return near
    index, home_D, number_D = Index(np.concatenate(rows)), *map(np.concatenate, (homes, numbers))
    for folder in folders:
        train = (folder, "train")
        for documents, signatures_DS in signatures(Shard.open(folder, "train")):
            for i, j in index.near(signatures_DS).tolist():
                held_out = places[home_D[j]]
                if folder in asked or held_out[0] in asked:
                    near.setdefault(train, {}).setdefault(held_out, set()).add(int(documents[i]))
                    near.setdefault(held_out, {}).setdefault(train, set()).add(int(number_D[j]))
    return near


def _name(place: Place, suite: Path) -> str:
    """Name a place as `found_in` does: with its suite only if that is another one."""
    folder, split = place
    prefix = "" if folder.parent == suite else f"{folder.parent.name}/"
    return f"{prefix}{folder.name}/{split}"


def _drop(folder: Path, meta: Json, doomed: Iterable[int]) -> None:
    """Publish a domain again without some documents of its train split."""
    train = Shard.open(folder, "train")
    kept_D = np.ones(train.n_documents, bool)
    kept_D[list(doomed)] = False
    if not kept_D.any():
        raise UserError(
            f"{train.domain}: each of the {len(kept_D)} documents of its train split is nearly "
            "one that is held out; give it other text, or data.near_duplicates=report"
        )
    with publish_folder(folder, replace=True) as temporary:
        for path in folder.iterdir():
            if path.name.partition(".")[0] in _HELD_OUT:
                shutil.copyfile(path, temporary / path.name)
        (temporary / "train.idx").write_bytes(np.asarray(train.documents)[kept_D].tobytes())
        if train.digests is not None:
            (temporary / "train.docs").write_bytes(np.asarray(train.digests)[kept_D].tobytes())
        facts = meta["splits"]["train"]
        facts |= _copy(train, kept_D, temporary / "train.bin")
        facts["near_duplicates_dropped"] = int((~kept_D).sum())
        write_json(temporary / META, meta)


def _copy(shard: Shard, kept_D: np.ndarray, target: Path) -> dict[str, Any]:
    """Write the tokens of the kept documents; return what meta.json says of the split."""
    whole = hashlib.sha256()
    with target.open("wb") as out:
        for documents, tokens in shard.chunks(_CHUNK):
            kept_T = np.repeat(kept_D[documents], shard.documents[documents, 0])
            data = np.asarray(shard.tokens[tokens])[kept_T].tobytes()
            out.write(data)
            whole.update(data)
    tokens, size = np.asarray(shard.documents)[kept_D].sum(axis=0, dtype=np.int64).tolist()
    return {
        "documents": int(kept_D.sum()),
        "tokens": tokens,
        "bytes": size,
        "sha256": whole.hexdigest(),
    }
