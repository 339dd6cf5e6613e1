"""Documents on disk: a folder of domains in any of several layouts and formats.

    ROOT/<domain>/{train,valid,test}.jsonl    its own splits (.jsonl .gz .zst, .parquet, .txt)
    ROOT/<domain>/*.txt                       pooled, to be split (the same formats)
    ROOT/<domain>.txt                         one file is a domain (the same formats)
    ROOT/<domain>/dict.txt, train.bin …       a data-bin of fairseq (btm/data/binarised.py)

`find` lists the sources without opening a file; their documents are read by btm/data/reading.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from btm.config.checks import check_name
from btm.config.choices import SPLITS
from btm.data.reading import REFUSE, is_text, read
from btm.data.rows import Policy
from btm.errors import UserError
from btm.fairseq import databin

FORMATS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
POOL = ""  # the key of files that are still to be split
# How a pool is split: by record, by whole text files, or within the only text file.
BY_DOCUMENT, BY_FILE, BY_PLACE = "document", "file", "place"


@dataclass(frozen=True)
class Source:
    """One domain's files, by split; a pooled domain has all of its files under `POOL`."""

    domain: str
    files: dict[str, tuple[Path, ...]]

    @property
    def pooled(self) -> bool:
        """Whether btm decides which document goes to which split."""
        return POOL in self.files

    @property
    def binarised(self) -> bool:
        """Whether the files are fairseq's, of token ids rather than text."""
        return any(path.suffix == ".idx" for _, path in self.listing())

    @property
    def split_by(self) -> str:
        """How a pool is split (btm/data/pools.py); empty for a domain with splits of its own."""
        if not self.pooled:
            return ""
        if not any(is_text(path) for path in self.files[POOL]):
            return BY_DOCUMENT
        return BY_FILE if len(self.files[POOL]) > 1 else BY_PLACE

    def listing(self) -> list[tuple[str, Path]]:
        """List (split, file) in the order in which documents are read."""
        return [(split, path) for split, paths in self.files.items() for path in paths]

    def text_files(self) -> list[tuple[str, Path]]:
        """List (split, file) as `listing` does; `UserError` if they hold no text."""
        if self.binarised:
            raise UserError(
                f"{self.domain}: token ids of fairseq, where text is wanted; give the text itself"
            )
        return self.listing()

    def documents(self, column: str, policy: Policy = REFUSE) -> Iterator[tuple[str, str]]:
        """Yield (split, text) of every document that is not blank, always in the same order."""
        for split, path in self.text_files():
            for text in read(path, column, policy):
                yield split, text


def find(root: Path, made_by: str = "") -> list[Source]:
    """Find the domains below `root`, by name; `UserError` if there are none or one is ambiguous.

    `made_by` is the command that builds `root`, if there is one; the error suggests it.
    """
    if not root.is_dir():
        build = f"build it: {made_by} --out {root}"
        remedy = build if made_by else "data.root must be a folder of domains"
        raise UserError(f"no folder {root}; {remedy}")
    if databin.is_data_bin(root):
        raise UserError(
            f"{root} is one data-bin, and so one domain; data.root must be the folder above it"
        )
    sources: dict[str, Source] = {}
    for entry in sorted(root.iterdir()):
        name = entry.name if entry.is_dir() else _stem(entry)
        if entry.name.startswith(".") or name is None:
            continue
        check_name(name, f"domain of {entry}")
        if name in SPLITS and not entry.is_dir():
            raise UserError(f"{entry}: {root} is one domain; data.root must be the folder above it")
        if name in sources:
            raise UserError(
                f"{root}: two sources for the domain {name!r}, one is {entry.name}; keep one"
            )
        sources[name] = _in_folder(entry) if entry.is_dir() else Source(name, {POOL: (entry,)})
    if not sources:
        raise UserError(f"no domain in {root}; wanted <domain>/ or <domain>{{{','.join(FORMATS)}}}")
    kinds = {source.binarised: name for name, source in sources.items()}
    if len(kinds) > 1:
        raise UserError(
            f"{root}: {kinds[True]} is a data-bin of fairseq and {kinds[False]} is text; "
            "keep one kind"
        )
    return [sources[name] for name in sorted(sources)]


def find_one(path: Path, domain: str) -> Source:
    """Make a domain of one file, or of a folder of files, under any name."""
    if path.is_dir():
        return replace(_in_folder(path), domain=domain)
    if not path.exists():
        raise UserError(f"no file or folder {path}; wanted the text of the domain {domain!r}")
    if _stem(path) is None:
        raise UserError(f"{path}: wanted a folder, or a file that ends in {', '.join(FORMATS)}")
    return Source(domain, {POOL: (path,)})


def _stem(path: Path) -> str | None:
    """Return the file's name without its format, or None if the format is unknown."""
    endings = [ending for ending in FORMATS if path.name.endswith(ending)]
    return path.name.removesuffix(max(endings, key=len)) if endings else None


def _in_folder(folder: Path) -> Source:
    if databin.is_data_bin(folder):
        return Source(folder.name, databin.files_of(folder))
    visible = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [(stem, path) for path in visible if (stem := _stem(path)) is not None]
    if not files:
        raise UserError(f"{folder}: no document; wanted files that end in {', '.join(FORMATS)}")
    if not any(stem in SPLITS for stem, _ in files):
        return Source(folder.name, {POOL: tuple(path for _, path in files)})
    splits: dict[str, tuple[Path, ...]] = {}
    for stem, path in files:
        if stem not in SPLITS:
            raise UserError(
                f"{path}: is neither train, valid nor test, which stand beside it; move it away"
            )
        if stem in splits:
            raise UserError(f"{path}: {splits[stem][0].name} is the {stem} split already; keep one")
        splits[stem] = (path,)
    for split in SPLITS:
        if split not in splits:
            have = ", ".join(path.name for _, path in files)
            raise UserError(
                f"{folder}: no {split} split beside {have}; add it, or rename those to be split"
            )
    return Source(folder.name, {split: splits[split] for split in SPLITS})
