"""Documents on disk: the files of a domain, and the documents of a file.

btm/data/domains.py finds the files; btm/data/reading.py reads their documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from btm.config.choices import SPLITS
from btm.data.formats import is_text
from btm.data.layout import POOL
from btm.data.reading import REFUSE, read
from btm.data.rows import Policy
from btm.errors import UserError

# How a pool is split: by record, by whole text files, or within the only text file.
BY_DOCUMENT, BY_FILE, BY_PLACE = "document", "file", "place"


@dataclass(frozen=True)
class Source:
    """One domain's files, by split; a pooled domain has all of its files under `POOL`."""

    domain: str
    files: dict[str, tuple[Path, ...]]
    home: Path | None = None  # the folder of a domain that is one

    @property
    def pooled(self) -> bool:
        """Whether no file is named after a split."""
        return POOL in self.files

    @property
    def drawn(self) -> tuple[str, ...]:
        """The splits that no file is named after: btm draws them from the pool, or from train."""
        return tuple(split for split in SPLITS[1:] if split not in self.files)

    @property
    def binarised(self) -> bool:
        """Whether the files are fairseq's, of token ids rather than text."""
        return any(path.suffix == ".idx" for _, path in self.listing())

    @property
    def split_by(self) -> str:
        """How splits are drawn (btm/data/pools.py); empty for a domain with splits of its own."""
        if not self.drawn:
            return ""
        files = self.files[POOL if self.pooled else SPLITS[0]]
        if not any(is_text(path) for path in files):
            return BY_DOCUMENT
        return BY_FILE if len(files) > 1 else BY_PLACE

    def name_of(self, path: Path) -> str:
        """Name a file by its path in the domain's folder."""
        return path.relative_to(self.home).as_posix() if self.home else path.name

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
