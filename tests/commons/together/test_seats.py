"""Seats of a domain: one each, as long as there are any, and the first one submits."""

from dataclasses import replace

import pytest
from people import LEASE, Town

from btm.cli.compose import compose
from btm.commons import claims, fields, layout
from btm.commons.bodies import Charter, Together
from btm.commons.claims import Holding
from btm.commons.standing import current
from btm.commons.together import seats
from btm.commons.together.training import require_usable
from btm.errors import UserError


@pytest.fixture
def town():
    made = Town()
    wanted = made.maintainer.charter.wanted
    rules = Together(2, 100, 60.0, 0.7, 0.65)
    made.amend(wanted=wanted | {"law": replace(wanted["law"], together=rules)})
    return made


def test_each_gets_a_seat_while_there_is_one(town):
    ann, ben, cem = (town.volunteer() for _ in range(3))
    assert [seats.take(each, "law", 1.0).domain for each in (ann, ben)] == ["law", "law@2"]
    assert seats.own(ben, ben.look(), "law").domain == "law@2"
    with pytest.raises(UserError, match="all 2 seats of 'law' are held"):
        seats.take(cem, "law", 1.0)
    claims.give_back(ann, seats.own(ann, ann.look(), "law"))
    town.clock.now += 2
    assert seats.take(cem, "law", 1.0).domain == "law"


def test_the_first_seat_submits_and_is_taken_over_for_that(town):
    ann, ben = town.volunteer(), town.volunteer()
    seats.take(ann, "law", 1.0)
    second = Holding(ben, seats.take(ben, "law", 1.0))
    with pytest.raises(UserError, match="held by somebody"):
        seats.to_submit(ben, ben.look(), "law")
    town.clock.now += LEASE + 2
    second.beat()
    claim = seats.to_submit(ben, ben.look(), "law")
    assert (claim.domain, claim.number) == ("law", 2)
    assert current(ben.look(), "law")[0].holder == ben.key.fingerprint
    assert seats.to_submit(ann, ann.look(), "law") is None


def test_a_seat_is_a_domain_and_a_number_from_two_on():
    assert all(map(fields.is_seat, ("law", "law@2", "law@10")))
    assert not any(map(fields.is_seat, ("law@1", "law@02", "law@", "@2", "law@2@3", "../x@2", 3)))
    assert layout.domain_of("law@2") == layout.domain_of("law") == "law"


def test_an_older_charter_wants_one_volunteer_for_each(town):
    body = town.maintainer.charter.to_json()
    body.pop("kind")
    for wanted in body["wanted"].values():
        wanted.pop("together")
    found = fields.read(Charter, body, "here")
    assert all(wanted.together is None for wanted in found.wanted.values())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("commons.volunteers=0", "commons.volunteers=0: wanted 1 to"),
        ("commons.round_tokens=9", "commons.round_tokens=9: give commons.volunteers=2"),
        ("commons.outer_momentum=1", "commons.outer_momentum=1"),
        ("commons.outer_lr=0", "commons.outer_lr=0"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(word, said):
    with pytest.raises(UserError, match=said):
        compose([word])


def test_what_rounds_cannot_have_is_refused():
    with pytest.raises(UserError, match=r"leave out trainer\.lr=find"):
        require_usable(compose(["trainer.average_last=2"]))
