"""All that a GPU can be asked on one machine, a stage after another; results in one JSON and a table.

    scripts/gpu                               # on this machine's GPUs, into results/gpu
    scripts/gpu --nanogpt DIR --hours 8       # beside nanoGPT; at most so long for the paper's tables
    scripts/gpu --only tests train            # these stages alone
    scripts/gpu --dry                         # the same paths on the CPU at the smallest sizes, about a minute

The same command goes on where it was killed: a stage that passed at this commit on this device is
not run again, and the demo and the tables go on from their checkpoints. Nothing is downloaded.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from btm import __version__
from btm.system import durable

ROOT = Path(__file__).resolve().parents[2]
BTM = [sys.executable, "-m", "btm.cli"]
GRACE = 120  # seconds in which a stage that is stopped may write its checkpoints


@dataclass
class Stage:
    """A stage: its commands, how long they may take together, and the figures they leave.

    `partial` is a stage that a time limit may end: what it has by then counts, and the same command
    goes on. `missing` says why it cannot be run here.
    """

    name: str
    commands: list[list[str]]
    limit_s: float
    figures: Callable[[], Any] = lambda: None
    partial: bool = False
    missing: str = ""


@dataclass
class Outcome:
    """What a stage came to: passed, failed, skipped, or stopped at its time limit."""

    name: str
    status: str
    seconds: float = 0.0
    why: str = ""
    figures: Any = field(default=None)


def main() -> int:
    """Run the stages and return 1 if one failed, else 0."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    setting = {"commit": commit(), "device": args.device, "dry": args.dry, "machine": machine()}
    outcomes = kept(file, setting)
    for stage in stages(args):
        if args.only and stage.name not in args.only:
            continue
        if outcomes.get(stage.name, Outcome("", "")).status != "passed":
            print(f"{stage.name} …", file=sys.stderr, flush=True)
            outcomes[stage.name] = run(stage, args)
            durable.write_json(file, setting | {"stages": [asdict(o) for o in outcomes.values()]})
    print(table(list(outcomes.values())))
    print(f"results: {file}; logs beside it")
    return int(any(outcome.status == "failed" for outcome in outcomes.values()))


