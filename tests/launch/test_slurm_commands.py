"""How the engine talks to Slurm: what it passes on, what it makes of refusals, and what it leaves behind."""

import re
from pathlib import Path

import pytest

from btm.config import Config
from btm.errors import UserError
from btm.launch.engine import Resources
from btm.launch.jobs import Job
from btm.launch.records import Records, Spec
from btm.launch.slurm import AwayError, SlurmEngine, run_command


@pytest.fixture
def specs(tmp_path):
    return [Spec(str(tmp_path), "c", Job(f"train-{name}", "train", name), 1) for name in "abc"]


def engine(tmp_path, answers, **cluster):
    """An engine whose Slurm answers from a table of functions; what was asked is in `asked`."""
    asked = []

    def run(command):
        asked.append(command)
        return answers[command[0]](command)

    config = Config()
    for key, value in cluster.items():
        setattr(config.cluster, key, value)
    made = SlurmEngine(Records(tmp_path), config.cluster, run=run)
    made.asked = asked
    return made


def refuse(error):
    def answer(command):
        raise error

    return answer


CONFIG = {"scontrol": lambda command: "MaxArraySize = 3\n"}


def test_a_job_that_submits_keeps_its_own_variables(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    seen = run_command(["env"])
    assert re.findall(r"^(?:SLURM|SBATCH)_\w+", seen, re.MULTILINE) == ["SLURM_CONF"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("Unable to contact slurm controller (connect failure)", AwayError),
        ("Batch job submission failed: Socket timed out on send/recv operation", AwayError),
        (
            "Batch job submission failed: Job violates accounting/QOS policy (AssocMaxSubmitJobLimit)",
            AwayError,
        ),
        ("Batch job submission failed: Invalid partition name specified", UserError),
        ("Batch job submission failed: Requested node configuration is not available", UserError),
    ],
)
def test_refusals_are_told_from_absence(said, error):
    with pytest.raises(error, match=re.escape(said[-20:-1])):
        run_command(["sh", "-c", f"echo 'sbatch: error: {said}' >&2; exit 1"])


def test_arrays_stay_under_the_limit(tmp_path, specs):
    numbers = iter(["101", "102"])
    slurm = engine(tmp_path, CONFIG | {"sbatch": lambda command: f"Submitted batch job {next(numbers)}\n"})
    assert slurm.submit(specs, Resources(cpus=2)) == ["101_0", "101_1", "102_0"]
    scripts = [Path(words[1]).read_text() for words in slurm.asked if words[0] == "sbatch"]
    assert "--array=0-1%" in scripts[0]
    assert "--array=0-0%" in scripts[1]
    assert all("--cpus-per-task=2" in text and "--signal=USR2@90" in text for text in scripts)


def test_what_is_refused_leaves_nothing(tmp_path, specs):
    slurm = engine(tmp_path, CONFIG | {"sbatch": refuse(UserError("sbatch: Invalid partition"))})
    with pytest.raises(UserError, match="Invalid partition"):
        slurm.submit(specs, Resources())
    assert not list(slurm.folder.iterdir())


def test_what_was_never_taken_leaves_nothing(tmp_path, specs):
    answers = {"sbatch": refuse(AwayError("timed out")), "squeue": lambda command: ""}
    slurm = engine(tmp_path, CONFIG | answers)
    assert slurm.submit(specs, Resources()) == []
    assert not list(slurm.folder.iterdir())


def test_what_was_taken_all_the_same_is_found_by_its_name(tmp_path, specs):
    def queue(command):
        script = next(slurm.folder.glob("*/batch.sh")).read_text()
        return f"55_0|{re.search(r'--job-name=(.*)', script).group(1)}|PENDING|None\n"

    answers = {"sbatch": refuse(AwayError("timed out")), "squeue": queue}
    slurm = engine(tmp_path, CONFIG | answers)
    assert slurm.submit(specs[:2], Resources()) == ["55_0", "55_1"]
    found = engine(tmp_path, CONFIG | answers).in_flight()
    assert found == {"train-a": ("55_0", 1), "train-b": ("55_1", 1)}


def test_a_reused_id_is_not_our_job(tmp_path, specs):
    answers = {
        "sbatch": lambda command: "Submitted batch job 9\n",
        "squeue": lambda command: "9_0|somebody-else|RUNNING|None\n",
    }
    slurm = engine(tmp_path, CONFIG | answers)
    [id] = slurm.submit(specs[:1], Resources())
    assert slurm.poll([id])[id].state == "ended"


def test_a_slurm_that_is_away_decides_nothing(tmp_path):
    slurm = engine(tmp_path, {"squeue": refuse(AwayError("away"))})
    assert slurm.poll(["1_0"])["1_0"].state == "unknown"


def test_a_requeue_that_looks_like_an_end_is_not_one(tmp_path):
    state = ["NODE_FAIL"]
    slurm = engine(tmp_path, {"squeue": lambda command: f"1_0|x|{state[0]}|None\n"})
    clock = [0.0]
    slurm.now = lambda: clock[0]
    assert slurm.poll(["1_0"])["1_0"].state == "unknown"
    state[0] = "PENDING"
    assert slurm.poll(["1_0"])["1_0"].state == "queued"
    state[0] = "NODE_FAIL"
    assert slurm.poll(["1_0"])["1_0"].state == "unknown"
    clock[0] = 61.0
    assert slurm.poll(["1_0"])["1_0"].state == "ended"


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("launch failed requeued held", ["scontrol", "release", "1_0"]),
        ("DependencyNeverSatisfied", ["scancel", "1_0"]),
    ],
)
def test_what_would_wait_for_ever_is_moved_on(tmp_path, reason, command):
    answers = {
        "squeue": lambda c: f"1_0|x|PENDING|{reason}\n",
        "scontrol": lambda c: "",
        "scancel": lambda c: "",
    }
    slurm = engine(tmp_path, answers)
    slurm.poll(["1_0"])
    assert command in slurm.asked
