"""Places of the engine are shared out among those who ask, and nobody fills the queue alone."""

import pytest

from btm.ensemble.sampling import Sampling
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.limits import FullError, Limits
from btm.serve.request import Prompt, Request


@pytest.fixture(scope="module")
def catalog(grown):
    return Catalog(grown[0])


def queued(catalog, owners, **limits):
    """An engine that is stepped by hand, with a request of each owner, and who was read so far."""
    engine, begun = Engine(catalog, Limits(**limits)), []
    engine.members.wait(catalog.find("bible"))

    def submit(owner):
        def hear(event):
            begun.extend([owner] if isinstance(event, Prompt) else [])

        engine.submit(Request("bible", (5,), 3, Sampling(temperature=0), owner=owner), hear)

    for owner in owners:
        submit(owner)
    return engine, begun, submit


def work(engine):
    while engine.counts().running or engine.counts().waiting:
        engine.step()


def test_one_prompt_does_not_wait_for_all_of_a_long_list(catalog):
    engine, begun, _ = queued(catalog, ["many"] * 6 + ["one"], running=2)
    work(engine)
    assert begun == ["many", "one", *["many"] * 5]


def test_a_place_that_is_free_goes_to_who_has_none(catalog):
    engine, begun, submit = queued(catalog, ["many"] * 5, running=2)
    engine.step()
    assert begun == ["many", "many"]
    submit("one")
    work(engine)
    assert "one" in begun[2:4]


@pytest.mark.parametrize("running", [1, 8])
def test_owners_take_turns(catalog, running):
    engine, begun, _ = queued(catalog, [*"aaabbbcc"], running=running)
    work(engine)
    assert begun == [*"abcabcab"]


def test_who_fills_the_queue_leaves_places_to_others(catalog):
    _, _, submit = queued(catalog, ["many"] * 3 + ["one"] * 2, waiting=3)
    submit("two")
    with pytest.raises(FullError):
        submit("three")  # the fourth who asks, and three may
    with pytest.raises(FullError):
        submit("two")  # twice three answers wait
