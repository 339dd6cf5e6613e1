"""The batch script of an array of tries: the options of sbatch, the setup lines, the command, and
the container that it runs in (btm/launch/container.py).
"""

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from btm.config.cluster import ClusterConfig
from btm.launch import container
from btm.launch.engine import Resources

_MEMORY = ("mem", "mem_per_cpu", "mem_per_gpu")  # sbatch takes one of them
_GPUS = ("gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket")
_GPUS_IF_NAMED = ("gres", "tres_per_task", "tres_per_node")
_PER_GPU = ("mem_per_gpu", "cpus_per_gpu")
# Variables by which many sites give each user what every job must name.
_ENVIRONMENT = {
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "qos": "SBATCH_QOS",
    "wckey": "SBATCH_WCKEY",
    "reservation": "SBATCH_RESERVATION",
    "constraint": "SBATCH_CONSTRAINT",
}


@dataclass
class Script:
    """What the batch script of one array says; options are spelled as submitit has them."""

    options: dict[str, Any]
    setup: list[str]
    python: str
    notes: list[str] = field(default_factory=list)  # of keys that an option in `extra` replaces
    srun: list[str] = field(default_factory=list)  # further options of srun

    def write(self, file: Path, count: int, parallel: int, manifest: Path) -> None:
        """Write the script of an array of `count` tasks, `parallel` of them at once."""
        executor = _Executor(file.parent, python=self.python)
        options = self.options | {"map_count": count, "array_parallelism": parallel}
        steps = {"cpus_per_task"} & options.keys()
        executor.update_parameters(
            setup=self.setup or None,
            stderr_to_stdout=True,
            # Since Slurm 22.05 a step does not take over the CPUs of its job by itself.
            srun_args=[f"--cpus-per-task={options[name]}" for name in steps] + self.srun,
            signal_delay_s=options.pop("signal_delay_s"),
            array_parallelism=options.pop("array_parallelism"),
        )
        executor.parameters["map_count"] = options.pop("map_count")
        # submitit asks for 5 minutes, one node and its own wckey where it is given none.
        executor.parameters |= {"time": None, "wckey": None, "additional_parameters": options}
        command = f"{self.python} -u -m btm.launch.slurm_task {shlex.quote(str(manifest))}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(executor.script(command))


def script_of(
    name: str,
    forest: str,
    resources: Resources,
    cluster: ClusterConfig,
    after: Sequence[str],
    folders: Iterable[Path] = (),
) -> Script:
    """Make the script of an array called `name`, which begins when the arrays `after` have ended.

    What `extra` says wins over a key; where that leaves a key without effect, a note says so. A
    container sees the folders that the jobs read and write (`folders`).
    """
    extra, notes = _spelled(resources.extra), []
    options = {
        "job_name": name,
        "comment": f"btm {forest}",
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "wckey": cluster.wckey,
        "nodes": resources.nodes,
        "cpus_per_task": max(resources.cpus, resources.processes),
        "gpus_per_node": resources.cards or None,
        # Slurm takes no fractions.
        "mem": f"{round(resources.memory_gb * 1024)}M" if resources.memory_gb else None,
        "time": resources.time_min or None,
        "signal_delay_s": cluster.warn_before,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        "requeue": True,
    }
    for option, variable in _ENVIRONMENT.items():
        if options.get(option) is None and os.environ.get(variable):
            options[option] = os.environ[variable]
    of_gpus = [option for option in extra if _asks_for_gpus(option, extra[option])]
    if not of_gpus and not resources.cards:
        for option in _PER_GPU:  # the jobs of a cycle that have none of its GPUs
            extra.pop(option, None)
    notes += _replace(options, "gpus_per_node", of_gpus, extra, f"cluster.gpus={resources.cards}")
    of_memory = [option for option in _MEMORY if option in extra]
    memory = f"cluster.memory_gb={resources.memory_gb:g}"
    notes += _replace(options, "mem", of_memory, extra, memory)
    if "cpus_per_gpu" in extra:
        options["cpus_per_task"] = None  # sbatch takes one of the two
    if extra.get("no_requeue"):
        options["requeue"] = None
    merged = {key: value for key, value in (options | extra).items() if value not in (None, False)}
    inside = container.container_of(cluster, folders, gpus=bool(of_gpus or resources.cards))
    own = shlex.quote(sys.executable) if cluster.container is None else container.PYTHON
    python = container.command_of(inside, cluster.python or own)
    return Script(merged, list(cluster.setup), python, notes, inside.srun)


def _spelled(extra: dict[str, Any]) -> dict[str, Any]:
    """Spell options as submitit does, --mem-per-cpu as mem_per_cpu; join lists by commas."""
    made = {}
    for name, value in extra.items():
        plain = str(name).lstrip("-").replace("-", "_")
        made[plain] = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    return made


def _asks_for_gpus(option: str, value: Any) -> bool:
    return option in _GPUS or (option in _GPUS_IF_NAMED and "gpu" in str(value))


def _replace(
    options: dict[str, Any], ours: str, theirs: list[str], extra: dict[str, Any], key: str
) -> list[str]:
    """Drop an option of ours for one in `extra` of the same meaning; return a note of it."""
    if not theirs or options[ours] is None:
        return []
    options[ours] = None
    said = ", ".join(f"{option.replace('_', '-')}={extra[option]}" for option in theirs)
    return [f"cluster.extra {said} stands in place of {key}"]


class _Executor(submitit.SlurmExecutor):
    """submitit's batch scripts, without its pickles."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self, command: str) -> str:
        return self._make_submission_file_text(command, "")
