"""A real Slurm (scripts/slurm: three emulated nodes, accounting off), and everything that goes
wrong on one.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from folders import DEMO, ROOT
from launch.processes import PATIENCE, Forked, btm, finish, is_over, sign_of_life, state, until

from btm.forest import Forest
from btm.launch.records import Records

EXPERTS = ["bible", "code_python", "metamath", "pronunciation", "speeches", "wordnet"]
NODES = 3
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

if shutil.which("slurmctld") is None and not os.environ.get("CI"):
    pytest.skip("no Slurm here: scripts/slurm install", allow_module_level=True)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The commands of a Slurm of our own, without accounting."""
    prefix = tmp_path_factory.mktemp("slurm")
    port = 20_000 + os.getpid() * 10 % 10_000  # another Slurm may run here, of a few ports
    ports = {"CTLD_PORT": str(port), "BASE_PORT": str(port + 10_000)}
    knobs = {"PREFIX": str(prefix), "NODES": str(NODES), "ACCT": "none", "GRACE": "10", **ports}
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
    """Overrides for six experts of ten seconds each, when all train at once on two cores."""
    root = tmp_path_factory.mktemp("cycle")
    texts = root / "texts"
    for domain in EXPERTS:
        shutil.copytree(DEMO / domain, texts / domain)
    return [
        "experiment=smoke",
        f"data.root={texts}",
        f"data.out={root / 'data'}",
        f"run.rounds=[[{','.join(EXPERTS)}]]",
        "trainer.steps=300",
        "trainer.checkpoint_every=25",
        "trainer.valid_tokens=512",
        "score.max_tokens=512",
        "trainer.threads=1",
        "run.average=false",
    ]


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory):
    """The forest that the same cycle gives in peace."""
    root = tmp_path_factory.mktemp("undisturbed") / "forest"
    finish(Forked("run", *words, f"forest={root}"), 200)
    return Forest(root)


@pytest.fixture(scope="module")
def small(words):
    """Overrides for two of these experts: alone they are the same, bit for bit."""
    return [*words, "run.rounds=[[bible,code_python]]"]


@pytest.fixture
def forest(undisturbed, tmp_path):
    """Where a forest grows whose seed stands; Slurm knows it by its name, so that is unique."""
    root = tmp_path / tmp_path.name
    shutil.copytree(undisturbed.root / "elms" / "seed", root / "elms" / "seed")
    shutil.copytree(undisturbed.tokenizer, root / "tokenizer")
    shutil.copy(undisturbed.root / "forest.json", root)
    return root