def parse() -> argparse.Namespace:
    """Return the settings of the command line; end with a line where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="scripts/gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry", action="store_true", help="on the CPU, at the smallest sizes")
    parser.add_argument("--only", nargs="+", choices=["tests", "train", "demo", "serve", "paper"])
    parser.add_argument("--out", type=Path, help="default: results/gpu, with --dry results/gpu-dry")
    parser.add_argument("--nanogpt", help="a clone of github.com/karpathy/nanoGPT")
    parser.add_argument("--hours", type=float, default=4.0, help="at most for `btm paper size=day`")
    args = parser.parse_args()
    args.device = "cpu" if args.dry else "cuda"
    if not args.dry and not torch.cuda.is_available():
        parser.error(f"torch {torch.__version__} sees no GPU here; --dry runs all of it on the CPU")
    args.out = (args.out or ROOT / "results" / ("gpu-dry" if args.dry else "gpu")).absolute()
    return args


def stages(args: argparse.Namespace) -> list[Stage]:
    """Return the stages in order: the cheap ones that find mistakes come first."""
    return [tests(args), train(args), demo(args), serve(args), paper(args)]


def tests(args: argparse.Namespace) -> Stage:
    """Return the tests marked `gpu`; where torch cannot compile they say so and are skipped."""
    report = args.out / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}"]
    if args.dry:  # tests/train/kernels/test_compiled.py compiles for the CPU
        command += ["-k", "not compiled"]
    return Stage(
        "tests",
        [[*command, "-p", "no:cacheprovider", "tests/gpu"]],
        limit_s=1800,
        figures=lambda: counted(report),
        missing="" if importlib.util.find_spec("pytest") else "pytest is not installed",
    )


def train(args: argparse.Namespace) -> Stage:
    """Return training beside nanoGPT, transformers.Trainer and litgpt, those that are here."""
    rows = args.out / "train.json"
    command = [sys.executable, "scripts/bench/train.py", f"--device={args.device}"]
    command += [f"--json={rows}", f"--data={args.out / 'data'}"]
    command += ["--nanogpt", args.nanogpt] if args.nanogpt else []
    loops = ["btm", "btm, not compiled", "btm, plain"]
    if args.dry:
        command += ["--quick", "--architecture=gpt2"]
        loops = ["btm, not compiled", "btm, plain"]  # compiling takes as long as all the rest
    else:
        command += [
            "--size=125m",
            "--batch-size=16",
            "--seq-len=1024",
            "--steps=20",
            "--warm-up=10",
        ]
        loops += ["nanoGPT", "nanoGPT, compiled"] if args.nanogpt else []
        peers = {"transformers.Trainer": "accelerate", "litgpt": "litgpt"}
        loops += [loop for loop, package in peers.items() if importlib.util.find_spec(package)]
    command += [f"--peers={sys.executable}", f"--only={'; '.join(loops)}"]
    return Stage("train", [command], limit_s=3600, figures=lambda: json.loads(rows.read_text()))


def demo(args: argparse.Namespace) -> Stage:
    """Return the demo's cycle: forest, dense LM, comparison."""
    forest = args.out / "demo"
    words = ["experiment=demo", f"forest={forest}", f"data.out={args.out / 'data'}"]
    words += [f"trainer.device={args.device}", "cluster=debug"]
    if args.dry:
        words += ["trainer.steps=2", "seed.steps=2", "trainer.batch_size=4", "trainer.seq_len=64"]
        words += ["score.max_tokens=256", "trainer.valid_tokens=256", "merge.force=true"]
        words += ["average.measure=false", "run.rounds=[[bible,speeches]]"]
        words += ["eval.domains=[bible,speeches]"]
    verbs: list[list[str]] = [["run"], ["run", "baseline=dense"], ["compare"]]
    return Stage(
        "demo",
        [[*BTM, *verb, *words] for verb in verbs],
        limit_s=1800,
        figures=lambda: json.loads((forest / "evals" / "demo-compare.json").read_text())["rows"],
    )


def serve(args: argparse.Namespace) -> Stage:
    """Return the serving engine on the demo's forest, and its mixing of 8 models of 124 M."""
    forest = args.out / "demo"
    command = [sys.executable, "scripts/bench/serve.py", f"forest={forest}"]
    command += [f"trainer.device={args.device}"]
    there = forest.is_dir() or not args.only or "demo" in args.only
    files = [args.out / "serve.csv", args.out / "serve-124m.csv"]
    parts = ["--part", "overhead", "batching", "one", "naive"]
    if args.dry:
        command += ["--tokens=4", "--rounds=1"]
    small = [*command, *parts, *([] if args.dry else ["latency"]), f"--csv={files[0]}"]
    large = [*command, "--random=8", *parts, f"--csv={files[1]}"]
    return Stage(
        "serve",
        [small] if args.dry else [small, large],
        limit_s=1800,
        figures=lambda: [line for file in files if file.exists() for line in lines(file)],
        missing="" if there else "no demo here: run its stage too",
    )


def lines(file: Path) -> list[str]:
    """Read the lines of a text."""
    return file.read_text().splitlines()


def paper(args: argparse.Namespace) -> Stage:
    """Return the paper's tables for one seed: `size=day`, with --dry `size=smoke` of a few steps."""
    out = args.out / "paper"
    words = ["paper.seeds=[0]", f"paper.out={out}", f"data.out={args.out / 'data'}"]
    words += [f"trainer.device={args.device}", "paper.parallel=1"]
    there = (ROOT / "corpora" / "btm16" / "suite.json").exists()
    if args.dry:
        words += ["size=smoke", "paper.steps=16", "paper.baselines=[dense]", "paper.resamples=20"]
        words += ["paper.made_steps=0", "eval.domains=[bible,speeches,novels]"]
        words += ["score.max_tokens=256", "trainer.valid_tokens=256"]
        words += ["data.name=demo", "data.vocab_size=2048"]  # which the stages before it prepared
    else:
        words += ["size=day"]
    return Stage(
        "paper",
        [[*BTM, "paper", *words]],
        limit_s=args.hours * 3600,
        figures=lambda: (out / "report" / "ratios.csv").read_text().splitlines(),
        partial=True,
        missing=""
        if there or args.dry
        else "no corpora/btm16 here: build it with scripts/build_corpora.py and copy it",
    )


