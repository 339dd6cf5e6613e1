"""The driver on an engine in memory: what it starts, tries again, gives up and takes over."""

import json

import pytest

from btm.config.cluster import ClusterConfig
from btm.config.schema import Config
from btm.errors import UserError
from btm.launch.drive import Driver, retry_after
from btm.launch.engine import Status
from btm.launch.records import Outcome, Records, Spec

ROUNDS = [["law", "med"], ["biolaw"]]


def tries(*ends):
    """Tries that ended as told: a kind, or (kind, how far the work on disk had come)."""
    pairs = [(end, 0) if isinstance(end, str) else end for end in ends]
    return [
        Outcome("c", "train-law", i, kind, saved=saved) for i, (kind, saved) in enumerate(pairs, 1)
    ]


@pytest.mark.parametrize(
    ("ends", "delay"),
    [
        (["mistake"], None),
        (["blocked"], None),
        (["cancelled"], None),
        (["killed", "mistake"], None),
        (["stopped"], 0.0),
        (["stopped"] * 50, 0.0),
        (["killed", "killed", "killed", "killed", "stopped"], 0.0),
        (["killed"], 5.0),
        (["killed", "killed"], 10.0),
        (["killed", "killed", "killed"], 20.0),
        (["killed", "killed", "killed", "killed"], None),
        (["killed", "oom", "hang", "lost"], None),
        (["killed", "stopped", "killed"], 5.0),  # a stop between two deaths makes them no series
        (
            [("killed", step) for step in range(50)],
            5.0,
        ),  # nearer to its end each time: never given up
        ([("killed", 5), ("killed", 9), ("killed", 9)], 10.0),
        ([("killed", 9)] * 4, None),
        (["nan"], 5.0),
        (["nan", "nan"], None),
        ([("nan", 5), ("nan", 9)], 5.0),  # it got past the first: that one was the machine's
        (["killed", "nan"], 10.0),
        (["killed", "nan", "nan"], None),
    ],
)
def test_what_is_tried_again_and_when(ends, delay):
    assert retry_after(tries(*ends), ClusterConfig(retries=3, backoff=5.0)) == delay


@pytest.mark.parametrize("kind", ["killed", "oom", "hang", "lost", "fault"])
def test_a_fault_of_the_machine_is_tried_again_a_bounded_number_of_times(kind):
    cluster = ClusterConfig(retries=2, backoff=1.0)
    assert [retry_after(tries(*[kind] * n), cluster) for n in (1, 2, 3)] == [1.0, 2.0, None]
    assert retry_after(tries(kind), ClusterConfig(retries=0)) is None


def test_the_back_off_has_an_end():
    cluster = ClusterConfig(retries=100, backoff=5.0)
    assert retry_after(tries(*["killed"] * 50), cluster) == 600.0


class Machine:
    """An engine in memory: a try runs until the test lets it end, as a worker would."""

    def __init__(self, records):
        self.records, self.statuses, self.specs = records, {}, {}
        self.submitted, self.cancelled = [], []
        self.refuses, self.takes = "", 1_000

    def submit(self, specs, resources):
        if self.refuses and any(spec.job.name == self.refuses for spec in specs):
            raise UserError("no such partition")
        taken = list(specs)[: self.takes]
        for spec in taken:
            self.submitted.append((spec.job.name, spec.attempt))
            self.specs[spec.job.name] = spec
            self.statuses[self.id(spec)] = Status("running")
        return [self.id(spec) for spec in taken]

    def poll(self, ids):
        return {id: self.statuses.get(id, Status("ended", "not known here")) for id in ids}

    def cancel(self, ids):
        self.cancelled += ids

    def wait(self, seconds):
        pass

    def given_up(self):
        return ""

    def id(self, spec):
        return f"{spec.job.name}.{spec.attempt}"

    def running(self):
        return {
            spec.job.name: (self.id(spec), spec.attempt)
            for spec in self.specs.values()
            if self.statuses[self.id(spec)].state == "running"
        }

    def end(self, name, kind="done", message="", *, saved=0, elm=True, says=True):
        """Let a try end: its ELM in the forest first, then its outcome, then its process."""
        spec = self.specs[name]
        if kind == "done" and elm and spec.job.verb in ("seed", "train"):
            (self.records.forest / "elms" / spec.job.elm).mkdir(parents=True)
        if says:
            outcome = Outcome(spec.cycle, name, spec.attempt, kind, message, saved)
            self.records.write_outcome(outcome)
        self.statuses[self.id(spec)] = Status("ended")


