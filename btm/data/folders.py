"""The files of a folder and of those below it, without litter and without going in circles."""

import re
import unicodedata
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from pathlib import Path

from btm.data.formats import compression_of, inner_ending
from btm.data.passed_over import (
    ABOUT,
    AGAIN,
    BARE,
    HIDDEN,
    IGNORED,
    LITTER,
    NO_FILE,
    NOWHERE,
    PassedOver,
)
from btm.data.saved_datasets import CACHE
from btm.data.words import ignoring
from btm.errors import UserError

# What systems and programs leave behind, in small letters.
_LITTER = (
    *("__macosx", "lost+found", "$recycle.bin", "recycler", "system volume information"),
    *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "network trash folder"),
    *("temporary items", "__pycache__", "thumbs.db", "ehthumbs.db", "*:zone.identifier"),
    *("desktop.ini", "icon\r", "_success", "*.crc", "*.lock", "*.swp", "*~", "~$*"),
    *("*.md5", "*.sha1", "*.sha256", "md5sums", "sha256sums", CACHE),
)
_IS_LITTER = re.compile("|".join(map(translate, _LITTER)))
_ABOUT = re.compile(
    r"(readme|licen[sc]es?|copying|copyright|notice|attribution|citation|changelog|authors)"
    r"([-_].*)?(\.(md|rst|html|bib|cff))?"
)
_OF_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "croissant.json")
_OF_PARQUET = ("_metadata", "_common_metadata")


@dataclass(frozen=True)
class Below:
    """The files below a folder, in the order of their paths, and what is passed over."""

    files: list[Path]
    passed: list[PassedOver]


def files_below(folder: Path, root: Path, ignore: Sequence[str], domain: str) -> Below:
    """List the files below `folder`, which is `root` or stands in it; links are followed once.

    Patterns of `ignore` are of names, or of ends of paths. Raises `UserError` for a folder
    that cannot be read.
    """
    files, passed = [], []
    above = [folder, *(each for each in folder.parents if each.is_relative_to(root))]
    seen = {_identity(each) for each in above[1:]}
    # Folders before links to folders: what can be reached without a link keeps its own path.
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        here = folders.popleft() if folders else links.popleft()
        if _identity(here) in seen:
            passed.append(PassedOver(here, AGAIN, domain))
            continue
        seen.add(_identity(here))
        for entry in entries(here):
            why = why_aside(entry, root, ignore) or _why_unusable(entry)
            if why:
                passed.append(PassedOver(entry, why, domain))
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
            else:
                files.append(entry)
    return Below(sorted(files), sorted(passed, key=lambda each: each.path))


def entries(folder: Path) -> list[Path]:
    """List a folder by name; `UserError` if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read: {error.strerror}; make it readable, or leave it out with "
            f"{ignoring(folder.name)}"
        ) from None


def why_aside(path: Path, root: Path, ignore: Sequence[str]) -> str:
    """Tell why a file or folder is set aside, by its name alone; empty if it is not."""
    name = path.name.lower()
    if any(matches(path, root, pattern) for pattern in ignore):
        return IGNORED
    if _IS_LITTER.fullmatch(name):
        return LITTER
    if name.startswith("."):
        return HIDDEN
    # A folder of licences is text as any other: that a domain were missing would show too late.
    if name in (*_OF_DATASETS, *_OF_PARQUET) or (_ABOUT.fullmatch(name) and not path.is_dir()):
        return ABOUT
    if path.parent == root and is_about_text(path):
        return ABOUT
    is_state = name == "state.json" and (path.parent / _OF_DATASETS[0]).exists()
    return ABOUT if is_state else ""


def is_about_text(path: Path) -> bool:
    """Tell by its name whether a .txt file is about the text, as README.txt is."""
    return path.suffix.lower() == ".txt" and _ABOUT.fullmatch(path.stem.lower()) is not None


def matches(path: Path, root: Path, pattern: str) -> bool:
    """Tell whether a pattern is of the name of `path`, or of the end of its path: law/more.txt."""
    parts = (root.name, *path.relative_to(root).parts)
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    pattern = normal(pattern.rstrip("/"))
    return any(fnmatchcase(normal(end), pattern) for end in ends)


def normal(name: str) -> str:
    """Write a name with composed characters, as a keyboard does and macOS does not."""
    return unicodedata.normalize("NFC", name)


def why_unread(path: Path) -> str:
    """Name the reason for a file of no format that is read: its ending."""
    return inner_ending(path) + compression_of(path) or BARE


def _why_unusable(path: Path) -> str:
    if path.is_dir() or path.is_file():
        return ""
    return NOWHERE if path.is_symlink() else NO_FILE


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
