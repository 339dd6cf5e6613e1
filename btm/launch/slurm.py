"""The engine of a Slurm cluster; submitit writes the batch scripts, and does nothing else.

submitit's own bookkeeping is not used: it was seen to take a requeued job for a dead one, to return
an older job's result under a reused id, and to wait for ever without accounting
(btm/launch/__init__.py). A submission is a manifest of ours, written before sbatch is called and
completed after; squeue, asked once for all jobs, says what runs; each try itself records how it
ended.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from btm.config.checks import check_printable
from btm.config.cluster import ClusterConfig
from btm.errors import UserError
from btm.launch.engine import Resources, Status
from btm.launch.patience import Patience
from btm.launch.records import Records, Spec, read_json
from btm.launch.slurm_commands import (
    ArraySizeError,
    AwayError,
    FullError,
    Run,
    asks_too_much,
    explained,
    require_commands,
    run_command,
)
from btm.launch.slurm_script import Script, script_of
from btm.system import durable
from btm.system.json_files import Json

_DOUBT = 60.0  # seconds after which NODE_FAIL or PREEMPTED is the end: a requeue shows both
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
_DOUBTFUL = {"NODE_FAIL", "PREEMPTED"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
_USUAL_LIMIT = 1000  # tasks of an array, where Slurm does not say: the default of MaxArraySize
_HELD = re.compile(r"requeued held|requeued in held|JobHoldMaxRequeue")  # by Slurm: not by a person
_SUBMITTED = re.compile(r"Submitted batch job (\d+)")


class SlurmEngine:
    """Submits arrays of tries and follows them with squeue alone; needs no accounting (sacct)."""

    def __init__(
        self,
        records: Records,
        cluster: ClusterConfig,
        folders: Sequence[Path] = (),
        *,
        run: Run | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Use the Slurm that this machine's commands reach (SLURM_CONF).

        `folders` are what the jobs read and write, and see in a container.
        """
        if run is None:
            require_commands()
        # Names of folders above the forest stand in the batch script too.
        check_printable(str(records.files.submissions.resolve()), "forest")
        self.records, self.cluster, self.folders = records, cluster, folders
        self.run, self.now, self.sleep, self.say = run or run_command, now, sleep, say
        self.folder = records.files.submissions
        self._names: dict[str, str] = {}  # id of an array -> the name it was submitted under
        self._doubted: dict[str, float] = {}
        self.patience = Patience(cluster.patience, cluster.poll, self.now, say)
        self._in_doubt: list[Path] = []  # submissions that Slurm may have taken
        self._found: dict[tuple[str, int], str] = {}  # tries in such that it has taken -> ids
        self._limit: int | None = None
        self._noted: set[str] = set()

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
            self.patience.full(str(error))
        except AwayError as error:
            self.patience.away(str(error))
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
            self.patience.away(str(error), len(ids))
            return dict.fromkeys(ids, Status("unknown"))
        self.patience.answered()
        return {id: self._status(id, rows.get(id)) for id in ids}

    def cancel(self, ids: Collection[str]) -> None:
        """Send SIGTERM, and SIGKILL after Slurm's KillWait, to running tries; drop pending ones."""
        ordered = sorted(ids)
        for start in range(0, len(ordered), 500):  # a command line has a limit
            self._patiently(["scancel", *ordered[start : start + 500]])

    def wait(self, seconds: float) -> None:
        """Sleep."""
        self.sleep(seconds)

    def given_up(self) -> str:
        """Say why Slurm is no longer waited for; "" while it is."""
        return self.patience.over()

    def close(self, pulse: Callable[[], object] = lambda: None) -> None:
        """Do nothing: Slurm's jobs go on without their driver."""

    def check(self, wanted: Sequence[Resources]) -> None:
        """Ask Slurm whether it would take jobs of these kinds, before any of them is submitted.

        Raises `UserError` for one that it never takes, `AwayError` if it does not answer. A limit
        on the number of jobs says nothing here.
        """
        for resources in wanted:
            script = self._script("btm-check", resources, ())
            for note in script.notes:
                if note not in self._noted:
                    self._noted.add(note)
                    self.say(f"note: {note}")
            folder = self.folder / f".check-{uuid.uuid4().hex[:12]}"
            try:
                script.write(folder / "batch.sh", 1, 1, folder)
                self.run(["sbatch", "--test-only", str(folder / "batch.sh")])
            except FullError:
                continue
            except UserError as error:
                if not asks_too_much(error):  # of nodes that may only be down now
                    raise explained(error, resources, self.run) from None
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def submitted_before(self) -> int:
        """Count the tries on disk that Slurm took and that have left no outcome."""
        ended = self.records.ended()
        manifests = map(read_json, self.folder.glob("*.json"))
        specs = [spec for one in manifests if one["id"] is not None for spec in one["specs"]]
        return sum((spec["job"]["name"], spec["attempt"]) not in ended for spec in specs)

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
            try:
                text = self.run(["scontrol", "show", "config"])
            except AwayError:
                list(self._queue())  # which raises, too, if it is not scontrol alone
                return _USUAL_LIMIT
            match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
            self._limit = max(1, int(match.group(1)) - 1) if match else _USUAL_LIMIT
        return self._limit

    def _arrays(
        self, specs: list[Spec], resources: Resources, after: Sequence[str], detached: bool
    ) -> Iterator[tuple[Spec, str]]:
        """Submit tries as arrays that are as large as Slurm takes; yield each with its id."""
        if not specs or self.patience.rests():
            return
        size, start = self.array_limit(), 0
        while start < len(specs):
            part = specs[start : start + size]
            try:
                ids = self._submit_array(part, resources, after, detached)
            except FullError as error:
                size = len(part) // 2
                if size:
                    continue
                if isinstance(error, ArraySizeError):
                    raise UserError(
                        f"sbatch: {error}: this Slurm takes no arrays, as which btm submits its "
                        "jobs; ask its administrators for a MaxArraySize above 1"
                    ) from None
                raise
            self.patience.taken()
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
            raise explained(error, resources, self.run) from None
        durable.write_json(file, manifest)
        self._names[manifest["id"]] = manifest["name"]
        return [f"{manifest['id']}_{index}" for index in range(len(specs))]

    def _sbatch(
        self, file: Path, name: str, count: int, resources: Resources, after: Sequence[str]
    ) -> str:
        script = self._script(name, resources, after)
        batch = file.with_suffix("") / "batch.sh"
        script.write(batch, count, resources.parallel or 100_000, file.resolve())
        try:
            said = self.run(["sbatch", str(batch)])
            match = _SUBMITTED.search(said)
            if match is None:
                raise AwayError(f"sbatch said {said.strip()[:200]!r}, which names no job")
        except AwayError:
            # Slurm may have taken the job all the same: ask, before anybody submits it again.
            self._in_doubt.append(file)
            id = self._named(name)
            self._in_doubt.remove(file)
            if id is None:
                self._forget(file)
                raise
            return id
        return match.group(1)

    def _script(self, name: str, resources: Resources, after: Sequence[str]) -> Script:
        forest = self.records.forest.name
        return script_of(name, forest, resources, self.cluster, after, self.folders)

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

    def _queue(self) -> Iterator[tuple[str, tuple[str, str, str]]]:
        """Yield (id, (name, state, reason)) of every task of this user that Slurm still knows."""
        words = ["--noheader", "--array", "--states=all", f"--user={os.getuid()}"]
        text = self.run(["squeue", *words, "--format=%i|%j|%T|%r"])
        for line in text.splitlines():
            parts = line.strip().split("|", 3)
            if len(parts) == 4:
                yield parts[0], (parts[1], parts[2], parts[3])

    def _status(self, id: str, row: tuple[str, str, str] | None) -> Status:
        if row is None or row[0] != self._names.get(id.partition("_")[0], row[0]):
            return Status("ended", f"not in Slurm's queue any more{self._last_words(id)}")
        _, state, reason = row
        said = state if reason in ("None", "") else f"{state}, {reason}"
        if state in _DOUBTFUL:
            since = self._doubted.setdefault(id, self.now())
            return Status("ended", said) if self.now() - since >= _DOUBT else Status("unknown")
        self._doubted.pop(id, None)
        if state in _ENDED:
            return Status("ended", f"{said}{self._last_words(id)}")
        if state in _RUNNING:
            return Status("running")
        if "DependencyNeverSatisfied" in reason:
            self.cancel([id])
            return Status("ended", said)
        if _HELD.search(reason):
            self._patiently(["scontrol", "release", id])
        usual = reason in ("None", "Priority", "Resources", "Dependency")
        return Status("queued", "" if usual else reason)

    def _last_words(self, id: str) -> str:
        """Quote the last line of a task's output: its setup may have failed, or its Python."""
        name = self._names.get(id.partition("_")[0], "").removeprefix("btm-")
        for file in (self.folder / name).glob(f"{id}_*.out") if name else ():
            with file.open("rb") as output:
                output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
                lines = output.read().decode(errors="replace").splitlines()
            told = [line.strip() for line in lines if line.strip()]
            # srun's own last line only says that there was an error.
            if own := [line for line in told if not line.startswith("srun: error")] or told:
                return f"; {file} ends: {own[-1][:300]}"
        return ""

    def _patiently(self, command: list[str]) -> None:
        """Run a command whose failure changes nothing: it is repeated at the next poll."""
        try:
            self.run(command)
        except (AwayError, UserError) as error:
            self.say(f"{command[0]}: {error}")

    def _forget(self, file: Path) -> None:
        """Delete a submission; the script goes first, so that a crash leaves the manifest."""
        shutil.rmtree(file.with_suffix(""), ignore_errors=True)
        file.unlink(missing_ok=True)


def _key(spec: Spec) -> tuple[str, int]:
    return spec.job.name, spec.attempt
