"""Publish files and folders so that neither a crash nor a power cut can show half of one.

The recipe is always the same: write under a temporary name in the same folder, fsync, rename, fsync
the folder. A temporary name starts with ``.tmp-`` and carries the host and process id of its
writer, so that `sweep` can tell the orphan of a dead process from the work of a live one.
"""

import ctypes
import errno
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from btm.errors import UserError, reword

_PREFIX = ".tmp-"
HELD = "~"  # in the name of a folder that is held under a lease (lease.py, which stands above)
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE of renameat2(2) and AT_FDCWD
_WRITE = 2  # SYNC_FILE_RANGE_WRITE of sync_file_range(2)
_FORGOTTEN = 86_400.0  # seconds without a write after which a writer elsewhere counts as dead
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_CANNOT_LINK = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_STATUS = Path("/proc/self/status")  # of Linux alone
_UMASK = threading.Lock()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make every disk error within the block an `OSError` that names a path, by default `path`.

    write(2) and fsync(2) know no path, and libraries written in Rust raise errors of their own.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def write_at(descriptor: int, data: Any, offset: int) -> None:
    """Write all of a buffer at `offset` of an open file, and begin to flush it to the disk.

    What is flushed early is less to wait for in the fsync that follows.
    """
    view = memoryview(data).cast("B")
    begin, size = offset, len(view)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    start = getattr(ctypes.CDLL(None), "sync_file_range", None)  # of Linux alone
    if start is not None:
        start(descriptor, ctypes.c_int64(begin), ctypes.c_int64(size), ctypes.c_uint(_WRITE))


def sync_folder(folder: Path) -> None:
    """Flush the entries of `folder` to disk, so that a rename within it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with naming(folder):
            os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents, each durably, and return it."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for path in reversed(missing):
        if HELD in path.name:  # a leased folder exists by a rename only: this lease was lost
            raise FileNotFoundError(errno.ENOENT, "taken over by another process", str(path))
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    return folder


@contextmanager
def publish_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Yield a binary handle; its content appears at `path`, whole, when the block ends well.

    Without `replace`, `FileExistsError` if `path` exists by then: of racing writers one wins.
    """
    make_folder(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=f"{_PREFIX}{writer()}-", dir=path.parent)
    temporary = Path(name)
    try:
        with naming(path), os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fchmod(handle.fileno(), 0o666 & ~_umask())
            os.fsync(handle.fileno())
        if replace:
            temporary.replace(path)
        else:
            _link(temporary, path)
    except BaseException:  # also KeyboardInterrupt: nothing half written may stay
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def publish_path(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Do as `publish_file` for a library that opens its file itself: yield the path to write to."""
    with publish_file(path, replace=replace) as handle:
        # Another name of the file that is open: what is written there is synced with it.
        yield Path(f"/dev/fd/{handle.fileno()}")


def _link(temporary: Path, path: Path) -> None:
    """Give the file `temporary` the name `path` instead; `FileExistsError` if that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A server of NFS may be asked twice, and answer the second time that the name is taken.
        if temporary.stat().st_nlink == 1:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        if path.exists():  # the best that a file system without hard links lets one do
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)
        return
    temporary.unlink()


@contextmanager
def publish_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without error.

    Raises `FileExistsError`, with nothing changed, if `path` exists and `replace` is false. With
    `replace`, readers find the old folder or the new one, never a mixture of two; where the file
    system cannot exchange two folders in one step, they may for an instant find none.
    """
    make_folder(path.parent)
    temporary = scratch_folder(path.parent)
    try:
        with naming(path):
            yield temporary
        sync_tree(temporary)  # before the rename: after a power cut a visible folder must be whole
        if replace and path.exists():
            if _exchange(temporary, path):
                sync_folder(path.parent)
                shutil.rmtree(temporary)
                return
            remove_folder(path)
        rename_folder(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, UserError | OSError):
            reword(error, str(temporary), str(path))
        raise


def scratch_folder(parent: Path) -> Path:
    """Create a folder in `parent` that `sweep` deletes once this process is gone."""
    temporary = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{writer()}-", dir=parent))
    temporary.chmod(0o777 & ~_umask())
    return temporary


@contextmanager
def scratch_in(place: Path) -> Iterator[Path]:
    """Yield a scratch folder in `place`, and delete it when the block ends; `place` too, if it was
    made for this and nothing came into it.
    """
    created = not place.exists()
    scratch = scratch_folder(make_folder(place))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if created:
            with suppress(OSError):
                place.rmdir()


def rename_folder(source: Path, target: Path) -> None:
    """Move the synced folder `source` to `target` in one step.

    Raises `FileExistsError` if `target` exists. rename(2) refuses a target that holds anything, so
    of two racing writers exactly one wins. It would replace an *empty* folder: that is why nothing
    in btm ever creates a target before its content.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(f"{target} exists already") from None
        raise
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Put a file that nobody ever modifies at `target` too: linked, or else copied."""
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)


def remove_folder(path: Path) -> None:
    """Delete a folder; one rename hides it first, so that a crash never leaves half of it."""
    doomed = scratch_folder(path.parent)
    rename_folder(path, doomed / path.name)
    shutil.rmtree(doomed)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; return False where that is impossible (NFS, or not Linux)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def can_exchange(place: Path) -> bool:
    """Try whether two folders in `place` can be swapped in one step."""
    return _exchange(scratch_folder(place), scratch_folder(place))


def sync_tree(folder: Path) -> None:
    """Give every file below `folder` the usual mode, and fsync files and folders, deepest first."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            handle = os.open(Path(place) / name, os.O_RDONLY)
            try:
                with naming(Path(place) / name):
                    os.fchmod(handle, 0o666 & ~_umask())
                    os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(place))