def run(stage: Stage, args: argparse.Namespace) -> Outcome:
    """Run the commands of a stage into `<name>.log`, up to its time limit."""
    if stage.missing:
        return Outcome(stage.name, "skipped", why=stage.missing)
    begun = time.monotonic()
    log = args.out / f"{stage.name}.log"
    log.unlink(missing_ok=True)
    for command in stage.commands:
        code = call(command, log, stage.limit_s - (time.monotonic() - begun), args.device)
        if code != 0:
            break
    seconds = round(time.monotonic() - begun, 1)
    if code is None:
        status = "stopped" if stage.partial else "failed"
        return Outcome(stage.name, status, seconds, f"time limit; the same command goes on: {log}")
    if code:
        return Outcome(stage.name, "failed", seconds, f"exit code {code}, see {log}")
    return Outcome(stage.name, "passed", seconds, figures=stage.figures())


def call(command: list[str], log: Path, limit_s: float, device: str) -> int | None:
    """Run a command in a group of its own and return its exit code, None at the time limit.

    At the limit the group is asked to stop, which writes checkpoints, and killed after `GRACE`.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "HF_HUB_OFFLINE": "1",
        "BTM_GPU_DEVICE": device,
    }
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("a") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            return process.wait(max(1.0, limit_s))
        except subprocess.TimeoutExpired:
            ended = None
        except BaseException:
            end(process)
            raise
        end(process)
        return ended


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process and its children to stop, and kill them when they do not."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kept(file: Path, setting: dict[str, Any]) -> dict[str, Outcome]:
    """Return the outcomes of an earlier call under the same setting, by stage."""
    if not file.exists():
        return {}
    found = json.loads(file.read_text())
    if any(found.get(key) != setting[key] for key in ("commit", "device", "dry")):
        return {}
    return {stage["name"]: Outcome(**stage) for stage in found["stages"]}


def counted(report: Path) -> dict[str, int]:
    """Return how many tests ran, failed and were skipped, of pytest's XML."""
    import xml.etree.ElementTree as ET

    suite = ET.parse(report).getroot().find("testsuite")
    assert suite is not None
    return {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}


def commit() -> str:
    """Return the commit of the clone, and a hash of what differs from it; empty outside of one."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True).stdout
        diff = subprocess.run([*git, "diff", "HEAD"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    changed = f"+{hashlib.sha256(diff).hexdigest()[:8]}" if diff else ""
    return head.decode().strip()[:12] + changed


def machine() -> dict[str, Any]:
    """Return what the figures were made on: versions, and each GPU's name and memory."""
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "btm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "GPUs": [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards],
        "TF32": torch.backends.cuda.matmul.allow_tf32,
        "cores": len(os.sched_getaffinity(0)),
    }


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as lines, and below them the figures of training."""
    lines = [f"{o.name:8}{o.status:9}{o.seconds:9,.0f} s  {note(o)}" for o in outcomes]
    rows = next((o.figures for o in outcomes if o.name == "train" and o.figures), [])
    if rows:
        lines += ["", f"{'architecture':13}{'loop':22}{'tokens/s':>10}{'MFU':>7}{'GB':>7}"]
        lines += [
            f"{r['architecture']:13}{r['loop']:22}{r['tokens/s']:10,.0f}{r['MFU']:7.3f}{r['GB']:7.2f}"
            for r in rows
        ]
    return "\n".join(lines)


def note(outcome: Outcome) -> str:
    """Return what the table says of an outcome besides its status."""
    if outcome.name == "tests" and outcome.figures:
        return ", ".join(f"{number} {word}" for word, number in outcome.figures.items())
    return outcome.why


if __name__ == "__main__":
    raise SystemExit(main())
