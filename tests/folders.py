"""What tests look at: the embedded suite, and whether a folder was touched."""

import os
from contextlib import contextmanager
from pathlib import Path

import btm

ROOT = Path(btm.__file__).parents[1]  # of the repository
DEMO = ROOT / "btm/data/demo"


def uncovered():
    """The environment of programs whose lines other tests cover: coverage slows torch by half."""
    return {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}


@contextmanager
def uncovered_children():
    """Leave off measuring coverage in processes that are started meanwhile."""
    kept = {name: os.environ.pop(name) for name in os.environ.keys() - uncovered().keys()}
    try:
        yield
    finally:
        os.environ.update(kept)


def tree(folder):
    """Every file below a folder with its size and time of change: equal trees were not touched."""
    stats = {p: p.stat() for p in sorted(Path(folder).rglob("*"))}
    return {str(p): (s.st_size, s.st_mtime_ns) for p, s in stats.items() if p.is_file()}
