"""Text is told as soon as it is certain, and ends before a stop string."""

import pytest

from btm.serve.text import StoppedText


class Letters:
    """A tokenizer whose tokens are characters."""

    def decode(self, ids, clean_up_tokenization_spaces):
        return "".join(map(chr, ids))


def told(text, stops, prompt="begin "):
    found = StoppedText(Letters(), [ord(c) for c in prompt], stops)
    pieces = [found.add(ord(c)) for c in text]
    return pieces, found.rest(), found.stopped_by


def test_without_a_stop_everything_is_told_at_once():
    assert told("abc", ()) == (["a", "b", "c"], "", None)


def test_what_may_begin_a_stop_is_held_back():
    assert told("a\nb\n\nc", ("\n\n",)) == (["a", "", "\nb", "", "", ""], "", "\n\n")
    assert told("aab", ("aaa",)) == (["", "", "aab"], "", None)
    assert told("aa", ("aaa",)) == (["", ""], "aa", None)


@pytest.mark.parametrize("stops", [("bc", "abcd"), ("abcd", "bc")])
def test_of_two_stops_the_first_to_be_whole_ends_the_text(stops):
    pieces, rest, stopped = told("xabcde", stops)
    assert ("".join(pieces), rest, stopped) == ("xa", "", "bc")


def test_a_stop_in_the_prompt_ends_nothing():
    assert told("ok", ("gin",)) == (["o", "k"], "", None)


def test_a_character_of_several_tokens_is_told_whole():
    class Bytes:
        def decode(self, ids, clean_up_tokenization_spaces):
            return bytes(ids).decode("utf-8", "replace")

    found = StoppedText(Bytes(), list(b"x"), ("\u00e9!",))
    assert [found.add(b) for b in "\u00e9?".encode()] == ["", "", "\u00e9?"]
    assert found.add(0xC3) == ""
    assert found.rest() == ""  # half a character is no text
