"""The files of a contribution: exactly those its format may have, copied without being parsed.

Names and sizes are looked at here; the copies are read in a box (box.py).
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from btm.commons.gate.contribution import Contribution
from btm.commons.gate.policy import Policy
from btm.commons.gate.verdict import Check
from btm.errors import UserError
from btm.forest import difference
from btm.forest.paths import CARD, ModelFolder
from btm.interop import delta8, peft_files
from btm.models.files import CONFIG, INDEX, README
from btm.system.outside import Folder
from btm.system.sums import NAME as SUMS

_MOST = 256  # files, so that a folder of a million names is not listed
_TEXTS = 16 << 20  # bytes of cards, tokenizer and digests that no weights are counted for
_DIGESTS = re.compile(r"[0-9a-f]{64}\.docs")
_FOLDER = ModelFolder(Path())
# Beside what is read: what `btm export` and a sealed ELM have, and the gate has no need of.
_PASSED_OVER = {
    "full": (
        *(CONFIG, "generation_config.json", INDEX),
        *(file.name for file in (_FOLDER.metrics, _FOLDER.origin, _FOLDER.result)),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", *difference.FILES),
    ),
}
_ALWAYS = (CARD, README, SUMS)


@dataclass(frozen=True)
class Wanted:
    """The files that are read of a contribution: all of `needed`, one of `either`, those of
    `optional` that are there; and those that may lie beside them.
    """

    needed: tuple[str, ...]
    either: tuple[str, ...] = ()
    optional: tuple[str, ...] = (CARD,)
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """Every name that is allowed, but for digests of documents."""
        return {*self.needed, *self.either, *self.optional, *self.beside, *_ALWAYS}


def wanted(format: str, weight_files: list[str]) -> Wanted:
    """List the files of a format; `weight_files` are the names that a parent's weights have."""
    if format == "full":
        return Wanted(tuple(weight_files), beside=_PASSED_OVER["full"])
    if format == "delta8":
        return Wanted((delta8.HEADER, delta8.TENSORS))
    if format == "delta":
        return Wanted((), either=difference.FILES)
    return Wanted((peft_files.CONFIG, peft_files.TENSORS))


def check(
    contribution: Contribution, policy: Policy, weight_files: dict[str, int]
) -> tuple[list[Check], list[str]]:
    """Check the format, the names, kinds and sizes; return the checks and the files to copy.

    `weight_files` are the names and bytes of a parent's. Nothing is opened.
    """
    if contribution.format not in policy.formats:
        taken = ", ".join(policy.formats)
        return [Check("format", False, f"{contribution.format} is not taken; {taken} are")], []
    made = [Check("format", True, f"{contribution.format} is taken")]
    allowed = wanted(contribution.format, list(weight_files))
    try:
        found = _listed(contribution.folder, allowed)
    except UserError as error:
        return [*made, Check("files", False, str(error))], []
    made.append(Check("files", True, f"{len(found)} files, all of them of this format"))
    total, bound = sum(found.values()), int(policy.size * sum(weight_files.values())) + _TEXTS
    fits = total <= bound
    said = f"{total:,} bytes, of {bound:,} that are allowed"
    made.append(Check("size", fits, said, float(total), float(bound), "bytes"))
    read = {*allowed.needed, *allowed.either, *allowed.optional}
    return made, sorted(found.keys() & read)


def copy(source: Path, names: list[str], target: Path, alive: Callable[[], None]) -> None:
    """Copy files into the empty folder `target`; `UserError` if one changes or is a link."""
    folder = Folder(source)
    for name in names:
        folder.copy(name, target / name, alive)


def _listed(folder: Path, allowed: Wanted) -> dict[str, int]:
    """List {name: bytes}; `UserError` for whatever should not be there, or is missing."""
    found: dict[str, int] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(found) >= _MOST:
                    raise UserError(f"more than {_MOST} files")
                found[entry.name] = _size(entry, allowed)
    except OSError as error:
        raise UserError(f"the folder is not readable ({error.strerror})") from None
    for name in allowed.needed:
        if name not in found:
            raise UserError(f"{name} is missing")
    if allowed.either and len(found.keys() & set(allowed.either)) != 1:
        raise UserError(f"wanted one of {' and '.join(allowed.either)}")
    return found


def _size(entry: "os.DirEntry[str]", allowed: Wanted) -> int:
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{said(entry.name)} is no regular file")
    is_digest = _DIGESTS.fullmatch(entry.name) is not None
    if entry.name not in allowed.names and not is_digest:
        raise UserError(f"{said(entry.name)} is no file of this format")
    return status.st_size


def said(text: str, most: int = 300) -> str:
    """Write a stranger's text in printable ASCII on one line, cut off after `most` characters."""
    line = ascii(text)[1:-1]
    return line if len(line) <= most else line[:most] + "…"
