#!/usr/bin/env python
"""What a job costs beside its own work, and how a cycle of thousands of experts scales.

scripts/bench/launch.py overhead    one job at a time, ours and submitit's local executor by turns
scripts/bench/launch.py slots       two experts with one thread each against one with two, one after
the other
scripts/bench/launch.py scale       plan 10,000 experts, then drive them on a simulated Slurm
scripts/bench/launch.py faults      drive 500 cycles, each on a simulated Slurm that misbehaves
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def overhead(jobs: int) -> None:
    """Print the median seconds that a job takes beyond its own, with both executors."""
    import submitit

    from btm.launch import attempt
    from btm.launch.engine import Resources
    from btm.launch.jobs import Job
    from btm.launch.local import LocalEngine
    from btm.launch.records import Records, Spec

    with tempfile.TemporaryDirectory() as folder:
        config = grow_smoke(Path(folder))
        records = Records(Path(config.forest_root))
        cycle = records.write_cycle(config, [["bible"]])
        job = Job(
            "score-seed", "score", "seed"
        )  # scored already: the step looks, and finds nothing to do
        specs = [
            Spec(config.forest_root, cycle.id, job, 1000 + number) for number in range(2 * jobs)
        ]
        attempt.preload("llama")
        engine = LocalEngine(config)
        engine._preloaded = True
        executor = submitit.LocalExecutor(Path(folder) / "submitit")
        times: dict[str, list[float]] = {
            "btm": [],
            "submitit": [],
            "submitit, imports not counted": [],
        }
        for number in range(jobs):
            begun = time.perf_counter()
            [id] = engine.submit([specs[2 * number]], Resources(cpus=1))
            while engine.poll([id])[id].state != "ended":
                engine.wait(1.0)
            seconds = time.perf_counter() - begun
            times["btm"].append(
                seconds - records.outcome(job.name, specs[2 * number].attempt).seconds
            )

            begun = time.perf_counter()
            submitted = executor.submit(work, specs[2 * number + 1])
            imports, own = submitted.result()
            seconds = time.perf_counter() - begun
            times["submitit"].append(seconds - own)
            times["submitit, imports not counted"].append(seconds - own - imports)
            print(
                f"{number + 1}/{jobs}",
                {name: round(values[-1], 3) for name, values in times.items()},
                flush=True,
            )
        median = {name: statistics.median(values) for name, values in times.items()}
        ratio = median["submitit"] / median["btm"]
        report(jobs=jobs, median_seconds=median, submitit_over_btm=ratio)


def work(spec):
    """Do in submitit's process what our worker does; return the seconds of imports and of the
    work.
    """
    begun = time.perf_counter()
    from btm.launch import attempt, worker

    attempt.preload("llama")
    imported = time.perf_counter()
    outcome = worker.work(spec)
    return imported - begun, outcome.seconds


def slots() -> None:
    """Print the tokens per second of this machine with every split of its cores that it can
    choose.
    """
    from btm.cli.compose import compose
    from btm.launch import attempt, throughput

    with tempfile.TemporaryDirectory() as folder:
        config = grow_smoke(Path(folder))
        attempt.preload("llama")
        rates = {}
        for model in ("smoke", "demo"):
            config = (
                config
                if model == "smoke"
                else compose(["experiment=demo", f"forest={config.forest_root}"])
            )
            best = throughput.best_threads(
                config, Path(config.forest_root), len(os.sched_getaffinity(0))
            )
            known = json.loads((Path(config.forest_root) / "jobs/throughput.json").read_text())
            rates[model] = {"threads": best, **known["tokens_per_second"]}
        report(tokens_per_second=rates)


def scale(experts: int) -> None:
    """Print what planning and driving a cycle of many experts takes; the cluster is simulated, the
    disk is real.
    """
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "launch")]
    from simulated_slurm import SimulatedSlurm
    from test_simulated_slurm import drive, plant

    from btm.launch.drive import Driver
    from btm.launch.records import Records
    from btm.launch.slurm import SlurmEngine
    from btm.system import durable

    os.fsync = lambda handle: None  # as in the test: nothing loses power here
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        cycle = plant(
            Path(folder) / "forest", [[f"e{number:05}" for number in range(experts)]], poll=60.0
        )
        slurm = SimulatedSlurm(0, Path(folder) / "forest", faults=0.02)
        Driver(cycle, SlurmEngine(Records(slurm.forest), cycle.config.cluster, run=slurm.run))
        planned = time.perf_counter() - begun
        durable.writer, durable.is_alive = (lambda: slurm.current), slurm.is_alive
        begun = time.perf_counter()
        driver = drive(slurm, cycle)
        assert sorted(slurm.registered) == sorted(["seed", *cycle.rounds[0]])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report(
            experts=experts,
            planned_seconds=planned,
            driven_seconds=time.perf_counter() - begun,
            counts=driver.counts(),
            peak_rss_bytes=peak,
        )


def faults(clusters: int) -> None:
    """Drive a cycle on each of many clusters that lose, double and forget jobs; raise if an expert
    is not registered exactly once.
    """
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "launch")]
    from test_simulated_slurm import survive

    os.fsync = lambda handle: None  # as in the test: nothing loses power here
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        for seed in range(clusters):
            survive(seed, Path(folder) / str(seed), setattr)
        report(clusters=clusters, seconds=time.perf_counter() - begun)


def grow_smoke(folder: Path):
    """Grow a smoke forest of one expert in `folder`, and return its configuration."""
    from btm import steps
    from btm.cli.compose import compose

    words = ["experiment=smoke", f"data.out={folder / 'data'}", f"forest={folder / 'forest'}"]
    config = compose([*words, "run.rounds=[[bible]]", "trainer.steps=5", "seed.steps=10"])
    pid = os.fork()  # so that this process has run no parallel code when it forks workers
    if not pid:
        code = 1
        try:
            steps.run(config)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return config


def report(**figures) -> None:
    """Print the figures as JSON."""
    print(json.dumps(figures, indent=1))


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["overhead", "slots", "scale", "faults"])
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--clusters", type=int, default=500)
    options = parser.parse_args()
    if options.what == "overhead":
        overhead(options.jobs)
    elif options.what == "slots":
        slots()
    elif options.what == "faults":
        faults(options.clusters)
    else:
        scale(options.experts)


if __name__ == "__main__":
    main()
