"""What the protocol refuses before any file is looked at, each for a named reason."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from people import LEASE, Town, submission, submit

from btm.commons import audit, claims, keys, layout, reviewing, signed
from btm.commons.bodies import SUBMITTED, Revoked, Share
from btm.commons.checkpoints import download
from btm.commons.member import AUDIT, Member
from btm.commons.signed import RefusedError
from btm.errors import UserError
from btm.interop.remote.manifest import Content


@pytest.fixture
def town():
    return Town()


def take(member, domain="law"):
    return claims.take(member, domain, 1000, 10.0)


def reasons(town):
    """The reason why each submission that waits is refused, by its holder; empty: it is not."""
    snapshot, found = town.maintainer.look(), {}
    for work in reviewing.waiting(snapshot, None):
        try:
            reviewing.check(town.maintainer, snapshot, work)
            found[work.key] = ""
        except RefusedError as error:
            found[work.key] = error.reason
    return found


def test_what_is_as_it_should_be_passes(town):
    ann = town.volunteer()
    work = submit(ann, take(ann))
    assert reasons(town) == {work.key: ""}
    town.clock.now += 100 * LEASE  # what waits for a verdict is nobody else's
    with pytest.raises(UserError, match="submitted, by somebody"):
        take(town.volunteer())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parents": {"seed": Share(1.0, "b" * 64)}}, "stale-parent"),
        ({"base": "b" * 64}, "stale-parent"),
        ({"sizes": dict.fromkeys(SUBMITTED, 600)}, "oversize"),
        ({"files": {SUBMITTED[0]: "e" * 64}}, "damaged"),
        ({"domain": "med"}, "replay"),
        ({"number": 7}, "replay"),
        ({"commons": "1" * 32}, "replay"),
        ({"tokens": -1}, "damaged"),
        ({"sha256": "../../x"}, "damaged"),
    ],
)
def test_what_a_holder_may_not_say(town, change, reason):
    ann = town.volunteer()
    work = submit(ann, take(ann), **change)
    assert reasons(town) == {work.key: reason}


def test_keys_that_may_not_submit(town):
    ann, ben, boss = town.volunteer(), town.volunteer(), town.maintainer
    first = submit(ann, take(ann))
    boss.write(layout.revoked(first.key), Revoked(boss.commons, first.key, "stolen"))
    stranger = Member(town.place, keys.make(), town.maintainer.charters)  # registered nowhere
    second = take(ben, "med")
    nobody = replace(second, holder=stranger.key.fingerprint)
    submit(stranger, nobody)
    assert reasons(town) == {first.key: "revoked-key", nobody.holder: "unknown-key"}


def test_another_persons_submission_is_nobodys(town):
    """Ben sends what Ann signed, and what he signed in her name."""
    ann, ben = town.volunteer(), town.volunteer()
    claim = take(ann)
    hers = signed.seal(submission(ann, claim).to_json(), ann.key)
    forged = signed.seal(submission(ann, claim).to_json(), ben.key)
    place = layout.Work(ben.key.fingerprint, "law", claim.number)
    town.place.put(place.submission, hers)
    assert reasons(town) == {ben.key.fingerprint: "replay"}
    town.place.put(place.submission, forged)
    assert reasons(town) == {ben.key.fingerprint: "signature"}


def test_an_old_claim_is_no_claim(town):
    ann, ben = town.volunteer(), town.volunteer()
    old = take(ann)
    town.clock.now += LEASE + 2
    new = take(ben)
    late, held = submit(ann, old), submit(ben, new)
    assert reasons(town) == {late.key: "claim-lost", held.key: ""}
    replayed = replace(new, number=9)
    again = submit(ben, replayed)
    snapshot = town.maintainer.look()
    with pytest.raises(RefusedError) as error:
        reviewing.check(town.maintainer, snapshot, again)
    assert error.value.reason == "claim-lost"


def test_a_branch_that_the_charter_changed_is_stale(town):
    ann = town.volunteer()
    work = submit(ann, take(ann))
    wanted = town.maintainer.charter.wanted
    fresh = replace(wanted["law"], parents={"seed": Share(1.0, "7" * 64)}, base="7" * 64)
    town.amend(wanted=wanted | {"law": fresh})
    assert reasons(town) == {work.key: "stale-parent"}
    town.amend(wanted={"med": wanted["med"]})
    assert reasons(town) == {work.key: "not-wanted"}


def test_a_verdict_is_given_once(town, tmp_path):
    ann, boss = town.volunteer(), town.maintainer
    work = submit(ann, take(ann))
    forest, refused = SimpleNamespace(root=tmp_path), RefusedError("norm", "too \x1b[31mfar")
    row = reviewing._decide(boss, forest, work, refused, "", {})
    assert (row.verdict, row.reason) == ("rejected", "norm") and "\x1b" not in row.text
    assert not reviewing.waiting(boss.look(), None)
    (entry,) = audit.verify(tmp_path / AUDIT)
    assert (entry.event, entry.facts["submission"]) == ("rejected", work.submission)
    with pytest.raises(UserError, match="another maintainer decided otherwise"):
        reviewing._decide(boss, forest, work, None, "d" * 64, {})


def test_never_a_byte_more_than_was_signed_is_kept(town, tmp_path):
    town.place.put("files/x", b"0123456789")
    for number, (expected, reason) in enumerate(
        [(Content("0" * 64, 4), "oversize"), (Content("0" * 64, 10), "damaged")]
    ):
        file = tmp_path / str(number)
        with pytest.raises(RefusedError) as error:
            download(town.place, "files/x", file, expected)
        assert error.value.reason == reason and file.stat().st_size <= expected.size
