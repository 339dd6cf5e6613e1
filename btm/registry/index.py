"""What `btm ls` shows of every card, from a disposable cache: 10,000 cards need not be read each time.

The cache is one SQLite file a forest and host, in the user's cache folder, never in the forest: that may lie on a
network file system. It is replaced whole by a rename and read as immutable, so nothing is ever locked. An entry counts
while the card's inode, times and size are those it was made of; whatever else is the matter with the file (deleted,
damaged, of another version, not writable), the cards are read instead.
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

from btm import tombstone
from btm.card import Card
from btm.checks import is_name
from btm.errors import UserError

VERSION = 1  # of the table and of `Entry`
_SCHEMA = "CREATE TABLE elms (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, entry TEXT NOT NULL, crc INTEGER NOT NULL)"


class Entry(NamedTuple):
    """What is asked of many cards at once; `damaged` tells why a card is none."""

    name: str
    sha256: str
    domains: list[str]
    parents: dict[str, list[Any]]  # name: [weight, sha256]
    ancestors: list[list[str]]  # [name, sha256]
    method: str
    tokens: int
    total_tokens: int
    parameters: int
    valid_nats: float | None
    forced: bool
    created: str
    data: list[str]  # sha256 of the training shards
    damaged: str = ""

    @classmethod
    def of(cls, name: str, card: Card) -> "Entry":
        """Return what is kept of a card."""
        parents = {parent: [p.weight, p.sha256] for parent, p in card.parents.items()}
        ancestors = [[spent.name, spent.sha256] for spent in card.ancestors]
        about = (card.branch_method, card.tokens, card.total_tokens, card.parameters, card.valid_nats)
        more = (card.forced, card.created, sorted(card.data.values()))
        return cls(name, card.sha256, card.domains, parents, ancestors, *about, *more)

    @classmethod
    def unreadable(cls, name: str, why: str) -> "Entry":
        """Return the entry of an ELM whose card cannot be read."""
        return cls(name, "", [], {}, [], "", 0, 0, 0, None, False, "", [], why)


def entries(root: Path, *, cache: bool = True) -> list[Entry]:
    """Return an entry for every ELM of the forest at `root`, by name."""
    stamps = _stamps(root)
    file = location(root) if cache else None
    known = _load(file) if file else {}
    found = {name: known[name] for name, stamp in stamps.items() if name in known and known[name][0] == stamp}
    missing = stamps.keys() - found.keys()
    found |= {name: (stamps[name], _read(root, name)) for name in missing}
    if file and (missing or known.keys() - stamps.keys()):
        with suppress(OSError, sqlite3.Error):
            _store(file, ((name, *kept) for name, kept in found.items() if not kept[1].damaged), root)
    return [found[name][1] for name in sorted(found)]


def location(root: Path) -> Path:
    """Return where the cache of a forest is: its path, its folder's identity and this host name it."""
    stat = root.stat()
    key = f"{root.resolve()} {stat.st_dev} {stat.st_ino} {socket.gethostname()}"
    return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}-{VERSION}.sqlite"


def folder() -> Path:
    """Return the folder of all caches, as XDG_CACHE_HOME has it."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path("~/.cache").expanduser()) / "btm" / "index"


def forest_of(file: Path) -> str | None:
    """Return the root of the forest that a cache is of, or None if the file is no cache that can be read."""
    try:
        with closing(_open(file)) as connection:
            return str(connection.execute("SELECT root FROM forest").fetchone()[0])
    except (sqlite3.Error, ValueError, TypeError, OSError):
        return None


def _stamps(root: Path) -> dict[str, str]:
    """Return {name: what changes whenever the card does} of every ELM that stands and was not removed."""
    gone = tombstone.names(root)
    stamps = {}
    try:
        with os.scandir(root / "elms") as found:
            for entry in found:
                if is_name(entry.name) and entry.name not in gone:
                    with suppress(FileNotFoundError, NotADirectoryError):
                        s = os.stat(f"{entry.path}/card.json")  # noqa: PTH116
                        stamps[entry.name] = f"{s.st_ino} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_size}"
    except FileNotFoundError:
        return {}
    return stamps


def _read(root: Path, name: str) -> Entry:
    try:
        return Entry.of(name, Card.read(root / "elms" / name / "card.json"))
    except (UserError, OSError) as error:
        return Entry.unreadable(name, str(error))


def _open(file: Path) -> sqlite3.Connection:
    path = str(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)


def _load(file: Path) -> dict[str, tuple[str, Entry]]:
    """Return {name: (stamp, entry)} as the cache has it; {} if it is not all as this version wrote it."""
    try:
        if not file.is_file():
            return {}
        with closing(_open(file)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                return {}
            rows = connection.execute("SELECT name, stamp, entry, crc FROM elms").fetchall()
        if any(_crc(name, stamp, text) != crc for name, stamp, text, crc in rows):
            return {}
        values = json.loads("[" + ",".join(row[2] for row in rows) + "]")
        return {row[0]: (row[1], Entry(*entry)) for row, entry in zip(rows, values, strict=True)}
    except (sqlite3.Error, ValueError, TypeError, OverflowError, OSError, AttributeError):
        return {}


def _store(file: Path, found: Iterable[tuple[str, str, Entry]], root: Path) -> None:
    """Replace the cache; not durable, for nothing depends on it."""
    texts = [(name, stamp, json.dumps(entry, separators=(",", ":"))) for name, stamp, entry in found]
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
            rows = ((*text, _crc(*text)) for text in texts)
            connection.executemany("INSERT INTO elms VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)


def _crc(name: str, stamp: str, entry: str) -> int:
    return zlib.crc32(f"{name}\0{stamp}\0{entry}".encode())
