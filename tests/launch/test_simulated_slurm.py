"""A hundred and fifty misbehaving clusters: every expert is registered exactly once. And ten
thousand experts on one.
"""

import json
import time
import tracemalloc

import pytest
from simulated_slurm import SimulatedSlurm

from btm.config.schema import Config
from btm.launch.drive import Driver
from btm.launch.records import Records
from btm.launch.slurm import SlurmEngine
from btm.system import durable, lease

pytestmark = pytest.mark.slow

SCENARIOS, EACH = 150, 30  # scripts/bench/launch.py faults has any number
# Of the blocks the first shows coverage what all do.
BLOCKS = [
    pytest.param(n, marks=[] if n else [pytest.mark.traced]) for n in range(0, SCENARIOS, EACH)
]
ROUNDS = [["a", "b", "c"], ["d", "e"]]


def plant(root, rounds, **cluster):
    """An empty forest and the record of a cycle in it."""
    root.mkdir()
    for name in ("elms", "branches"):
        (root / name).mkdir()
    (root / "forest.json").write_text(json.dumps({"schema": 1}))
    config = Config(forest=str(root))
    config.cluster.kind = "slurm"
    for key, value in cluster.items():
        setattr(config.cluster, key, value)
    return Records(root).write_cycle(config, rounds)


@pytest.fixture
def no_power_cuts(monkeypatch):
    """Nothing here loses power, and a sync for each of a million writes would take the day."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def drive(slurm, cycle, *, restarts=0.0, limit=20_000):
    """Drive a cycle to its end; the driver itself is killed and replaced with a probability at each
    look.
    """
    records = Records(slurm.forest)

    def begin():
        while True:
            try:
                engine = SlurmEngine(
                    records,
                    cycle.config.cluster,
                    run=slurm.run,
                    sleep=slurm.advance,
                    now=lambda: slurm.now,
                )
                driver = Driver(cycle, engine, now=lambda: slurm.now, say=slurm.log.append)
                driver.adopt(engine.in_flight())
                return driver
            except Exception as error:
                if type(error).__name__ != "AwayError":
                    raise
                slurm.advance(10)

    driver = begin()
    for _ in range(limit):
        slurm.current = "controller"
        if driver.tick():
            return driver
        driver.engine.wait(cycle.config.cluster.poll)
        if slurm.random.random() < restarts:
            driver = begin()
    raise AssertionError(f"no end in sight: {driver.counts()}\n" + "\n".join(slurm.log[-20:]))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_expert_is_registered_exactly_once(block, tmp_path, monkeypatch, no_power_cuts):
    for seed in range(block, block + EACH):
        survive(seed, tmp_path / str(seed), monkeypatch.setattr)


def survive(seed, root, replace):
    """Drive a cycle on the cluster of a seed, which `replace`d functions of btm.system tell apart."""
    cycle = plant(root, ROUNDS, retries=1000, backoff=1.0)
    slurm = SimulatedSlurm(seed, root)
    replace(durable, "writer", lambda: slurm.current)
    replace(durable, "is_alive", slurm.is_alive)
    driver = drive(slurm, cycle, restarts=0.05)
    slurm.advance(1000)  # what was forgotten or started twice ends as well
    wanted = ["a", "b", "c", "d", "e", "seed"]
    assert sorted(slurm.registered) == wanted, (seed, slurm.log)
    assert sorted(p.name for p in (slurm.forest / "elms").iterdir()) == wanted, seed
    assert set(driver.counts()) == {"done"}, seed


def test_thousands_of_experts(tmp_path, monkeypatch, no_power_cuts):
    """scripts/bench/launch.py does this with ten thousand."""
    rounds = [[f"e{i:05}" for i in range(1_500)]]
    cycle = plant(tmp_path / "forest", rounds, poll=60.0)
    slurm = SimulatedSlurm(0, tmp_path / "forest", faults=0.02)
    monkeypatch.setattr(durable, "writer", lambda: slurm.current)
    monkeypatch.setattr(durable, "is_alive", slurm.is_alive)
    driver = drive(slurm, cycle)
    assert sorted(slurm.registered) == sorted(["seed", *rounds[0]])
    assert set(driver.counts()) == {"done"}


def test_ten_thousand_experts_are_planned_in_bounded_memory(tmp_path):
    tracemalloc.start()
    begun = time.monotonic()
    cycle = plant(tmp_path / "forest", [[f"e{i:05}" for i in range(10_000)]])
    driver = Driver(
        cycle,
        SlurmEngine(Records(tmp_path / "forest"), cycle.config.cluster, run=lambda command: ""),
    )
    seconds, (_, peak) = time.monotonic() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert driver.counts() == {"ready": 1, "waiting": 20_002}
    assert seconds < 20  # tracing costs a multiple; scripts/bench/launch.py has the time
    assert peak < 500e6


def test_a_lease_is_fenced_by_the_file_system(tmp_path):
    """The holder that was taken for dead finds nothing where it publishes."""
    (tmp_path / "law").mkdir()
    first = lease.take(tmp_path / "law")
    with pytest.raises(lease.HeldError):
        lease.take(tmp_path / "law")
    second = lease.take(tmp_path / "law", expiry=-1.0)
    with pytest.raises(FileNotFoundError), durable.publish_file(first.path / "file"):
        pass
    first._beaten = 0.0
    with pytest.raises(lease.LostError):
        first.beat()
    first.release()
    assert lease.find(tmp_path / "law") == second.path
    second.release()
    assert lease.find(tmp_path / "law") == tmp_path / "law"
