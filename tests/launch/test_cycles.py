"""Whole cycles through the command line: left, found again, stopped, killed, and what is failed
tried again.
"""

import json
import os
import signal
from pathlib import Path

import pytest
from folders import tree
from launch.processes import Forked, btm, finish, sign_of_life, state, until

from btm.forest import Forest
from btm.launch.records import Records

pytestmark = pytest.mark.slow

ENDLESS = "trainer.steps=100000"  # for cycles that are meant to be stopped


@pytest.fixture
def forest(plant):
    """A forest in which the seed stands."""
    return Forest(plant().config.forest_root)


@pytest.fixture
def words(workspace, forest):
    return [*workspace, f"forest={forest.root}", "trainer.threads=1"]


@pytest.fixture
def cancelled_at_the_end(words):
    """Leave no driver behind, whatever happens."""
    yield
    finish(Forked("cancel", *words), code=None)


def at_step(forest, job, step):
    """Wait until the last try at a job has come to a step; return its pid."""

    def pid():
        shown = sign_of_life(forest.root, job)
        return shown["pid"] if shown.get("step", 0) >= step else None

    return until(pid)


def gone(pid):
    """Whether a process has ended; who is to wait for it may be slow to."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def driver_of(forest):
    """The pid of the driver, which its lease tells."""

    def pid():
        held = list((forest.root / "jobs").glob("driver~*"))
        return int(held[0].name.rpartition("-")[0].rpartition("-")[2]) if held else None

    return until(pid)


def tries(forest):
    """How many tries each job had."""
    return Records(forest.root).attempts()


@pytest.mark.traced
def test_from_plain_text_to_an_evaluated_forest_and_then_nothing_twice(workspace, tmp_path):
    words = [*workspace, f"forest={tmp_path / 'forest'}", "cluster=local"]
    said = finish(btm("run", *words))
    forest = Forest(tmp_path / "forest")
    assert forest.names() == ["bible", "code_python", "seed", "speeches"]
    assert set(forest["speeches"].card.parents) == {"bible", "code_python"}
    assert (forest.root / "averages/uniform/model.safetensors").is_file()
    assert (forest.root / "evals/forest.png").is_file()
    assert (forest.root / "evals/forest-compare.png").is_file()
    assert "perplexity by shard" in said and "top-1 by token prior" in said
    assert "train-bible            done: 12 steps" in said
    assert set(tries(forest).values()) == {1}
    assert not forest.branches()

    before = tree(forest.root)
    again = finish(btm("run", *words))
    assert "perplexity by shard" in again
    changed = {path for path, stat in tree(forest.root).items() if before.get(path) != stat}
    assert {path.removeprefix(f"{forest.root}/jobs/") for path in changed} <= {"state.json"}


@pytest.mark.traced
def test_a_cycle_that_is_left_is_seen_followed_cancelled_and_ended(
    words, forest, cancelled_at_the_end
):
    assert "started" in finish(Forked("run", "--detach", *words, ENDLESS))
    rows = {row["job"]: row for row in json.loads(finish(Forked("status", "--json", *words)))}
    assert rows["seed"]["state"] == "done"
    assert rows["train-speeches"]["state"] == "waiting"
    assert "at work" in " ".join(
        finish(Forked("status", *words)).split()
    )  # a long path breaks the title

    log = Forked("logs", "-f", "expert=bible", *words)
    assert "step 1/100000" in log.stdout.readline()
    worker = at_step(forest, "train-bible", 8)
    assert "train-bible" in finish(Forked("cancel", "expert=bible", *words))
    assert "step 8/100000" in finish(log)  # it ends with the job
    until(lambda: gone(worker))
    assert "stopped: stopped after step" in finish(Forked("logs", "expert=bible", *words))
    assert state(forest.root)["jobs"]["train-bible"]["state"] == "failed"
    assert state(forest.root)["jobs"]["train-code_python"]["state"] == "running"

    worker = at_step(forest, "train-code_python", 8)
    assert "cancelled" in finish(Forked("cancel", *words))
    assert gone(worker)
    said = " ".join(finish(Forked("status", *words)).split())
    assert "cancelled; " in said and "btm run with the same words goes on" in said
    assert "logged nothing" in finish(Forked("logs", "expert=finish", *words))
    assert "bible, code_python" in finish(Forked("logs", *words), code=2)
    assert finish(Forked("cancel", *words), code=2).count("\n") == 1
    saved = {
        branch.name: max(branch.path.glob("checkpoint-*")).name for branch in forest.branches()
    }
    assert set(saved) == {"bible", "code_python"}

    again = Forked("run", "--retry-failed", *words, ENDLESS)
    for expert, checkpoint in saved.items():
        at_step(forest, f"train-{expert}", int(checkpoint.rpartition("-")[2]) + 1)
    finish(Forked("cancel", *words))
    assert "train-speeches" not in tries(forest)
    finish(again, code=1)


def test_ctrl_c_leaves_the_jobs_and_a_driver_that_is_killed_is_replaced(words, forest):
    command = ["run", *words, "trainer.steps=200", "trainer.checkpoint_every=20"]
    watched = Forked(*command)
    worker = at_step(forest, "train-bible", 5)
    # The last expert descends from this one, so the cycle does not end before the commands below.
    os.kill(worker, signal.SIGSTOP)
    watched.send_signal(signal.SIGINT)
    said = finish(watched, code=130)
    assert "the jobs go on" in said
    assert not gone(worker)
    other = [*command, "trainer.lr=1e-3"]
    more = [Forked(*other), Forked(*other, "--detach"), Forked(*command, "--detach")]
    for refused in more[:2]:
        assert "a cycle with other settings is at work" in finish(refused, code=2).splitlines()[-1]
    assert "started" in finish(more[2])  # it is, and once is enough

    watched = Forked(*command)
    # It watches: a Ctrl-C while Python still starts would meet nobody.
    assert watched.stdout.readline()
    os.kill(worker, signal.SIGCONT)
    last = at_step(forest, "train-speeches", 5)
    os.kill(last, signal.SIGSTOP)  # so that it still works when its driver dies
    assert set(tries(forest).values()) == {1}
    os.kill(driver_of(forest), signal.SIGKILL)
    os.kill(last, signal.SIGCONT)
    watched.send_signal(signal.SIGINT)
    finish(watched, code=130)

    assert "perplexity by shard" in finish(Forked(*command))
    assert forest.names() == ["bible", "code_python", "seed", "speeches"]
    assert all(elm.card.exact for elm in forest.elms())
    had = tries(forest)
    assert [had[f"train-{expert}"] for expert in ("bible", "code_python")] == [1, 1]
    assert had["train-speeches"] == 2  # it saved when its driver died, and went on


def test_what_fails_is_shown_its_siblings_are_not_harmed_and_a_retry_ends_well(words, forest):
    forest.branch(
        "code_python", "pyhton", {"seed": 1.0}
    )  # somebody began it on a domain that is none
    said = finish(Forked("run", *words), code=1)
    reason = "no domain 'pyhton'"
    shown = [line for line in said.splitlines() if line.startswith("train-code_python failed: ")]
    assert len(shown) == 1
    assert reason in shown[0]
    assert "train-speeches blocked: needs train-code_python" in said.splitlines()
    assert (
        "1 failed; mend the cause, then the same command with --retry-failed" in said.splitlines()
    )
    assert forest.names() == ["bible", "seed"]
    assert "perplexity by shard" in said  # of what does stand
    assert reason in finish(Forked("logs", "expert=code_python", *words))

    assert reason in finish(Forked("run", *words), code=1)  # to say it again is not to try it again
    assert tries(forest)["train-code_python"] == 1

    (forest.root / "branches/code_python").rename(forest.root / "elsewhere")
    said = finish(Forked("run", "--retry-failed", *words))
    assert "perplexity by shard" in said
    assert forest.names() == ["bible", "code_python", "seed", "speeches"]
    assert tries(forest)["train-code_python"] == 2
    assert tries(forest)["train-bible"] == 1
    result = json.loads((forest.root / "evals/forest.json").read_text())
    assert set(result["ensemble"]["experts"]) == {"bible", "code_python", "speeches"}


def test_what_makes_no_sense_without_a_cycle_says_so(words):
    for verb in (["status"], ["cancel"], ["logs", "expert=bible"]):
        said = finish(Forked(*verb, *words), code=2)
        assert said.startswith("btm: ")
        assert said.count("\n") == 1
