"""How the engine talks to Slurm: what it passes on, what it makes of refusals, and what it leaves
behind.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from btm.cli.compose import compose
from btm.config.schema import Config
from btm.errors import UserError
from btm.launch.engine import Resources
from btm.launch.jobs import Job
from btm.launch.records import Outcome, Records, Spec
from btm.launch.slurm import SlurmEngine
from btm.launch.slurm_commands import AwayError, FullError, run_command
from btm.launch.slurm_task import fate


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
            "Batch job submission failed: Job violates accounting/QOS policy "
            "(AssocMaxSubmitJobLimit)",
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
    slurm = engine(
        tmp_path, CONFIG | {"sbatch": lambda command: f"Submitted batch job {next(numbers)}\n"}
    )
    assert slurm.submit(specs, Resources(cpus=2)) == ["101_0", "101_1", "102_0"]
    scripts = [Path(words[1]).read_text() for words in slurm.asked if words[0] == "sbatch"]
    assert "--array=0-1%" in scripts[0]
    assert "--array=0-0%" in scripts[1]
    assert all("--cpus-per-task=2" in text and "--signal=USR2@90" in text for text in scripts)


def script_of(slurm, spec, resources):
    """The batch script that a job is submitted with."""
    slurm.submit([spec], resources)
    return next(Path(words[1]).read_text() for words in slurm.asked if words[0] == "sbatch")


ANSWERS = CONFIG | {"sbatch": lambda command: "Submitted batch job 101\n"}


def test_without_a_time_limit_the_partitions_own_holds(tmp_path, specs):
    script = script_of(engine(tmp_path / "a", ANSWERS), specs[0], Resources(cpus=1))
    assert "--time" not in script and "--mem" not in script
    limited = Resources(cpus=1, time_min=7, memory_gb=2)
    script = script_of(engine(tmp_path / "b", ANSWERS), specs[0], limited)
    assert "#SBATCH --time=7\n" in script and "#SBATCH --mem=2048M\n" in script


def test_the_defaults_of_slurm_ask_for_what_a_small_node_has():
    cluster = compose(["cluster=slurm"]).cluster
    for verb in ("seed", "train", "score", "finish"):
        asked = Resources.of(cluster, verb)
        assert asked.cpus <= 4 and asked.memory_gb <= 4  # a node of scripts/slurm


@pytest.mark.parametrize(
    "said",
    [
        "Batch job submission failed: Requested node configuration is not available",
        "Memory specification can not be satisfied",
    ],
)
def test_a_job_that_is_too_large_is_told_with_the_settings_that_made_it(tmp_path, specs, said):
    slurm = engine(tmp_path, CONFIG | {"sbatch": refuse(UserError(f"sbatch: {said}"))})
    with pytest.raises(
        UserError, match=rf"{said}; .*cluster.memory_gb=16 cluster.cpus=4 .*memory_gb=0"
    ):
        slurm.submit(specs, Resources(cpus=4, memory_gb=16))
    assert not list(slurm.folder.glob("*"))


def test_a_newline_in_a_path_never_reaches_a_batch_script(tmp_path, specs):
    (tmp_path / "a\ntouch b").mkdir()
    with pytest.raises(UserError, match=r"holds the control character '\\n'"):
        engine(tmp_path / "a\ntouch b", ANSWERS)


def test_a_job_asks_for_a_gpu_and_a_core_for_each_of_its_processes(tmp_path, specs):
    slurm = engine(tmp_path, CONFIG | {"sbatch": lambda command: "Submitted batch job 101\n"})
    slurm.submit(specs[:1], Resources(cpus=2, processes=4))
    script = next(Path(words[1]).read_text() for words in slurm.asked if words[0] == "sbatch")
    assert "--gpus-per-node=4" in script and "--cpus-per-task=4" in script


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


def test_a_hold_by_a_person_stays(tmp_path):
    slurm = engine(tmp_path, {"squeue": lambda command: "1_0|x|PENDING|JobHeldUser\n"})
    assert slurm.poll(["1_0"])["1_0"].state == "queued"
    assert [words[0] for words in slurm.asked] == ["squeue"]


@pytest.mark.parametrize(
    "state", ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", None]
)
def test_whatever_slurm_calls_an_end_and_what_it_forgot_has_ended(tmp_path, state):
    """Not more than that: COMPLETED is also what it says of a worker that left no outcome."""
    slurm = engine(tmp_path, {"squeue": lambda command: f"1_0|x|{state}|None\n" if state else ""})
    assert slurm.poll(["1_0"])["1_0"].state == "ended"


def test_one_question_for_all_jobs(tmp_path):
    slurm = engine(tmp_path, {"squeue": lambda command: ""})
    slurm.poll([f"{array}_{index}" for array in range(10) for index in range(100)])
    assert len(slurm.asked) == 1


def test_what_no_user_can_mend_is_waited_for(tmp_path):
    """Only what sbatch refuses is the user's; questions that fail are asked again."""
    for words in (["squeue"], ["scontrol", "show", "config"]):
        script = tmp_path / words[0]
        script.write_text("#!/bin/sh\necho 'slurm_load: Invalid something' >&2; exit 1\n")
        script.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)}
    code = (
        "from btm.launch.slurm_commands import *\n"
        "for words in (['squeue'], ['scontrol', 'show', 'config'], ['no-such-command']):\n"
        "    try: run_command(words)\n"
        "    except AwayError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert len(said.stdout.splitlines()) == 3


def test_a_submission_in_doubt_is_settled_before_the_next(tmp_path, specs):
    """sbatch and squeue are both away, and Slurm has taken the array all the same."""
    away = [True]

    def queue(command):
        if away[0]:
            raise AwayError("away")
        script = next(slurm.folder.glob("*/batch.sh")).read_text()
        return f"55_0|{re.search(r'--job-name=(.*)', script).group(1)}|PENDING|None\n"

    slurm = engine(tmp_path, CONFIG | {"sbatch": refuse(AwayError("timed out")), "squeue": queue})
    assert slurm.submit(specs[:2], Resources()) == []
    assert slurm.submit(specs[:2], Resources()) == []
    assert [words[0] for words in slurm.asked].count("sbatch") == 1
    away[0] = False
    assert slurm.submit([specs[1], specs[0]], Resources()) == ["55_1", "55_0"]
    assert [words[0] for words in slurm.asked].count("sbatch") == 1


def test_a_submission_in_doubt_that_was_not_taken_is_made_again(tmp_path, specs):
    answers = [refuse(AwayError("timed out")), lambda command: "Submitted batch job 56\n"]
    queues = [refuse(AwayError("away")), lambda command: ""]
    slurm = engine(
        tmp_path,
        CONFIG | {"sbatch": lambda c: answers.pop(0)(c), "squeue": lambda c: queues.pop(0)(c)},
    )
    assert slurm.submit(specs[:2], Resources()) == []
    assert slurm.submit(specs[:2], Resources()) == ["56_0", "56_1"]
    assert len(list(slurm.folder.glob("*.json"))) == 1


def test_what_slurm_took_before_it_refused_the_rest_is_followed(tmp_path, specs):
    answers = [lambda command: "Submitted batch job 7\n", refuse(UserError("sbatch: no more"))]
    slurm = engine(tmp_path, CONFIG | {"sbatch": lambda command: answers.pop(0)(command)})
    assert slurm.submit(specs, Resources()) == ["7_0", "7_1", ""]


def test_arrays_shrink_to_what_a_user_may_have(tmp_path, specs):
    taken = []

    def sbatch(command):
        count = int(re.search(r"--array=0-(\d+)", Path(command[1]).read_text()).group(1)) + 1
        if sum(taken) + count > 2:
            raise FullError("QOSMaxSubmitJobPerUserLimit")
        taken.append(count)
        return f"Submitted batch job {100 + len(taken)}\n"

    answers = {
        "scontrol": lambda c: "MaxArraySize = 1001\n",
        "sbatch": sbatch,
        "squeue": lambda c: "",
    }
    slurm = engine(tmp_path, answers)
    clock = [0.0]
    slurm.now = slurm.patience.now = lambda: clock[0]
    assert slurm.submit(specs, Resources()) == ["101_0", "102_0", ""]
    asked = len(slurm.asked)
    assert slurm.submit(specs[2:], Resources()) == []
    assert len(slurm.asked) == asked  # not at every look
    taken.pop()
    clock[0] = 61.0
    assert slurm.submit(specs[2:], Resources()) == ["102_0"]


def test_whoever_watches_changes_nothing(tmp_path, specs):
    slurm = engine(
        tmp_path, CONFIG | {"sbatch": refuse(OSError("killed here")), "squeue": lambda c: ""}
    )
    with pytest.raises(OSError, match="killed here"):
        slurm.submit(specs[:1], Resources())
    before = sorted(slurm.folder.rglob("*"))
    assert slurm.in_flight(mend=False) == {}
    assert sorted(slurm.folder.rglob("*")) == before
    assert slurm.in_flight() == {}
    assert not list(slurm.folder.iterdir())


def test_what_is_passed_to_sbatch(tmp_path, specs):
    slurm = engine(
        tmp_path,
        CONFIG | {"sbatch": lambda command: "Submitted batch job 9\n"},
        setup=["module load cuda"],
        extra={"reservation": "night"},
        partition="gpu",
        memory_gb=1.5,
    )
    slurm.cluster.train.gpus, slurm.cluster.train.time_min = 8, 600
    slurm.submit(specs, Resources.of(slurm.cluster, "train"), ["3", "4"])
    text = Path(next(words[1] for words in slurm.asked if words[0] == "sbatch")).read_text()
    options = [
        "partition=gpu",
        "mem=1536M",
        "gpus-per-node=8",
        "time=600",
        "reservation=night",
        "requeue",
    ]
    assert [option for option in options if f"#SBATCH --{option}\n" not in text] == []
    assert "module load cuda\n" in text
    # Not afterok: on an unknown id that runs at once, on a failed parent it waits for ever.
    assert "#SBATCH --dependency=afterany:3:4\n" in text


def options_of(tmp_path, specs, extra, **resources):
    """The options of sbatch of a training job under further options of the user's own."""
    slurm = engine(tmp_path, ANSWERS, extra=extra, memory_gb=2.0)
    slurm.cluster.train.gpus = resources.get("gpus", 0)
    script = script_of(slurm, specs[0], Resources.of(slurm.cluster, "train"))
    return set(re.findall(r"^#SBATCH --(\S+)$", script, re.MULTILINE)), script


@pytest.mark.parametrize(
    ("extra", "gpus", "there", "not_there"),
    [
        ({"mem-per-cpu": "2G"}, 0, ["mem-per-cpu=2G"], ["mem="]),
        ({"mem_per_gpu": "8G"}, 2, ["mem-per-gpu=8G", "gpus-per-node=2"], ["mem="]),
        ({"mem-per-gpu": "8G"}, 0, ["mem=2048M"], ["mem-per-gpu"]),  # no GPU: sbatch would refuse
        ({"gres": "gpu:a100:2"}, 2, ["gres=gpu:a100:2", "mem=2048M"], ["gpus-per-node"]),
        ({"gres": "lustre:1"}, 2, ["gres=lustre:1", "gpus-per-node=2"], []),
        ({"gpus": 4}, 2, ["gpus=4"], ["gpus-per-node"]),
        ({"gpus-per-task": "a100:1"}, 1, ["gpus-per-task=a100:1"], ["gpus-per-node"]),
        ({"cpus-per-gpu": 8}, 1, ["cpus-per-gpu=8"], ["cpus-per-task"]),
        ({"exclusive": True}, 0, ["exclusive", "mem=2048M"], ["exclusive="]),
        ({"mem": None, "requeue": False}, 0, [], ["mem", "requeue"]),
        ({"--nodelist": ["n1", "n2"]}, 0, ["nodelist=n1,n2"], []),
        ({}, 0, ["mem=2048M", "requeue"], ["wckey", "gpus"]),
    ],
)
def test_an_option_of_the_users_own_wins(tmp_path, specs, extra, gpus, there, not_there):
    options, script = options_of(tmp_path, specs, extra, gpus=gpus)
    assert set(there) <= options
    assert not [option for option in options for word in not_there if option.startswith(word)]
    assert ("srun --unbuffered" in script) and script.count("--cpus-per-task") in (0, 2)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cluster.extra={array: 0-3}", r"--array is set by btm; give cluster.parallel"),
        ("cluster.train.extra={cpus_per_task: 3}", r"cluster.train.extra: .*; give cluster.cpus"),
        ("cluster.extra={p: gpu}", "wanted the long name of an option"),
        ("cluster.python=", "wanted a command"),
        ("cluster.patience=-1", "wanted 0 or more"),
    ],
)
def test_an_option_that_btm_must_set_is_refused(word, said):
    with pytest.raises(UserError, match=said):
        compose(["cluster=slurm", word])


