"""Signed objects, keys and the charter: what is not as it was signed is refused."""

import json
from dataclasses import replace

import pytest
from people import COMMONS, Clock, Town

from bench.memory_store import MemoryStore
from btm.commons import charter as charters
from btm.commons import claims, keys, layout, signed
from btm.commons import member as members
from btm.commons.bodies import Charter, Person, Revoked
from btm.commons.signed import RefusedError
from btm.commons.snapshot import open_object
from btm.errors import UserError


@pytest.fixture(scope="module")
def key():
    return keys.make()


def test_a_private_key_is_its_owners_alone(key, tmp_path):
    folder = tmp_path / "home"
    assert keys.own(folder) is None
    keys.keep(key, folder)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    assert keys.own(folder).public == key.public
    secret = file.read_text().splitlines()[1]
    assert secret not in f"{key!r} {key} {vars(key)}"
    file.chmod(0o640)
    with pytest.raises(UserError, match="others can read"):
        keys.own(folder)
    file.chmod(0o600)
    file.write_text("no key")
    with pytest.raises(UserError, match="no ed25519 private key"):
        keys.own(folder)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(OSError):
        keys.own(folder)


def test_a_body_that_was_changed_is_not_the_one_that_was_signed(key):
    person = Person(COMMONS, key.public, "ann")
    content = signed.seal(person.to_json(), key)
    public_of = {key.fingerprint: key.public}.get
    assert open_object(content, Person, COMMONS, public_of, "x") == person
    for wrong in (
        content.replace(b'"ann"', b'"ben"'),
        content.replace(b'"signature":"', b'"signature":"0', 1)[:-4] + b"\n",
        signed.seal(person.to_json(), keys.make()).replace(b"", b""),
    ):
        with pytest.raises(RefusedError) as error:
            open_object(wrong, Person, COMMONS, public_of, "x")
        assert error.value.reason in ("signature", "damaged", "unknown-key")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "claim"}, "damaged"),
        ({"commons": "1" * 32}, "replay"),
        ({"name": "../../etc"}, "damaged"),
        ({"name": 7}, "damaged"),
        ({"more": 1}, "damaged"),
        ({"public": "x"}, "damaged"),
    ],
)
def test_what_a_key_signed_is_checked_all_the_same(key, change, reason):
    content = signed.seal(Person(COMMONS, key.public, "ann").to_json() | change, key)
    with pytest.raises(RefusedError) as error:
        open_object(content, Person, COMMONS, {key.fingerprint: key.public}.get, "x")
    assert error.value.reason == reason


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"body":{}}',
        b'{"body":{},"body":{},"key":"","signature":""}',
        b"[" * 100_000,
        b'{"body":{"x":NaN},"key":"' + b"0" * 32 + b'","signature":"' + b"0" * 128 + b'"}',
        b" " * (signed.MOST + 1),
    ],
)
def test_what_is_no_signed_object_is_refused(content):
    with pytest.raises(RefusedError) as error:
        signed.parts(content, "x")
    assert error.value.reason == "damaged"


def test_an_object_does_not_hold_in_anothers_place():
    """A key registered under another's fingerprint, and a revocation moved to another key."""
    town = Town()
    ann, ben, boss = town.volunteer("ann"), town.volunteer("ben"), town.maintainer
    registered = town.place.objects[layout.person(ann.key.fingerprint)]
    town.place.objects[layout.person("5" * 32)] = registered
    revoked = signed.seal(Revoked(COMMONS, "5" * 32, "").to_json(), boss.key)
    town.place.put(layout.revoked(ben.key.fingerprint), revoked)
    snapshot = ann.look()
    assert set(snapshot.people) == {ann.key.fingerprint, ben.key.fingerprint}
    assert not snapshot.ended


def test_who_replaced_a_key_owns_what_the_old_one_did(monkeypatch, tmp_path):
    monkeypatch.setenv("BTM_HOME", str(tmp_path))
    town = Town()
    ann = town.volunteer("ann")
    keys.keep(ann.key)
    fresh = members.rotate(ann, "ann")
    assert keys.own().public == fresh.public != ann.key.public
    town.clock.now += 2
    snapshot = town.maintainer.look()
    assert snapshot.owner(ann.key.fingerprint) == fresh.fingerprint
    assert not snapshot.is_trusted(ann.key.fingerprint, town.clock.now)
    assert snapshot.is_trusted(fresh.fingerprint, town.clock.now)
    with pytest.raises(UserError, match="was replaced already"):
        members.rotate(ann, "ann")


class Unanswered(MemoryStore):
    """A store whose answers are lost: each conditional write is repeated, as client libraries do."""

    def create(self, key, content):
        super().create(key, content)
        return super().create(key, content)


def test_a_write_whose_answer_was_lost_is_still_ours():
    town = Town(Unanswered(Clock()))
    town.amend(members=[])
    ann, ben = town.volunteer("ann"), town.volunteer("ben")
    claim = claims.take(ann, "law", 1000, 1.0)
    assert claims.own(ann, ann.look(), "law") == claim
    assert ann.write(layout.claim("law", 1), claim)
    assert not ben.write(layout.claim("law", 1), replace(claim, holder=ben.key.fingerprint))


def test_a_key_whose_replacement_was_interrupted_is_not_lost(monkeypatch, tmp_path):
    monkeypatch.setenv("BTM_HOME", str(tmp_path))
    town = Town()
    ann = town.volunteer("ann")
    keys.keep(ann.key)

    def dies(fresh):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(keys, "succeed", dies)  # the store knows of the new key already
        members.rotate(ann, "ann")
    assert keys.own().public == ann.key.public
    fresh = members.rotate(ann, "ann")
    assert town.maintainer.look().ended[ann.key.fingerprint].successor == fresh.fingerprint
    assert keys.own().public == fresh.public
    assert keys.successor().public != fresh.public


def test_a_charter_is_changed_by_its_maintainers_alone():
    town = Town()
    stranger, other = keys.make(), keys.make()
    last = charters.require(town.place)[-1][0]
    publics = {key.fingerprint: key.public for key in (stranger, other)}
    mine = replace(last, version=2, maintainers=publics)
    town.place.put(layout.charter(2), signed.seal(mine.to_json(), stranger))
    with pytest.raises(RefusedError, match="no maintainer before it"):
        charters.require(town.place)
    town.place.put(layout.charter(2), signed.seal(mine.to_json(), town.maintainer.key))
    assert charters.require(town.place)[-1][0] == mine  # handed over: the first key is out
    late = replace(mine, version=3)
    town.place.put(layout.charter(3), signed.seal(late.to_json(), town.maintainer.key))
    with pytest.raises(RefusedError, match="no maintainer before it"):
        charters.require(town.place)
    town.place.delete(layout.charter(2))
    with pytest.raises(RefusedError, match="missing"):
        charters.require(town.place)


def test_what_a_former_maintainer_decided_still_holds():
    town = Town()
    ann, boss = town.volunteer(), town.maintainer
    mine = ann.key.fingerprint
    boss.write(layout.revoked(mine), Revoked(COMMONS, mine, "gone"))
    town.clock.now += 10
    heir = keys.make()
    town.amend(maintainers={heir.fingerprint: heir.public})
    assert mine in ann.look().ended
    town.clock.now += 10
    ben = town.volunteer()
    other = ben.key.fingerprint
    boss.write(layout.revoked(other), Revoked(COMMONS, other, "spite"))
    assert other not in ann.look().ended


def test_a_charter_is_read_back_as_it_was_written():
    town = Town()
    made = charters.require(town.place)[-1][0]
    assert Charter.from_json(json.loads(json.dumps(made.to_json())), "x") == made
