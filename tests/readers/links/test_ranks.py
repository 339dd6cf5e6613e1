"""Filtered ranks, against those of pykeen 1.11.1 (its `Ranks.from_scores`) on the same scores."""

import numpy as np

from btm.readers.links import ranks

SCORES = np.array([[(i * j + j * j) % 5 for j in range(12)] for i in range(8)], np.float32)
RIGHT = [(5 * i + 2) % 12 for i in range(8)]
KNOWN = [{(i + 3 * k) % 12 for k in range(i % 4)} for i in range(8)]
PYKEENS = [2.5, 5.5, 8.5, 7.0, 9.5, 2.5, 2.5, 4.5]


def test_ranks_are_those_of_pykeen():
    assert ranks.realistic(SCORES, RIGHT, KNOWN).tolist() == PYKEENS


def test_a_model_that_scores_all_alike_is_at_chance():
    found = ranks.realistic(np.zeros((1, 9)), [3], [{3}])
    assert found.tolist() == [5.0]
    assert ranks.metrics(found)["Hits@3"].tolist() == [0.0]
    assert ranks.metrics(np.array([2.0]))["MRR"].tolist() == [0.5]


def test_known_answers_do_not_compete():
    scores = np.array([[4.0, 3.0, 2.0, 3.0]])
    assert ranks.realistic(scores, [2], [set()]).tolist() == [4.0]
    assert ranks.realistic(scores, [2], [{0, 1, 2}]).tolist() == [2.0]
