"""Refuse to evaluate on documents that a model was trained on, told by the digests of documents.

Names of domains and splits do not show it: text can be packed anew with other splits, and a
document can stand in several domains.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from btm.data.shards import Shard, Suite
from btm.errors import UserError, first_of
from btm.forest import ELM, Forest, Model, trained_on
from btm.forest.lineage import Lineage
from btm.forest.paths import DERIVED, ELMS, Paths
from btm.forest.trained_on import Digests
from btm.report import Reporter, quiet


@dataclass
class _Library:
    """The digests of train shards, as forests keep them or as the suite has them now."""

    suite: Suite
    forests: dict[Path, Lineage] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)  # train shard: models
    missing: set[str] = field(default_factory=set)  # train shards whose documents nobody kept

    def add(self, forest: Forest, model: ELM | Model) -> None:
        """Note the train shards of a model and of its ancestors, which `forest` may know."""
        root = _home(forest, model.path)
        if root not in self.forests:
            self.forests[root] = Lineage.of(root)
        if model.card is None:
            return
        for sha256 in trained_on.shards_of(self.forests[root], model.card):
            names = self.readers.setdefault(sha256, [])
            # Those that were trained on it themselves come first, their heirs after them.
            names.insert(0 if sha256 in model.card.data.values() else len(names), model.name)

    def digests(self) -> Iterator[tuple[str, Digests]]:
        """Yield (sha256, digests) of each train shard whose documents are known."""
        prepared = {
            meta["splits"]["train"]["sha256"]: domain for domain, meta in self.suite.metas.items()
        }
        for sha256 in self.readers:
            kept = (trained_on.read(Paths(root), sha256) for root in self.forests)
            found = next((digests for digests in kept if digests is not None), None)
            if found is None and sha256 in prepared:
                found = trained_on.of_shard(self.suite.shard(prepared[sha256], "train"))
            if found is None:
                self.missing.add(sha256)
            else:
                yield sha256, found


def refuse(
    forest: Forest | None,
    suite: Suite,
    shards: Sequence[Shard],
    models: Iterable[ELM | Model],
    reporter: Reporter = quiet,
    planned: Mapping[str, Sequence[Shard]] = {},
) -> None:
    """Raise `UserError` if a document of `shards` was trained on by one of `models`.

    `planned` are the train shards of ELMs {name: shards} that are still to be trained. Imported
    models and shards without digests cannot be told; of the latter `reporter` gets a line.
    """
    library = _Library(suite)
    for model in models:
        if forest is not None:
            library.add(forest, model)
    for name, own in planned.items():
        for shard in own:
            library.readers.setdefault(shard.sha256, []).append(name)
    known = {f"{shard.domain}/{shard.split}": shard for shard in shards}
    hashed = {name: s.digests for name, s in known.items() if s.digests is not None}
    if not hashed or not library.readers:
        return _say_unknown(known.keys() - hashed.keys(), library, reporter)
    held_out = np.unique(np.concatenate(list(hashed.values())))
    hits = trained_on.hits(held_out, library.digests())
    if hits:
        raise _leaked(forest, hashed, hits, library.readers)
    _say_unknown(known.keys() - hashed.keys(), library, reporter)


def _home(forest: Forest, path: Path) -> Path:
    """Find the root of the forest that a model stands in; of a folder from outside, `forest`."""
    root = path.parent.parent
    inside = path.parent.name in (ELMS, *DERIVED) and Forest.stands(root)
    return root if inside else forest.root


def _leaked(
    forest: Forest | None,
    hashed: Mapping[str, Digests],
    hits: Mapping[str, Digests],
    readers: Mapping[str, list[str]],
) -> UserError:
    """Make the error for held-out documents that were trained on: how many, by whom, ways out."""
    every = np.unique(np.concatenate(list(hits.values())))
    seen = {name: np.isin(digests, every) for name, digests in hashed.items()}
    first, *others = [name for name, seen_D in seen.items() if seen_D.any()]
    count, of = int(seen[first].sum()), len(hashed[first])
    found = hashed[first][seen[first]]
    shards = [sha256 for sha256, digests in hits.items() if np.isin(digests, found).any()]
    who = list(dict.fromkeys(name for sha256 in shards for name in readers[sha256]))
    more = f" (and some of {first_of(others)})" if others else ""
    spoilt = {name.partition("/")[0] for name in (first, *others)}
    clean = sorted({name.partition("/")[0] for name in hashed} - spoilt)
    rest = f", or eval.domains=[{','.join(clean)}]" if clean else ", or other eval.domains=[…]"
    grown = f"as it was when {forest.root} was grown" if forest else "without them"
    return UserError(
        f"{count:,} of {of:,} documents of {first}{more} are training text of {first_of(who)}: "
        f"prepare the text {grown}, give another forest=DIR{rest}"
    )


def _say_unknown(splits: Iterable[str], library: _Library, reporter: Reporter) -> None:
    """Say which documents cannot be told apart: of splits, or of models' training."""
    if splits := sorted(splits):
        reporter.line(
            f"note: {first_of(splits)} has no digests of documents, so whether a model was trained "
            "on one cannot be told; btm prepare adds them"
        )
    names = sorted({name for sha256 in library.missing for name in library.readers[sha256]})
    if names:
        reporter.line(
            f"note: the documents that {first_of(names)} was trained on were not recorded, so "
            "whether a held-out one is among them cannot be told"
        )
