"""One try at a job, in a real child process: how its end is named, and that what it saved is worth
it.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from launch import fresh as calls
from launch.processes import sign_of_life, until

from btm.forest import Forest
from btm.launch.attempt import _resident_bytes
from btm.launch.records import Records, Spec
from btm.system import lease

LONG = ("trainer.steps=60", "trainer.checkpoint_every=10", "trainer.threads=1")
ENDLESS = ("trainer.steps=100000", "trainer.checkpoint_every=10")


def spec(cycle, name="train-bible", attempt=1):
    jobs = {job.name: job for job in cycle.jobs}
    return Spec(cycle.config.forest_root, cycle.id, jobs[name], attempt)


def root(cycle):
    return Path(cycle.config.forest_root)


def at_step(cycle, step):
    """Wait until a worker has come to a step; return its pid."""

    def pid():
        shown = sign_of_life(root(cycle), "train-bible")
        return shown["pid"] if shown.get("step", 0) >= step else None

    return until(pid)


@pytest.mark.slow
def test_a_try_that_was_killed_is_named_and_the_next_gives_the_same_bits(plant, fresh):
    undisturbed = plant(*LONG, name="undisturbed")
    assert fresh(calls.attempt, spec(undisturbed)).result(60).kind == "done"
    wanted = Forest(root(undisturbed))["bible"].card

    cycle = plant(*LONG)
    first = fresh(calls.attempt, spec(cycle))
    os.kill(at_step(cycle, 25), signal.SIGKILL)
    outcome = first.result(60)
    assert outcome.kind == "killed"
    assert outcome.message.startswith("killed by SIGKILL at step ")
    assert outcome.saved >= 1 + 20
    assert outcome == Records(root(cycle)).outcome("train-bible", 1)
    assert "bible" not in Forest(root(cycle))

    second = fresh(calls.attempt, spec(cycle, attempt=2)).result(60)
    assert (second.kind, second.message) == ("done", "")
    card = Forest(root(cycle))["bible"].card
    assert card.sha256 == wanted.sha256
    assert card.exact
    assert card.notes == wanted.notes


@pytest.mark.slow
def test_another_number_of_threads_is_told_by_the_card(plant, fresh):
    cycle = plant(*LONG, "trainer.threads=0")
    first = fresh(calls.attempt, spec(cycle), threads=1)
    os.kill(at_step(cycle, 25), signal.SIGKILL)
    first.result(60)
    assert fresh(calls.attempt, spec(cycle, attempt=2), threads=2).result(60).kind == "done"
    card = Forest(root(cycle))["bible"].card
    assert not card.exact
    assert any("with threads 2, begun with 1" in note for note in card.notes)


def test_a_try_that_is_asked_to_stop_saves_first(plant, fresh):
    cycle = plant(*ENDLESS)
    running = fresh(calls.attempt, spec(cycle))
    os.kill(at_step(cycle, 15), signal.SIGTERM)
    outcome = running.result(60)
    step = int(outcome.message.removeprefix("stopped after step "))
    assert outcome.kind == "stopped"
    assert outcome.saved == 1 + step
    assert (root(cycle) / "branches/bible" / f"checkpoint-{step:08d}").is_dir()
    assert Records(root(cycle)).outcome("train-bible", 1) == outcome


def test_a_stop_that_is_not_kept_is_told_and_not_recorded(plant, fresh):
    cycle = plant(*ENDLESS)
    running = fresh(calls.attempt, spec(cycle), keep_stops=False)
    os.kill(at_step(cycle, 15), signal.SIGUSR2)
    outcome = running.result(60)
    assert outcome.kind == "stopped"
    assert outcome.message.startswith("asked to stop at step ")
    assert outcome.saved > 1 + 10
    assert Records(root(cycle)).outcome("train-bible", 1) is None


def test_a_try_that_is_asked_to_stop_before_it_began_obeys(plant, fresh):
    """The signal comes between the fork and the worker's own handlers, and must not be lost."""
    outcome = fresh(calls.attempt, spec(plant(*ENDLESS)), stop=True).result(60)
    assert outcome.kind == "stopped"
    assert outcome.saved <= 1 + 1


def test_a_try_whose_parent_dies_saves_and_says_so_itself(plant, fresh):
    cycle = plant(*ENDLESS)
    running = fresh(calls.attempt, spec(cycle))
    worker = at_step(cycle, 15)
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        running.result(60)
    outcome = until(lambda: Records(root(cycle)).outcome("train-bible", 1))
    assert outcome.kind == "stopped"
    assert outcome.saved > 1 + 10
    assert lease.find(root(cycle) / "branches/bible") == root(cycle) / "branches/bible"