def write_json(path: Path, value: Any, *, replace: bool = True) -> None:
    """Publish `value` as indented JSON; NaN and infinity are refused, as JSON has neither.

    Without `replace`, `FileExistsError` if `path` exists.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with publish_file(path, replace=replace) as handle:
        handle.write(text.encode() + b"\n")


def append_line(path: Path, line: str) -> None:
    """Append one line with a single write(2); a torn last line (no newline) is cut off first.

    Not synced: a power cut may take the last lines, but never an earlier one.
    """
    with naming(path), path.open("a+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size:
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                handle.seek(0)
                handle.truncate(handle.read().rfind(b"\n") + 1)
        handle.write(line.encode() + b"\n")


def sweep(folder: Path) -> list[Path]:
    """Delete the temporary files and folders of dead writers in `folder`; return their paths."""
    found = orphans(folder)
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found


def orphans(folder: Path) -> list[Path]:
    """List the temporary files and folders that dead writers left in `folder`.

    Nobody can know whether a writer on another machine, or from before this one booted, still
    lives: it counts as dead after a day without a write.
    """
    if not folder.is_dir():
        return []
    return [path for path in folder.glob(_PREFIX + "*") if not _alive(path)]


def require_space(folder: Path, wanted: int) -> None:
    """Raise `OSError` (ENOSPC) unless the disk that holds `folder` has `wanted` bytes free."""
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    if free < wanted:
        raise OSError(
            errno.ENOSPC, f"{wanted:,} bytes are needed and {free:,} are free", str(folder)
        )


def writer() -> str:
    """Return the identity of this process, unique across machines and reboots."""
    return f"{_machine()}-{os.getpid()}-{_born(os.getpid()) or 0}"


def is_alive(identity: str) -> bool | None:
    """Tell whether the process of an identity (`writer`) runs; None if it is on another machine."""
    machine, _, rest = identity.rpartition("-")[0].rpartition("-")
    if machine != _machine() or not rest.isdigit():
        return None
    return _born(int(rest)) == int(identity.rpartition("-")[2])


def _machine() -> str:
    """Identify this machine and boot; containers may share a host name, not the pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        namespace = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        boot, namespace = "0", "0"
    return f"{socket.gethostname()}-{boot}-{namespace}"


def _born(pid: int) -> int | None:
    """Return a process's start in ticks since boot: 0 if unknown, None if there is no process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return 0
    # Z and X are dead but not yet reaped; field 22 of proc(5), the 20th here, is the start time.
    return None if fields[0] in "ZX" else int(fields[19])


def _alive(path: Path) -> bool:
    """Tell whether the writer named in a temporary file's or folder's name may still be at work."""
    alive = is_alive(path.name.removeprefix(_PREFIX).rpartition("-")[0])
    return time.time() - _written(path) < _FORGOTTEN if alive is None else alive


def _written(path: Path) -> float:
    """Return the time of the last write to a file, or to anything in a folder."""
    last = float("inf")  # the answer if the file goes meanwhile: its writer is at work
    with suppress(FileNotFoundError):
        last = path.stat().st_mtime
        for place, folders, files in os.walk(path):
            last = max(
                last, *(os.lstat(Path(place) / name).st_mtime for name in [".", *folders, *files])
            )
    return last


def _umask() -> int:
    """Read the process's umask.

    os.umask reads it by setting it: two threads at once could leave another one behind for good,
    and what a third creates meanwhile gets a wrong mode. So the kernel is asked, where it answers.
    """
    try:
        found = re.search(r"^Umask:\s*([0-7]+)$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1], 8)
    with _UMASK:
        mask = os.umask(0o077)  # meanwhile nothing is created with a mode that is too wide
        os.umask(mask)
    return mask
