"""The algorithm, one function a verb (Branch-Train-Merge, arXiv 2208.03306).

A step reads folders and publishes one folder by a rename; it can be killed and run again anywhere.

`baselines`: a baseline is a cycle. `derive` makes an ordinary configuration of a forest's words,
so it runs, resumes and is evaluated by what exists.
"""

from btm.forest.suites import open_suite, open_suites
from btm.steps.add_domain import Added, add_domain, new_domain, plan_of_add_domain, text_of
from btm.steps.averages import average, average_of, measuring, plan_of_average, worth
from btm.steps.bench import bench, bench_file, plan_of_bench
from btm.steps.beside import beside
from btm.steps.closing import adopt
from btm.steps.compare import compare, compared_file, plan_of_compare, rivals, top_1
from btm.steps.distil import distil, distilled_as, memory_of, plan_of_distil
from btm.steps.evaluate import (
    eval_forest,
    plan_of_eval,
    plan_of_score,
    score,
    score_for_eval,
)
from btm.steps.generate import generate, plan_of_generate
from btm.steps.grow import (
    begin,
    branch,
    finish,
    grow_expert,
    merge,
    plan_of_branch,
    plan_of_merge,
    plan_of_seed,
    plan_of_train,
    prepare,
    rounds,
    run,
    seed,
    train,
)
from btm.steps.mix import mix, mix_file, plan_of_mix
from btm.steps.moe import moe, plan_of_moe
from btm.steps.origin import copied
from btm.steps.plan import Plan
from btm.steps.proposal import settled
from btm.steps.regrow import plan_of_regrow, regrow
from btm.steps.report import plan_of_report, report

__all__ = [
    "Added",
    "Plan",
    "add_domain",
    "adopt",
    "average",
    "average_of",
    "begin",
    "bench",
    "bench_file",
    "beside",
    "branch",
    "compare",
    "compared_file",
    "copied",
    "distil",
    "distilled_as",
    "eval_forest",
    "finish",
    "generate",
    "grow_expert",
    "measuring",
    "memory_of",
    "merge",
    "mix",
    "mix_file",
    "moe",
    "new_domain",
    "open_suite",
    "open_suites",
    "plan_of_add_domain",
    "plan_of_average",
    "plan_of_bench",
    "plan_of_branch",
    "plan_of_compare",
    "plan_of_distil",
    "plan_of_eval",
    "plan_of_generate",
    "plan_of_merge",
    "plan_of_mix",
    "plan_of_moe",
    "plan_of_regrow",
    "plan_of_report",
    "plan_of_score",
    "plan_of_seed",
    "plan_of_train",
    "prepare",
    "regrow",
    "report",
    "rivals",
    "rounds",
    "run",
    "score",
    "score_for_eval",
    "seed",
    "settled",
    "text_of",
    "top_1",
    "train",
    "worth",
]
