"""Ctrl-C, SIGTERM and readers that leave, as a shell sees them: what is said, the exit code, and
what stands on disk.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from folders import uncovered, uncovered_children
from launch.processes import Forked

from btm.cli import main
from btm.system import sums

BTM = [sys.executable, "-m", "btm.cli"]


@pytest.fixture
def long(workspace, grown, tmp_path):
    """Words of a seed phase that lasts until it is stopped, with no checkpoint of its own."""
    own = [f"forest={tmp_path / 'forest'}", "trainer.checkpoint_every=100000", "trainer.threads=1"]
    return [*workspace, *own, "seed.steps=100", "trainer.log_every=1"]


def started(words):
    with uncovered_children():
        return Forked(*words, apart=True)


def end_of(process):
    """Wait for the end of a command, and return what it said on stdout and on stderr."""
    with process:
        return process.stdout.read(), process.stderr.read()


def metrics(root):
    return next(root.glob("forest/branches/*/metrics.jsonl"), None)


def wait_for_step(process, root, step):
    """Wait until a training has logged `step`."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        file = metrics(root)
        if file is not None and f'"step": {step},' in file.read_text():
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(end_of(process))


def checkpoints(root):
    return sorted(path.name for path in root.glob("forest/branches/*/checkpoint-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_training_after_a_checkpoint(number, code, long, tmp_path, capsys):
    process = started(["seed", *long])
    wait_for_step(process, tmp_path, 7)
    process.send_signal(number)
    out, err = end_of(process)
    assert process.returncode == code, err
    assert out == ""
    told, last = [line for line in err.splitlines() if line.startswith("btm: ")]
    assert told == "btm: stopping after a checkpoint; once more stops at once"
    (kept,) = checkpoints(tmp_path)
    step = int(kept.partition("-")[2])
    assert (
        last == f"btm: interrupted: stopped after step {step}; the same command goes on from there"
    )
    assert 7 <= step < 100

    if number == signal.SIGTERM:
        return
    whole = [*long, f"forest={tmp_path / 'whole' / 'forest'}"]
    for words in (long, whole):  # resumed, and never stopped: the same bytes
        assert main.main(["seed", *words]) == 0, capsys.readouterr().err
    roots = (tmp_path, tmp_path / "whole")
    weights = [root / "forest/elms/seed/model.safetensors" for root in roots]
    assert sums.file_sha256(weights[0]) == sums.file_sha256(weights[1])


def test_a_second_signal_stops_at_once(long, tmp_path):
    """The first comes in the middle of a step that a stopped process never ends."""
    process = started(["seed", *long, "seed.steps=100000"])
    wait_for_step(process, tmp_path, 3)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    _, err = end_of(process)
    assert process.returncode == 130
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    stopped = checkpoints(tmp_path)
    # Whichever the machine was faster at, what is said is what stands.
    said = "stopped after step" if stopped else "goes on from the last checkpoint"
    assert said in last


def test_a_signal_before_a_training_stops_at_once(long, tmp_path):
    process = started(["prepare", *long, f"data.out={tmp_path / 'data'}"])
    assert process.stderr.readline().startswith("bible: reading")
    process.send_signal(signal.SIGTERM)
    _, err = end_of(process)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("btm: interrupted; what was finished stands")


def piped(words, reader):
    """Run a command before `reader`, as `btm … 2>&1 | reader`; return its exit code and what stderr
    says when it does not go there.
    """
    line = 'python=$1; shift; "$python" -m btm.cli "$@" | ' + reader + "; exit ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, *words],
        *(),
        capture_output=True,
        text=True,
        env=uncovered(),
    )
    return done.returncode, done.stdout, done.stderr


READ = {
    "the overview": ["--help"],
    "a page": ["ls", "--help", "--all"],
    "the version": ["--version"],
    "a table": ["ls", "FOREST"],
    "a card as JSON": ["show", "FOREST", "expert=bible", "--json"],
    "a mistake": ["ls", "forest=/nowhere"],
}


@pytest.mark.parametrize("case", READ)
def test_a_reader_that_leaves_ends_a_command_quietly(case, grown):
    words = [word.replace("FOREST", f"forest={grown[0].forest_root}") for word in READ[case]]
    code, _, err = piped(words, "true")
    if case == "a mistake":
        assert (code, err.count("\n")) == (2, 1)
    else:
        assert (code, err) == (141, "")
    if case == "a table":
        code, out, err = piped(words, "head -n 1")
        assert code in (0, 141)
        assert (out.count("\n"), err) == (1, "")


def test_a_training_whose_reader_left_goes_on_to_its_end(long, tmp_path):
    line = 'python=$1; shift; "$python" -m btm.cli "$@" 2>&1 | head -n 1; exit ${PIPESTATUS[0]}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "seed", *long],
        capture_output=True,
        text=True,
        env=uncovered(),
    )
    assert done.returncode == 141
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert (tmp_path / "forest/elms/seed/card.json").is_file()
    assert main.main(["verify", f"forest={tmp_path / 'forest'}", "--full"]) == 0


def in_a_shell(words):
    """Run a command of btm as a shell does, with what it redirects."""
    return subprocess.run(
        ["bash", "-c", f'"$0" -m btm.cli {words}', sys.executable],
        capture_output=True,
        text=True,
        env=uncovered(),
    )


def test_a_disk_that_is_full_and_a_stdout_that_is_closed():
    full = in_a_shell("--help > /dev/full")
    assert full.returncode == 1
    assert full.stderr == "btm: No space left on device\n"
    closed = in_a_shell("--version >&-")
    assert closed.returncode == 0
    assert closed.stderr == ""


def test_nothing_of_a_signal_stays_in_the_process(capsys):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    stderr = sys.stderr
    assert main.main(["ls", "forest=/nowhere"]) == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert sys.stderr is stderr
    assert Path(os.devnull).exists()


def test_closed_stderr_costs_nothing_and_stays_out_of_the_result(tmp_path):
    (tmp_path / "texts").mkdir()
    lines = [json.dumps({"text": f"Section {i} of the law"}) for i in range(40)]
    (tmp_path / "texts/law.jsonl").write_text("\n".join(lines))
    words = ["data=folder", f"data.root={tmp_path / 'texts'}", "data.name=x", "--json"]
    shell = ["bash", "-c", 'exec "$@" 2>&-', "bash", *BTM, "prepare", *words]
    shell += [f"data.out={tmp_path / 'out'}", "data.vocab_size=300"]
    done = subprocess.run(shell, stdout=subprocess.PIPE, text=True, env=uncovered(), check=False)
    assert done.returncode == 0
    assert [row["domain"] for row in json.loads(done.stdout)] == ["law"]
