"""The algorithm, one function a verb (Branch-Train-Merge, arXiv 2208.03306)."""

from btm.data.shards import open_suite
from btm.steps.averages import average, average_of
from btm.steps.beside import beside
from btm.steps.evaluate import eval_forest, generate, score, score_for_eval
from btm.steps.grow import branch, copied, finish, grow_expert, merge, prepare, rounds, run, seed, train

__all__ = [
    "average",
    "average_of",
    "beside",
    "branch",
    "copied",
    "eval_forest",
    "finish",
    "generate",
    "grow_expert",
    "merge",
    "open_suite",
    "prepare",
    "rounds",
    "run",
    "score",
    "score_for_eval",
    "seed",
    "train",
]
