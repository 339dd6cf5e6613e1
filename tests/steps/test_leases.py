"""Long work under a lease beats it, so that no other process takes the branch over meanwhile."""

import os
import time
from collections import Counter
from contextlib import contextmanager

import pytest

from btm import steps
from btm.forest import Forest
from btm.report import Beating, Reporter
from btm.system import lease

HOUR = 3600.0


class Watcher(Reporter):
    """Note how long ago the lease was last beaten at each sign of life, then age it by an hour."""

    def __init__(self, home):
        self.home, self.ages, self.pulses = home, {}, Counter()

    def look(self, kind):
        held = lease.find(self.home)
        assert held != self.home, f"{kind} without a lease"
        self.ages.setdefault(kind, []).append(time.time() - held.stat().st_mtime)
        os.utime(held, (time.time() - HOUR,) * 2)

    def pulse(self, step):
        self.pulses[step] += 1
        self.look("pulse")
        return False

    @contextmanager
    def scoring(self, name, tokens):
        yield lambda more: self.look("scoring")


@pytest.fixture
def every_beat(monkeypatch):
    """Beats touch the folder however soon they come."""
    monkeypatch.setattr(lease, "_TOUCH_EVERY", 0.0)


def test_training_its_validation_and_its_scores_beat_the_lease(copy, every_beat):
    config = copy(
        *("branch=copy", "parent=bible", "score.batch_size=2", "score.max_tokens=0"),
        *("trainer.steps=2", "trainer.valid_every=2", "trainer.valid_tokens=9000"),
        "score.window=32",
    )
    steps.branch(config, "new", "code_python")
    watcher = Watcher(Forest(config.forest_root).paths.branch("new"))
    steps.train(config, "new", watcher)
    assert len(watcher.ages["scoring"]) > 10 and len(watcher.ages["pulse"]) > 2
    assert max(watcher.ages["scoring"] + watcher.ages["pulse"]) < HOUR / 2
    assert watcher.pulses[1] > 2  # step 1 is done: these are of the validation after step 2


def test_every_sign_of_life_beats_and_is_passed_on():
    beats, seen = [], []

    class Seeing(Reporter):
        def line(self, text):
            seen.append(text)

        def alive(self):
            seen.append("alive")

        def pulse(self, step):
            seen.append(step)
            return step == 3

        @contextmanager
        def scoring(self, name, tokens):
            yield lambda more: seen.append((name, tokens, more))

        reading = training = scoring

    class Trains(Seeing):
        @contextmanager
        def training(self, name):
            yield lambda progress: seen.append((name, progress))

    reporter = Beating(Trains(), lambda: beats.append(len(seen)))
    reporter.line("a line")
    reporter.alive()
    assert [reporter.pulse(2), reporter.pulse(3)] == [False, True]
    for name in ("scoring", "reading"):
        with getattr(reporter, name)("bible", 9) as report:
            report(4)
    with reporter.training("law") as report:
        report("progress")
    wanted = ["a line", "alive", 2, 3, ("bible", 9, 4), ("bible", 9, 4), ("law", "progress")]
    assert seen == wanted
    assert beats == list(range(len(wanted)))
