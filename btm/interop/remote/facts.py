"""The forest.json of a remote forest: the architecture and the tokenizer that its models share."""

import json
import re
from dataclasses import asdict, dataclass

from btm.data.tokenizer import recorded_policy
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.paths import FACTS
from btm.interop.remote.places import Bucket, Local
from btm.system.json_files import parse_json

SCHEMA = 1
_MOST = 1 << 16  # bytes
_WORD = re.compile(r"[\w.:+-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class Facts:
    """The facts that all models of a remote forest share; `bos` is how texts begin."""

    architecture: str
    model_type: str
    tokenizer_sha256: str
    bos: str
    schema: int = SCHEMA

    @classmethod
    def of(cls, forest: Forest) -> "Facts":
        """Take them from a forest on this machine."""
        known, said = forest.identity, forest.facts
        bos = recorded_policy(forest.tokenizer)
        return cls(
            known["architecture"], str(said.get("model_type")), known["tokenizer_sha256"], bos
        )

    def to_bytes(self) -> bytes:
        """Write them as JSON."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def read(place: Local | Bucket) -> Facts | None:
    """Read the facts of a remote forest; None where none stands, `UserError` if not valid."""
    seen, where = place.read(FACTS, _MOST), f"{place.url}: {FACTS}"
    if seen is None:
        return None
    if len(seen.content) > _MOST:
        raise UserError(f"{where}: larger than {_MOST:,} bytes: no remote forest of btm")
    try:
        values = parse_json(seen.content, unique=True)
        if values["schema"] > SCHEMA:
            raise UserError(f"{where}: written by a newer btm (schema {values['schema']})")
        names = ("architecture", "model_type", "tokenizer_sha256", "bos")
        words = {name: values[name] for name in names}
        for name, word in words.items():
            if not (isinstance(word, str) and _WORD.fullmatch(word)):
                raise ValueError(f"{name} is {str(word)[:40]!r}")
        return Facts(**words)
    except (ValueError, KeyError, TypeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{where}: no remote forest of btm: {why}") from None


def require(place: Local | Bucket) -> Facts:
    """Read the facts of a remote forest; `UserError` where none stands."""
    found = read(place)
    if found is None:
        raise UserError(
            f"{place.url}: no forest there; btm push to={place.url.text} puts one there"
        )
    return found


def require_same(place: Local | Bucket, ours: Facts, theirs: Facts, root: object) -> None:
    """Raise `UserError` unless two forests share architecture and tokenizer."""
    for name in ("architecture", "tokenizer_sha256"):
        if getattr(ours, name) != getattr(theirs, name):
            what = name.removesuffix("_sha256")
            raise UserError(
                f"{place.url}: a forest with another {what} than {root}: give another URL or forest"
            )
