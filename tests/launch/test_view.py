"""The jobs of a cycle as those who watch see them."""

import io
import json
from pathlib import Path

from btm.launch import cycles
from btm.launch.records import Records, show_file
from btm.launch.view import NO_JOBS, ordered, views


def test_a_running_job_tells_how_far_it_is_and_of_whom_it_descends(plant):
    cycle = plant()
    records = Records(Path(cycle.config.forest_root))
    jobs = {job.name: job for job in cycle.jobs}
    name = next(job.name for job in cycle.jobs if job.verb == "train")
    shown = {"step": 5, "steps": 10, "loss": 2.5, "tokens_per_second": 99.6, "eta_seconds": 61}
    show_file(records.progress(name, 2), shown | {"pid": 1})
    states = {each: {"state": "waiting", "try": 0, "id": "", "message": ""} for each in jobs}
    states["seed"] = {"state": "done", "try": 1, "id": "", "message": ""}
    states[name] = {"state": "running", "try": 2, "id": "", "message": "tried again"}
    state = {"cycle": cycle.id, "finished": False, "counts": {"waiting": 1}, "jobs": states}
    found = {each.name: each for each in views(records, state, jobs)}
    row = found[name].to_row()
    assert (row["step"], row["loss"], row["tokens/s"], row["left"]) == (
        "5/10",
        2.5,
        100,
        "1 min 01 s",
    )
    assert row["parents"] == "seed" and row["try"] == 2
    assert ordered(list(found.values()))[0].name == name
    assert all(not each.parents for each in views(records, state, NO_JOBS))

    show_file(records.files.state, state)
    stream = io.StringIO()
    said = cycles.watch(cycle.config, stream, None)  # nobody works on it, so it ends
    assert f"{name:<22} running (try 2): tried again" in stream.getvalue()
    assert said.startswith(f"cycle {cycle.id}") and "stopped" in said
    pages, looks = [], []
    cycles.watch(cycle.config, stream, looks.append, lambda *each: pages.append(each))
    assert pages == [(10, state), (0, state)]
    assert json.loads(json.dumps(looks)) == [[each.to_row() for each in found.values()]]
