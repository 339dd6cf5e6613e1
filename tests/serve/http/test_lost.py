"""An answer says which members it had to go on without."""

import json

import pytest

from btm.ensemble.members import load_member
from btm.forest import Forest
from btm.serve.members.local import LocalMember
from btm.serve.members.member import LostError

ASKED = {"model": "forest", "prompt": "In the beginning", "max_tokens": 6, "temperature": 0}


class Mortal(LocalMember):
    """A member that dies at the fourth piece that it reads."""

    sha256, left = "", 3

    def read(self, group, piece):
        self.left -= 1
        if self.left < 0:
            raise LostError("its machine died", self.sha256)
        return super().read(group, piece)


@pytest.fixture
def without_bible(grown, serve):
    """A server whose first expert dies while it answers, and again once it was loaded anew."""
    forest = Forest(grown[0].forest_root)

    def load(model):
        loaded = load_member(forest, model)
        if model.name != "bible":
            return LocalMember(loaded)
        member = Mortal(loaded)
        member.sha256 = model.sha256
        return member

    with serve(grown[0], load=load) as running:
        yield running


@pytest.mark.slow
def test_what_was_lost_is_told(without_bible):
    asked = ASKED | {"btm_posterior": True, "ignore_eos": True}
    status, _, whole = without_bible.ask("/v1/completions", asked)
    assert status == 200
    (choice,) = whole["choices"]
    assert whole["btm_lost"] == ["bible"]
    first, last = choice["btm_posterior"][0], choice["btm_posterior"][-1]
    assert "bible" in first and "bible" not in last
    assert sum(last.values()) == pytest.approx(1)
    _, _, stream = without_bible.ask("/v1/completions", ASKED | {"stream": True})
    parts = [json.loads(line[6:]) for line in stream.decode().splitlines() if line[6:7] == "{"]
    told = [part.get("btm_lost") for part in parts]
    assert told[-1] == ["bible"] and set(map(str, told[:-1])) <= {"None"}


@pytest.mark.slow
def test_an_answer_with_all_members_says_nothing(running):
    _, _, whole = running.ask("/v1/completions", ASKED)
    assert "btm_lost" not in whole
    assert "btm_lost" not in running.ask("/v1/score", {"model": "forest", "prompt": "a"})[2]
