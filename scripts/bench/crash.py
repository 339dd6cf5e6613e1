"""What survives a crash: kills at random over whole cycles, and a fault at every system call that
writes.

    python scripts/bench/crash.py kills --count 1000    SIGKILL the driver and the workers of local cycles
    python scripts/bench/crash.py calls                 a kill, an ENOSPC and an EIO at every mutating call
    python scripts/bench/crash.py calls --sample 60     of them 60, drawn at random

Both grow one undisturbed cycle of tiny models in --work, the reference, and hold everything against
it. What is lost, half visible, corrupt, different or left over after the next command is printed
and counted; the exit code is then 1. Figures are kept in WORK/crash.json, from where a stopped
`kills` goes on.

`calls` needs strace (apt install strace). Each operation runs in a fork of this process, which has
imported all it needs, so a fault costs a fraction of a second. docs/reliability.md says what is
promised.
"""

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import random
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import btm.data
import btm.steps
from btm.cli.main import main as main_of_btm
from btm.errors import UserError
from btm.forest import Forest, publish
from btm.forest.card import Card
from btm.launch import attach
from btm.launch.drive import Driver
from btm.launch.records import Records, read_shown
from btm.models import causal_lm, weights
from btm.report import quiet
from btm.system import durable, lease
from btm.train import checkpoint

EXPERT = "speeches"  # of the reference: the one with two parents
DOMAINS = ("bible", "code_python", EXPERT, "novels")
FACTS = ("lost", "half-visible", "corrupt", "different", "orphan", "unclear")  # what can be wrong


def main() -> int:
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    place = Workplace(args.work.resolve())
    importlib.import_module(causal_lm.modeling_module("llama"))  # before the forks
    place.prepare()
    wrong = calls(place, args.seed, args.sample) if args.part == "calls" else kills(place, args)
    for line in wrong:
        print(f"WRONG  {line}")
    counts = Counter(line.partition(":")[0] for line in wrong)
    print(", ".join(f"{counts[fact]} {fact}" for fact in FACTS))
    return 1 if wrong else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("kills", "calls"))
    parser.add_argument("--count", type=int, default=1000, help="kills: how many (default 1000)")
    parser.add_argument("--sample", type=int, help="calls: how many faults (default: all)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what is drawn at random (default 0)"
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "btm-crash")
    return parser.parse_args()


class Workplace(NamedTuple):
    """A folder with texts, their suite and the reference cycle; all else in it is scratch."""

    root: Path

    @property
    def reference(self) -> Path:
        """The forest that nothing disturbed."""
        return self.root / "reference"

    def settings(self, forest: Path) -> list[str]:
        """Return the overrides of a cycle small enough to run again and again."""
        return [
            "experiment=smoke",
            f"data.root={self.root / 'texts'}",
            f"data.out={self.root / 'data'}",
            f"forest={forest}",
            f"run.rounds=[[bible,code_python],[{EXPERT}]]",
            "eval.name=all",
            "seed.steps=80",
            "trainer.carry=auto",  # with moments that pass from the seed to its experts
            "trainer.steps=60",
            "trainer.checkpoint_every=2",
            "trainer.log_every=2",
            "trainer.valid_tokens=512",
            "trainer.threads=1",  # the same bits, whatever else runs
            "score.max_tokens=1024",
            "merge.force=true",  # a training of a second may well be worse than none
            "cluster.retries=1000000",
            "cluster.backoff=0",
        ]

    def btm(self, verb: str, forest: Path, *flags: str) -> None:
        """Run the command a user would run on `forest`, in a fork: its imports are done."""
        log = self.root / "log"
        pid = os.fork()
        if not pid:
            _command([verb, *self.settings(forest), *flags], log)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            raise RuntimeError(f"btm {verb} ended with {code}:\n{log.read_text()}")

    def prepare(self) -> None:
        """Grow the reference, unless it stands."""
        if self.reference.exists():
            return
        growing = self.root / "growing"
        shutil.rmtree(growing, ignore_errors=True)
        for domain in DOMAINS:
            source = Path(btm.data.__file__).parent / "demo" / domain
            shutil.copytree(source, self.root / "texts" / domain, dirs_exist_ok=True)
        (self.root / "texts" / "suite.json").write_text('{"domains": {"novels": {"novel": true}}}')
        self.btm("run", growing)
        self.btm(
            "score", growing
        )  # all there may be: which scores a cycle takes depends on the clock
        growing.rename(self.reference)

    def keep(self, part: str, figures: dict[str, Any]) -> None:
        """Write the figures of one part into crash.json."""
        kept = self.kept()
        durable.write_json(self.root / "crash.json", kept | {part: figures})

    def kept(self) -> dict[str, Any]:
        """Return the figures of all parts so far."""
        return read_shown(self.root / "crash.json") or {}


