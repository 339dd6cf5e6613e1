"""Checks of values from outside."""

from dataclasses import asdict

import pytest

from btm.config.schema import Config
from btm.config.validation import from_dict
from btm.errors import UserError

TEXTS = [
    ("forest",),
    ("to",),
    ("data", "root"),
    ("data", "out"),
    ("data", "tokenizer"),
    ("discover", "out"),
    ("seed", "source"),
    ("imports", "source"),
    ("model", "file"),
    ("fairseq", "python"),
    ("paper", "out"),
    ("cluster", "partition"),
    ("cluster", "train", "account"),
    ("data", "name"),
]


def built(place, value):
    """A configuration with one value changed, as a job's file gives it."""
    values = asdict(Config())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return from_dict(values)


@pytest.mark.parametrize("place", TEXTS, ids=".".join)
@pytest.mark.parametrize("control", ["\n", "\r", "\t", "\0", "\x1b", "\x85", "\u2028"])
def test_paths_and_names_hold_no_control_characters(place, control):
    with pytest.raises(UserError, match=r"(control character|no valid name)") as raised:
        built(place, f"a{control}touch b")
    assert ".".join(place) in str(raised.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("cluster", "extra"), {"comment": "a\ntouch b"}),
        (("cluster", "extra"), {"a\ntouch b": 1}),
        (("models",), ["a\ntouch b"]),
        (("seed", "domains"), ["a\ntouch b"]),
    ],
)
def test_nor_do_those_within_lists_and_dictionaries(place, value):
    with pytest.raises(UserError, match="control character"):
        built(place, value)


def test_text_of_a_users_own_may():
    assert built(("prompt",), "two\nlines").prompt == "two\nlines"
    assert built(("cluster", "setup"), ["a\nb"]).cluster.setup == ["a\nb"]
    assert built(("forest",), "with blanks and é").forest == "with blanks and é"
