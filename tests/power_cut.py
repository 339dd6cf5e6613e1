"""What a disk may hold after a power cut: a log of file operations, and every state that is left of
it.

As ALICE and CrashMonkey do: an operation on a folder's entries is certain only once that folder was
synced after it, and a file's content only once the file was. All else may have happened or not, in
any combination: a rename may be on disk before the content it names. A rename itself, and an
exchange, are one step.
"""

import itertools
import os
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

ALL_OF = 9  # up to so many uncertain operations every combination is tried; of more, a sample
SAMPLES = 400


@dataclass
class Operation:
    """A change of folders' entries: set (folder, name) to an inode, or to None for no entry."""

    entries: dict[tuple[int, str], int | None]

    @property
    def folders(self):
        return {folder for folder, _ in self.entries}


@dataclass
class Recorder:
    """The file operations below `root`, as they happen; files are known by their inode."""

    root: Path
    log: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)  # (folder inode, name) -> inode
    content: dict = field(default_factory=dict)  # inode -> bytes of a file, None of a folder
    kept: list = field(default_factory=list)  # handles: an inode must not be used again

    def scan(self):
        """Log what was created or written by means that are not watched."""
        for place, folders, files in os.walk(self.root):
            folder = self.inode(place)
            for name in [*folders, *files]:
                path = Path(place) / name
                inode = self.inode(path)
                content = None if path.is_dir() else path.read_bytes()
                if self.entries.get((folder, name)) != inode:
                    self.change({(folder, name): inode})
                if self.content.get(inode, b"") != content or inode not in self.content:
                    self.content[inode] = content
                    self.log.append(("write", inode, content))

    def inode(self, path):
        found = os.stat(path).st_ino  # noqa: PTH116
        if found not in self.content:
            self.kept.append(os.open(path, os.O_RDONLY))
        return found

    def change(self, entries):
        self.log.append(Operation(entries))
        for key, inode in entries.items():
            if inode is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = inode

    def sync(self, inode):
        self.scan()
        if inode in self.content or inode == self.inode(self.root):
            self.log.append(("sync", inode))

    def place(self, path, folder=None):
        """The entry that a path (relative to a folder's handle, perhaps) is."""
        at = os.fstat(folder) if folder is not None else Path(path).parent.stat()
        return at.st_ino, Path(path).name

    def close(self):
        for handle in self.kept:
            os.close(handle)


@contextmanager
def recorded(root, module):
    """Record what happens below `root`; all that is there already counts as safe on disk."""
    recorder = Recorder(root)
    recorder.scan()
    recorder.log = [("sync", inode) for inode in [*recorder.content, recorder.inode(root)]]
    recorder.log = [*before(recorder), *recorder.log]
    fsync, rename, replace, unlink, rmdir = os.fsync, os.rename, os.replace, os.unlink, os.rmdir

    def moved(real):
        def move(source, target, **options):
            recorder.scan()
            old = recorder.place(source)
            inode = recorder.entries.get(old)
            real(source, target, **options)
            recorder.change({old: None, recorder.place(target): inode})

        return move

    def removed(real):
        def remove(path, *, dir_fd=None):
            recorder.scan()
            key = recorder.place(path, dir_fd)
            real(path, dir_fd=dir_fd)
            recorder.change({key: None})

        return remove

    def synced(handle):
        fsync(handle)
        recorder.sync(os.fstat(handle).st_ino)

    exchange = module._exchange

    def exchanged(one, other):
        recorder.scan()
        first, second = recorder.place(one), recorder.place(other)
        done = exchange(one, other)
        if done and recorder.entries.get(first) != os.stat(one).st_ino:  # noqa: PTH116
            recorder.change(
                {first: recorder.entries.get(second), second: recorder.entries.get(first)}
            )
        return done

    with (
        patch("os.fsync", synced),
        patch("os.rename", moved(rename)),
        patch("os.replace", moved(replace)),
        patch("os.unlink", removed(unlink)),
        patch("os.remove", removed(unlink)),
        patch("os.rmdir", removed(rmdir)),
        patch.object(module, "_exchange", exchanged),
    ):
        try:
            yield recorder
            recorder.scan()
        finally:
            recorder.close()


def before(recorder):
    """The log that made what was there at first."""
    for key, inode in recorder.entries.items():
        yield Operation({key: inode})
    for inode, content in recorder.content.items():
        yield ("write", inode, content)


def states(log, root_inode, seed=0):
    """Every state (a dict from path to bytes, or None for a folder) that a disk may hold after
    `log`.
    """
    operations, contents, certain_content = [], {}, {}
    for entry in log:
        if isinstance(entry, Operation):
            operations.append([entry, set(entry.folders)])
        elif entry[0] == "write":
            contents[entry[1]] = entry[2]
        else:
            certain_content[entry[1]] = contents.get(entry[1])
            for operation in operations:
                operation[1].discard(entry[1])
    uncertain = [i for i, (_, unsynced) in enumerate(operations) if unsynced]
    doubtful = [
        inode
        for inode, content in contents.items()
        if content is not None
        and (inode not in certain_content or certain_content[inode] != content)
    ]
    choices = [(False, True)] * len(uncertain) + [(0, 1, 2)] * len(doubtful)
    if len(choices) <= ALL_OF:
        picks = itertools.product(*choices)
    else:
        rng = random.Random(seed)
        picks = (tuple(rng.choice(choice) for choice in choices) for _ in range(SAMPLES))
    for pick in picks:
        happened = dict(zip(uncertain, pick, strict=False))
        entries = {}
        for i, (operation, _) in enumerate(operations):
            if happened.get(i, True):
                entries |= operation.entries
        data = dict(contents)
        for inode, choice in zip(doubtful, pick[len(uncertain) :], strict=True):
            old = certain_content.get(inode) or b""
            data[inode] = (old, contents[inode], contents[inode][: len(contents[inode]) // 2])[
                choice
            ]
        yield tree(entries, data, root_inode)


def tree(entries, data, root_inode):
    """Paths and contents of what can be reached from the root."""
    found = {}

    def walk(folder, path):
        for (parent, name), inode in entries.items():
            if parent == folder and inode is not None:
                found[f"{path}{name}"] = data.get(inode)
                if data.get(inode, b"") is None:
                    walk(inode, f"{path}{name}/")

    walk(root_inode, "")
    return found
