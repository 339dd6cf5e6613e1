"""Prepared text on disk: a suite is a folder of domains, a shard is one split of one domain.

data/<suite>/tokenizer/                        one for all domains
data/<suite>/<domain>/{train,valid,test}.bin   token ids, uint16 or uint32; EOS ends each document
data/<suite>/<domain>/{train,valid,test}.idx   (tokens, bytes) of each document, uint32
data/<suite>/<domain>/{train,valid,test}.docs  the digest of each document's text, uint64
data/<suite>/<domain>/meta.json

Where texts begin with a BOS (btm/data/bos.py), each document does. The documents of prompted data
(btm/data/prompted) are examples; it has more files, and its sha256 is of all of them.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from btm.config.checks import check_choice
from btm.config.choices import SPLITS
from btm.data.splits import DIGEST
from btm.data.suite_file import About
from btm.data.tokenizer import ORIGIN, read_origin, tokenizer_sha256
from btm.errors import UserError, unknown
from btm.system import lfs
from btm.system.json_files import Json

META = "meta.json"
TOKENIZER = "tokenizer"
NEAR = "near_duplicates"  # key of meta.json, see btm/data/near.py
SKIPPED = "skipped"  # key of meta.json: rows without usable text, see btm/data/rows.py
# Keys of meta.json that are read again, and their types.
_WANTED = {
    "domain": str,
    "novel": bool,
    "dtype": str,
    "eos": int,
    "tokenizer_sha256": str,
    "settings": dict,
    "splits": dict,
}
MASK, WEIGHT = "mask", "weight"  # endings of the further files of prompted data
SCHEMA = 1  # of meta.json and of the cutting into documents; a new one packs all domains again
WHOLE = 1 << 20  # tokens of a document up to which `Shard.head` takes it whole
# Suites that conf/data/ has by their own names.
_BUNDLES = ("demo", "btm16", "d64", "far8", "roots")


class SplitFacts(TypedDict):
    """One split of a domain in its meta.json."""

    documents: int
    tokens: int  # with the EOS of each document
    bytes: int  # of the text in UTF-8
    sha256: str  # of the .bin file; of prompted data of all files
    duplicates_dropped: NotRequired[int]  # documents
    found_in: NotRequired[dict[str, int]]  # of these: in another domain, by <domain>/<split>
    near_duplicates_dropped: NotRequired[int]  # documents
    runs: NotRequired[list[int]]  # tokens of each run, for `Shard.pieces`
    predicted: NotRequired[int]  # tokens, of prompted data, as all that follows
    truncated: NotRequired[int]  # examples that lost tokens
    unanswered: NotRequired[int]  # examples left out: cut, they had no prompt or no answer


@dataclass(frozen=True)
class Shard:
    """One split of one domain; its arrays are memory maps, read on demand."""

    folder: Path
    split: str
    meta: Json

    @classmethod
    def open(cls, folder: Path, split: str) -> "Shard":
        """Open a split of a domain's folder; `UserError` if a file has the wrong size."""
        check_choice(split, "split", SPLITS)
        meta = read_meta(folder)
        if meta is None:
            raise UserError(f"no prepared domain in {folder}; run: btm prepare")
        shard = cls(folder, split, meta)
        shard._check_size("bin", shard.n_tokens * shard.dtype.itemsize)
        shard._check_size("idx", shard.n_documents * 8)
        if shard._path("docs").exists():
            shard._check_size("docs", shard.n_documents * DIGEST.itemsize)
        if shard.is_prompted:
            shard._check_size(MASK, shard.n_tokens)
            shard._check_size(WEIGHT, shard.n_documents * 4)
        return shard

    @property
    def domain(self) -> str:
        """The domain's name."""
        return self.meta["domain"]

    @property
    def dtype(self) -> np.dtype:
        """The type of a token id on disk."""
        return np.dtype(self.meta["dtype"])

    @property
    def eos(self) -> int:
        """The id that ends each document."""
        return self.meta["eos"]

    @property
    def bos(self) -> int | None:
        """The id that texts begin with (btm/data/bos.py); None where they begin with no BOS."""
        return self.meta.get("bos")

    @property
    def is_prompted(self) -> bool:
        """Whether its documents are examples, of which some tokens are predicted, and no text."""
        return "predicted" in self.meta["splits"][self.split]

    @property
    def sha256(self) -> str:
        """The hash of the token file; of prompted data of all files."""
        return self.meta["splits"][self.split]["sha256"]

    @property
    def n_documents(self) -> int:
        """The number of documents."""
        return self.meta["splits"][self.split]["documents"]

    @property
    def n_tokens(self) -> int:
        """The number of tokens, with the EOS of each document."""
        return self.meta["splits"][self.split]["tokens"]

    @property
    def n_bytes(self) -> int:
        """The number of bytes of text in UTF-8."""
        return self.meta["splits"][self.split]["bytes"]

    @cached_property
    def tokens(self) -> np.memmap:
        """All token ids, (n_tokens,)."""
        return np.memmap(self._path("bin"), self.dtype, "r")

    @cached_property
    def documents(self) -> np.memmap:
        """(tokens with EOS, bytes of UTF-8) of each document, (n_documents, 2)."""
        return np.memmap(self._path("idx"), np.uint32, "r", shape=(self.n_documents, 2))

    @cached_property
    def digests(self) -> np.memmap | None:
        """The digest of each document's text, uint64 (n_documents,).

        None in a domain that was packed before there were any: `btm prepare` adds them.
        """
        path = self._path("docs")
        return np.memmap(path, DIGEST, "r") if path.exists() else None

    @cached_property
    def mask(self) -> np.memmap:
        """Which tokens of prompted data are predicted, uint8 (n_tokens,)."""
        return np.memmap(self._path(MASK), np.uint8, "r")

    @cached_property
    def weights(self) -> np.memmap:
        """The weight of each example of prompted data in the loss, float32 (n_documents,)."""
        return np.memmap(self._path(WEIGHT), np.float32, "r")

    def mapped(self) -> "Shard":
        """Map all files now, so that they are read as they are even if the domain is replaced."""
        examples = ("mask", "weights") if self.is_prompted else ()
        for each in ("tokens", "documents", "digests", *examples):
            getattr(self, each)
        return self

    def head(self, max_tokens: int) -> tuple[int, int]:
        """Measure (tokens, bytes) of the first whole documents of at most `max_tokens` tokens.

        One document is always taken, but of a longer one than `WHOLE` tokens only so many, or
        `max_tokens` if they are more, with bytes in proportion. 0 takes everything.
        """
        if not 0 < max_tokens < self.n_tokens:
            return self.n_tokens, self.n_bytes
        # A document has at least one token, so no more than max_tokens documents can fit.
        ends_D2 = np.cumsum(self.documents[:max_tokens], axis=0, dtype=np.int64)
        last = max(1, int(np.searchsorted(ends_D2[:, 0], max_tokens, side="right"))) - 1
        most = max(max_tokens, WHOLE)
        if ends_D2[last, 0] > most:
            return most, int(ends_D2[last, 1] * most // ends_D2[last, 0])
        return int(ends_D2[last, 0]), int(ends_D2[last, 1])

    def predicted(self, tokens: int) -> np.ndarray | None:
        """Mark those of the first `tokens` tokens that are predicted, (tokens,) of bool.

        None in texts, where all are but what `n_given` counts.
        """
        return np.asarray(self.mask[:tokens]) != 0 if self.is_prompted else None

    def n_given(self, tokens: int) -> int:
        """Count those of the first `tokens` tokens that are given: each document's BOS, or what is
        not predicted of examples.
        """
        if self.is_prompted:
            return tokens - int(np.count_nonzero(self.mask[:tokens]))
        if self.bos in (None, self.eos):
            return 0
        ends_D = np.cumsum(self.documents[:tokens, 0], dtype=np.int64)
        return int((ends_D < tokens).sum()) + 1

    def chunks(self, tokens: int) -> Iterator[tuple[slice, slice]]:
        """Yield (documents, their tokens), whole documents of about `tokens` tokens at a time."""
        ends_D = np.cumsum(self.documents[:, 0], dtype=np.int64)
        begin = start = 0
        while begin < len(ends_D):
            end = max(begin + 1, int(np.searchsorted(ends_D, start + tokens, side="right")))
            yield slice(begin, end), slice(start, int(ends_D[end - 1]))
            begin, start = end, int(ends_D[end - 1])

    def pieces(self, least: int) -> "list[Shard | Piece]":
        """Split the shard into the runs of its meta.json, which a balanced mix takes turns of.

        A run of fewer than `least` tokens is joined to those after it, the last ones to those
        before. Without runs it is the shard itself.
        """
        ends, begin = [], 0
        for end in np.cumsum(self.meta["splits"][self.split].get("runs", [self.n_tokens])).tolist():
            if end - begin >= least:
                ends.append(end)
                begin = end
        if len(ends) < 2:
            return [self]
        ends[-1] = self.n_tokens
        return [Piece(self, a, b) for a, b in itertools.pairwise([0, *ends])]

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.split}.{ending}"

    def _check_size(self, ending: str, wanted: int) -> None:
        path = self._path(ending)
        try:
            found = path.stat().st_size
        except OSError:
            raise UserError(f"{path}: this shard is missing; run btm prepare again") from None
        if found != wanted:
            lfs.refuse(path)
            raise UserError(
                f"{path}: this shard has {found:,} bytes, but {META} says {wanted:,}; "
                "run btm prepare again"
            )