# What stands on disk, and what is wrong with it.


def tree(root: Path) -> dict[str, str]:
    """Return every file below `root` with a digest of what must be the same in every run, and empty
    folders.
    """
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file():
            found[name] = hashlib.sha256(lasting(path)).hexdigest()
        elif not any(path.iterdir()):
            found[name + "/"] = "an empty folder"
    return found


def lasting(file: Path) -> bytes:
    """Return a file's content without what tells of the clock or of the place."""
    content = file.read_bytes()
    if file.suffix == ".json":
        content = re.sub(rb'"(created|recorded|forest)": "[^"]*"', b"", content)
        content = re.sub(rb'"/[^"]*"', b'""', content)  # a path
        content = re.sub(rb"[\w./-]*/(elms|averages)/", b"", content)
        content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:+.Z]*", b"", content)
    if (
        file.name == "settings.json" or file.parent.name == "suites"
    ):  # its check is a sum over the time too
        content = re.sub(rb'"check": "[^"]*"', b"", content)
    if file.name == "README.md":
        content = re.sub(rb"\d{4}-\d\d-\d\d[T\d:+.Z]*", b"", content)
        content = re.sub(rb"(?m)^- \*\*(merged|made)\*\*: .*$", b"", content)
    if file.name == "SHA256SUMS":  # of files that tell of the clock
        content = re.sub(rb"(?m)^.*  (card\.json|README\.md|metrics\.jsonl)$", b"", content)
    if file.name == "metrics.jsonl":
        content = re.sub(rb'"(tokens_per_second|eta_seconds)": [^,}]*', b"", content)
    return b"a picture" if file.suffix == ".png" else content


def left_over(root: Path) -> list[Path]:
    """Return what killed processes left and nobody would read: scratch files and folders, and held
    folders.
    """
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.name.startswith(".") or lease.MARK in path.name
    ]


def unsound(root: Path) -> Iterator[str]:
    """Tell which ELMs and averages are not whole, or are not the weights that their cards name."""
    for folder in [*root.glob("elms/[!.]*"), *root.glob("averages/[!.]*")]:
        try:
            card = Card.read(folder / "card.json")
            weights.tensors(folder)
            if card.sha256 != weights.sha256(folder):
                yield f"corrupt: {folder}: its card names other weights"
        except FileNotFoundError:
            if folder.exists():  # only an average may be replaced meanwhile
                yield f"half-visible: {folder}"
        except (UserError, OSError) as error:
            yield f"half-visible: {error}"


# Part one: a fault at every mutating system call.

