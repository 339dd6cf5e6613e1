"""The commands of Slurm: how they are run, and what their refusals mean.

A refusal is one of three things. Slurm is away: no answer says anything about the job
(`AwayError`). Slurm is full: it takes jobs again later, or fewer at once (`FullError`). Or the job
can never be taken as it is, which is the user's to mend (`UserError`, with the key to change).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable

from btm.errors import UserError
from btm.launch.engine import Resources

Run = Callable[[list[str]], str]  # a command of Slurm; returns what it printed

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
_TIMEOUT = 60.0  # seconds that a command of Slurm may take
_QUESTIONS = ("squeue", "scontrol")  # their failure is never a mistake in a user's settings
# A user's variables that would change what a command is asked (SQUEUE_PARTITION hides jobs), and
# Slurm's variables of the job in which this process itself runs.
_CHANGING = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_")
_REACHING = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # by which the cluster is found
# Messages after which asking again may help; any other refusal is final.
_AWAY = re.compile(
    r"unable to contact|timed out|timeout|connection|not connected|communication|try again|"
    r"temporarily|zero bytes|not responding|controller|authentication|munge|configuration source|"
    r"message (send|receive) failure|unexpected message|insane message|DNS|host",
    re.IGNORECASE,
)
# Messages for a user who has as many jobs as allowed, and of a partition that is closed for now.
# One text stands for all limits of accounting; newer Slurms name the limit in a line before it.
_FULL = re.compile(
    r"(Assoc|QOS)(Max|Grp)Submit|MaxJobCount|job (submit )?limit|sleeping and retrying|"
    r"resource temporarily|temporarily (unable to accept|disabled)|queue full|inactive or drain|"
    r"configuration not available now|node not available",
    re.IGNORECASE,
)
# Limits on the size or the time of one job: waiting does not help.
_LIMIT = re.compile(r"\b(Assoc|QOS)(Max|Min|Grp)(?!Submit|Jobs)\w+")
_ARRAY = re.compile(r"job array specification", re.IGNORECASE)
_PREFIXES = ("error: ", "fatal: ", "allocation failure: ", "Batch job submission failed: ")

# A job that is larger than any node that is up, or than a limit.
_LARGE = r"node configuration|memory specification|(cpu|gpu|node) count|more processors"
_TOO_MUCH = rf"{_LARGE}|Max\w+Per"

_WHOSE = "sacctmgr show assoc user=$USER format=account,partition,qos lists yours"
# Final refusals, by what sbatch says, and the remedy.
_REMEDIES = (
    (
        r"time limit is|MaxWall|TimeLimit",
        "give cluster.time_min=MINUTES (now {minutes}), at most what "
        "sinfo --format='%P %l' shows of the partition, or its QOS allows",
    ),
    (
        _TOO_MUCH,
        "a job asked for cluster.memory_gb={memory:g} cluster.cpus={cpus} cluster.gpus={cards} "
        "cluster.nodes={nodes}: give what a node has (sinfo -N -l), or cluster.memory_gb=0 for "
        "the partition's default",
    ),
    (r"account or|no account|default account", f"give cluster.account=NAME: {_WHOSE}"),
    (r"partition", "give cluster.partition=NAME{partitions}"),
    (r"qos", f"give cluster.qos=NAME: {_WHOSE}"),
    (r"wckey", "give cluster.wckey=NAME: sacctmgr show wckey user=$USER lists yours"),
    (
        r"gres|generic resource",
        "give cluster.gpus, and cluster.extra with gres or mem-per-gpu, as the nodes have GPUs: "
        "sinfo --format='%P %G'",
    ),
    (r"feature|constraint", "give cluster.extra constraint as sinfo --format='%P %f' shows them"),
    (r"reservation", "give cluster.extra reservation as scontrol show reservation has it"),
    (r"\boption\b|mutually exclusive", "mend cluster.extra: sbatch --help lists what it takes"),
)


class AwayError(Exception):
    """Slurm does not answer, or not now."""


class FullError(AwayError):
    """Slurm takes no more jobs, or not so many at once."""


class ArraySizeError(FullError):
    """Slurm takes no array of this size."""


def require_commands() -> None:
    """Raise `UserError` naming the commands of Slurm that this machine lacks."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"cluster=slurm: no {', '.join(missing)} here; log in to a machine of the cluster "
            "(module load slurm, at some sites), or cluster=local"
        )


def run_command(command: list[str]) -> str:
    """Run a command of Slurm and return what it printed.

    Raises `AwayError` without an answer, `FullError` for jobs that are not taken now, `UserError`
    for a lasting refusal.
    """
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(_CHANGING) or key in _REACHING
    }
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        last = _said(command[0], error.stderr)
        why = f"{command[0]} took more than {_TIMEOUT:g} s"
        kind = FullError if _FULL.search(last) else AwayError
        raise kind(f"{why}: {last}" if last else why) from None
    except OSError as error:  # no memory, processes or disk for the command: this passes
        raise AwayError(f"{command[0]}: {error.strerror}") from None
    if done.returncode == 0:
        return done.stdout
    raise _refusal(command[0], _said(command[0], done.stderr or done.stdout), done.returncode)


def _said(name: str, output: str | bytes | None) -> str:
    """Join the lines of a command's complaint, without its name and the word error."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    lines = []
    for line in text.splitlines():
        line = line.strip().removeprefix(f"{name}: ")
        for prefix in _PREFIXES:
            line = line.removeprefix(prefix).strip()
        if line and line not in lines:
            lines.append(line)
    return "; ".join(lines)


def _refusal(name: str, said: str, code: int) -> Exception:
    """Make the error for what a command said."""
    if _ARRAY.search(said):
        return ArraySizeError(said)
    if _FULL.search(said) and not _LIMIT.search(said):
        return FullError(said)
    if name in _QUESTIONS or (_AWAY.search(said) and not _LIMIT.search(said)):
        return AwayError(said or f"{name}: exit code {code}")
    return UserError(f"{name}: {said or f'exit code {code}'}")


def explained(error: UserError, resources: Resources, run: Run) -> UserError:
    """Add the remedy to a final refusal of a job that asked for `resources`."""
    said = str(error)
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, said, re.IGNORECASE):
            return UserError(f"{said}; {remedy.format_map(_Values(resources, run))}")
    return error


def asks_too_much(error: UserError) -> bool:
    """Tell whether a refusal is of a job that is larger than any node that is up."""
    return re.search(_LARGE, str(error), re.IGNORECASE) is not None


class _Values(dict[str, object]):
    """The values that a remedy names; the partitions are asked for only where it does."""

    def __init__(self, resources: Resources, run: Run) -> None:
        self._run = run
        super().__init__(
            memory=resources.memory_gb,
            cpus=resources.cpus,
            cards=resources.cards,
            nodes=resources.nodes,
            minutes=resources.time_min or "the partition's default",
        )

    def __missing__(self, key: str) -> str:
        try:
            text = self._run(["sinfo", "--noheader", "--format=%R"])
        except (AwayError, UserError, LookupError):  # a test's Slurm may know no sinfo
            return ""
        names = sorted(set(text.split()))
        return f"; have: {', '.join(names)}" if names else ""
