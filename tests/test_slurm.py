"""A real Slurm (scripts/slurm: three emulated nodes, accounting off), and everything that goes wrong on one."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from folders import DEMO

from btm.forest import Forest

ROOT = Path(__file__).parent.parent
EXPERTS = ["bible", "code_python", "commentary", "metamath", "speeches", "wordnet"]
NODES = 3

if shutil.which("slurmctld") is None and not os.environ.get("CI"):
    pytest.skip("no Slurm here: scripts/slurm install", allow_module_level=True)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The commands of a Slurm of our own, without accounting."""
    prefix = tmp_path_factory.mktemp("slurm")
    knobs = {"PREFIX": str(prefix), "NODES": str(NODES), "ACCT": "none", "GRACE": "10"}
    environment = os.environ | knobs

    def script(*words):
        return subprocess.run(
            [ROOT / "scripts/slurm", *words], env=environment, check=True, capture_output=True
        )

    script("start")
    os.environ["SLURM_CONF"] = str(prefix / "slurm.conf")
    script.prefix = prefix
    yield script
    script("stop")
    del os.environ["SLURM_CONF"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Overrides for six experts of a minute each, when all train at once on two cores."""
    root = tmp_path_factory.mktemp("cycle")
    texts = root / "texts"
    for domain in EXPERTS:
        shutil.copytree(DEMO / domain, texts / domain)
    return [
        "experiment=smoke",
        f"data.root={texts}",
        f"data.out={root / 'data'}",
        f"run.rounds=[[{','.join(EXPERTS)}]]",
        "trainer.steps=700",
        "trainer.checkpoint_every=25",
        "trainer.valid_tokens=512",
        "score.max_tokens=512",
        "trainer.threads=1",
    ]


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory):
    """The weights of the same cycle, grown in peace."""
    forest = tmp_path_factory.mktemp("undisturbed") / "forest"
    finish(btm("run", *words, f"forest={forest}"))
    return {elm.name: elm.card.sha256 for elm in Forest(forest).elms()}


def btm(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "btm.cli", *words], stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    )


def finish(process, seconds=400, code=0):
    """Wait for a command, and return what it said."""
    with process:
        said, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, said
    return said


def command(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def until(true, seconds=120, every=0.5):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return found


def jobs(forest):
    """What the driver last saw of each expert's job."""
    try:
        state = json.loads((forest / "jobs/state.json").read_text())["jobs"]
    except (OSError, ValueError):
        return {}
    return {name.removeprefix("train-"): job for name, job in state.items() if name.startswith("train-")}


def steps_done(forest, expert):
    try:
        tries = sorted((forest / "jobs/progress").glob(f"train-{expert}.*.json"))
        return json.loads(tries[-1].read_text()).get("step", 0)
    except (OSError, ValueError, IndexError):
        return 0


def node_of(job):
    return command("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()


def check(forest, undisturbed):
    """Every expert stands once, whole, and as if nothing had happened."""
    found = Forest(forest)
    found.sweep()
    assert {elm.name: elm.card.sha256 for elm in found.elms()} == undisturbed
    assert all(elm.card.exact for elm in found.elms())
    assert not list((forest / "branches").iterdir())
    logs = {
        name: "".join(p.read_text() for p in (forest / "jobs/logs").glob(f"*{name}.*.log"))
        for name in EXPERTS
    }
    assert {name: log.count("merged ") for name, log in logs.items()} == dict.fromkeys(EXPERTS, 1)


def test_a_cycle_survives_everything(slurm, words, undisturbed, tmp_path):
    forest = tmp_path / "forest"
    cluster = [
        "cluster=slurm",
        "cluster.partition=main",
        "cluster.train.partition=scavenge",
        "cluster.time_min=10",
    ]
    small = [
        "cluster.cpus=1",
        "cluster.memory_gb=1",
        "cluster.poll=1",
        "cluster.warn_before=10",
        "cluster.backoff=1",
    ]
    driver = btm("run", *words, *cluster, *small, f"forest={forest}")
    cancelled, requeued, timed_out, on_dead_node, preempted, _ = EXPERTS
    until(lambda: all(steps_done(forest, expert) > 30 for expert in EXPERTS), 200)
    ids = {expert: jobs(forest)[expert]["id"] for expert in EXPERTS}
    command("scontrol", "update", f"JobId={ids[timed_out]}", "TimeLimit=1")
    command("scancel", ids[cancelled])
    command("scontrol", "requeue", ids[requeued])
    dead = node_of(ids[on_dead_node])
    slurm("kill-node", dead)  # its workers live on, and Slurm will start them a second time elsewhere
    time.sleep(5)
    slurm("kill-ctld")
    time.sleep(5)
    slurm("start-ctld")
    until(lambda: jobs(forest)[preempted]["state"] == "running")
    node = until(lambda: node_of(jobs(forest)[preempted]["id"]))
    urgent = command(
        "sbatch",
        "--partition=main",
        f"--nodelist={node}",
        "--exclusive",
        "--wrap=sleep 1",
        "--output=/dev/null",
    )
    assert "Submitted" in urgent
    time.sleep(30)
    slurm("start-node", dead)
    said = finish(driver)
    print(said)
    check(forest, undisturbed)


def test_ctrl_c_leaves_the_jobs_and_the_same_command_finds_them(slurm, words, undisturbed, tmp_path):
    pass
