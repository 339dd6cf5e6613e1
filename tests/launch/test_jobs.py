"""What each job of a cycle waits for: its parents, never a sibling."""

import random

import pytest

from btm.launch.jobs import Waiting, cycle

ROUNDS = [["law", "med", "news"], ["biolaw", "tales"], ["last"]]
JOBS = {job.name: job for job in cycle("seed", ROUNDS)}


def ancestors(name):
    needs = JOBS[name].needs
    return set(needs).union(*map(ancestors, needs))


def run(seed, broken=()):
    """Finish jobs in a random order, those in `broken` never; return the order in which jobs were
    started.
    """
    waiting, chance = Waiting(JOBS.values()), random.Random(seed)
    started = [job.name for job in waiting.start()]
    open_jobs, done = list(started), set()
    while open_jobs := [name for name in open_jobs if name not in broken]:
        name = open_jobs.pop(chance.randrange(len(open_jobs)))
        done.add(name)
        for job in waiting.done(name):
            assert set(job.needs) <= done
            started.append(job.name)
            open_jobs.append(job.name)
    return started


def test_every_elm_has_one_job_to_make_it_and_one_to_score_it():
    experts = [name for names in ROUNDS for name in names]
    wanted = ["seed", *(f"train-{name}" for name in experts)]
    wanted += [f"score-{name}" for name in ("seed", *experts)] + ["finish"]
    assert list(JOBS) == wanted
    assert all(JOBS[f"train-{name}"].elm == JOBS[f"score-{name}"].elm == name for name in experts)


def test_a_job_stands_after_those_it_needs():
    order = {name: place for place, name in enumerate(JOBS)}
    assert all(order[need] < order[name] for name, job in JOBS.items() for need in job.needs)


def test_siblings_never_wait_for_one_another():
    for names in ROUNDS:
        siblings = {f"train-{name}" for name in names}
        assert all(not siblings & ancestors(name) for name in siblings)
        assert (
            len({id(JOBS[name].needs) for name in siblings}) == 1
        )  # shared: thousands cost nothing


def test_a_round_branches_from_every_expert_before_it():
    assert {JOBS[f"train-{name}"].among for name in ROUNDS[0]} == {("seed",)}
    assert {JOBS[f"train-{name}"].needs for name in ROUNDS[0]} == {("seed",)}
    for job in (JOBS["train-biolaw"], JOBS["train-tales"]):
        assert job.among == ("law", "med", "news")
        assert job.needs == ("train-law", "train-med", "train-news")
    assert JOBS["train-last"].among == ("law", "med", "news", "biolaw", "tales")


def test_an_elm_is_scored_as_soon_as_it_stands_and_the_end_waits_for_all_scores():
    assert JOBS["score-seed"].needs == ("seed",)
    assert JOBS["score-law"].needs == ("train-law",)
    assert set(JOBS["finish"].needs) == {name for name in JOBS if name.startswith("score-")}


def test_the_seed_need_not_be_scored():
    names = [job.name for job in cycle("seed", [["law"]], score_seed=False)]
    assert names == ["seed", "train-law", "score-law", "finish"]


@pytest.mark.parametrize("seed", range(20))
def test_in_whatever_order_jobs_end_each_starts_once_and_never_too_early(seed):
    started = run(seed)
    assert started[0] == "seed"
    assert sorted(started) == sorted(JOBS)


@pytest.mark.parametrize("broken", JOBS)
def test_a_failure_holds_back_its_descendants_alone(broken):
    assert set(JOBS) - set(run(0, {broken})) == {name for name in JOBS if broken in ancestors(name)}


@pytest.mark.parametrize("name", JOBS)
def test_behind_a_job_are_those_that_need_it(name):
    behind = {job.name for job in Waiting(JOBS.values()).behind(name)}
    assert behind == {other for other, job in JOBS.items() if name in job.needs}


def test_a_job_that_is_done_twice_starts_nothing_twice():
    waiting = Waiting(JOBS.values())
    assert waiting.done("seed")
    assert waiting.done("seed") == []
    assert waiting.done("no such job") == []
