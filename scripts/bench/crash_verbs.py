"""SIGKILL of the verbs that change a grown forest: grow, remove --rederive, compare, average, distil,
moe.

    python scripts/bench/crash_verbs.py --begin DIR --text DIR --kills 20 WORD…

`--begin` holds a grown forest as `forest` and its prepared text as `data`; the words are those it
was grown with. Each verb runs once unbroken, then again and again on a fresh copy: it is killed
before one of its changes to the file system, drawn at random, and the same command is run again.
What is then lost, half visible, left over or other than in the unbroken run is printed and counted;
the exit code is then 1.

Every command runs in a fork of this process, which has imported all it needs. The kill comes from
an audit hook of Python, so nothing but Linux is needed. `crash.py` does the same to the driver and
the workers of a cycle.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import crash
import matplotlib.figure  # noqa: F401 - imported before the forks
import torch

from btm import steps  # noqa: F401 - imported before the forks
from btm.cli import compose, verbs  # noqa: F401 - as above
from btm.cli import main as command
from btm.data.tokenizer import load_tokenizer
from btm.forest import Forest
from btm.models import causal_lm
from btm.steps import rederive  # noqa: F401 - as above

CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NEW = "new"  # the domain that is grown


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--begin", type=Path, required=True, help="holds forest/ and data/")
    parser.add_argument("--text", type=Path, required=True, help="of the domain that is grown")
    parser.add_argument("--remove", default="bible", help="the ELM that is removed")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--kills", type=int, default=20, help="of each verb (default 20)")
    parser.add_argument("--at", type=int, nargs="*", help="kill before these changes alone")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument("words", nargs="*", help="settings that the forest was grown with")
    options = parser.parse_args()
    torch.set_num_threads(1)  # no thread pool, which would not survive a fork
    # What commands import late takes longer than they do: here once, not in every fork.
    load_tokenizer(options.begin / "forest" / "tokenizer")
    causal_lm.load_model(next((options.begin / "forest" / "elms").iterdir()))
    with tempfile.TemporaryDirectory(prefix="btm-kills-") as work:
        wrong = [line for verb in options.verbs for line in killed(verb, Path(work), options)]
    for line in wrong:
        print(f"WRONG  {line}")
    return 1 if wrong else 0


VERBS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "grow": lambda o: [f"domain={NEW}", f"from={o.text}"],
    "remove": lambda o: ["--rederive", f"expert={o.remove}"],
    "compare": lambda o: [],
    "average": lambda o: [
        "average.method=task_arithmetic",
        "average.scale=fit",
        "average.name=fitted",
    ],
    "distil": lambda o: ["student=pupil", "distil.steps=3"],
    "moe": lambda o: ["moe=mine", "moe.router=btx", "moe.steps=2"],
}


def killed(verb: str, work: Path, options: argparse.Namespace) -> list[str]:
    """Kill one verb `options.kills` times; return what was wrong."""
    place = work / "place"
    words = [verb, *options.words, *VERBS[verb](options)]
    words += [f"forest={place / 'forest'}", f"data.out={place / 'data'}", "trainer.threads=1"]

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        for name in ("forest", "data"):
            shutil.copytree(options.begin / name, place / name)

    fresh()
    end, changes = run(words, place)
    if end:
        raise RuntimeError(f"btm {' '.join(words)}: fails without a kill: {_said(place)}")
    Forest(place / "forest").sweep()
    whole = crash.tree(place)
    rng = random.Random(f"{options.seed} {verb}")
    wrong = []
    kills = options.at or [rng.randint(1, changes) for _ in range(options.kills)]
    for at in kills:
        fresh()
        end, _ = run(words, place, at)
        if end != -signal.SIGKILL:
            raise RuntimeError(f"btm {verb}: no kill at change {at} of {changes}: {end}")
        found = list(crash.unsound(place / "forest"))
        end, _ = run(words, place)
        found += [f"lost: the same command then fails: {_said(place)}"] if end else []
        Forest(place / "forest").sweep()
        found += [*crash.unsound(place / "forest"), *differences(crash.tree(place), whole)]
        wrong += [f"{line}  [{verb}: killed before change {at} of {changes}]" for line in found]
    print(f"{verb}: {changes} changes, {len(kills)} kills, {len(wrong)} wrong", flush=True)
    return wrong


def differences(found: dict[str, str], whole: dict[str, str]) -> Iterator[str]:
    """Tell what is other than in the unbroken run."""
    for name in sorted(found.keys() | whole.keys()):
        if name not in whole:
            yield f"orphan: {name}"
        elif found.get(name) != whole[name]:
            yield f"{'different' if name in found else 'lost'}: {name}"


def run(words: list[str], place: Path, at: int = 0) -> tuple[int, int]:
    """Run a command in a fork, killed before its change number `at` below `place` (0: never).

    Returns the exit status, negative for a signal, and the number of changes.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _child(words, place, at, writer)
    os.close(writer)
    with os.fdopen(reader) as said:
        report = said.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), int(report or 0)


def _said(place: Path) -> str:
    """Return the last line that a command printed."""
    return (place.parent / "log").read_text(errors="replace").strip().rpartition("\n")[2]


def _child(words: list[str], place: Path, at: int, writer: int) -> NoReturn:
    code = 1
    try:
        log = os.open(place.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        counted = _count(place, at)
        code = command.main(words)
        os.write(writer, str(counted[0]).encode())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _count(place: Path, at: int) -> list[int]:
    """Count the changes below `place` from now on; SIGKILL this process before number `at`."""
    counted, lock, inside = [0], threading.Lock(), f"{place}/"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = isinstance(arguments[2], int) and bool(arguments[2] & WRITES)
        else:
            changes = event in CHANGES
        if not changes or not str(arguments[0]).startswith(inside):
            return
        with lock:
            counted[0] += 1
            if counted[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return counted


if __name__ == "__main__":
    sys.exit(main())