@pytest.mark.slow
def test_a_try_that_hangs_is_killed_and_named(plant, fresh):
    cycle = plant(*ENDLESS)
    running = fresh(calls.attempt, spec(cycle), hang_after=6)
    os.kill(at_step(cycle, 15), signal.SIGSTOP)
    outcome = running.result(60)
    assert outcome.kind == "hang"
    assert outcome.message.startswith("no sign of life for 6 s at step ")


def test_a_try_that_takes_too_much_memory_is_killed_and_named(plant, fresh):
    cycle = plant(*ENDLESS)
    outcome = fresh(calls.attempt, spec(cycle), memory_bytes=50_000_000).result(60)
    assert outcome.kind == "oom"
    assert outcome.message.startswith("held more than cluster.memory_gb=0.05")


@pytest.mark.parametrize("apart", [True, False])
def test_memory_of_what_runs_in_a_session_of_its_own_is_counted(apart):
    """As fairseq does; forked helpers share theirs with the job."""
    before = _resident_bytes(os.getpid())
    code = "held = bytearray(200 << 20); print(flush=True); input()"
    words = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": apart}
    with subprocess.Popen([sys.executable, "-c", code], **words) as child:
        child.stdout.readline()
        more = _resident_bytes(os.getpid()) - before
        child.kill()
    assert (more > 190 << 20) is apart


def test_a_loss_that_is_not_finite_is_named_and_nothing_is_registered(plant, fresh):
    cycle = plant(
        *LONG, "trainer.lr=999", "trainer.clip=0", "trainer.warmup=0", "trainer.carry=fresh"
    )
    outcome = fresh(calls.attempt, spec(cycle)).result(60)
    assert outcome.kind == "nan", outcome
    assert "Lower trainer.lr" in outcome.message
    assert "bible" not in Forest(root(cycle))


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (calls.library_that_exits, "ended with exit code 0 and said nothing"),
        (calls.library_that_raises_system_exit, "ended with exit code 1 and said nothing"),
    ],
)
def test_an_exit_code_of_0_is_not_taken_for_done(plant, fresh, library, said):
    cycle = plant(*LONG)
    outcome = fresh(calls.attempt, spec(cycle), prepare=library).result(60)
    assert outcome.kind == "killed"
    assert outcome.message.startswith(said)
    assert "bible" not in Forest(root(cycle))


def test_a_mistake_is_told_in_one_line_and_in_the_log(plant, fresh):
    cycle = plant(*LONG)
    Forest(root(cycle)).branch("bible", "nowhere", {"seed": 1.0})
    outcome = fresh(calls.attempt, spec(cycle)).result(60)
    assert outcome.kind == "mistake"
    assert "no domain 'nowhere'" in outcome.message
    assert f"mistake: {outcome.message}\n" in Records(root(cycle)).log("train-bible", 1).read_text()


@pytest.mark.parametrize("name", ["train-speeches", "score-bible"])
def test_a_job_whose_parents_do_not_stand_is_blocked(plant, fresh, name):
    outcome = fresh(calls.attempt, spec(plant(*LONG), name)).result(60)
    assert outcome.kind == "blocked"
    assert outcome.message.startswith("bible")


@pytest.mark.slow
def test_a_branch_that_another_process_holds_is_waited_for(plant, fresh):
    cycle = plant()
    Forest(root(cycle)).branch("bible", "bible", {"seed": 1.0})
    held = lease.take(root(cycle) / "branches/bible")
    running = fresh(calls.attempt, spec(cycle))
    log = Records(root(cycle)).log("train-bible", 1)
    until(lambda: log.exists() and "waiting: " in log.read_text())
    assert not running.done()
    held.release()
    assert running.result(60).kind == "done"


@pytest.mark.parametrize(("cards", "seen"), [(["0", "2"], "0,2"), ([], "")])
def test_a_worker_sees_the_cards_it_was_given(plant, fresh, cards, seen):
    cycle = plant("trainer.mirrors=[wandb]", "trainer.device=cpu", "trainer.steps=1")
    prepare = calls.mirror_that_tells_the_cards
    assert fresh(calls.attempt, spec(cycle), prepare=prepare, gpus=cards).result(60).kind == "done"
    assert f"bible sees [{seen}]\n" in Records(root(cycle)).log("train-bible", 1).read_text()


@pytest.mark.slow
def test_a_clock_that_jumps_is_no_hang(plant, fresh):
    """After a laptop slept for a night, or on a disk whose server has another time."""
    cycle = plant(*LONG)
    prepare = calls.clock_that_jumps
    assert (
        fresh(calls.attempt, spec(cycle), prepare=prepare, hang_after=30.0).result(60).kind
        == "done"
    )
