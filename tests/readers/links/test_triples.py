"""Triples from files, and questions of links, whole and broken."""

import pytest
from readers_graphs import NATIONS, splits, untrained

from btm.errors import UserError
from btm.readers.links import audit, triples
from btm.readers.setting import QASetting


@pytest.fixture
def graph(tmp_path):
    """A function that writes a graph and returns its folder."""

    def write(**lines):
        for split, text in lines.items():
            (tmp_path / f"{split}.txt").write_text(text)
        return tmp_path

    return write


def test_a_triple_asks_two_questions(graph):
    first, second = triples.read(graph(train="cuba\tembassy\tbrazil\n\n"), "train")
    assert triples.parse(first.setting) == ("cuba", "embassy", "?")
    assert triples.parse(second.setting) == ("?", "embassy", "brazil")
    assert (first.answers[0].text, second.answers[0].text) == ("brazil", "cuba")
    assert triples.read(graph(), "valid") == []


@pytest.mark.parametrize("line", ["cuba\tembassy", "cuba embassy brazil", "a\tb\tc\td", "a\t\tc"])
def test_a_ragged_line_is_named(graph, line):
    folder = graph(train=f"cuba\tembassy\tbrazil\n{line}\n")
    with pytest.raises(UserError, match=r"train\.txt:2: . fields; wanted subject"):
        triples.read(folder, "train")


def test_a_relation_that_train_lacks_is_named_with_its_line(graph):
    folder = graph(train="cuba\tembassy\tbrazil\n", test="cuba\tembassy\tusa\ncuba\tembasy\tusa\n")
    found = {split: triples.read(folder, split) for split in ("train", "test")}
    with pytest.raises(UserError, match=r"test\.txt:2: no relation 'embasy'.*did you mean"):
        untrained("distmult").input.learn(found)


@pytest.mark.parametrize("asked", ["cuba", "? embassy ?", "cuba ? brazil", "a\tb", " \t \t "])
def test_what_asks_for_no_link_is_refused(asked):
    with pytest.raises(UserError, match=r"asks for no link|is empty"):
        triples.parse(QASetting(asked))


@pytest.mark.parametrize("asked", ["atlantis embassy ?", "cuba embassy atlantis"])
def test_an_entity_that_is_unknown_is_named(asked):
    with pytest.raises(UserError, match="no entity 'atlantis' in the training triples"):
        untrained("distmult")([QASetting(asked)])


def test_a_question_of_megabytes_is_refused():
    with pytest.raises(UserError, match="10,485,760 characters: wanted 1,048,576 at most"):
        QASetting("x" * (10 << 20))


def test_rules_of_a_graph_are_found_with_their_confidence(graph):
    folder = graph(
        train="a\tparent\tb\nb\tchild\ta\nc\tparent\td\nd\tchild\tc\ne\tparent\tf\n",
        test="f\tchild\te\n",
    )
    found = audit.audit(folder, "test")
    assert [(r.relation, r.given, r.confidence) for r in found.rules] == [
        ("parent", "child", 1.0),
        ("child", "parent", 2 / 3),
    ]
    assert found.values["MRR"] == 1.0
    assert found.explained == 1.0
    assert "leaks" in found.verdict


def test_without_inverses_rules_are_at_chance(graph):
    found = audit.audit(graph(train="a\tr\tb\nc\tr\td\n", test="a\tr\td\n"), "test")
    assert found.rules == []
    # Of four entities b and c are left out as known answers to one side each: ties of three.
    assert found.values["MRR"] == pytest.approx(1 / 2)
    assert found.explained == 0


def test_the_slice_is_what_the_tests_take_it_for():
    assert {split: len(found) for split, found in splits().items()} == {
        "train": 520,
        "valid": 48,
        "test": 48,
    }
    assert audit.audit(NATIONS, "test").entities == 14
