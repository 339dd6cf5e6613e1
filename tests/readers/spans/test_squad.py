"""Exact match and F1 as SQuAD's official evaluation has them."""

import pytest

from btm.readers.setting import Answer, Example, QASetting
from btm.readers.spans import squad


@pytest.mark.parametrize(
    ("found", "wanted", "exact", "f1"),
    [
        ("The  Denver Broncos!", "denver broncos", 1, 1),
        ("an apple-pie", "applepie", 1, 1),  # punctuation goes, no blank comes in its place
        ("red red wine", "red wine", 0, 0.8),
        ("the", "", 1, 1),  # nothing is left of either
        ("wine", "", 0, 0),
        ("blue sea", "red wine", 0, 0),
    ],
)
def test_scores_are_the_official_ones(found, wanted, exact, f1):
    assert squad.exact(found, wanted) == exact
    assert squad.f1(found, wanted) == pytest.approx(f1)


def test_the_nearest_of_several_answers_counts():
    setting = QASetting("Who?", ("some support",))
    both = Example(setting, (Answer("red wine"), Answer("the wine")))
    assert squad.scores("wine", both) == (1, 1)
    assert squad.scores("", Example(setting)) == (1, 1)
    assert squad.scores("wine", Example(setting)) == (0, 0)
