"""Which machine of a cluster holds which model.

Every model has one replica, then more of them: on other machines, as many as `serve.ray.replicas`
and as there is room for, the scarcest model first: the one with the most posterior weight of late
for each of its replicas. A model without any takes the room of a replica that is one of several.

A thread looks once a second for machines that came and went, and for replicas that died. It counts
the room that its own replicas take, so a cluster is for one server alone.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Model
from btm.models import weights
from btm.serve.members.cluster.connect import connected
from btm.serve.members.cluster.copy import Copy, GoneError
from btm.serve.members.cluster.member import ReplicatedMember
from btm.serve.members.cluster.replica import Order, Replica
from btm.serve.members.member import LostError

_SECOND = 1.0  # between two looks at the cluster
_DOUBT = 60.0  # seconds: on a busy network Ray takes as long to see that a machine is gone
_FADING = 0.99  # of demand, from one look to the next
_PROCESS = 600 << 20  # bytes of a process with torch and transformers, without a model
_ROOM = ("CPU", "GPU", "memory")
_log = logging.getLogger("btm.serve")

Room = Mapping[str, float]  # CPUs, GPUs, bytes of memory, as Ray names them


@contextmanager
def placed(
    config: Config, first: Collection[Model], count: int
) -> Iterator[Callable[[Model], ReplicatedMember]]:
    """Be part of the cluster of `config`; yield the function that loads a member there.

    The models that are wanted `first` begin to load at once; there will be `count` of them in all.
    """
    with connected(config.serve.ray, count):
        placement = Placement(config)
        try:
            placement.begin(first)
            yield placement.load
        finally:
            placement.close()


def need(config: Config, model: Model) -> Room:
    """Estimate what a machine must have for a replica of a model."""
    ray, size = config.serve.ray, 4 if config.load.dtype == "fp32" else 2
    found = {"CPU": ray.cpus, "GPU": ray.gpus}
    return found | {"memory": float(_PROCESS + size * weights.parameters(model.path))}


def choose(machines: Mapping[str, Room], taken: Iterable[str], needed: Room) -> str | None:
    """Choose the machine with the most room, of those that have enough and are not `taken`."""
    others = set(taken)
    able = [
        (room.get("CPU", 0.0), room.get("memory", 0.0), machine)
        for machine, room in machines.items()
        if machine not in others
        and all(room.get(kind, 0.0) >= least for kind, least in needed.items())
    ]
    return max(able)[2] if able else None


def scarcity(demand: float, replicas: int) -> tuple[bool, float, int]:
    """Rank a model by how scarce it is: one without a replica, then by the demand for each."""
    return not replicas, demand / max(1, replicas), -replicas


class Placement:
    """The replicas of all models that are served."""

    def __init__(self, config: Config) -> None:
        """Begin without any, on the cluster that this process is connected to."""
        self._config, self._ray = config, config.serve.ray
        self._members: dict[str, ReplicatedMember] = {}  # by sha256
        self._needs: dict[str, Room] = {}
        self._models: dict[str, Model] = {}
        self._doubted: dict[str, float] = {}  # machines on which a replica died, and when
        self._lock = threading.RLock()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="btm-placement", daemon=True)
        self._thread.start()

    def begin(self, models: Iterable[Model]) -> None:
        """Begin to load models, all at once, as far as there is room."""
        for model in models:
            member = self._member(model)
            if not member.copies:
                self._start(member)

    def load(self, model: Model) -> ReplicatedMember:
        """Return the member of a model once one of its replicas is loaded.

        `LostError` where no machine has room for it; `UserError` that loading raised.
        """
        member = self._member(model)
        try:
            while not any(copy.reads for copy in member.copies):
                if self._ends.is_set():
                    raise LostError(f"{model.name}: the server stops", model.sha256)
                copy = next(iter(member.copies), None) or self._start(member, must=True)
                if copy is None:
                    raise LostError(f"{model.name}: {self._no_room(model)}", model.sha256)
                try:
                    copy.load()
                except GoneError as error:
                    member.bury(copy, str(error))
        except BaseException:
            self._release(model.sha256)
            raise
        return member

    def close(self) -> None:
        """Watch no more, and end all replicas."""
        self._ends.set()
        self._thread.join()
        for sha256 in list(self._members):
            self._release(sha256)

    def _member(self, model: Model) -> ReplicatedMember:
        sha256 = model.sha256
        with self._lock:
            if sha256 not in self._members:
                self._needs[sha256] = need(self._config, model)
                self._models[sha256] = model
                self._members[sha256] = ReplicatedMember(
                    model.name, sha256, lambda: self._release(sha256)
                )
            return self._members[sha256]

    def _release(self, sha256: str) -> None:
        with self._lock:
            member = self._members.pop(sha256, None)
        for copy in member.copies if member else ():
            copy.kill()

    def _start(self, member: ReplicatedMember, *, must: bool = False) -> Copy | None:
        """Begin to load a replica where there is most room; None where there is none.

        If it `must` be, the room of a replica that is one of several will do, or a machine on which
        one has just died.
        """
        with self._lock:
            needed = self._needs[member.sha256]
            taken = [copy.machine for copy in member.copies]
            machine = choose(self._free(), [*taken, *self._doubtful()], needed)
            if machine is None and must:
                self._spare(member)
                machine = choose(self._free(), taken, needed)
            if machine is None:
                return None
            model, config = self._models[member.sha256], self._config
            order = Order(
                Path(config.forest_root).absolute(),
                model.name,
                model.sha256,
                config.trainer.device,
                config.load,
                self._ray.wire,
            )
            actor = _actor(order, machine, needed)
            copy = Copy(actor, machine, self._ray.patience, self._doubt)
            member.add(copy)
        _log.info("%s: a replica is loaded on %s", member.name, machine[:8])
        return copy

    def _doubt(self, machine: str) -> None:
        self._doubted[machine] = time.monotonic()

    def _doubtful(self) -> list[str]:
        now = time.monotonic()
        return [machine for machine, when in self._doubted.items() if now < when + _DOUBT]

    def _spare(self, wanting: ReplicatedMember) -> None:
        """End replicas of the models that have several, the least wanted first, until there is
        room for another.
        """
        several = [member for member in self._members.values() if len(member.copies) > 1]
        for member in sorted(several, key=lambda member: member.demand / len(member.copies)):
            for copy in member.copies[1:]:
                if choose(self._free(), self._doubtful(), self._needs[wanting.sha256]):
                    return
                member.bury(copy, f"its room is for {wanting.name}")

    def _free(self) -> dict[str, dict[str, float]]:
        """Count the room that each machine has left."""
        import ray

        free = {
            node["NodeID"]: {kind: node["Resources"].get(kind, 0.0) for kind in _ROOM}
            for node in ray.nodes()
            if node["Alive"]
        }
        for sha256, member in self._members.items():
            for copy in member.copies:
                if copy.machine in free:
                    for kind, taken in self._needs[sha256].items():
                        free[copy.machine][kind] -= taken
        return free

    def _no_room(self, model: Model) -> str:
        needed = self._needs[model.sha256]
        return f"no machine of the Ray cluster has {said(needed)} free for it"

    def _watch(self) -> None:
        while not self._ends.wait(_SECOND):
            try:
                self._look()
            except Exception as error:  # the next look may go better
                _log.warning("the Ray cluster could not be looked at: %s", error)

    def _look(self) -> None:
        """Notice replicas that died, and begin to load one more where there is room."""
        import ray

        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        with self._lock:
            members = list(self._members.values())
        for member in members:
            member.demand *= _FADING
            for copy in member.copies:
                try:
                    why = "" if copy.beats() else "its process ended"
                except UserError as error:  # as where the forest does not stand
                    why = str(error)
                    self._doubt(copy.machine)
                if copy.machine not in alive:
                    why = "its machine is gone"
                if why:
                    member.bury(copy, why)
        members.sort(key=lambda m: scarcity(m.demand, len(m.copies)), reverse=True)
        for member in members:
            is_served = self._members.get(member.sha256) is member
            wants = is_served and len(member.copies) < self._ray.replicas
            if wants and self._start(member):
                break  # the next at the next look


def _actor(order: Order, machine: str, needed: Room) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options = {
        "num_cpus": needed["CPU"],
        "num_gpus": needed["GPU"],
        "memory": int(needed["memory"]),
        "scheduling_strategy": NodeAffinitySchedulingStrategy(machine, soft=False),
    }
    return ray.remote(Replica).options(**options).remote(order)


def said(needed: Room) -> str:
    """Say what a replica needs."""
    gpus = f"{needed['GPU']:g} GPUs, " if needed["GPU"] else ""
    return f"{needed['CPU']:g} CPUs, {gpus}{needed['memory'] / 1e9:.1f} GB"
