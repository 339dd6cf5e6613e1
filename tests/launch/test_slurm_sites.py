"""What a site's Slurm refuses, and one that is away or full: a real Slurm (scripts/slurm) without
accounting.

Its limits come from a job_submit plugin, with which slurmctld and sbatch refuse a job by the
errors and in the words that they have for a site's accounts, QOS and limits. The same was tried by
hand on one with slurmdbd (ACCT=dbd EXTRA=AccountingStorageEnforce=limits,qos,wckeys).
"""

import os
import shutil
import signal
import subprocess
import time

import pytest
from folders import ROOT
from launch.processes import Forked, finish, sign_of_life, until

from btm.cli import main
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest
from btm.launch.engine import Resources
from btm.launch.records import Records
from btm.launch.slurm import SlurmEngine
from btm.launch.slurm_commands import FullError, run_command

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

if shutil.which("slurmctld") is None and not os.environ.get("CI"):
    pytest.skip("no Slurm here: scripts/slurm install", allow_module_level=True)

# A file holds the number of an error and what slurmctld says beside it, for jobs of some comment.
PLUGIN = """
function slurm_job_submit(job, parts, uid)
   if job.wckey ~= nil and job.wckey ~= "research" then return 2057 end
   local file = io.open("{place}/" .. string.gsub(job.comment or "", "^btm ", ""))
   if file == nil then return slurm.SUCCESS end
   local code, said = file:read("*n"), file:read("*a")
   file:close()
   if said ~= "" then slurm.log_user(said) end
   return code
end
function slurm_job_modify() return slurm.SUCCESS end
return slurm.SUCCESS
"""
POLICY = 2050  # ESLURM_ACCOUNTING_POLICY of slurm_errno.h
FULL = "QOSMaxSubmitJobPerUserLimit"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A Slurm whose plugin refuses the jobs of a forest as the file of its name says."""
    prefix = tmp_path_factory.mktemp("site")
    port = 20_000 + os.getpid() * 10 % 10_000  # another Slurm may run here, of a few ports
    ports = {"CTLD_PORT": str(port), "BASE_PORT": str(port + 10_000)}
    short = "PartitionName=short Nodes=ALL MaxTime=5 State=UP\nEnforcePartLimits=ALL"
    knobs = {"NODES": "1", "ACCT": "none", "EXTRA": f"JobSubmitPlugins=lua\n{short}", **ports}
    environment = os.environ | knobs | {"PREFIX": str(prefix)}
    (prefix / "refusals").mkdir()
    plugin = PLUGIN.replace("{place}", str(prefix / "refusals"))
    (prefix / "job_submit.lua").write_text(plugin)

    def script(*words):
        return subprocess.run(
            [ROOT / "scripts/slurm", *words], env=environment, check=True, capture_output=True
        )

    script("start")
    os.environ["SLURM_CONF"] = str(prefix / "slurm.conf")
    script.refusals = prefix / "refusals"
    yield script
    script("stop")
    del os.environ["SLURM_CONF"]


def check(root, *words):
    """Ask the real Slurm whether it would take the training jobs of a forest."""
    cluster = compose(["cluster=slurm", "cluster.cpus=1", "cluster.time_min=1", *words]).cluster
    said = []
    SlurmEngine(Records(root), cluster, say=said.append).check([Resources.of(cluster, "train")])
    assert not (root / "jobs/submissions").exists() or not list(
        (root / "jobs/submissions").iterdir()
    )
    return said


def test_a_wckey_is_given_only_where_it_is_asked_for(site, tmp_path, monkeypatch):
    """The site knows one, and refuses every other, as those do that enforce them."""
    check(tmp_path)
    check(tmp_path, "cluster.wckey=research")
    with pytest.raises(UserError, match=r"Invalid wckey specification; give cluster.wckey=NAME"):
        check(tmp_path, "cluster.wckey=submitit")
    monkeypatch.setenv("SBATCH_WCKEY", "other")  # as some sites set it at login
    with pytest.raises(UserError, match="Invalid wckey specification"):
        check(tmp_path)
    check(tmp_path, "cluster.wckey=research")


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["cluster.extra={mem-per-cpu: 100M}"], ""),
        (
            ["cluster.extra={mem-per-cpu: 100M}", "cluster.memory_gb=1"],
            "note: cluster.extra mem-per-cpu=100M stands in place of cluster.memory_gb=1",
        ),
        (["cluster.extra={mem_per_gpu: 1G, cpus-per-gpu: 2}"], ""),  # this job has no GPU
        (["cluster.extra={exclusive: true, mem: 0}"], ""),
        (["cluster.extra={exclusive: false, nodelist: [n1], requeue: false}"], ""),
        (["cluster.extra={no-requeue: true}", "cluster.train.extra={hint: nomultithread}"], ""),
    ],
)
def test_options_of_the_users_own_are_taken(site, tmp_path, words, note):
    assert check(tmp_path, *words) == ([note] if note else [])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cluster.partition=nope", r"invalid partition.*; give cluster.partition=NAME; have: main, sc"),
        ("cluster.partition=short cluster.time_min=9", r"time limit is invalid.*give cluster.time_min"),
        ("cluster.gpus=1", r"Invalid generic resource.*; give cluster.gpus, and cluster.extra"),
        ("cluster.extra={foo:1}", r"unrecognized option '--foo=1'.*; mend cluster.extra"),
        ("cluster.extra={constraint:a100}", r"Invalid feature.*; give cluster.extra constraint"),
        ("cluster.extra={reservation:night}", r"reservation is invalid; give cluster.extra reserv"),
        ("2045", r"Invalid account.*; give cluster.account=NAME: sacctmgr show assoc"),
        ("2066", r"Invalid qos specification; give cluster.qos=NAME: sacctmgr show assoc"),
        (f"{POLICY} QOSMaxWallDurationPerJobLimit", r"MaxWall.*; give cluster.time_min=MINUTES \(now"),
        (f"{POLICY} AssocMaxCpuPerJobLimit", r"MaxCpu.*; a job asked for .*cluster.cpus=1"),
    ],
)  # fmt: skip
def test_a_lasting_refusal_names_the_key_before_anything_is_submitted(site, tmp_path, word, said):
    root = tmp_path / tmp_path.name
    if word.startswith("2"):
        (site.refusals / root.name).write_text(word)
    with pytest.raises(UserError, match=rf"^sbatch: .*{said}") as caught:
        check(root, *(word.split() if word.startswith("cluster") else []))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "refusal", [f"{POLICY} {FULL}", f"{POLICY} AssocMaxSubmitJobLimit", f"{POLICY}", "2015", "11"]
)
def test_a_refusal_that_passes_is_none_of_the_users(site, tmp_path, refusal):
    """Of limits on the number of jobs, older Slurms name none: `job submit limit, ...` is all."""
    root = tmp_path / tmp_path.name
    (site.refusals / root.name).write_text(refusal)
    check(root)
    words = ["--time=1", f"--comment=btm {root.name}", "--wrap=true", "--output=/dev/null"]
    with pytest.raises(FullError):
        run_command(["sbatch", *(["--test-only"] if refusal == "11" else []), *words])


@pytest.fixture(scope="module")
def words(workspace):
    """Overrides of a cycle of one expert on the site."""
    return [
        *(*workspace, "run.rounds=[[bible]]", "trainer.threads=1", "run.average=false"),
        *("trainer.steps=300", "trainer.checkpoint_every=50"),
        *("cluster=slurm", "cluster.cpus=1", "cluster.time_min=10", "cluster.poll=0.5"),
    ]


def heard(process, words):
    """Wait for a line that holds some words, and return it."""
    return next(line for line in process.stdout if words in line)


def test_a_slurm_that_stays_full_is_given_up_in_one_line(site, plant, words, capsys):
    root = plant("run.rounds=[[bible]]", name="full-for-ever").config.forest_root
    (site.refusals / "full-for-ever").write_text(f"{POLICY} {FULL}")
    assert main.main(["run", *words, f"forest={root}", "cluster.patience=1"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"btm: Slurm takes no more jobs now ({FULL}; Job violates")
    assert "the same command submits the rest" in last and "cluster.patience=600 " in last


def test_a_slurm_that_is_away_is_waited_for_if_it_has_jobs(site, plant, words, monkeypatch):
    def start(name, patience):
        root = plant("run.rounds=[[bible]]", name=name).config.forest_root
        return Forest(root), Forked("run", *words, f"forest={root}", f"cluster.patience={patience}")

    (site.refusals / "full-a-while").write_text(f"{POLICY} {FULL}")
    forest, driver = start("full-a-while", 4)
    line = heard(driver, "Slurm")
    assert f"takes no more jobs now ({FULL}; Job violates" in line
    assert "asked again every 0.8 s; given up after 4 s" in line
    (site.refusals / "full-a-while").unlink()
    with monkeypatch.context() as patch:  # commands of Slurm, and nobody who answers
        conf = site.refusals.parent / "nobody.conf"
        conf.write_text("ClusterName=btm\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\n")
        patch.setenv("SLURM_CONF", str(conf))
        nowhere, nobody = start("nowhere", 1)

    until(lambda: sign_of_life(forest.root, "train-bible").get("step", 0) > 5)
    worker = sign_of_life(forest.root, "train-bible")["pid"]
    os.kill(worker, signal.SIGSTOP)  # it must not end while nobody is there to be asked
    site("kill-ctld")
    assert "waiting for what it was given before (jobs: " in heard(driver, "does not answer")
    time.sleep(5)  # more than its patience
    assert driver.poll() is None
    site("start-ctld")
    os.kill(worker, signal.SIGCONT)
    heard(driver, "Slurm answers again")
    until(lambda: "bible" in forest)
    driver.send_signal(signal.SIGINT)
    finish(driver, code=130)
    assert Records(forest.root).attempts()["train-bible"] == 1

    last = finish(nobody, code=2).splitlines()[-1]
    assert last.startswith("btm: Slurm does not answer (") and "Unable to contact" in last
    assert not list((nowhere.root / "jobs").glob("submissions/*"))
    assert run_command(["scancel", f"--user={os.getuid()}"]) == ""
