"""git-LFS pointers: the short texts that stand in a clone until ``git lfs pull`` fetches the files.

A pointer is at most 1,024 bytes: a line with the version, perhaps lines of extensions, the sha256
and the size (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md). Every reader of files from
outside asks for one before it reads: a pointer parses as text, so it could be trained on.
"""

import os
import re
import stat
from pathlib import Path

from btm.errors import UserError

LONGEST = 1024  # bytes of a pointer
_POINTER = re.compile(
    rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/\S+\r?\n"
    rb"(?:ext-[^\n]*\n)*"
    rb"oid sha256:[0-9a-f]{64}\r?\n"
    rb"size [0-9]+\s*"
)


def is_pointer(content: bytes) -> bool:
    """Tell whether the whole `content` of a file is a pointer; a text that quotes one is none."""
    return len(content) <= LONGEST and _POINTER.fullmatch(content) is not None


def refuse_content(file: Path, content: bytes) -> None:
    """Raise `UserError` if `content`, all that stands in `file`, is a pointer."""
    if is_pointer(content):
        raise UserError(
            f"{file} is a git-LFS pointer, not the file itself: run `git lfs pull` in its clone"
        )


def refuse(file: Path) -> None:
    """Raise `UserError` if `file` holds a pointer.

    A file that cannot be read passes: its reader says what is wrong with it. Nothing but regular
    files is read, and of these `LONGEST` + 1 bytes at most.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode) and status.st_size <= LONGEST:
            refuse_content(file, stream.read(LONGEST + 1))