def require_text(shards: Iterable[Shard], what: str) -> None:
    """Raise `UserError` if one of `shards` is prompted data, which `what` cannot use."""
    for shard in shards:
        if shard.is_prompted:
            raise UserError(
                f"{shard.domain} is prompted data (data.format), which {what} does not take: "
                "choose domains of text"
            )


@dataclass(frozen=True)
class Piece:
    """Tokens `begin` to `end` of a shard."""

    shard: Shard
    begin: int
    end: int

    @property
    def folder(self) -> Path:
        """The shard's folder."""
        return self.shard.folder

    @property
    def domain(self) -> str:
        """The shard's domain."""
        return self.shard.domain

    @property
    def sha256(self) -> str:
        """The hash of the shard's token file."""
        return self.shard.sha256

    @property
    def split(self) -> str:
        """The shard's split."""
        return self.shard.split

    @property
    def bos(self) -> int | None:
        """The id that texts begin with; None where they begin with no BOS."""
        return self.shard.bos

    @property
    def n_tokens(self) -> int:
        """The number of tokens."""
        return self.end - self.begin

    @property
    def tokens(self) -> np.ndarray:
        """The token ids, (n_tokens,)."""
        return self.shard.tokens[self.begin : self.end]


def _metas(folder: Path) -> dict[str, Json]:
    """Read meta.json of each domain that is prepared in a folder, if that is one."""
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    found = {child.name: read_meta(child) for child in children if child.name[0] != "."}
    return {name: meta for name, meta in found.items() if meta is not None}


