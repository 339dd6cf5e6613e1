"""The engine of a Slurm cluster; submitit writes the batch scripts, and does nothing else.

submitit's own bookkeeping is not used: it was seen to take a requeued job for a dead one, to return
an older job's result under a reused id, and to wait for ever without accounting
(btm/launch/__init__.py). A submission is a manifest of ours, written before sbatch is called and
completed after; squeue, asked once for all jobs, says what runs; each try itself records how it
ended.
"""

import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import submitit

from btm.config.checks import check_printable
from btm.config.cluster import ClusterConfig
from btm.errors import UserError
from btm.launch.engine import Resources, Status
from btm.launch.records import Records, Spec, read_json
from btm.system import durable
from btm.system.json_files import Json

Run = Callable[[list[str]], str]  # a command of Slurm; returns what it printed

_TIMEOUT = 60.0  # seconds that a command of Slurm may take
_DOUBT = 60.0  # seconds after which NODE_FAIL or PREEMPTED is the end: a requeue shows both
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
_DOUBTFUL = {"NODE_FAIL", "PREEMPTED"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
# Messages of sbatch after which asking again may help; any other refusal is final.
_AWAY = re.compile(
    r"unable to contact|timed out|timeout|connection|not connected|communication|try again|"
    r"temporarily|zero bytes|not responding|controller|authentication|munge",
    re.IGNORECASE,
)
# Messages of sbatch for a user who has as many jobs as allowed.
_FULL = re.compile(r"(Assoc|QOS)(Max|Grp)Submit|MaxJobCount|job limit", re.IGNORECASE)
# Messages of sbatch for a job that asks for more than any node has.
_TOO_MUCH = re.compile(
    r"node configuration|memory specification|(CPU|GPU|node) count", re.IGNORECASE
)
_FULL_FOR = 60.0  # seconds until a full Slurm is tried again
_QUESTIONS = ("squeue", "scontrol")  # their failure is never a mistake in a user's settings
_HELD = re.compile(r"requeued held|requeued in held|JobHoldMaxRequeue")  # by Slurm: not by a person


class AwayError(Exception):
    """Slurm does not answer, or not now."""


class FullError(AwayError):
    """Slurm takes no more jobs, or not so many at once."""


class SlurmEngine:
    """Submits arrays of tries and follows them with squeue alone; needs no accounting (sacct)."""

    def __init__(
        self,
        records: Records,
        cluster: ClusterConfig,
        *,
        run: Run | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Use the Slurm that this machine's commands reach (SLURM_CONF)."""
        if run is None and shutil.which("sbatch") is None:
            raise UserError(
                "cluster=slurm: no sbatch here; log in to a machine of the cluster, "
                "or cluster=local"
            )
        # Names of folders above the forest stand in the batch script too.
        check_printable(str(records.files.submissions.resolve()), "forest")
        self.records, self.cluster = records, cluster
        self.run, self.now, self.sleep, self.say = run or run_command, now, sleep, say
        self.folder = records.files.submissions
        self._names: dict[str, str] = {}  # id of an array -> the name it was submitted under
        self._doubted: dict[str, float] = {}
        self._away_since = 0.0
        self._full_until = 0.0
        self._in_doubt: list[Path] = []  # submissions that Slurm may have taken
        self._found: dict[tuple[str, int], str] = {}  # tries in such that it has taken -> ids
        self._limit: int | None = None

    def submit(
        self,
        specs: Sequence[Spec],
        resources: Resources,
        after: Sequence[str] = (),
        *,
        detached: bool = False,
    ) -> list[str]:
        """Submit tries as arrays; return an id for each, "" for those that Slurm did not take.

        The list is empty if it took none. `after` are arrays that must have ended, well or not,
        before these start. Where a user may have few jobs, arrays get smaller, and the rest waits.
        Raises `UserError` if the first array is refused.
        """
        taken: dict[tuple[str, int], str] = {}
        try:
            self._settle_doubts()  # first: a try that Slurm took unseen must not run twice
            known = [_key(spec) for spec in specs if _key(spec) in self._found]
            taken = {key: self._found.pop(key) for key in known}
            new = [spec for spec in specs if _key(spec) not in taken]
            for spec, id in self._arrays(new, resources, after, detached):
                taken[_key(spec)] = id
        except FullError as error:
            self._full_until = self.now() + _FULL_FOR
            self.say(f"Slurm takes no more jobs now ({error}); the others wait")
        except AwayError as error:
            self._say_away(str(error))
        except UserError:
            if not taken:
                raise  # otherwise it is raised when the rest is submitted again
        ids = [taken.get(_key(spec), "") for spec in specs]
        return ids if taken else []

    def poll(self, ids: Collection[str]) -> dict[str, Status]:
        """Ask squeue once; an id that it does not list has ended, unless it did not answer."""
        try:
            rows = dict(self._queue())
        except AwayError as error:
            self._say_away(str(error))
            return dict.fromkeys(ids, Status("unknown"))
        self._away_since = 0.0
        return {id: self._status(id, rows.get(id)) for id in ids}

    def cancel(self, ids: Collection[str]) -> None:
        """Send SIGTERM, and SIGKILL after Slurm's KillWait, to running tries; drop pending ones."""
        ordered = sorted(ids)
        for start in range(0, len(ordered), 500):  # a command line has a limit
            self._patiently(["scancel", *ordered[start : start + 500]])

    def wait(self, seconds: float) -> None:
        """Sleep."""
        self.sleep(seconds)

    def in_flight(
        self, cycle_id: str | None = None, *, mend: bool = True
    ) -> dict[str, tuple[str, int]]:
        """Find submitted tries without an outcome (of one cycle): {job: (id, try)}.

        A submission whose id was never written down is looked for by its name: sbatch may have been
        interrupted before or after Slurm took it. Without `mend`, for those who only watch, nothing
        is written or forgotten: another process may be about to submit. Raises `AwayError` if Slurm
        does not answer.
        """
        found: dict[str, tuple[str, int]] = {}
        ended = self.records.ended()
        names: dict[str, str] | None = None
        for file in sorted(self.folder.glob("*.json")):
            manifest = read_json(file)
            open_jobs = list(map(Spec.from_json, manifest["specs"]))
            if all(_key(spec) in ended for spec in open_jobs):
                if mend:
                    self._forget(file)
                continue
            if manifest["id"] is None:
                if names is None:
                    names = {name: id.partition("_")[0] for id, (name, _, _) in self._queue()}
                id = names.get(manifest["name"])
                if id is None:
                    if mend:
                        self._forget(file)
                    continue
                manifest["id"] = id
                if mend:
                    durable.write_json(file, manifest)
            self._names[manifest["id"]] = manifest["name"]
            for index, spec in enumerate(open_jobs):
                mine = cycle_id in (None, spec.cycle)
                if mine and _key(spec) not in ended:
                    found[spec.job.name] = (f"{manifest['id']}_{index}", spec.attempt)
        return found

    def has_others(self, cycle_id: str) -> bool:
        """Tell whether jobs of another cycle are queued or running; raises `AwayError`."""
        manifests = map(read_json, self.folder.glob("*.json"))
        others = (m for m in manifests if any(spec["cycle"] != cycle_id for spec in m["specs"]))
        names = {manifest["name"] for manifest in others}
        at_work = (name for name, state, _ in dict(self._queue()).values() if state not in _ENDED)
        return bool(names) and not names.isdisjoint(at_work)

    def array_limit(self) -> int:
        """Read how many tasks an array may have."""
        if self._limit is None:
            text = self.run(["scontrol", "show", "config"])
            match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
            self._limit = max(1, int(match.group(1)) - 1) if match else 1000
        return self._limit

    def _arrays(
        self, specs: list[Spec], resources: Resources, after: Sequence[str], detached: bool
    ) -> Iterator[tuple[Spec, str]]:
        """Submit tries as arrays that are as large as Slurm takes; yield each with its id."""
        if not specs or self.now() < self._full_until:
            return
        size, start = self.array_limit(), 0
        while start < len(specs):
            part = specs[start : start + size]
            try:
                ids = self._submit_array(part, resources, after, detached)
            except FullError:
                size = len(part) // 2
                if not size:
                    raise
                continue
            yield from zip(part, ids, strict=True)
            start += len(part)

    def _submit_array(
        self, specs: list[Spec], resources: Resources, after: Sequence[str], detached: bool
    ) -> list[str]:
        sid = uuid.uuid4().hex[:12]
        manifest: Json = {
            "name": f"btm-{sid}",
            "id": None,
            "detached": detached,
            "cpus": resources.cpus,
            "specs": [spec.to_json() for spec in specs],
        }
        file = self.folder / f"{sid}.json"
        durable.write_json(file, manifest)
        try:
            manifest["id"] = self._sbatch(file, manifest["name"], len(specs), resources, after)
        except UserError as error:
            self._forget(file)
            raise _explained(error, resources) from None
        durable.write_json(file, manifest)
        self._names[manifest["id"]] = manifest["name"]
        return [f"{manifest['id']}_{index}" for index in range(len(specs))]

    def _sbatch(
        self, file: Path, name: str, count: int, resources: Resources, after: Sequence[str]
    ) -> str:
        executor = _Executor(file.with_suffix(""), python=shlex.quote(sys.executable))
        executor.update_parameters(**self._parameters(name, resources, after))
        executor.parameters["map_count"] = count
        # submitit asks for 5 minutes where it is given none; None leaves --time out.
        executor.parameters["time"] = resources.time_min or None
        manifest = shlex.quote(str(file.resolve()))
        command = f"{executor.python} -u -m btm.launch.slurm_task {manifest}"
        script = file.with_suffix("") / "batch.sh"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(executor.script(command))
        try:
            said = self.run(["sbatch", str(script)])
        except AwayError:
            # Slurm may have taken the job all the same: ask, before anybody submits it again.
            self._in_doubt.append(file)
            id = self._named(name)
            self._in_doubt.remove(file)
            if id is None:
                self._forget(file)
                raise
            return id
        return executor.id_in(said)

    def _named(self, name: str) -> str | None:
        """Find the id of the array that was submitted under a name, if Slurm has it."""
        found = next((id for id, (known, _, _) in self._queue() if known == name), None)
        return found and found.partition("_")[0]

    def _settle_doubts(self) -> None:
        """Ask which of the doubtful submissions Slurm has taken; forget the others.

        Raises `AwayError` as long as Slurm does not answer.
        """
        while self._in_doubt:
            file = self._in_doubt[-1]
            manifest = read_json(file)
            manifest["id"] = self._named(manifest["name"])
            if manifest["id"] is None:
                self._forget(file)  # should a task start all the same, it finds no spec and ends
            else:
                durable.write_json(file, manifest)
                self._names[manifest["id"]] = manifest["name"]
                keys = map(_key, map(Spec.from_json, manifest["specs"]))
                self._found |= {key: f"{manifest['id']}_{index}" for index, key in enumerate(keys)}
            self._in_doubt.pop()

    def _parameters(
        self, name: str, resources: Resources, after: Sequence[str]
    ) -> dict[str, object]:
        memory = round(resources.memory_gb * 1024)  # Slurm takes no fractions
        given = {
            "job_name": name,
            "comment": f"btm {self.records.forest.name}",
            "partition": resources.partition,
            "account": resources.account,
            "qos": resources.qos,
            "nodes": resources.nodes,
            "cpus_per_task": max(resources.cpus, resources.processes),
            "gpus_per_node": resources.cards or None,
            "mem": f"{memory}M" if resources.memory_gb else None,
            "array_parallelism": resources.parallel or 100_000,
            "signal_delay_s": self.cluster.warn_before,
            "setup": list(self.cluster.setup) or None,
            "dependency": f"afterany:{':'.join(after)}" if after else None,
            "additional_parameters": {"requeue": True, "open-mode": "append", **self.cluster.extra},
            "stderr_to_stdout": True,
        }
        return {key: value for key, value in given.items() if value is not None}

    def _queue(self) -> Iterator[tuple[str, tuple[str, str, str]]]:
        """Yield (id, (name, state, reason)) of every task of this user that Slurm still knows."""
        words = ["--noheader", "--array", "--states=all", f"--user={getpass.getuser()}"]
        text = self.run(["squeue", *words, "--format=%i|%j|%T|%r"])
        for line in text.splitlines():
            parts = line.strip().split("|", 3)
            if len(parts) == 4:
                yield parts[0], (parts[1], parts[2], parts[3])

    def _status(self, id: str, row: tuple[str, str, str] | None) -> Status:
        if row is None or row[0] != self._names.get(id.partition("_")[0], row[0]):
            return Status("ended", "not in Slurm's queue any more")
        _, state, reason = row
        said = state if reason in ("None", "") else f"{state}, {reason}"
        if state in _DOUBTFUL:
            since = self._doubted.setdefault(id, self.now())
            return Status("ended", said) if self.now() - since >= _DOUBT else Status("unknown")
        self._doubted.pop(id, None)
        if state in _ENDED:
            return Status("ended", said)
        if state in _RUNNING:
            return Status("running")
        if "DependencyNeverSatisfied" in reason:
            self.cancel([id])
            return Status("ended", said)
        if _HELD.search(reason):
            self._patiently(["scontrol", "release", id])
        usual = reason in ("None", "Priority", "Resources", "Dependency")
        return Status("queued", "" if usual else reason)

    def _patiently(self, command: list[str]) -> None:
        """Run a command whose failure changes nothing: it is repeated at the next poll."""
        try:
            self.run(command)
        except (AwayError, UserError) as error:
            self.say(f"{command[0]}: {error}")

    def _say_away(self, why: str) -> None:
        if not self._away_since:
            self._away_since = self.now()
            self.say(f"Slurm does not answer ({why}); running jobs go on, the cycle waits")

    def _forget(self, file: Path) -> None:
        """Delete a submission; the script goes first, so that a crash leaves the manifest."""
        shutil.rmtree(file.with_suffix(""), ignore_errors=True)
        file.unlink(missing_ok=True)


class _Executor(submitit.SlurmExecutor):
    """submitit's batch scripts, without its pickles."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self, command: str) -> str:
        return self._make_submission_file_text(command, "")

    def id_in(self, said: str) -> str:
        return self._get_job_id_from_submission_command(said)


def run_command(command: list[str]) -> str:
    """Run a command of Slurm; `AwayError` without an answer, `UserError` for a lasting refusal.

    Slurm's variables of the job in which this process itself runs are not passed on.
    """
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SLURM_", "SBATCH_", "SRUN_")) or key == "SLURM_CONF"
    }
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, env=inherited, check=False
        )
    except subprocess.TimeoutExpired:
        raise AwayError(f"{command[0]} took more than {_TIMEOUT:g} s") from None
    except OSError as error:  # no memory, processes or disk for the command: this passes
        raise AwayError(f"{command[0]}: {error.strerror}") from None
    if done.returncode == 0:
        return done.stdout
    lines = (done.stderr or done.stdout).splitlines()
    stripped = [line.strip().removeprefix(f"{command[0]}: error: ") for line in lines]
    said = "; ".join(line for line in stripped if line)
    if _FULL.search(said):
        raise FullError(said)
    if command[0] in _QUESTIONS or _AWAY.search(said):
        raise AwayError(said)
    raise UserError(f"{command[0]}: {said or f'exit code {done.returncode}'}")


def _explained(error: UserError, resources: Resources) -> UserError:
    """Name the settings behind a refusal by sbatch of what a job asks for."""
    if not _TOO_MUCH.search(str(error)):
        return error
    return UserError(
        f"{error}; a job asked for cluster.memory_gb={resources.memory_gb:g} "
        f"cluster.cpus={resources.cpus} cluster.gpus={resources.cards} "
        f"cluster.nodes={resources.nodes}: give what a node has (sinfo -N -l), or "
        "cluster.memory_gb=0 for the partition's default"
    )


def _key(spec: Spec) -> tuple[str, int]:
    return spec.job.name, spec.attempt
