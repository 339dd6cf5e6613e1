"""A cycle as its records tell it."""

from pathlib import Path

from btm.launch import history
from btm.launch.records import Outcome, Records, show_file


def test_every_try_is_told_those_that_were_forgiven_too(plant):
    cycle = plant()
    records = Records(Path(cycle.config.forest_root))
    job = next(job.name for job in cycle.jobs if job.verb == "train")
    ended = [
        Outcome(cycle.id, job, 1, "killed", "signal 9", seconds=5.0, ended=105.0),
        Outcome(cycle.id, job, 2, "nan", "loss is nan", seconds=5.0, ended=115.0),
        Outcome("another cycle", job, 3, "done", seconds=1.0, ended=1.0),
    ]
    for outcome in ended[:2]:
        records.write_outcome(outcome)
    assert records.forgive(cycle.id) == [job]
    records.write_outcome(ended[2])
    show_file(records.progress(job, 4), {"started": 200.0})
    running = {"state": "running", "try": 4, "id": "x", "message": ""}
    show_file(
        records.files.state,
        {"cycle": cycle.id, "finished": False, "counts": {}, "jobs": {job: running}},
    )
    told = history.told(records.forest)
    assert told is not None and told.state == "stopped"  # no driver is there
    assert [(each.attempt, each.kind, each.begun) for each in told.tries] == [
        (1, "killed", 100.0),
        (2, "nan", 110.0),
        (4, "running", 200.0),
    ]
    assert job not in told.waiting and "finish" in told.waiting


def test_a_forest_without_a_cycle_has_no_history(tmp_path):
    assert history.told(tmp_path) is None
