"""This machine as an engine: what runs at once, with how many threads, and what it refuses."""

import json
from pathlib import Path

import pytest
from launch import fresh as calls

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.launch.engine import Resources
from btm.launch.local import LocalEngine, available_bytes, find_cards
from btm.launch.records import Records, Spec
from btm.launch.throughput import best_threads

SIBLINGS = ("run.rounds=[[bible,code_python,speeches]]", "trainer.steps=4", "trainer.device=cpu")


def specs(cycle, verb="train"):
    root = cycle.config.forest_root
    return [Spec(root, cycle.id, job, 1) for job in cycle.jobs if job.verb == verb]


def throughput(cycle):
    return Path(cycle.config.forest_root) / "jobs" / "throughput.json"


def work_off(plant, fresh, *overrides, cores=2, prepare=None):
    """Train three siblings; return the cycle and what ran at each look."""
    cycle = plant(*SIBLINGS, *overrides)
    ends, looks = fresh(calls.work_off, cycle.config, specs(cycle), cores, prepare).result(120)
    assert set(ends.values()) == {"ended"}
    assert Forest(cycle.config.forest_root).names() == ["bible", "code_python", "seed", "speeches"]
    return cycle, looks


def at_once(looks):
    return max(map(len, looks))


@pytest.mark.slow
def test_jobs_share_the_cores_and_have_the_threads_they_were_told(plant, fresh):
    cycle, looks = work_off(plant, fresh, "trainer.threads=1")
    assert {cpus for look in looks for cpus, _, _ in look} == {1}
    assert at_once(looks) == 2
    assert not throughput(cycle).exists()  # there was nothing to find out
    for elm in Forest(cycle.config.forest_root).experts():
        assert elm.card.exact


@pytest.mark.slow
def test_a_job_never_has_more_threads_than_there_are_cores(plant, fresh):
    _, looks = work_off(plant, fresh, "cluster.cpus=64")
    assert {cpus for look in looks for cpus, _, _ in look} == {2}
    assert at_once(looks) == 1


@pytest.mark.slow
def test_no_more_jobs_at_once_than_were_allowed(plant, fresh):
    _, looks = work_off(plant, fresh, "trainer.threads=1", "cluster.parallel=2", cores=16)
    assert at_once(looks) == 2


@pytest.mark.slow
def test_no_more_jobs_at_once_than_the_memory_carries(plant, fresh):
    share = 0.6 * 0.9 * available_bytes() / 1e9  # two of them are more than there is
    _, looks = work_off(plant, fresh, "trainer.threads=1", f"cluster.memory_gb={share}", cores=16)
    assert at_once(looks) == 1


def test_jobs_that_run_at_once_see_different_cards(plant, fresh):
    cycle, looks = work_off(
        plant,
        fresh,
        "trainer.threads=1",
        "trainer.mirrors=[wandb]",
        "cluster.cards=2",
        cores=16,
        prepare=calls.mirror_that_tells_the_cards,
    )
    assert at_once(looks) == 2
    assert all(len({cards for _, _, cards in look}) == len(look) for look in looks)
    records = Records(Path(cycle.config.forest_root))
    seen = [
        line.rpartition(" sees ")[2]
        for spec in specs(cycle)
        for line in records.log(spec.job.name, 1).read_text().splitlines()
        if " sees " in line
    ]
    assert len(seen) == 3
    assert set(seen) == {"[0]", "[1]"}


@pytest.mark.slow
def test_threads_are_measured_once_for_a_model_a_batch_and_a_machine(plant, fresh):
    cycle = plant(*SIBLINGS)
    root = Path(cycle.config.forest_root)
    best = fresh(best_threads, cycle.config, root, 2).result(120)
    known = json.loads(throughput(cycle).read_text())
    rates = known["tokens_per_second"]
    assert set(rates) == {"1", "2"}
    assert min(rates.values()) > 0
    assert rates[str(best)] == max(rates.values())

    before = throughput(cycle).stat().st_mtime_ns
    _, looks = fresh(calls.work_off, cycle.config, specs(cycle), 2).result(120)
    # The last of three has all cores if nothing runs beside it by then.
    assert {cpus for cpus, _, _ in looks[0]} == {best}
    assert throughput(cycle).stat().st_mtime_ns == before

    cycle.config.trainer.batch_size *= 2
    fresh(best_threads, cycle.config, root, 2).result(120)
    assert json.loads(throughput(cycle).read_text())["key"] != known["key"]


def test_one_core_needs_no_measurement(tmp_path):
    assert best_threads(Config(), tmp_path, 1) == 1
    assert not list(tmp_path.iterdir())


def test_a_job_that_runs_alone_has_all_cores(plant, fresh):
    cycle = plant(*SIBLINGS, "run.rounds=[[bible]]")
    _, looks = fresh(calls.work_off, cycle.config, specs(cycle), 2).result(120)
    assert {cpus for look in looks for cpus, _, _ in look} == {2}
    assert not throughput(cycle).exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"gpus": 3, "cards": 2}, "cluster.gpus=3: this machine has 2"),
        ({"memory_gb": 1e6}, "cluster.memory_gb=1e+06: this machine has "),
    ],
)
def test_what_could_never_run_is_refused(overrides, said, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # whatever cards this machine has
    config = Config(forest=str(tmp_path))
    for key, value in overrides.items():
        setattr(config.cluster, key, value)
    cycle = Records(tmp_path).write_cycle(config, [["law"]])
    with pytest.raises(UserError, match="cluster") as refused:
        LocalEngine(config).submit(specs(cycle), Resources.of(config.cluster, "train"))
    assert str(refused.value).startswith(said)


@pytest.mark.slow
def test_what_is_cancelled_never_starts_and_the_end_of_the_engine_saves_what_runs(plant, fresh):
    cycle = plant(*SIBLINGS, "trainer.steps=100000", "trainer.threads=1", "cluster.parallel=1")
    ends = fresh(calls.cancel_and_close, cycle.config, specs(cycle)).result(60)
    assert ends["train-speeches.1"] == ("ended", "cancelled before it started")
    records = Records(Path(cycle.config.forest_root))
    outcome = records.outcome("train-bible", 1)
    assert outcome.kind == "stopped"
    assert outcome.saved > 1
    assert records.ended() == {("train-bible", 1)}  # the second was in the queue, and stays untried


@pytest.mark.parametrize(
    ("visible", "most", "cards"),
    [
        ("", None, []),
        ("-1", None, []),
        ("2,5", None, ["2", "5"]),
        ("2, 5", 1, ["2"]),
        ("2,5", 9, ["2", "5"]),
        ("GPU-8932f937,GPU-1ec5a24c", None, ["GPU-8932f937", "GPU-1ec5a24c"]),
        ("", 2, ["0", "1"]),
    ],
)
def test_only_the_cards_that_this_process_may_use_are_given_away(monkeypatch, visible, most, cards):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_cards(most) == cards


@pytest.mark.slow
def test_a_training_goes_on_with_the_threads_it_began_with(plant, fresh):
    cycle = plant(*SIBLINGS, "run.rounds=[[bible]]", "trainer.steps=40")
    [spec] = specs(cycle)
    assert fresh(calls.attempt, spec, threads=1, stop=True).result(60).kind == "stopped"
    _, looks = fresh(calls.work_off, cycle.config, [spec], 2).result(60)
    assert {cpus for look in looks for cpus, _, _ in look} == {1}
    assert Forest(cycle.config.forest_root)["bible"].card.exact
