"""The manifest of a model at a remote: its files with sha256 and size, and its card.

It comes from outside. Where the files lie follows from what it says of them, and from nothing else
in it; names that lead out of a folder, more files or bytes than there may be, or a card that
contradicts it are refused before anything is fetched.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from btm.config.checks import is_name
from btm.errors import UserError
from btm.forest import index
from btm.forest.card import Card
from btm.forest.paths import ELMS
from btm.system.json_files import Json, parse_json

SCHEMA = 1
NAME = "manifest.json"
MOST = 16 << 20  # bytes of a manifest: a card names all ancestors
WAYS = ("full", "delta", "delta8")
PLACES = {place: kind for kind, place in index.PLACES.items()}  # folder: kind of model
_MOST_FILES = 2_000
_LARGEST = 1 << 50  # bytes of a file; more than any disk
_FILE = re.compile(r"(?!\.)[\w.,+@=-]{1,150}(/(?!\.)[\w.,+@=-]{1,100})?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Content:
    """The sha256 and the size in bytes of a file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The list of the files that a remote holds of one model, and its card."""

    place: str  # one of `PLACES`
    way: str  # one of `WAYS`
    sha256: str  # of the weights that a receiver gets
    files: dict[str, Content]
    card: Card

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.card.name

    @property
    def home(self) -> str:
        """The folder of the model at the remote."""
        return f"{self.place}/{self.name}"

    @property
    def key(self) -> str:
        """Where the manifest itself is."""
        return f"{self.home}/{NAME}"

    @property
    def id(self) -> str:
        """A hash of the names, sizes and sums of all files: the name of their folder."""
        said = {name: asdict(content) for name, content in self.files.items()}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def folder(self) -> str:
        """The folder of the files at the remote."""
        return f"{self.home}/{self.id}"

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(content.size for content in self.files.values())

    def to_bytes(self) -> bytes:
        """Write the manifest as JSON; the same one gives the same bytes."""
        values: Json = {
            "schema": SCHEMA,
            "as": self.way,
            "sha256": self.sha256,
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
            "card": self.card.to_json(),
        }
        return json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"


def parse(content: bytes, place: str, name: str, where: str) -> Manifest:
    """Read the manifest of the model `name`, found at `where`; `UserError` if it is not valid."""
    if len(content) > MOST:
        raise UserError(f"{where}: larger than {MOST:,} bytes: no manifest of btm")
    try:
        values = parse_json(content, unique=True)
        if values["schema"] > SCHEMA:
            raise UserError(f"{where}: written by a newer btm (schema {values['schema']})")
        files = _files(values["files"])
        made = Manifest(
            place, values["as"], values["sha256"], files, Card.from_json(values["card"], Path(NAME))
        )
        _check(made, name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{where}: not a valid manifest: {why}") from None
    return made


def _files(values: Any) -> dict[str, Content]:
    if not isinstance(values, dict) or not 0 < len(values) <= _MOST_FILES:
        raise ValueError(f"wanted 1 to {_MOST_FILES:,} files")
    files = {}
    for name, said in values.items():
        if not _FILE.fullmatch(name) or name == NAME:
            raise ValueError(f"{name[:100]!r} is no name of a file")
        digest, size = said["sha256"], said["size"]
        if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise ValueError(f"{name}: its sha256 is no sha256")
        if type(size) is not int or not 0 <= size <= _LARGEST:
            raise ValueError(f"{name}: its size is {str(size)[:40]}")
        files[name] = Content(digest, size)
    folders = {name.partition("/")[0] for name in files if "/" in name}
    if folders & files.keys():
        raise ValueError(f"{sorted(folders & files.keys())[0]!r} is a file and a folder")
    return files


def _check(made: Manifest, name: str) -> None:
    """Raise `ValueError` unless what a manifest says of its model is possible."""
    if made.way not in WAYS:
        raise ValueError(f"as is {str(made.way)[:40]!r}; wanted {', '.join(WAYS)}")
    if not (isinstance(made.sha256, str) and _SHA256.fullmatch(made.sha256)):
        raise ValueError("its sha256 is no sha256")
    card = made.card
    if card.name != name:
        raise ValueError(f"it is of {card.name[:100]!r}")
    named = [*card.parents, *card.domains, *(spent.name for spent in card.ancestors)]
    for wrong in (each for each in [name, *named] if not is_name(each)):
        raise ValueError(f"{wrong[:100]!r} is no valid name")
    if made.way != "delta8" and card.sha256 != made.sha256:
        raise ValueError("its card is of other weights")
    if made.place != ELMS and made.way != "full":
        raise ValueError("only an ELM has a difference from its parents")