def command(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def jobs(forest):
    """What the driver last saw of each expert's job."""
    found = state(forest).get("jobs", {})
    return {
        name.removeprefix("train-"): job for name, job in found.items() if name.startswith("train-")
    }


def steps_done(forest, expert):
    return sign_of_life(forest, f"train-{expert}").get("step", 0)


@contextmanager
def closed(partition):
    """Let no job of a partition begin."""
    command("scontrol", "update", f"PartitionName={partition}", "State=DOWN")
    try:
        yield
    finally:
        command("scontrol", "update", f"PartitionName={partition}", "State=UP")


def node_of(job):
    return command("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()


def check(forest, undisturbed):
    """Every expert stands once, whole, and as if nothing had happened."""
    found = Forest(forest)
    found.sweep()
    assert sha256s(forest) == sha256s(undisturbed.root)
    assert all(elm.card.exact for elm in found.elms())
    assert not list((forest / "branches").iterdir())
    logs = {
        name: "".join(p.read_text() for p in (forest / "jobs/logs").glob(f"*{name}.*.log"))
        for name in EXPERTS
    }
    assert {name: log.count("merged ") for name, log in logs.items()} == dict.fromkeys(EXPERTS, 1)


CLUSTER = [
    "cluster=slurm",
    "cluster.partition=main",
    "cluster.cpus=1",
    "cluster.memory_gb=1",
    "cluster.time_min=10",
    "cluster.poll=1",
    "cluster.warn_before=10",
    "cluster.backoff=1",
]


def test_a_cycle_survives_everything(slurm, words, undisturbed, tmp_path):
    forest = tmp_path / "forest"
    cluster = [*CLUSTER, "cluster.train.partition=scavenge"]
    driver = btm("run", *words, *cluster, f"forest={forest}")
    cancelled, requeued, timed_out, on_dead_node, preempted, _ = EXPERTS
    until(lambda: all(steps_done(forest, expert) > 30 for expert in EXPERTS), 200)
    # What meets these two comes later than their end would.
    held = [sign_of_life(forest, f"train-{expert}")["pid"] for expert in (timed_out, preempted)]
    for worker in held:
        os.kill(worker, signal.SIGSTOP)
    ids = {expert: jobs(forest)[expert]["id"] for expert in EXPERTS}
    command("scontrol", "update", f"JobId={ids[timed_out]}", "TimeLimit=1")
    command("scancel", ids[cancelled])
    command("scontrol", "requeue", ids[requeued])
    dead = node_of(ids[on_dead_node])
    slurm(
        "kill-node", dead
    )  # its workers live on, and Slurm will start them a second time elsewhere
    time.sleep(5)
    slurm("kill-ctld")
    time.sleep(5)
    slurm("start-ctld")
    until(lambda: jobs(forest)[preempted]["state"] == "running", 120)
    node = until(lambda: node_of(jobs(forest)[preempted]["id"]), 120, 0.5)
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
    for worker in held:
        with suppress(ProcessLookupError):  # Slurm wakes what it ends
            os.kill(worker, signal.SIGCONT)
    slurm("start-node", dead)
    finish(driver, 400)
    check(forest, undisturbed)


def sha256s(forest, *names):
    """The sha256 of every ELM's weights, or of these alone."""
    return {
        elm.name: elm.card.sha256 for elm in Forest(forest).elms() if elm.name in names or not names
    }


def queued(forest, *states):
    """The tasks of a forest that Slurm knows, by id: (state, what it depends on)."""
    form = "--format=%i|%T|%E|%k"
    rows = command("squeue", "--noheader", "--array", "--states=all", form).splitlines()
    found = {}
    for row in rows:
        id, state, after, comment = row.split("|", 3)
        if comment == f"btm {forest.name}" and (not states or state in states):
            found[id] = state, after
    return found


def processes(*words):
    """The pids of processes whose command line holds all of some words."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            said = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if all(word in said for word in words):
            found.append(int(place.name))
    return found


def test_a_detached_cycle_needs_nobody(slurm, small, undisturbed, tmp_path):
    forest = tmp_path / "detached"
    words = ["run", *small, *CLUSTER, f"forest={forest}"]
    # Nothing begins before all is seen that is to be seen of a cycle that waits.
    with closed("main"):
        begun = time.monotonic()
        said = finish(btm(*words, "--detach"))
        assert time.monotonic() - begun < PATIENCE * 20
        assert [line for line in said.splitlines() if line.startswith("submitted")] == [
            "submitted 1 x seed",
            "submitted 2 x train",
            "submitted 3 x score",
            "submitted 1 x finish",
        ]
        assert not processes("btm.cli", str(forest))
        assert not processes("btm.launch ", str(forest))
        waiting = [after for _, after in queued(forest, "PENDING").values() if "afterany:" in after]
        assert len(waiting) == 6
        assert "at work; 7 submitted" in " ".join(finish(Forked("status", *words[1:])).split())
        assert "submitted" not in finish(Forked(*words, "--detach"))
        other = finish(Forked(*words, "--detach", "trainer.lr=1e-4"), code=2)
        assert "a cycle with other settings is at work" in other
        assert len(queued(forest)) == 7

    until(lambda: steps_done(forest, "bible") > 30, 120)
    os.kill(sign_of_life(forest, "train-bible")["pid"], signal.SIGKILL)
    log = finish(Forked("logs", "-f", "expert=bible", *words[1:]))
    assert f"merged {forest}/elms/bible" in log  # by the same task, which noticed and tried again

    until(lambda: (forest / f"evals/{forest.name}.json").exists(), 120)
    until(lambda: not queued(forest, "PENDING", "RUNNING", "COMPLETING"), 30)
    assert "perplexity by shard" in finish(Forked(*words))
    assert len(queued(forest)) == 7
    assert set(Records(forest).attempts().values()) == {1}
    assert sha256s(forest) == sha256s(undisturbed.root, "seed", "bible", "code_python")
    assert all(elm.card.exact for elm in Forest(forest).elms())


def test_ctrl_c_leaves_the_jobs_and_whoever_comes_takes_them_over(
    slurm, small, undisturbed, forest
):
    words = ["run", *small, *CLUSTER, f"forest={forest}"]
    first = Forked(*words)
    experts = ("bible", "code_python")
    until(lambda: min(steps_done(forest, expert) for expert in experts) > 5, 120)
    # They may be seconds from their end, which must not come before all is seen.
    workers = [sign_of_life(forest, f"train-{expert}")["pid"] for expert in experts]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    training = set(queued(forest, "RUNNING"))
    first.send_signal(signal.SIGINT)
    assert "the jobs go on" in finish(first, code=130)
    assert training & set(queued(forest, "RUNNING"))

    second = Forked(*words)
    until(lambda: list((forest / "jobs").glob("driver~*")))
    third = Forked(*words)  # it watches the second, and takes over when that one leaves
    until(lambda: third.stdout.readline())
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    second.send_signal(signal.SIGINT)
    finish(second, code=130)
    assert "perplexity by shard" in finish(third)
    assert not processes(
        "btm.launch ", str(forest)
    )  # nothing was driven, or trained, on this machine itself
    assert len(queued(forest)) == 6
    assert set(Records(forest).attempts().values()) == {1}
    assert sha256s(forest) == sha256s(undisturbed.root, "seed", "bible", "code_python")


def lose(forest):
    """Kill the slurmstepd of a worker that trains, and leave the worker stopped; return its pid and
    its job.
    """
    orphan = until(lambda: sign_of_life(forest, "train-bible").get("pid"), 120)

    def has_begun():
        """It trains a hundred steps a second: beside other work all would be over before a look."""
        os.kill(orphan, signal.SIGCONT)
        time.sleep(0.05)
        os.kill(orphan, signal.SIGSTOP)
        return steps_done(forest, "bible") > 5

    until(has_begun, 120)
    (job,) = queued(forest, "RUNNING")
    daemons = f"slurmstepd: [{job.partition('_')[0]}."
    # One for the batch script, one for its step; what they fork bears their name until it runs what
    # it is for.
    until(lambda: len(processes(daemons)) == 2)
    found = processes(daemons)
    os.kill(orphan, signal.SIGCONT)  # the kernel hangs up on what is stopped and loses its parent
    for daemon in found:
        os.kill(daemon, signal.SIGKILL)
    until(lambda: all(map(is_over, found)), every=0.002)
    os.kill(orphan, signal.SIGSTOP)  # so that it still works when its double begins
    assert not (forest / "elms/bible").exists(), "it was done before it could be stopped"
    until(lambda: not processes(daemons))
    return orphan, job


def meets_its_double(forest, orphan, job):
    """Wait until the job that Slurm starts again meets the first worker; False if that died."""
    log = Records(forest).log("train-bible", 1)
    until(
        lambda: is_over(orphan) or "is at work in another process" in log.read_text(),
        100,  # Slurm looks once a minute
        seen=lambda: (log.read_text(), queued(forest), command("scontrol", "show", "job", job)),
    )
    return not is_over(orphan)


def test_a_worker_that_slurm_lost_and_its_double_register_one_expert(
    slurm, small, undisturbed, forest
):
    """Slurm takes the job of a slurmstepd that was killed for dead; its worker lives on."""
    begin = shutil.copytree(forest, forest.with_name("begin"))
    for last in (False, True):
        words = [*small, *CLUSTER, f"forest={forest}", "run.rounds=[[bible]]"]
        finish(Forked("run", *words, "--detach"))
        orphan, job = lose(forest)
        if meets_its_double(forest, orphan, job):
            break
        # Beside much other work its group was hung up on after all: there is no double then.
        assert not last, "the worker died with its slurmstepd, twice"
        finish(Forked("cancel", *words), code=None)
        forest = shutil.copytree(begin, forest.with_name(f"{forest.name}-again"))
    log = Records(forest).log("train-bible", 1)
    os.kill(orphan, signal.SIGCONT)
    until(lambda: (forest / "elms/bible").exists())
    until(lambda: queued(forest)[job][0] == "COMPLETED", 60)
    assert log.read_text().count("merged ") == 1
    assert sha256s(forest) == sha256s(undisturbed.root, "seed", "bible")
    assert Records(forest).outcome("train-bible", 1).kind == "done"

    # By now the rest of the cycle may be over as well.
    said = finish(Forked("cancel", *words), code=None)
    assert "cancelled " in said or "no cycle is at work" in said
    until(lambda: not queued(forest, "PENDING", "RUNNING", "COMPLETING"))


def test_a_partition_that_does_not_exist_is_one_clear_line(slurm, small, forest):
    words = ["run", *small, *CLUSTER, "cluster.partition=nowhere", f"forest={forest}"]
    said = finish(Forked(*words, "--detach"), code=2)
    *notes, last = said.splitlines()
    assert last.startswith("btm: sbatch: invalid partition specified: nowhere")
    assert all(line.startswith("note: ") for line in notes)
    assert finish(Forked(*words), code=2).splitlines()[-1] == last
    assert not list((forest / "jobs/submissions").iterdir())
    assert not queued(forest)


def test_the_children_of_a_failed_expert_are_blocked_and_nothing_waits_for_ever(
    slurm, small, forest
):
    words = ["run", *small, *CLUSTER, f"forest={forest}", "run.rounds=[[bible],[speeches]]"]
    Forest(forest).branch(
        "bible", "nowhere", {"seed": 1.0}
    )  # somebody began it on a domain that is none
    finish(Forked(*words, "--detach"))
    until(lambda: (forest / f"evals/{forest.name}.json").exists(), 150)
    until(lambda: not queued(forest, "PENDING", "RUNNING", "COMPLETING"), 30)
    kinds = {
        name: tries[-1].kind for name, tries in Records(forest).outcomes(cycle_of(forest)).items()
    }
    assert kinds == {
        "train-bible": "mistake",
        "train-speeches": "blocked",
        "score-seed": "done",
        "score-bible": "blocked",
        "score-speeches": "blocked",
        "finish": "done",
    }
    before = queued(forest)
    said = finish(Forked(*words), code=1).splitlines()
    assert "train-speeches blocked: needs train-bible" in said
    assert any(line.startswith("train-bible failed: mistake: ") for line in said)
    assert queued(forest) == before


def cycle_of(forest):
    return state(forest)["cycle"]
