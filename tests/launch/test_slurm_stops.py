"""What a job that is told to stop does on a real Slurm: it asks why, for a cancellation and a
requeue look alike.
"""

import json

import pytest
from launch.processes import Forked, finish, sign_of_life, state, until
from launch.test_slurm import CLUSTER, command, queued, slurm

from btm.launch.records import Records

__all__ = ["slurm"]  # the fixture
ENDLESS = "trainer.steps=100000"
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow, pytest.mark.traced]


def words_for(plant, workspace, name):
    forest = plant("run.rounds=[[bible]]", name=name).config.forest_root
    return [
        *workspace,
        *CLUSTER,
        f"forest={forest}",
        "run.rounds=[[bible]]",
        "trainer.threads=1",
        ENDLESS,
    ]


def test_requeued_jobs_are_started_once_and_cancelled_ones_not_at_all(
    slurm, plant, workspace, tmp_path
):
    forest = tmp_path / f"left-{tmp_path.name}"  # Slurm knows it by its name, so that is unique
    words = words_for(plant, workspace, forest.name)
    finish(Forked("run", "--detach", *words))
    until(lambda: sign_of_life(forest, "train-bible").get("step", 0) > 5, 120)
    (job,) = queued(forest, "RUNNING")  # the scores wait for it
    driver = Forked("run", *words)  # takes over
    until(lambda: list((forest / "jobs").glob("driver~*")))
    command("scontrol", "requeue", job)
    until(lambda: queued(forest)[job][0] == "PENDING")
    until(lambda: queued(forest)[job][0] == "RUNNING", 120)
    assert len(queued(forest)) == 4  # train, two scores, the end: no second try at any
    assert "cancelled" in finish(Forked("cancel", *words))
    finish(driver, code=1)
    assert not queued(forest, "PENDING", "RUNNING")

    assert "submitted 1 x train" in finish(Forked("run", "--detach", *words))
    until(lambda: sign_of_life(forest, "train-bible").get("step", 0) > 5, 120)
    assert "cancelled " in finish(Forked("cancel", *words))  # which waits for the end
    assert not queued(forest, "PENDING", "RUNNING")
    rows = json.loads(finish(Forked("status", "--json", *words)))
    assert {row["state"] for row in rows} <= {"done", "ready", "waiting"}
    assert {
        tries[-1].kind for tries in Records(forest).outcomes(state(forest)["cycle"]).values()
    } == {"stopped"}