# All by which Linux lets a file or a folder change; strace passes over what a machine has not
# (?name).
MUTATING = [
    *("creat", "open", "openat", "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile"),
    *(
        "copy_file_range",
        "splice",
        "truncate",
        "ftruncate",
        "fallocate",
        "fsync",
        "fdatasync",
        "msync",
    ),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir"),
    *("mkdirat", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat", "chmod", "fchmod"),
    *(
        "fchmodat",
        "chown",
        "fchown",
        "fchownat",
        "utime",
        "utimes",
        "utimensat",
        "futimesat",
        "setxattr",
    ),
]
FAULTS = {"kill": "signal=KILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}
_OPENS_TO_WRITE = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC)")
# what getppid(2) returns once strace is at work: by that the child knows it may begin
_TRACED = 1_234_567
_SET_PTRACER, _ANY = (
    0x59616D61,
    ctypes.c_ulong(-1),
)  # of prctl(2): a sibling, strace, may trace the child


class TraceError(Exception):
    """strace is not there, or may not trace."""


class Call(NamedTuple):
    """One system call: the `nth` of its name since the operation began."""

    name: str
    nth: int
    text: str

    def mutates(self, root: Path) -> bool:
        """Tell whether it changes something below `root`, or makes a change durable."""
        if str(root) not in self.text:
            return False
        return self.name not in ("open", "openat") or _OPENS_TO_WRITE.search(self.text) is not None


@dataclass
class Ending:
    """How a child came to its end."""

    signal: int = 0
    error: str = ""  # what it raised, as one line
    clear: bool = True  # whether that is an error the command line shows as one line with a path
    calls: list[Call] = field(default_factory=list)


def _command(words: list[str], log: Path) -> NoReturn:
    """Become a command of btm that says all it says into a file."""
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        code = main_of_btm(words)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def perform(act: Callable[[], object], trace: list[str] | None = None) -> Ending:
    """Do `act` in a fork of this process, under strace with further arguments `trace` if they are
    given.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _child(act, writer, traced=trace is not None)
    os.close(writer)
    made = _trace(pid, trace) if trace is not None else []
    with os.fdopen(reader) as said:
        report = said.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Ending(os.WTERMSIG(status), calls=made)
    return Ending(**json.loads(report), calls=made)


def _child(act: Callable[[], object], writer: int, *, traced: bool) -> NoReturn:
    report: dict[str, Any] = {"error": "never traced"}
    try:
        if traced:
            ctypes.CDLL(None).prctl(_SET_PTRACER, _ANY, 0, 0, 0)
            deadline = time.monotonic() + 30
            while os.getppid() != _TRACED and time.monotonic() < deadline:
                time.sleep(0.001)
        act()
        report = {}
    except Exception as error:
        place = (
            error.filename
            if isinstance(error, OSError)
            else str(error)
            if type(error) is UserError
            else ""
        )
        report = {"error": f"{type(error).__name__}: {error}", "clear": bool(place)}
    finally:
        os.write(writer, json.dumps(report).encode())
        os._exit(0)


def _trace(pid: int, arguments: list[str]) -> list[Call]:
    """Let strace follow a child to its end; return its mutating calls."""
    names = ",".join(f"?{name}" for name in MUTATING)
    with tempfile.NamedTemporaryFile("r", prefix="btm-strace-") as log:
        command = ["strace", "-f", "-y", "-s", "0", "-o", log.name, "-p", str(pid)]
        command += [
            "-e",
            f"trace={names},getppid",
            "-e",
            f"inject=getppid:retval={_TRACED}",
            *arguments,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            os.kill(pid, signal.SIGKILL)
            raise TraceError("strace is not installed: apt install strace") from None
        lines = log.read().splitlines()
    if not any("getppid" in line for line in lines):
        os.kill(pid, signal.SIGKILL)
        raise TraceError(f"strace may not trace here: {' '.join(done.stderr.split())}")
    seen: Counter[str] = Counter()
    made = []
    for line in lines:
        match = re.match(r"\d+ +(\w+)\(", line)
        if match and match[1] != "getppid":
            seen[match[1]] += 1
            made.append(Call(match[1], seen[match[1]], line.partition(" ")[2].strip()))
    return made


class Operation:
    """One operation on a forest: what it does to the disk, and what may be seen of it meanwhile."""

    def __init__(
        self, name: str, begin: Path, act: Callable[[Path], object], moves: str = ""
    ) -> None:
        """Record `act`, which is idempotent, on copies of the forest `begin`. It may move one
        branch (`moves`).
        """
        self.name, self.begin, self.act, self.moves = name, begin, act, moves
        root = self.copy()
        states = [visible(root)]
        act(root)  # here, so that every fork begins with all imports done
        self.after = tree(root)
        states.append(visible(root))
        self.end = states[1]
        if moves:  # what will stand in the ELM may stand in the branch before
            card = {f: digest for f, digest in self.after.items() if f.startswith(f"elms/{moves}/")}
            states.append(
                {f.replace("elms", "branches", 1): digest for f, digest in card.items()} | states[0]
            )
        self.legal = {unit: {state.get(unit) for state in states} for unit in set().union(*states)}
        root = self.copy()
        ending = perform(partial(act, root), [])
        if ending.error or ending.signal:
            raise RuntimeError(f"{name} fails without a fault: {ending.error}")
        self.calls = [call for call in ending.calls if call.mutates(root)]

    def copy(self) -> Path:
        """Return a fresh copy of the forest to begin with, always in the same place."""
        root = self.begin.with_name("forest")
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(self.begin, root))

    def disturb(self, call: Call, fault: str) -> Iterator[str]:
        """Let one call fail, then do the next command; tell what is wrong."""
        root = self.copy()
        ending = perform(
            partial(self.act, root), ["-e", f"inject={call.name}:{FAULTS[fault]}:when={call.nth}"]
        )
        hit = next((c for c in ending.calls if c[:2] == call[:2]), None)
        if (
            hit is None
            or not hit.mutates(root)
            or (fault == "kill") != (ending.signal == signal.SIGKILL)
        ):
            raise RuntimeError(f"{self.name}: {fault} did not hit {call}, but {hit}; {ending}")
        yield from self.wrong_now(root, ending)
        following = perform(partial(self.next, root))
        if following.error:
            yield f"lost: the next command fails: {following.error}"
        yield from unsound(root)
        stands = tree(root)
        for name in sorted(stands.keys() | self.after.keys()):
            if name not in self.after:
                yield f"orphan: {name}"
            elif stands.get(name) != self.after[name]:
                yield f"{'different' if name in stands else 'lost'}: {name} after the next command"

    def wrong_now(self, root: Path, ending: Ending) -> Iterator[str]:
        """Tell what is wrong right after the fault: all that is visible must be as before, or as
        after.
        """
        yield from unsound(root)
        state = visible(root)
        for unit in sorted(self.legal.keys() | state.keys()):
            if state.get(unit) not in self.legal.get(unit, {None}):
                yield f"{'half-visible' if unit in state else 'lost'}: {unit}"
        if self.moves:
            places = [
                (root / "elms" / self.moves).exists(),
                lease.find(root / "branches" / self.moves),
            ]
            if sum(map(bool, places)) != 1:
                yield f"lost: {self.moves} stands in {places}"
        if not ending.signal and not ending.error and state != self.end:
            yield "unclear: it reports success and is not done"
        if not ending.clear:
            yield f"unclear: {ending.error}"

    def next(self, root: Path) -> None:
        """Do what the next command does."""
        self.act(root)
        Forest(root).sweep()


def visible(root: Path) -> dict[str, str]:
    """Return what a reader sees of a forest: what is published as one folder counts as one."""
    parts: dict[str, list[str]] = {}
    for name, digest in tree(root).items():
        names = [part.partition(lease.MARK)[0] for part in name.split("/")]
        if any(part.startswith(".") for part in names) or name.endswith("/"):
            continue
        whole = (
            2
            if names[0] in ("elms", "averages")
            else 3
            if names[2:] and "checkpoint-" in names[2]
            else 9
        )
        parts.setdefault("/".join(names[:whole]), []).append("/".join(names[whole:]) + digest)
    return {unit: "\n".join(found).strip() for unit, found in parts.items()}


def operations(place: Workplace, scratch: Path) -> Iterator[Operation]:
    """Yield every operation, with a forest that is made of the reference to begin with."""
    import torch

    from btm import steps
    from btm.cli.compose import compose
    from btm.models import causal_lm
    from btm.steps import score_cache
    from btm.train import optimizers

    torch.set_num_threads(1)  # no thread pool, which would not survive the fork
    config = compose(place.settings(place.reference))
    suite = steps.open_suite(config)
    seed = Forest(place.reference)["seed"]
    model = causal_lm.load_model(seed.path, dtype=torch.float32)
    optimizer = optimizers.make_optimizer(model, config.trainer)
    checkpoint.load_moments(seed.path / checkpoint.MOMENTS, model, optimizer)

    def save(root: Path, step: int) -> None:
        with Forest(root).hold(EXPERT) as (branch, _), checkpoint.Writer() as writer:
            writer.save(branch.path, model, optimizer, {"step": step})

    def merge(root: Path) -> None:
        if EXPERT not in (forest := Forest(root)):
            forest.merge(forest.get_branch(EXPERT), force=True)

    def average(root: Path) -> None:
        publish.average(Forest(root), "deploy", {"bible": 0.7, "code_python": 0.3})

    def branch(root: Path) -> None:
        if not (forest := Forest(root)).has_branch("novels"):
            forest.branch("novels", "novels", {"bible": 0.7, "code_python": 0.3})

    def score(root: Path) -> None:
        shards = [suite.shard("bible", "valid"), suite.shard("novels", "test")]
        score_cache.score_missing(config, Forest(root), seed.path, seed.card.sha256, shards, quiet)

    grown = scratch / "grown"
    shutil.copytree(place.reference, grown)
    for folder in ("jobs", "scores", "evals", "averages", "branches"):
        shutil.rmtree(grown / folder)
    halfway = Path(shutil.copytree(grown, scratch / "halfway"))
    (halfway / "branches").mkdir()
    (halfway / "elms" / EXPERT).rename(halfway / "branches" / EXPERT)
    for file in ("card.json", "README.md"):
        (halfway / "branches" / EXPERT / file).unlink()
    for step in (10, 12):
        save(halfway, step)
    averaged = Path(shutil.copytree(grown, scratch / "averaged"))
    publish.average(Forest(averaged), "deploy", {"bible": 0.5, "code_python": 0.5})

    yield Operation("merge", halfway, merge, moves=EXPERT)
    yield Operation("checkpoint", halfway, partial(save, step=14))
    yield Operation("average", grown, average)
    yield Operation("average again", averaged, average)
    yield Operation("score", grown, score)
    yield Operation("branch", grown, branch)


def careless(root: Path) -> None:
    """Write an average in place: the faults of this one must be found, or the harness is blind."""
    target = root / "averages" / "deploy"
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted((root / "elms" / "bible").iterdir()):
        (target / file.name).write_bytes(file.read_bytes())


def calls(place: Workplace, seed: int, sample: int | None) -> list[str]:
    """Disturb operations at every mutating call, or at a sample of them; return what was wrong."""
    begun = time.monotonic()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(dir=place.root, prefix="calls-") as scratch:
        found = list(operations(place, Path(scratch)))
        blind = Operation("careless", found[-1].begin, careless)
        if not all(list(blind.disturb(blind.calls[-1], fault)) for fault in FAULTS):
            raise RuntimeError("a careless writer goes unnoticed")
        planned = [(op, call, fault) for op in found for call in op.calls for fault in FAULTS]
        if sample is not None:
            planned = random.Random(seed).sample(planned, min(sample, len(planned)))
        done: Counter[str] = Counter()
        for op, call, fault in planned:
            done[op.name] += 1
            wrong += [
                f"{line}  [{op.name}: {fault} at {call.text}]" for line in op.disturb(call, fault)
            ]
            if sys.stdout.isatty():
                print(f"\r{done.total()} of {len(planned)}", end="", flush=True)
        figures: dict[str, Any] = {
            "operations": {
                op.name: {"calls": len(op.calls), "faults": done[op.name]} for op in found
            },
            "faults": done.total(),
            "seconds": round(time.monotonic() - begun, 1),
            "seed": seed,
            "wrong": wrong,
        }
    place.keep("calls", figures)
    for name, row in figures["operations"].items():
        print(f"{name:<14} {row['calls']:4} mutating calls, {row['faults']:4} faults")
    print(f"{figures['faults']} faults in {figures['seconds']:.0f} s")
    return wrong


# Part two: SIGKILL at random moments of whole cycles.

# How often each is killed. A driver takes many seconds to import torch, in which no worker can be
# killed.
KINDS = {"worker": 0.86, "driver": 0.08, "both": 0.06}
PAUSE = (-2.0, 0.3)  # log10 of the seconds before a kill: of every order from 10 ms to 2 s


@dataclass
class Tally:
    """The figures of `kills`, as crash.json keeps them."""

    kills: int = 0  # moments at which something was killed
    signals: int = 0  # processes that were killed
    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    jobs: dict[str, int] = field(default_factory=dict)  # which jobs the killed workers did
    cycles: int = 0  # finished and verified
    elms: int = 0  # of those cycles
    checks: int = 0  # looks at the forest right after a kill
    recovery: list[float] = field(default_factory=list)  # seconds
    seconds: float = 0.0
    seed: int = 0
    wrong: list[str] = field(default_factory=list)


def kills(place: Workplace, args: argparse.Namespace) -> list[str]:
    """Kill until `args.count` kills are delivered and the last cycle is whole; return what was
    wrong.
    """
    kept = place.kept().get("kills", {})
    tally = Tally(**kept) if kept.get("seed") == args.seed else Tally(seed=args.seed)
    while tally.kills < args.count:
        begun = time.monotonic()
        rng = random.Random(f"{args.seed} {tally.cycles}")
        before = tally.kills
        cycle(place, rng, tally, args.count)
        if tally.kills == before:
            raise RuntimeError("a whole cycle went by and nothing was found to kill")
        tally.seconds += time.monotonic() - begun
        place.keep("kills", vars(tally))
        print(f"cycle {tally.cycles}: {tally.kills} kills, {len(tally.wrong)} wrong", flush=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in tally.kinds.items())
    print(f"{tally.kills} kills ({kinds}; {tally.signals} processes) in {tally.seconds:.0f} s")
    print(
        f"{tally.cycles} cycles with {tally.elms} ELMs, compared with the undisturbed one bit for "
        "bit"
    )
    if tally.recovery:
        middle, worst = statistics.median(tally.recovery), max(tally.recovery)
        print(f"recovery: median {middle:.3f} s, worst {worst:.3f} s of {len(tally.recovery)}")
    return tally.wrong


def cycle(place: Workplace, rng: random.Random, tally: Tally, count: int) -> None:
    """Run one cycle from nothing to its end through as many kills as come, and verify it."""
    forest = place.root / "killed"
    shutil.rmtree(forest, ignore_errors=True)
    try:
        while not finished(forest):
            if not drivers(forest):
                place.btm("run", forest, "--detach")
            elif tally.kills < count:
                strike(place, forest, rng, tally)
            else:
                time.sleep(0.05)
        place.btm("run", forest)  # the next command
        await_end(forest)
        tally.wrong += verify(forest, place.reference)
        tally.cycles += 1
        tally.elms += len(Forest(forest).names())
    finally:
        kill([*drivers(forest), *workers(forest)])


def strike(place: Workplace, forest: Path, rng: random.Random, tally: Tally) -> None:
    """Kill something at a random moment, unless the cycle ends before, and look at what stands."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    while kind == "worker" and drivers(forest) and not workers(forest):
        time.sleep(0.005)
    time.sleep(10 ** rng.uniform(*PAUSE))
    targets = {"worker": sample(rng, workers(forest)), "driver": drivers(forest)}
    targets["both"] = targets["driver"] and [*targets["driver"], *workers(forest)]
    at_work = {} if not targets[kind] else jobs(forest)
    struck = kill(targets[kind])
    if not struck:
        return
    tally.kills += 1
    tally.signals += len(struck)
    tally.kinds[kind] += 1
    for pid in struck:
        job = at_work.get(pid, "driver" if pid in targets["driver"] else "another")
        tally.jobs[job] = tally.jobs.get(job, 0) + 1
    tally.checks += 1
    tally.wrong += [
        f"{line}  [after kill {tally.kills}]" for line in misshapen(forest, place.reference)
    ]
    if kind != "worker":
        with contextlib.suppress(
            OSError, shutil.Error
        ):  # a worker that still saves moves what is copied
            tally.recovery.append(recovery(forest))


def sample(rng: random.Random, pids: list[int]) -> list[int]:
    """Return one of them, or none where there is none."""
    return rng.sample(pids, 1) if pids else []


def kill(pids: list[int]) -> list[int]:
    """SIGKILL processes and wait until they are dead; return those that were there."""
    struck = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            struck[pid] = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
    for handle in struck.values():
        select.select([handle], [], [])
        os.close(handle)
    return list(struck)


def drivers(forest: Path) -> list[int]:
    """Return the processes that drive a cycle of `forest`: leaders of their session, workers are
    not.
    """
    return [pid for pid in _launched(forest) if _session(pid) == pid]


def workers(forest: Path) -> list[int]:
    """Return the processes that work for `forest`, also those whose driver is dead."""
    return [pid for pid in _launched(forest) if _session(pid) not in (pid, None)]


def _launched(forest: Path) -> Iterator[int]:
    wanted = f"\0btm.launch\0{forest}\0".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "cmdline").read_bytes():
                yield int(folder.name)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def jobs(forest: Path) -> dict[int, str]:
    """Return which verb each worker does, by its sign of life."""
    shown = {file: read_shown(file) for file in forest.glob("jobs/progress/[!.]*.json")}
    return {
        seen["pid"]: file.name.partition(".")[0].partition("-")[0]
        for file, seen in shown.items()
        if seen
    }