class Stage:
    """A cycle on an empty forest, its machine, and a clock."""

    def __init__(self, root, rounds=ROUNDS):
        root.mkdir()
        (root / "forest.json").write_text(json.dumps({"schema": 1}))
        self.records = Records(root)
        self.cycle = self.records.write_cycle(Config(forest=str(root)), rounds)
        self.machine = Machine(self.records)
        self.clock, self.said = 1e9, []
        self.driver = self.new_driver()

    def new_driver(self):
        self.driver = Driver(
            self.cycle, self.machine, say=self.said.append, now=lambda: self.clock, settle=10.0
        )
        return self.driver

    def tick(self, seconds=1.0):
        self.clock += seconds
        return self.driver.tick()

    def states(self):
        return {name: task.state for name, task in self.driver.tasks.items()}

    def end(self, name, kind="done", message="", **more):
        """Let a try end, and the driver see it."""
        self.machine.end(name, kind, message, **more)
        return self.tick()

    def end_all(self):
        """Let whatever runs end well, until the driver has nothing left to do."""
        while not self.tick():
            for name in self.machine.running():
                self.machine.end(name)


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "forest")


@pytest.fixture
def planted(stage):
    """A cycle whose seed stands and whose first round runs."""
    stage.tick()
    stage.end("seed")
    assert set(stage.machine.running()) == {"train-law", "train-med", "score-seed"}
    return stage


def test_a_cycle_from_the_first_job_to_the_last(stage):
    stage.end_all()
    assert set(stage.states().values()) == {"done"}
    assert sorted(stage.machine.submitted) == sorted((job.name, 1) for job in stage.cycle.jobs)
    state = json.loads((stage.records.root / "state.json").read_text())
    assert state["finished"]
    assert state["counts"] == {"done": len(stage.cycle.jobs)}


def test_a_failed_expert_holds_back_its_children_alone_and_the_end_runs_over_what_stands(planted):
    planted.end("train-law", "mistake", "worse than its parent")
    assert planted.states()["train-med"] == "submitted"
    planted.end_all()
    states = planted.states()
    assert states.pop("train-law") == "failed"
    blocked = ("train-biolaw", "score-law", "score-biolaw")
    assert {name: states.pop(name) for name in blocked} == dict.fromkeys(blocked, "blocked")
    assert set(states.values()) == {"done"}
    assert planted.driver.tasks["train-law"].message == "mistake: worse than its parent"
    assert planted.driver.tasks["score-biolaw"].message == "needs train-biolaw"


def test_if_every_expert_fails_the_end_still_comes(planted):
    planted.end("train-law", "mistake")
    planted.end("train-med", "mistake")
    planted.end_all()
    assert planted.states()["finish"] == "done"


def test_without_a_seed_nothing_is_begun(stage):
    stage.tick()
    stage.end("seed", "mistake", "no such domain")
    assert stage.tick()
    states = stage.states()
    assert states.pop("seed") == "failed"
    assert set(states.values()) == {"blocked"}
    assert [name for name, _ in stage.machine.submitted] == ["seed"]


def test_a_failure_stays_one_for_the_next_driver_until_it_is_forgiven(planted):
    planted.end("train-law", "mistake", "worse")
    planted.end_all()
    before = list(planted.machine.submitted)

    assert planted.new_driver().tick()
    assert planted.states()["train-law"] == "failed"
    assert planted.machine.submitted == before

    assert planted.records.forgive(planted.cycle.id) == ["train-law"]
    planted.new_driver()
    planted.end_all()
    assert {
        planted.states()[f"{verb}-{elm}"]
        for verb in ("train", "score")
        for elm in ("law", "biolaw")
    } == {"done"}
    assert ("train-law", 2) in planted.machine.submitted  # a try has a number of its own for ever
    assert planted.machine.submitted.count(("train-med", 1)) == 1
    assert ("finish", 2) in planted.machine.submitted  # the first was without them


def test_done_without_an_elm_is_lost(planted):
    planted.end("train-law", elm=False)
    assert planted.states()["train-law"] == "ready"
    assert "not in the forest" in planted.driver.tasks["train-law"].message
    planted.tick(10)
    assert ("train-law", 2) in planted.machine.submitted
    planted.end_all()
    assert planted.states()["train-law"] == "done"


