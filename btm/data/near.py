"""Near-duplicates between what is held out and what is trained on, over all domains of a suite.

They are looked for in the packed tokens, so that a domain whose text is elsewhere is compared as
well. What was found stands in each domain's meta.json. With ``data.near_duplicates=drop`` its train
split is written again without what is near a held-out document.
"""

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btm.data.minhash import LIKENESS, SHINGLE, SLOTS, Index, signatures
from btm.data.shards import MASK, META, NEAR, WEIGHT, Shard, SplitFacts, read_meta
from btm.errors import UserError
from btm.system.durable import publish_folder, write_json
from btm.system.json_files import Json

_HELD_OUT = ("valid", "test")
_CHUNK = 1 << 22  # tokens copied at once
Place = tuple[Path, str]  # a domain's folder, and a split


@dataclass(frozen=True)
class _Found:
    """Pairs of near-duplicates: H held-out documents, and documents of the train splits."""

    places: list[Place]  # splits that are held out
    homes: np.ndarray  # of each held-out document, the number of its place (H,)
    trains: Mapping[Path, Shard]  # by domain: its train split
    known: Mapping[Path, np.ndarray]  # by domain: which of H are near one it trains on, bool (H,)
    doomed: Mapping[Path, np.ndarray]  # by domain: which of its train split are near one of H

    def of_held_out(self, place: Place, but: Collection[Path]) -> tuple[int, dict[Path, int]]:
        """Count the documents of a split near one that is trained on: in all, and by domain.

        Domains in `but` are left out.
        """
        mine_H = self.homes == self.places.index(place)
        found = {f: known_H & mine_H for f, known_H in self.known.items() if f not in but}
        return _count(found.values()), {f: int(each.sum()) for f, each in found.items()}

    def of_train(self, folder: Path) -> dict[Place, int]:
        """Count the held-out documents, by split, that are near one a domain trains on."""
        counts = np.bincount(self.homes[self.known[folder]], minlength=len(self.places))
        return dict(zip(self.places, counts.tolist(), strict=True))


def look(folders: Sequence[Path], beside: Sequence[Path], progress: Callable[[str], None]) -> None:
    """Compare the domains of a suite that were never compared with all others.

    `folders` are those of the suite, `beside` those of other suites. Keeps 1 KiB for each held-out
    document.
    """
    new = [folder for folder in folders if NEAR not in (read_meta(folder) or {})]
    if not new:
        return
    progress(f"looking for near-duplicates of held-out documents ({len(new)} new domains)")
    found = _search([*folders, *beside])
    # Another process may have done the same meanwhile: what counts is the domain that was read.
    asked = [folder for folder in folders if NEAR not in found.trains[folder].meta]
    dropping = {f for f in asked if found.trains[f].meta["settings"].get(NEAR) == "drop"}
    for folder in asked:
        _note(folder, found, dropping)


def _note(folder: Path, found: _Found, dropping: Collection[Path]) -> None:
    """Write what was found into the meta.json of a domain, and drop what is to be dropped."""
    noted, meta = {}, found.trains[folder].meta
    for split in _HELD_OUT:
        # What is dropped where it was trained on is near nothing any more.
        documents, by_domain = found.of_held_out((folder, split), but=dropping)
        noted[split] = _noted(documents, {(f, "train"): n for f, n in by_domain.items()}, folder)
    if folder in dropping:
        noted["train"] = _noted(0, {}, folder)
    else:
        noted["train"] = _noted(len(found.doomed[folder]), found.of_train(folder), folder)
    meta[NEAR] = {"likeness": LIKENESS, "shingle": SHINGLE, "splits": noted}
    if folder in dropping and len(found.doomed[folder]):
        _drop(found.trains[folder], meta, found.doomed[folder])
    else:
        write_json(folder / META, meta)


def _noted(documents: int, counts: Mapping[Place, int], folder: Path) -> Json:
    """Make the entry of one split in meta.json."""
    named = {_name(place, folder.parent): n for place, n in sorted(counts.items()) if n}
    return {"documents": documents, "found_in": named}


def _search(folders: Sequence[Path]) -> _Found:
    """Compare each train split with all that is held out."""
    places = [(folder, split) for folder in folders for split in _HELD_OUT]
    numbers, rows = [], []
    for home, (folder, split) in enumerate(places):
        for documents, signatures_DS in signatures(Shard.open(folder, split)):
            numbers.append(np.full(len(documents), home))
            rows.append(signatures_DS)
    homes = np.concatenate([np.empty(0, np.int64), *numbers])
    index = Index(np.concatenate([np.empty((0, SLOTS), np.uint32), *rows]))
    known = {folder: np.zeros(len(homes), bool) for folder in folders}
    # They stay mapped until they are written again, since another process may do the same.
    trains = {folder: Shard.open(folder, "train").mapped() for folder in folders}
    doomed = {}
    for folder, train in trains.items():
        near = [np.empty(0, np.int64)]
        for documents, signatures_DS in signatures(train):
            near.append(documents[index.near(signatures_DS, known[folder])])
        doomed[folder] = np.concatenate(near)
    return _Found(places, homes, trains, known, doomed)


def _count(found: Iterable[np.ndarray]) -> int:
    """Count the documents that are marked in any of several, each bool (H,)."""
    return int(sum(found, np.zeros(1, np.int64)).astype(bool).sum())


def _name(place: Place, suite: Path) -> str:
    """Name a place as `found_in` does: with its suite only if that is another one."""
    folder, split = place
    prefix = "" if folder.parent == suite else f"{folder.parent.name}/"
    return f"{prefix}{folder.name}/{split}"


def _drop(train: Shard, meta: Json, doomed: np.ndarray) -> None:
    """Publish a domain again without some documents of its train split."""
    folder = train.folder
    kept_D = np.ones(train.n_documents, bool)
    kept_D[doomed] = False
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
        if train.is_prompted:
            facts |= _copy_marks(train, kept_D, temporary, facts["sha256"])
        facts["near_duplicates_dropped"] = int((~kept_D).sum())
        write_json(temporary / META, meta)


def _copy(shard: Shard, kept_D: np.ndarray, target: Path) -> SplitFacts:
    """Write the tokens of the kept documents; return the facts of the split for meta.json."""
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


def _copy_marks(shard: Shard, kept_D: np.ndarray, folder: Path, sha256: str) -> Json:
    """Write which tokens of the kept examples are predicted, and their weights; return the facts.

    `sha256` is that of their tokens.
    """
    kept_T = np.repeat(kept_D, np.asarray(shard.documents)[:, 0])
    mask, weights = np.asarray(shard.mask)[kept_T], np.asarray(shard.weights)[kept_D]
    whole = hashlib.sha256(sha256.encode())
    for ending, data in ((MASK, mask.tobytes()), (WEIGHT, weights.tobytes())):
        (folder / f"{shard.split}.{ending}").write_bytes(data)
        whole.update(data)
    return {"predicted": int(np.count_nonzero(mask)), "sha256": whole.hexdigest()}
