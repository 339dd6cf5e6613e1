"""What every import of a malicious folder must hold to: no code run, nothing written outside,
nothing left behind.
"""

import resource
import time

from btm.cli import main

SECONDS, MEMORY = 40, 1 << 30  # the first one also waits for torch's imports


def assault(world, capsys, *words, wanted=2):
    """Import ``world/outside/model`` into ``world/forest``; return the line that was printed."""
    outside, canary, forest = world / "outside", world / "canary", world / "forest"
    before, began, used = _tree(outside), time.monotonic(), _peak()
    code = main.main(["import", f"from={outside / 'model'}", f"forest={forest}", *words])
    said = capsys.readouterr()
    assert not canary.exists(), "code was executed"
    assert _tree(outside) == before, "written outside the forest"
    assert {path.name for path in world.iterdir()} <= {"outside", "forest"}
    assert time.monotonic() - began < SECONDS
    assert _peak() - used < MEMORY
    assert "Traceback" not in said.err + said.out
    assert code == wanted, said.err
    if code:
        assert (
            said.err.startswith("btm: ") and said.err.count("\n") == 1 and len(said.err) < 2_000
        ), said.err
        assert said.err[:-1].isprintable()
        assert not forest.exists(), "a refused import left something"
    else:
        assert not any(path.name.startswith(".tmp-") for path in forest.rglob("*"))
        assert not any(
            b"root of all secrets" in p.read_bytes() for p in forest.rglob("*") if p.is_file()
        )
        kinds = {p.suffix for p in forest.rglob("*") if p.is_file() and p.name != "SHA256SUMS"}
        assert kinds <= {".json", ".safetensors", ".md", ".jinja"}
    return said.err


def _tree(folder):
    """Everything below a folder: its kind, its size, when it changed, and where it leads if it is a
    link.
    """
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        str(path): (
            s.st_mode,
            s.st_size,
            s.st_mtime_ns,
            path.readlink() if path.is_symlink() else "",
        )
        for path, s in found.items()
    }


def _peak():
    """The most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