def test_an_elm_that_stands_is_done_whatever_was_said(planted):
    (planted.records.forest / "elms" / "law").mkdir()
    planted.end("train-law", "killed")
    assert planted.states()["train-law"] == "done"
    (planted.records.forest / "elms" / "med").mkdir()
    planted.end("train-med", elm=False, says=False)
    assert planted.states()["train-med"] == "done"


def test_an_end_without_an_outcome_is_lost_once_it_had_time_to_arrive(planted):
    planted.end("train-law", elm=False, says=False)
    planted.end("train-med", elm=False, says=False)
    planted.tick(5)
    assert planted.states()["train-law"] == "submitted"
    planted.machine.end("train-med")  # its outcome was late on the shared disk
    planted.tick(6)
    assert planted.states()["train-med"] == "done"
    assert "left no outcome" in planted.driver.tasks["train-law"].message
    assert planted.records.outcome("train-law", 1).kind == "lost"


def test_an_unknown_status_decides_nothing(planted):
    known = dict(planted.machine.statuses)
    for id in known:
        planted.machine.statuses[id] = Status("unknown")
    before = planted.states(), list(planted.machine.submitted)
    for _ in range(20):
        planted.tick(100)
    assert (planted.states(), planted.machine.submitted) == before
    assert not planted.records.ended() - {("seed", 1)}
    planted.machine.statuses.update(known)
    planted.end_all()
    assert set(planted.states().values()) == {"done"}


def test_the_back_off_is_waited_for(planted):
    planted.end("train-law", "killed")
    planted.tick(3)
    assert ("train-law", 2) not in planted.machine.submitted
    assert "next try in 5 s" in planted.said[-1]
    planted.tick(3)
    assert ("train-law", 2) in planted.machine.submitted


def test_a_new_driver_takes_over_what_runs_and_submits_nothing_twice(planted):
    running, before = planted.machine.running(), list(planted.machine.submitted)
    planted.new_driver().adopt(running)
    planted.tick()
    assert planted.machine.submitted == before
    assert {name for name, state in planted.states().items() if state == "submitted"} == set(
        running
    )
    planted.end_all()
    assert sorted(planted.machine.submitted) == sorted((job.name, 1) for job in planted.cycle.jobs)


def test_a_driver_that_is_replaced_before_every_look_comes_to_the_same_end(stage):
    for _ in range(100):
        stage.new_driver().adopt(stage.machine.running())
        if stage.tick():
            break
        for name in list(stage.machine.running())[:1]:
            stage.machine.end(name)
    assert set(stage.states().values()) == {"done"}
    assert sorted(stage.machine.submitted) == sorted((job.name, 1) for job in stage.cycle.jobs)


def test_what_died_with_its_driver_is_tried_again_under_a_number_of_its_own(planted):
    planted.records.progress("train-law", 1).parent.mkdir()
    planted.records.progress("train-law", 1).write_text("{}")
    planted.new_driver()
    planted.tick()
    assert ("train-law", 2) in planted.machine.submitted


def test_what_the_engine_refuses_is_a_mistake_and_the_rest_goes_on(stage):
    stage.machine.refuses = "score-seed"
    stage.end_all()
    states = stage.states()
    assert states.pop("score-seed") == "failed"
    assert stage.driver.tasks["score-seed"].message == "mistake: no such partition"
    assert set(states.values()) == {"done"}


def test_what_the_engine_does_not_take_now_it_is_given_later(stage):
    stage.machine.takes = 1
    stage.end_all()
    assert set(stage.states().values()) == {"done"}
    assert len(stage.machine.submitted) == len(stage.cycle.jobs)


def ask_to_cancel(stage, name):
    (stage.records.root / "cancel").mkdir(exist_ok=True)
    (stage.records.root / "cancel" / name).touch()


def test_to_cancel_all_stops_what_runs_and_starts_nothing(planted):
    ask_to_cancel(planted, "all")
    planted.tick()
    assert set(planted.machine.cancelled) == {"train-law.1", "train-med.1", "score-seed.1"}
    planted.end("train-law", "stopped", saved=9)
    planted.end("score-seed")
    planted.end("train-med")  # it was too late to stop it, and what it led to is not begun
    assert planted.tick()
    states = planted.states()
    assert (states["train-law"], states["train-med"]) == ("cancelled", "done")
    assert not planted.machine.running()

    (planted.records.root / "cancel" / "all").unlink()
    planted.new_driver()
    planted.end_all()
    assert set(planted.states().values()) == {"done"}