def test_what_a_site_sets_at_login_is_passed_on(tmp_path, specs, monkeypatch):
    for name in ("ACCOUNT", "PARTITION"):
        monkeypatch.setenv(f"SBATCH_{name}", f"my-{name.lower()}")
    monkeypatch.setenv("SQUEUE_PARTITION", "other")  # it would hide our own jobs from us
    slurm = engine(tmp_path, ANSWERS, partition="gpu")
    script = script_of(slurm, specs[0], Resources.of(slurm.cluster, "train"))
    assert "--account=my-account\n" in script and "--partition=gpu\n" in script
    assert "SQUEUE_" not in run_command(["env"])


def test_python_on_the_nodes_can_be_another(tmp_path, specs):
    slurm = engine(tmp_path, ANSWERS, python="apptainer exec --nv 'my image.sif' python")
    script = script_of(slurm, specs[0], Resources.of(slurm.cluster, "train"))
    assert "apptainer exec --nv 'my image.sif' python -u -m btm.launch.slurm_task " in script
    assert sys.executable not in script


def test_a_job_that_left_nothing_but_its_output_is_quoted(tmp_path, specs):
    rows = []
    slurm = engine(tmp_path, ANSWERS | {"squeue": lambda command: "\n".join(rows)})
    [id] = slurm.submit(specs[:1], Resources())
    output = next(slurm.folder.glob("*/batch.sh")).parent / f"{id}_0_log.out"
    output.write_text("module: command not found\nbtm: no such thing\nsrun: error: n1: task 0\n")
    rows.append(f"{id}|{slurm._names['101']}|FAILED|NonZeroExitCode")
    assert slurm.poll([id])[id].reason.endswith(f"{output} ends: btm: no such thing")


