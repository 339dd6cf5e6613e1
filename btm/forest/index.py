"""Index of the cards of a forest: what `btm ls` shows, without reading 10,000 cards each time.

The index is a cache that can be deleted: one SQLite file a forest and host, in the user's cache
folder and never in the forest, which may be on a network file system. The file is replaced whole by
a rename and read as immutable, so nothing is ever locked. An entry counts while the card's inode,
times and size are unchanged. If the file is deleted, damaged, of another version or not writable,
the cards are read instead.
"""

import hashlib
import json
import os
import socket
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from btm.config.checks import is_name
from btm.errors import UserError
from btm.forest import paths, tombstone
from btm.forest.card import Card
from btm.system import caches

VERSION = 2  # of the table and of `Entry`
ELM, AVERAGE, STUDENT, MOE = "ELM", "average", "student", "MoE"
# kind: the folder of a forest where they stand
DERIVED = {AVERAGE: paths.AVERAGES, STUDENT: paths.STUDENTS, MOE: paths.MOES}
PLACES = {ELM: paths.ELMS} | DERIVED
# An entry is two texts: what a list shows, and what only a lineage needs, which is longer.
_SCHEMA = """
CREATE TABLE models (
    kind TEXT NOT NULL, name TEXT NOT NULL, stamp TEXT NOT NULL, shown TEXT NOT NULL,
    descent TEXT NOT NULL,
    crc INTEGER NOT NULL, descent_crc INTEGER NOT NULL, PRIMARY KEY (kind, name)
)
"""


def kind_of(model: Path) -> str:
    """Tell the kind of a model from the folder of a forest that it stands in; elsewhere an ELM."""
    return next((kind for kind, place in DERIVED.items() if model.parent.name == place), ELM)


class Key(NamedTuple):
    """Which model: an ELM and one that is derived may have the same name."""

    name: str
    kind: str  # one of `PLACES`


class Entry(NamedTuple):
    """The part of a card that lists show; `damaged` tells why the card cannot be read."""

    name: str
    sha256: str
    domains: list[str]
    parents: dict[str, float]
    method: str
    tokens: int
    total_tokens: int
    parameters: int
    valid_nats: float | None
    forced: bool
    created: str
    damaged: str = ""
    kind: str = ELM

    @classmethod
    def of(cls, name: str, card: Card, kind: str = ELM) -> "Entry":
        """Take from a card what a list shows."""
        parents = {parent: p.weight for parent, p in card.parents.items()}
        about = (
            card.branch_method,
            card.tokens,
            card.total_tokens,
            card.parameters,
            card.valid_nats,
        )
        return cls(
            name, card.sha256, card.domains, parents, *about, card.forced, card.created, "", kind
        )

    @classmethod
    def unreadable(cls, name: str, why: str, kind: str = ELM) -> "Entry":
        """Make the entry of a model whose card cannot be read."""
        return cls(name, "", [], {}, "", 0, 0, 0, None, False, "", why, kind)


class Descent(NamedTuple):
    """The descent of a model: parents and ancestors by sha256, and the data it was trained on."""

    parents: dict[str, str]  # name: sha256
    ancestors: list[list[str]]  # [name, sha256]
    data: list[str]  # sha256 of the training shards

    @classmethod
    def of(cls, card: Card) -> "Descent":
        """Take from a card what a lineage needs."""
        ancestors = [[spent.name, spent.sha256] for spent in card.ancestors]
        return cls(
            {name: p.sha256 for name, p in card.parents.items()},
            ancestors,
            sorted(card.data.values()),
        )


_NONE = Descent({}, [], [])


def entries(root: Path, *, cache: bool = True) -> list[Entry]:
    """List every ELM and derived model of the forest at `root`, by name, as `btm ls` shows them."""
    return [entry for entry, _ in _entries(root, cache, descent=False)]


def descents(root: Path, *, cache: bool = True) -> list[tuple[Entry, Descent]]:
    """List every ELM and derived model with its descent."""
    return _entries(root, cache, descent=True)


def _entries(root: Path, cache: bool, *, descent: bool) -> list[tuple[Entry, Descent]]:
    stamps = _stamps(root)
    file = _place(root) if cache else None
    known = _load(file, descent) if file else {}
    found = {
        key: known[key] for key, stamp in stamps.items() if key in known and known[key][0] == stamp
    }
    missing = stamps.keys() - found.keys()
    # A few cards are sooner read each time than all are written again.
    stale = len(missing) + len(known.keys() - stamps.keys()) > len(stamps) // 100
    if stale and file and not descent:  # what is written is whole
        return _entries(root, cache, descent=True)
    found |= {key: (stamps[key], *_read(root, key)) for key in missing}
    if file and stale:
        with suppress(OSError, sqlite3.Error):
            _store(file, ((key, *kept) for key, kept in found.items() if not kept[1].damaged), root)
    return [found[key][1:] for key in sorted(found)]