def test_to_cancel_one_expert_lets_its_siblings_go_on(planted):
    ask_to_cancel(planted, "train-law")
    planted.tick()
    assert planted.machine.cancelled == ["train-law.1"]
    assert planted.states()["train-law"] == "failed"
    planted.end("train-law", "stopped", saved=9)  # what it still says changes nothing
    planted.end_all()
    states = planted.states()
    assert (states["train-law"], states["train-med"], states["finish"]) == (
        "failed",
        "done",
        "done",
    )
    assert planted.driver.tasks["train-law"].message == "cancelled: cancelled"

    planted.records.forgive(planted.cycle.id)
    planted.new_driver()
    planted.end_all()
    assert set(planted.states().values()) == {"done"}
    assert ("train-law", 3) in planted.machine.submitted


def test_many_that_ended_and_said_nothing_are_waited_for_together(tmp_path):
    stage = Stage(tmp_path / "forest", [[f"e{i:02}" for i in range(64)]])
    stage.tick()
    stage.end("seed")
    for name in stage.machine.running():
        stage.machine.end(name, elm=False, says=False)
    stage.tick()
    stage.tick(10)  # once the time in which an outcome may arrive, not once for each
    assert sum("left no outcome" in task.message for task in stage.driver.tasks.values()) == 65


def test_what_is_stopped_by_a_cancellation_and_says_nothing_is_no_failed_try(planted):
    ask_to_cancel(planted, "all")
    planted.tick()
    for name in planted.machine.running():
        planted.machine.end(name, elm=False, says=False)
    planted.tick()
    assert planted.tick(10)
    assert planted.states()["train-law"] == "cancelled"
    assert planted.records.outcome("train-law", 1).kind == "stopped"


def test_what_failed_is_tried_again_while_others_run(planted):
    planted.end("train-law", "mistake", "worse")
    planted.end("score-seed")
    assert planted.states()["score-law"] == "blocked"
    (planted.records.root / "retry").touch()
    planted.tick()
    assert set(planted.machine.running()) == {"train-law", "train-med"}
    assert planted.machine.submitted.count(("train-med", 1)) == 1
    assert ("train-law", 2) in planted.machine.submitted
    assert not (planted.records.root / "retry").exists()
    planted.end("train-med")
    assert planted.states()["finish"] == "waiting"  # it is not done without what is tried again
    planted.end_all()
    assert set(planted.states().values()) == {"done"}
    assert planted.machine.submitted.count(("finish", 1)) == 1


def submit_ahead(stage):
    """Submit every job at once, as a detached cycle does."""
    specs = [Spec(str(stage.records.forest), stage.cycle.id, job, 1) for job in stage.cycle.jobs]
    ids = stage.machine.submit(specs, None)
    stage.driver.adopt({spec.job.name: (id, 1) for spec, id in zip(specs, ids, strict=True)})


def test_what_was_submitted_ahead_and_lost_waits_for_what_it_needs(stage):
    submit_ahead(stage)
    stage.machine.end("train-biolaw", elm=False, says=False)
    stage.tick()
    stage.tick(10)
    assert stage.states()["train-biolaw"] == "waiting"
    for name in ("seed", "train-law", "train-med"):
        stage.end(name)
    assert ("train-biolaw", 2) in stage.machine.submitted
    stage.end_all()
    assert set(stage.states().values()) == {"done"}


def test_an_end_that_was_submitted_ahead_is_not_submitted_again_when_experts_fail(stage):
    submit_ahead(stage)
    stage.end("seed")
    for name in ("train-law", "train-med", "train-biolaw"):
        stage.end(name, "mistake")
    for name in ("score-law", "score-med", "score-biolaw"):
        stage.end(name, "blocked")
    stage.end("score-seed")
    stage.end("finish")
    assert stage.states()["finish"] == "done"
    assert [name for name, _ in stage.machine.submitted].count("finish") == 1


def test_a_driver_that_takes_over_while_nothing_is_known_shows_the_tries_as_queued(planted):
    running = planted.machine.running()
    for id in list(planted.machine.statuses):
        planted.machine.statuses[id] = Status("unknown")
    planted.new_driver().adopt(running)
    planted.tick()
    assert planted.driver.snapshot()["jobs"]["train-law"]["state"] == "queued"
