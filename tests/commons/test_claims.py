"""Claims: one holds at a time, by the store's times alone; what came too early never does."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from people import LEASE, STALL, Town

from btm.commons import claims, keys, layout
from btm.commons.bodies import Checkpoint, Claim, Retired, Revoked, Verdict
from btm.commons.claims import Holding, LostClaimError
from btm.commons.standing import current, standing
from btm.errors import UserError
from btm.interop.remote import urls
from btm.interop.remote.places import Local


@pytest.fixture
def town():
    return Town()


def take(member, domain="law", tokens=1000):
    return claims.take(member, domain, tokens, 10.0)


def holder(town, domain="law"):
    found = current(town.maintainer.look(), domain)
    return None if found is None else found[0].holder


def test_of_racing_volunteers_one_has_the_claim(tmp_path):
    """On a real folder: sixteen, each with an own key, at once."""
    town = Town(Local(urls.read(f"file://{tmp_path}/store", "from")))
    people = [town.volunteer() for _ in range(16)]

    def attempt(member):
        try:
            return take(member)
        except UserError:
            return None

    with ThreadPoolExecutor(16) as pool:
        won = [claim for claim in pool.map(attempt, people) if claim]
    assert len(won) == 1 and holder(town) == won[0].holder


def test_a_claim_passes_on_a_lease_after_the_last_sign_of_life(town):
    ann, ben = town.volunteer(), town.volunteer()
    holding = Holding(ann, take(ann))
    town.clock.now += LEASE - 5
    holding.beat()
    town.clock.now += LEASE - 5
    with pytest.raises(UserError, match="held by somebody"):
        take(ben)
    town.clock.now += 7
    claim = take(ben)
    assert (claim.number, claim.taken_over, holder(town)) == (2, None, ben.key.fingerprint)
    with pytest.raises(LostClaimError, match="taken over"):
        holding.beat()
    assert holding.counts == [1]  # it showed no sign that could be taken for one


def early(member, number=2, domain="law"):
    """Write a claim without asking whether the domain is free, as somebody who cheats."""
    wanted = member.charter.wanted[domain]
    body = Claim(
        member.commons,
        domain,
        number,
        member.key.fingerprint,
        1000,
        0,
        1.0,
        wanted.parents,
        wanted.base,
        None,
    )
    assert member.write(layout.claim(domain, number), body)


def test_a_claim_that_came_too_early_never_holds(town):
    ann, cheat, ben = town.volunteer(), town.volunteer(), town.volunteer()
    holding = Holding(ann, take(ann))
    town.clock.now += LEASE / 2
    holding.beat()
    town.clock.now += 2
    early(cheat)
    for _ in range(6):  # the evidence outlasts what shows that ann lives
        town.clock.now += LEASE / 2
        holding.beat()
        assert holder(town) == ann.key.fingerprint
    restarted = Holding(ann, holding.claim)
    for _ in range(6):
        town.clock.now += LEASE / 2
        restarted.beat()
    assert holder(town) == ann.key.fingerprint
    town.clock.now += LEASE + 2
    assert take(ben).number == 3 and holder(town) == ben.key.fingerprint


def test_of_signs_that_nobody_needs_two_stay(town):
    ann = town.volunteer()
    holding = Holding(ann, take(ann))
    for _ in range(5):
        town.clock.now += 10
        holding.beat()
    assert sorted(town.place.stats(f"{holding.work.folder}/signs")) == ["4.json", "5.json"]


def test_who_was_cut_off_shorter_than_the_lease_goes_on(town):
    ann, ben = town.volunteer(), town.volunteer()
    holding = Holding(ann, take(ann))
    town.clock.now += LEASE - 2
    holding.beat()
    assert holder(town) == ann.key.fingerprint
    town.clock.now += LEASE + 10  # longer, but nobody asked meanwhile
    holding.beat()
    with pytest.raises(UserError, match="held"):
        take(ben)


def test_signs_of_life_without_a_checkpoint_keep_a_claim_for_so_long(town):
    ann, ben = town.volunteer(), town.volunteer()
    holding = Holding(ann, take(ann))
    while town.clock.now < 1_000_000 + STALL:
        town.clock.now += LEASE / 2
        holding.beat()
    town.clock.now += 2
    assert standing(ben.look(), "law").why == "no checkpoint"
    assert take(ben).number == 2


def checkpoint(member, claim, count=1, **changes):
    values = {
        "commons": member.commons,
        "domain": claim.domain,
        "number": claim.number,
        "holder": claim.holder,
        "tokens": 400,
        "base": claim.base,
        "sha256": "9" * 64,
        "size": 10,
        "block": 64,
    }
    work = layout.Work(claim.holder, claim.domain, claim.number)
    assert member.write(work.checkpoint(count), Checkpoint(**(values | changes)))
    return work.checkpoint(count)


def test_who_takes_over_goes_on_from_the_last_good_checkpoint(town):
    ann, ben, cem = town.volunteer(), town.volunteer(), town.volunteer()
    first = take(ann)
    good = checkpoint(ann, first)
    checkpoint(ann, first, 2, base="b" * 64)  # of another branch
    checkpoint(ann, first, 3, size=10_000)  # larger than the commons takes
    town.clock.now += LEASE + 2
    second = take(ben, tokens=700)
    assert (second.taken_over, second.begun, second.tokens) == (good, 400, 1000)
    town.clock.now += LEASE + 2
    third = take(cem)  # ben left none: it is ann's still
    assert (third.taken_over, third.begun) == (good, 400)


def test_what_was_rejected_is_begun_anew(town):
    ann, ben = town.volunteer(), town.volunteer()
    claim = take(ann)
    checkpoint(ann, claim)
    decide(town, claim, admitted=False)
    town.clock.now += 2
    assert take(ben).taken_over is None


def decide(town, claim, *, admitted):
    boss = town.maintainer
    reason = "" if admitted else "norm"
    body = Verdict(boss.commons, claim.domain, claim.number, claim.holder, admitted, reason, "", "")
    assert boss.write(layout.verdict(claim.domain, claim.number, claim.holder), body)


def test_what_is_admitted_is_never_free(town):
    ann, ben = town.volunteer(), town.volunteer()
    claim = take(ann)
    decide(town, claim, admitted=True)
    town.clock.now += 100 * STALL
    with pytest.raises(UserError, match="admitted, by somebody"):
        take(ben)
    early(ben)
    assert holder(town) == ann.key.fingerprint


def test_a_claim_that_was_given_back_is_free_at_once(town):
    ann, ben = town.volunteer(), town.volunteer()
    claims.give_back(ann, take(ann))
    town.clock.now += 2
    assert take(ben).number == 2
    assert claims.own(ann, ann.look(), "law") is None


def test_keys_that_ended_hold_nothing(town):
    ann, ben, boss = town.volunteer(), town.volunteer(), town.maintainer
    holding = Holding(ann, take(ann))
    mine = ann.key.fingerprint
    boss.write(layout.revoked(mine), Revoked(boss.commons, mine, "stolen"))
    with pytest.raises(LostClaimError, match="revoked"):
        holding.beat()
    town.clock.now += 2
    with pytest.raises(UserError, match="was revoked"):
        take(ann, "med")
    early(ann, domain="med", number=1)
    assert holder(town, "med") is None and take(ben).number == 2
    town.clock.now += 2
    old, new = ben.key.fingerprint, keys.make()
    town.member(new).register("ben")
    ben.write(layout.retired(old), Retired(ben.commons, old, new.fingerprint))
    assert holder(town) == old and ben.look().owner(old) == new.fingerprint
    assert standing(ben.look(), "law").why == "its key was retired"


def test_a_revocation_that_no_maintainer_signed_revokes_nothing(town):
    ann, ben = town.volunteer(), town.volunteer()
    take(ann)
    mine = ann.key.fingerprint
    ben.write(layout.revoked(mine), Revoked(ben.commons, mine, "a rival"))
    snapshot = ben.look()
    assert not snapshot.ended and current(snapshot, "law")[0].holder == mine
    (refused,) = snapshot.refused.values()
    assert refused.reason == "unknown-key"


def test_members_alone_may_claim_where_the_charter_lists_them(town):
    ann, ben = town.volunteer(), town.volunteer()
    town.amend(members=[ann.key.fingerprint])
    with pytest.raises(UserError, match="only members"):
        take(ben)
    early(ben, 1)
    assert holder(town) is None and take(ann).number == 2


def test_no_clock_of_a_volunteer_has_a_part_in_it(town, monkeypatch):
    """Ann's clock is a day slow, Ben's a day fast: neither wins or loses a second by it."""
    ann, ben = town.volunteer(), town.volunteer()
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real - 86_400)
    holding = Holding(ann, take(ann))
    monkeypatch.setattr(time, "time", lambda: real + 86_400)
    with pytest.raises(UserError, match="held"):
        take(ben)
    town.clock.now += LEASE - 2
    monkeypatch.setattr(time, "time", lambda: real - 86_400)
    holding.beat()
    assert holder(town) == ann.key.fingerprint
