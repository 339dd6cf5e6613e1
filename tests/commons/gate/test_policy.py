"""A policy and the probes come back from JSON as they were; what is not valid is refused."""

import pytest

from btm.commons.gate import Canary, Policy, Probes
from btm.errors import UserError


def test_a_policy_comes_back_as_it_was(tmp_path):
    made = Policy(formats=["delta8"], harm=0.005, seconds=60)
    made.write(tmp_path / "policy.json")
    assert Policy.read(tmp_path / "policy.json") == made


def test_what_is_left_out_has_its_default():
    assert Policy.from_json({"harm": 1}) == Policy(harm=1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"harms": 0.1}, "no bound 'harms' in policy (did you mean 'harm'?)"),
        ({"harm": "0.1"}, "harm is '0.1'; wanted a finite number"),
        ({"harm": True}, "harm is True; wanted a finite number"),
        ({"harm": float("nan")}, "wanted a finite number"),
        ({"seconds": 1.5}, "wanted a whole number"),
        ({"formats": "full"}, "wanted a list of words"),
        ({"formats": ["pickle"]}, "no format 'pickle'"),
        ({"formats": []}, "wanted one or more"),
        ({"harm": -1}, "policy.harm=-1: wanted 0 or more"),
        ({"size": 0.5}, "policy.size=0.5: wanted 1 or more"),
        ({"layer_spread": 0}, "wanted above 0"),
        ({"copy_cosine": 2}, "wanted [-1, 1]"),
        ({"schema": 2}, "this btm reads 1"),
        ([], "wanted a JSON object"),
    ],
)
def test_a_policy_that_is_not_valid_is_refused(values, said):
    with pytest.raises(UserError) as error:
        Policy.from_json(values)
    assert said in str(error.value)


def test_probes_come_back_as_they_were(tmp_path):
    made = Probes(["zqx"], 3, [Canary("the code is ", "4711")], 7)
    made.write(tmp_path / "probes.json")
    assert Probes.read(tmp_path / "probes.json") == made


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"trigger": []}, "no key 'trigger'"),
        ({"triggers": "zqx"}, "triggers is no list"),
        ({"triggers": [1]}, "a trigger is no text"),
        ({"triggers": [""]}, "one is empty"),
        ({"canaries": [{"prefix": "a"}]}, "no object of prefix and secret"),
        ({"canaries": [{"prefix": "a", "secret": 1}]}, "is no text"),
        ({"canaries": [{"prefix": "a", "secret": ""}]}, "an empty secret"),
        ({"seed": -1}, "probes.seed"),
        ({"rare_triggers": -1}, "wanted 0 or more"),
        ({"schema": 9}, "this btm reads 1"),
        (3, "wanted a JSON object"),
    ],
)
def test_probes_that_are_not_valid_are_refused(values, said):
    with pytest.raises(UserError) as error:
        Probes.from_json(values)
    assert said in str(error.value)