def _place(root: Path) -> Path | None:
    """Name the cache file of a forest; None for a user without a home."""
    try:
        folder()
    except OSError:
        return None
    return location(root)


def location(root: Path) -> Path:
    """Name the cache file of a forest, after its path, its folder's inode and this host."""
    stat = root.stat()
    key = f"{root.resolve()} {stat.st_dev} {stat.st_ino} {socket.gethostname()}"
    return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}-{VERSION}.sqlite"


def folder() -> Path:
    """Name the folder of all caches of this user; `OSError` where there is no home."""
    return caches.home() / "btm" / "index"


def forest_of(file: Path) -> str | None:
    """Read from a cache the root of its forest; None if the file is not a readable cache."""
    try:
        with closing(_open(file)) as connection:
            return str(connection.execute("SELECT root FROM forest").fetchone()[0])
    except (sqlite3.Error, ValueError, TypeError, OSError):
        return None


def _stamps(root: Path) -> dict[Key, str]:
    """Stamp the card of every model that stands and was not removed: {model: stamp}.

    A stamp changes whenever the card does.
    """
    gone = {Key(name, ELM) for name in tombstone.names(root)}
    stamps = {}
    for kind, place in PLACES.items():
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / place) as found:
            for entry in found:
                key = Key(entry.name, kind)
                if is_name(entry.name) and key not in gone:
                    with suppress(FileNotFoundError, NotADirectoryError):
                        s = os.stat(f"{entry.path}/{paths.CARD}")  # noqa: PTH116
                        stamps[key] = f"{s.st_ino} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_size}"
    return stamps


def _read(root: Path, key: Key) -> tuple[Entry, Descent]:
    try:
        card = Card.read(root / PLACES[key.kind] / key.name / paths.CARD)
        return Entry.of(key.name, card, key.kind), Descent.of(card)
    except (UserError, OSError) as error:
        return Entry.unreadable(key.name, str(error), key.kind), _NONE


def _open(file: Path) -> sqlite3.Connection:
    path = str(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)


def _load(file: Path, descent: bool) -> dict[Key, tuple[str, Entry, Descent]]:
    """Load {model: (stamp, entry, descent)} from the cache; {} unless all is as this version wrote
    it.
    """
    try:
        if not file.is_file():
            return {}
        with closing(_open(file)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                return {}
            shown = connection.execute(
                "SELECT kind, name, stamp, shown, crc FROM models"
            ).fetchall()
            query = "SELECT kind, name, stamp, descent, descent_crc FROM models"
            further = connection.execute(query).fetchall() if descent else []
        if any(_crc(*texts) != crc for *texts, crc in [*shown, *further]):
            return {}
        found = [Entry(*values) for values in _parsed(shown)]
        rest = (
            [Descent(*values) for values in _parsed(further)] if descent else [_NONE] * len(found)
        )
        return {
            Key(name, kind): (stamp, one, two)
            for (kind, name, stamp, *_), one, two in zip(shown, found, rest, strict=True)
        }
    except (sqlite3.Error, ValueError, TypeError, OverflowError, OSError, AttributeError):
        return {}


def _parsed(rows: list[Any]) -> list[Any]:
    return json.loads("[" + ",".join(row[3] for row in rows) + "]")


def _store(file: Path, found: Iterable[tuple[Key, str, Entry, Descent]], root: Path) -> None:
    """Replace the cache; not durable, for nothing depends on it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=file.parent)
    os.close(descriptor)
    try:
        with closing(sqlite3.connect(name, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("BEGIN")
            connection.execute(_SCHEMA)
            connection.execute("CREATE TABLE forest (root TEXT NOT NULL)")
            connection.execute("INSERT INTO forest VALUES (?)", (str(root.resolve()),))
            rows = (_row(*kept) for kept in found)
            connection.executemany("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)


def _row(key: Key, stamp: str, entry: Entry, descent: Descent) -> tuple[str | int, ...]:
    """Return a row of the table, in the order of its columns."""
    shown, rest = (json.dumps(value, separators=(",", ":")) for value in (entry, descent))
    head = (key.kind, key.name, stamp)
    return (*head, shown, rest, _crc(*head, shown), _crc(*head, rest))


def _crc(kind: str, name: str, stamp: str, text: str) -> int:
    return zlib.crc32(f"{kind}\0{name}\0{stamp}\0{text}".encode())