def test_an_answer_without_a_job_is_looked_up(tmp_path, specs):
    """Wrappers of sbatch at some sites print what they like."""

    def queue(command):
        script = next(slurm.folder.glob("*/batch.sh")).read_text()
        return f"55_0|{re.search(r'--job-name=(.*)', script).group(1)}|PENDING|None\n"

    slurm = engine(tmp_path, CONFIG | {"sbatch": lambda c: "Welcome!\n", "squeue": queue})
    assert slurm.submit(specs[:1], Resources()) == ["55_0"]


def test_machines_without_its_commands_are_named(tmp_path, monkeypatch):
    for name in ("sbatch", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"cluster=slurm: no squeue, scancel here; log in"):
        SlurmEngine(Records(tmp_path), Config().cluster)


RUNNING, COMPLETING = (
    "JobState=RUNNING Requeue=1 Restarts={}",
    "JobState=COMPLETING Requeue=1 Restarts={}",
)


@pytest.mark.parametrize(
    ("said", "restarts", "warned", "what"),
    [
        (RUNNING.format(0), 0, True, "requeue"),
        (
            RUNNING.format(50),
            50,
            True,
            "requeue",
        ),  # warnings are not counted, whatever the time limit
        (RUNNING.format(0), 0, False, "requeue"),
        (COMPLETING.format(0), 0, False, "end"),  # scancel
        (COMPLETING.format(1), 0, False, "restart"),  # scontrol requeue
        (COMPLETING.format(2), 1, True, "restart"),  # preempted, after a warning
        ("", 0, False, "end"),
    ],
)
def test_a_task_that_is_told_to_stop_learns_why(said, restarts, warned, what):
    assert fate(said, restarts, warned=warned) == what


