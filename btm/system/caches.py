"""Folders for what only saves time: where they are, and another place where that cannot be written.

Nothing that is kept here is needed: who cannot write to any of them goes on without.
"""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from btm.system import durable
from btm.system.notes import note

_COMPILER = "TORCHINDUCTOR_CACHE_DIR"
_NOWHERE = "/proc"  # a folder that exists, and takes no files


def home() -> Path:
    """Name the folder of this user's caches: XDG_CACHE_HOME, or ~/.cache.

    Raises `OSError` where the user has no home.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():
        return Path(given)
    try:
        return Path("~/.cache").expanduser()
    except RuntimeError as error:  # a user without an entry in passwd, as in some containers
        raise OSError(f"{error}") from None


def folder(name: str) -> Path:
    """Make the cache `name` where this user can write, which nobody else can; return its path.

    Where the home cannot be written it stands in the folder for temporary files. Raises `OSError`
    where neither can be.
    """
    try:
        return _private(home() / "btm" / name)
    except OSError:
        return _private(temporary() / f"btm-{os.getuid()}" / name)


def prepare() -> None:
    """Give this process, and those it starts, folders for temporary files and compiled code.

    It comes before transformers is imported: torch's compiler then makes a folder in /tmp that all
    users share, or fails. Where no folder can be written, the compiler gets one that only exists:
    models are imported, and compiling fails later.
    """
    _find_temporary()
    given = os.environ.get(_COMPILER, "").removeprefix(_NOWHERE)
    try:
        if given:
            Path(given).mkdir(parents=True, exist_ok=True)
            return _try(Path(given))
    except OSError as error:
        note(f"{_COMPILER}={given}: {error.strerror}; another folder is taken")
    try:
        os.environ[_COMPILER] = str(folder("compiled"))
    except OSError:
        os.environ[_COMPILER] = _NOWHERE


def _find_temporary() -> None:
    """Have temporary files beside the caches where no other place for them can be written."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        with suppress(OSError):
            os.environ["TMPDIR"] = str(_private(home() / "btm" / "temporary"))
            note(f"{error.strerror}: temporary files go to {os.environ['TMPDIR']}")


def is_home_writable() -> bool:
    """Tell whether the folder of this user's caches can be written."""
    try:
        _private(home() / "btm" / "tried")
    except OSError:
        return False
    return True


def temporary(otherwise: Path | None = None) -> Path:
    """Find the folder for temporary files, or `otherwise` where none can be written."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        if otherwise is None:
            raise
        return otherwise


def scratch(otherwise: Path) -> "tempfile.TemporaryDirectory[str]":
    """Make a temporary folder, inside `otherwise` where there is no place for such.

    It bears a name by which `durable.sweep` would know it.
    """
    prefix = f".tmp-{durable.writer()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, dir=temporary(otherwise))


def _private(place: Path) -> Path:
    """Make a folder in which this user alone can write; `OSError` if that cannot be had."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.mkdir(exist_ok=True, mode=0o700)
    found = place.stat()
    # Code is compiled here and run: what others could write must not be.
    own = found.st_uid == place.parent.stat().st_uid == os.getuid()
    if not own or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others can write to it", str(place))
    _try(place)
    return place


def _try(place: Path) -> None:
    """Raise `OSError` unless a file can be written in a folder."""
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(b"room")
