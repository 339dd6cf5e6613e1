"""A cycle as its records tell it."""

from pathlib import Path

from btm.launch import history
from btm.launch.records import Outcome, Records, show_file
from btm.launch.view import views
from btm.steps.report import JobRow


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
    [row] = told.jobs
    assert (row.job, row.state, row.attempt, row.step, row.parents) == (
        job,
        "running",
        4,
        "",
        "seed",
    )


def test_jobs_are_told_as_btm_watch_shows_them_with_the_state_of_who_asked_slurm(plant):
    cycle = plant()
    records = Records(Path(cycle.config.forest_root))
    first, second = [job.name for job in cycle.jobs if job.verb == "train"][:2]
    shown = {"step": 5, "steps": 10, "loss": 2.5, "tokens_per_second": 99.6, "eta_seconds": 61}
    show_file(records.progress(second, 2), shown | {"started": 1.0})
    rest = {"id": "", "message": ""}
    jobs = {first: {"state": "done", "try": 1} | rest, second: {"state": "queued", "try": 2} | rest}
    state = {"cycle": cycle.id, "finished": False, "counts": {}, "jobs": jobs}
    show_file(records.files.state, state)
    queued = history.told(records.forest)
    assert queued is not None and [row.state for row in queued.jobs] == ["queued", "done"]
    running = state | {"jobs": jobs | {second: {"state": "running", "try": 2, **rest}}}
    told = history.told(records.forest, running)
    assert told is not None and told.jobs[0] == JobRow(
        second, "running", 2, "5/10", 2.5, 100, "1 min 01 s", "seed", ""
    )
    [found] = [each for each in views(records, running, {}) if each.name == second]
    row = found.to_row()
    assert [row[key] for key in ("step", "loss", "tokens/s", "left")] == [
        "5/10",
        2.5,
        100,
        "1 min 01 s",
    ]


def test_a_forest_without_a_cycle_has_no_history(tmp_path):
    assert history.told(tmp_path) is None
