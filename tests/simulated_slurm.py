"""A Slurm that misbehaves: an event at a time, on a clock of its own, from a seed.

It answers the commands that the engine gives, loses jobs, forgets them while they run, starts them
twice, reuses ids, shows old queues, is away, takes a job and then says it was away, and delivers
outcomes late. What its workers do is what real ones do to the disk: make the branch, take the
lease, work, rename, report.
"""

import heapq
import itertools
import random
import re
from dataclasses import dataclass, field

from btm.launch.records import Outcome, Records, Spec, read_json
from btm.launch.slurm_commands import AwayError
from btm.system import durable, lease


@dataclass
class Worker:
    """One process on one node."""

    identity: str
    spec: Spec
    task: "Task"
    alive: bool = True
    held: lease.Lease | None = None


@dataclass
class Task:
    """One element of an array, as Slurm sees it."""

    id: str
    name: str
    spec: Spec
    state: str = "PENDING"
    reason: str = "Priority"
    visible: bool = True
    workers: list[Worker] = field(default_factory=list)


class SimulatedSlurm:
    """The cluster of one seed; its faults become rarer with time, so that every cycle ends."""

    def __init__(self, seed, forest, faults=0.25, calm_after=4000.0):
        self.random = random.Random(seed)
        self.forest, self.records = forest, Records(forest)
        self.faults, self.calm_after = faults, calm_after
        self.now = 0.0
        self.events = []
        self.order = itertools.count()
        self.tasks = {}
        self.next_id = 100
        self.workers = {}
        self.registered = []
        self.current = "controller"
        self.snapshot = []
        self.log = []

    # What the driver sees

    def run(self, command):
        self.advance(self.random.uniform(0.01, 0.3))
        away = self.happens(0.3)
        if away and not (command[0] == "sbatch" and self.random.random() < 0.5):
            raise AwayError("Unable to contact slurm controller")
        answer = getattr(self, command[0])(command[1:])
        if away:
            raise AwayError("Socket timed out on send/recv operation")  # after it was taken
        return answer

    def sbatch(self, words):
        with open(words[-1]) as file:  # noqa: PTH123
            text = file.read()
        manifest = re.search(r"btm\.launch\.slurm_task (\S+)", text).group(1)
        name = re.search(r"--job-name=(\S+)", text).group(1)
        count = int(re.search(r"--array=0-(\d+)", text).group(1)) + 1
        if self.happens(0.2) and self.next_id > 101:
            self.next_id -= self.random.choice([1, 2])  # its state was wiped: ids begin anew
            for id in [id for id in self.tasks if int(id.partition("_")[0]) >= self.next_id]:
                del self.tasks[id]
        array, self.next_id = self.next_id, self.next_id + 1
        specs = read_json_specs(manifest)
        for index in range(count):
            task = Task(f"{array}_{index}", name, specs[index])
            self.tasks[task.id] = task
            self.later(self.random.expovariate(1 / 20), self.begin, task)
        return f"Submitted batch job {array}\n"

    def squeue(self, words):
        rows = [f"{t.id}|{t.name}|{t.state}|{t.reason}" for t in self.tasks.values() if t.visible]
        stale, self.snapshot = self.snapshot, rows
        return "\n".join(stale if self.happens(0.2) else rows)

    def scancel(self, words):
        for id in words:
            if id in self.tasks:
                self.end(self.tasks[id], "CANCELLED")
        return ""

    def scontrol(self, words):
        if words[0] == "show":
            return "MaxArraySize            = 1001\n"
        if words[0] == "release" and words[1] in self.tasks:
            self.requeue(self.tasks[words[1]])
        return ""

    # What happens on the nodes

    def advance(self, seconds):
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, action, argument = heapq.heappop(self.events)
            action(argument)
        self.now = until

    def later(self, seconds, action, argument):
        heapq.heappush(self.events, (self.now + seconds, next(self.order), action, argument))

    def happens(self, share):
        """Whether a fault of some share of all faults happens now."""
        calm = max(0.0, 1 - self.now / self.calm_after)
        return self.random.random() < self.faults * share * calm

    def begin(self, task):
        if task.state != "PENDING" or self.tasks.get(task.id) is not task:
            return
        if self.happens(0.3):
            task.reason = "launch failed requeued held"
            return
        task.state, task.reason = "RUNNING", "None"
        worker = Worker(f"node-{next(self.order)}", task.spec, task)
        self.workers[worker.identity] = worker
        task.workers.append(worker)
        self.later(0.1, self.work, worker)
        fault = self.random.random()
        if self.happens(1.0):
            action = (self.die, self.lose_node, self.start_twice, self.forget, self.end_silently)[
                int(fault * 5)
            ]
            self.later(self.random.expovariate(1 / 20), action, worker)

    def work(self, worker):
        """A step of the worker: the same moves as `steps.grow_expert`."""
        if not worker.alive:
            return
        job, self.current = worker.spec.job, worker.identity
        home = self.forest / "branches" / job.elm
        if job.verb in ("score", "finish") or (self.forest / "elms" / job.elm).exists():
            return self.report(worker)
        missing = [elm for elm in job.among if not (self.forest / "elms" / elm).exists()]
        assert not missing, f"{job.name} was started without {missing}"
        if lease.find(home) is None:
            with durable.publish_folder(home) as folder:
                (folder / "weights").write_text(job.elm)
        try:
            worker.held = lease.take(home)
        except (lease.HeldError, FileNotFoundError):
            return self.later(self.random.uniform(1, 5), self.work, worker)
        self.later(self.random.expovariate(1 / 30), self.merge, worker)

    def merge(self, worker):
        """Publish, even if the worker was long taken for dead: the lease must fence that."""
        if not worker.alive:
            return
        self.current = worker.identity
        target = self.forest / "elms" / worker.spec.job.elm
        try:
            durable.rename_folder(worker.held.path, target)
        except FileNotFoundError:
            return self.later(1.0, self.work, worker)
        self.registered.append(target.name)
        self.report(worker)

    def report(self, worker):
        """Write the outcome, perhaps late: the disk is shared."""
        late = self.random.uniform(5, 40) if self.happens(1.0) else 0.0
        self.later(late, self.deliver, worker)
        self.later(self.random.uniform(0, 3), self.finish, worker)

    def deliver(self, worker):
        spec = worker.spec
        outcome = Outcome(spec.cycle, spec.job.name, spec.attempt, "done", ended=self.now)
        self.records.write_outcome(outcome)

    def finish(self, worker):
        worker.alive = False
        self.end(worker.task, "COMPLETED")

    def die(self, worker):
        """The worker is killed; what it was writing stays as it is."""
        if worker.alive:
            worker.alive = False
            self.end(worker.task, "FAILED")

    def end_silently(self, worker):
        """sys.exit(0) in a library: Slurm says COMPLETED, and there is no outcome."""
        if worker.alive:
            worker.alive = False
            self.end(worker.task, "COMPLETED")

    def lose_node(self, worker):
        """The node dies; Slurm shows NODE_FAIL for a while and starts the job again elsewhere."""
        if worker.alive:
            worker.alive = False
            worker.task.state = "NODE_FAIL"
            self.later(self.random.uniform(1, 50), self.requeue, worker.task)

    def start_twice(self, worker):
        """slurmstepd is killed: its worker lives on while Slurm starts a second one."""
        self.requeue(worker.task)

    def forget(self, worker):
        """Slurm loses the job, but not the process."""
        worker.task.visible = False

    def requeue(self, task):
        task.state, task.reason = "PENDING", "BeginTime"
        self.later(self.random.uniform(1, 15), self.begin, task)

    def end(self, task, state):
        if any(worker.alive for worker in task.workers) and state == "CANCELLED":
            for worker in task.workers:
                worker.alive = False
        task.state, task.reason = state, "None"
        if self.happens(0.5):
            task.visible = False

    # What `durable` asks of the machine

    def is_alive(self, identity):
        worker = self.workers.get(identity)
        return worker is not None and worker.alive


def read_json_specs(manifest):
    from pathlib import Path

    return [Spec.from_json(values) for values in read_json(Path(manifest))["specs"]]