def finished(forest: Path) -> bool:
    """Tell whether the cycle has come to its end and its driver too."""
    return (read_shown(forest / "jobs" / "state.json") or {}).get(
        "finished", False
    ) and not drivers(forest)


def await_end(forest: Path) -> None:
    """Wait until no process works for `forest`."""
    deadline = time.monotonic() + 60
    while drivers(forest) or workers(forest):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{forest}: the cycle is finished and processes still run")
        time.sleep(0.05)


def misshapen(forest: Path, reference: Path) -> Iterator[str]:
    """Tell what of a forest is not whole at any moment, or not what the undisturbed one has
    there.
    """
    if not (forest / "forest.json").exists():
        return
    yield from unsound(forest)
    for folder in forest.glob("elms/*"):
        stands, wanted = tree(folder), tree(reference / "elms" / folder.name)
        yield from (
            f"different: {folder.name}/{name}"
            for name in sorted(stands.keys() | wanted.keys())
            if stands.get(name) != wanted.get(name)
        )
    try:
        Forest(forest).elms(), Forest(forest).branches()
    except UserError as error:
        yield f"corrupt: {error}"


def verify(forest: Path, reference: Path) -> Iterator[str]:
    """Tell in what a finished forest differs from the undisturbed one, and what was left over in
    it.
    """
    yield from misshapen(forest, reference)
    for path in left_over(forest):
        yield f"orphan: {path}"
    stands, wanted = tree(forest), tree(reference)
    for name in sorted(stands.keys() | wanted.keys()):
        if name.startswith("jobs/") or stands.get(name) == wanted.get(name):
            continue
        if name.startswith("scores/") and name not in stands:
            continue  # the evaluation, which is equal, did without it
        yield f"{'lost' if name not in stands else 'orphan' if name not in wanted else 'different'}: {name}"


class _ReadyError(Exception):
    """The next command has taken over and begins to work."""


def recovery(forest: Path) -> float:
    """Return how long the next command takes to put in order what stands on disk, on a copy of the
    forest.

    That is all it does between its imports and its first job: the driver's lease, sweeping, the
    records, the state of every job; then for every branch, as its worker does, the lease and the
    newest checkpoint.
    """
    copy = forest.with_name("recovered")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(forest, copy)
    records = Records(copy)

    def make() -> NoReturn:
        for file in (records.root / "cycles").glob("[!.]*.json"):
            found = records.read_cycle(file.stem)
            found.config.forest = str(copy)
            Driver(found, engine=None)
        raise _ReadyError

    begun = time.monotonic()
    with contextlib.suppress(_ReadyError):
        attach.drive(records, make)
    if (copy / "forest.json").exists():
        for branch in Forest(copy).branches():
            with contextlib.suppress(lease.HeldError), Forest(copy).hold(branch.name) as (held, _):
                newest = checkpoint.latest(held.path)
                if newest is not None:
                    checkpoint.read_state(newest)
    return time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