@dataclass(frozen=True)
class Suite:
    """A folder of prepared domains with one tokenizer, or several folders `joined` into one."""

    path: Path
    metas: dict[str, Json]  # meta.json by domain
    elsewhere: dict[str, Path] = field(default_factory=dict)  # folders of other suites' domains
    note: str = ""  # an addition to the error for an unknown domain: suites that did not open

    @staticmethod
    def stands(folder: Path) -> bool:
        """Tell whether a domain is prepared there; not so where `prepare` was killed before any."""
        return (folder / TOKENIZER / ORIGIN).is_file() and bool(_metas(folder))

    @classmethod
    def open(cls, folder: Path) -> "Suite":
        """Open a prepared suite; `UserError` if there is none."""
        if not cls.stands(folder):
            own = f"folder data.root=DIR data.name={folder.name}"
            data = folder.name if folder.name in _BUNDLES else own
            raise UserError(f"no prepared suite in {folder}; run: btm prepare data={data}")
        return cls(folder, _metas(folder))

    def joined(self, others: Sequence["Suite"]) -> "Suite":
        """Add the domains of `others`; `UserError` if two suites have a domain of the same name."""
        homes = dict.fromkeys(self.metas, self.path)
        metas, elsewhere = dict(self.metas), dict(self.elsewhere)
        for other in others:
            for domain in other.metas:
                if domain in homes:
                    raise UserError(
                        f"the domain {domain!r} is in {homes[domain]} and in {other.path}: "
                        "choose with eval.suites=[NAME], or prepare one of them under another name"
                    )
                homes[domain] = other.path
                elsewhere[domain] = other.path / domain
            metas |= other.metas
        return replace(self, metas=metas, elsewhere=elsewhere)

    @property
    def name(self) -> str:
        """The suite's name, that of the first where several are joined."""
        return self.path.name

    @property
    def names(self) -> list[str]:
        """The names of all suites that are joined, this one's first."""
        return [self.name, *sorted({folder.parent.name for folder in self.elsewhere.values()})]

    @property
    def tokenizer(self) -> Path:
        """The folder of the Hugging Face tokenizer."""
        return self.path / TOKENIZER

    @cached_property
    def tokenizer_sha256(self) -> str:
        """The tokenizer's fingerprint."""
        return tokenizer_sha256(self.tokenizer)

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return read_origin(self.tokenizer)["vocab_size"]

    @property
    def eos(self) -> int:
        """The id that ends each document."""
        return read_origin(self.tokenizer)["eos"]

    @property
    def bos(self) -> int | None:
        """The id that texts begin with (btm/data/bos.py); None where they begin with no BOS."""
        return read_origin(self.tokenizer).get("bos")

    def domains(self) -> list[str]:
        """List the names of all domains, sorted."""
        return sorted(self.metas)

    def training_domains(self) -> list[str]:
        """List the names of the domains that experts are trained on."""
        return [name for name in self.domains() if not self.metas[name]["novel"]]

    def novel(self, domain: str) -> bool:
        """Tell whether a domain is kept from training, to evaluate on."""
        return self._meta(domain)["novel"]

    def about(self, domain: str) -> About:
        """Return a domain's entry in suite.json: languages and sources, as they were prepared."""
        card = self._meta(domain).get("settings", {}).get("card", {})
        return About(self.novel(domain), **card)

    def shard(self, domain: str, split: str) -> Shard:
        """Open one split of a domain."""
        self._meta(domain)
        return Shard.open(self.elsewhere.get(domain, self.path / domain), split)

    def _meta(self, domain: str) -> Json:
        if domain not in self.metas:
            raise unknown("domain", domain, self.metas, f"{self.path}{self.note}")
        return self.metas[domain]


def read_meta(folder: Path) -> Json | None:
    """Read a prepared domain's meta.json; None if `folder` is no prepared domain."""
    remedy = f"remove {folder} and run btm prepare again"
    try:
        meta = json.loads((folder / META).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise UserError(f"{folder / META}: no JSON; {remedy}") from None
    for key, kind in _WANTED.items():
        if not isinstance(meta, dict) or not isinstance(meta.get(key), kind):
            raise UserError(f"{folder / META}: no {key!r} that is a {kind.__name__}; {remedy}")
    return meta
