"""The algorithm, one function a verb (Branch-Train-Merge, arXiv 2208.03306)."""

from btm.data.shards import open_suite
from btm.steps.averages import average, average_of, measuring
from btm.steps.beside import beside
from btm.steps.compare import compare, compared_file, rivals, top_1
from btm.steps.evaluate import eval_forest, generate, score, score_for_eval, writers
from btm.steps.grow import branch, copied, finish, grow_expert, merge, prepare, rounds, run, seed, train

__all__ = [
    "average",
    "average_of",
    "beside",
    "branch",
    "compare",
    "compared_file",
    "copied",
    "eval_forest",
    "finish",
    "generate",
    "grow_expert",
    "measuring",
    "merge",
    "open_suite",
    "prepare",
    "rivals",
    "rounds",
    "run",
    "score",
    "score_for_eval",
    "seed",
    "top_1",
    "train",
    "writers",
]