@pytest.mark.parametrize(("kind", "detached"), [("stopped", False), ("lost", True), ("done", True)])
def test_a_try_that_has_ended_does_nothing_when_slurm_starts_it_again(
    tmp_path, specs, kind, detached
):
    slurm = engine(tmp_path, CONFIG | {"sbatch": lambda command: "Submitted batch job 9\n"})
    cycle = slurm.records.write_cycle(Config(forest=str(tmp_path)), [["a"]])
    spec = Spec(str(tmp_path), cycle.id, specs[0].job, 1)
    slurm.submit([spec], Resources(), detached=detached)
    outcome = Outcome(cycle.id, "train-a", 1, kind)
    slurm.records.write_outcome(outcome)
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0", "PYTHONPATH": ":".join(sys.path)}
    words = [sys.executable, "-m", "btm.launch.slurm_task", str(next(slurm.folder.glob("*.json")))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"this try has ended already ({kind}): nothing to do\n"
    assert slurm.records.outcome("train-a", 1) == outcome


def test_a_verb_has_what_the_cluster_says_unless_it_is_told_its_own():
    cluster = compose(
        ["cluster=slurm", "cluster.gpus=1", "cluster.train.gpus=8", "cluster.score.partition=short"]
    )
    gpus = {
        verb: Resources.of(cluster.cluster, verb).gpus
        for verb in ("seed", "train", "score", "finish")
    }
    assert gpus == {"seed": 1, "train": 8, "score": 1, "finish": 1}
    assert Resources.of(cluster.cluster, "score").partition == "short"
    with pytest.raises(UserError, match=r"cluster\.train\.gpus=-1: wanted 0 or more"):
        compose(["cluster.train.gpus=-1"])
