"""The step of `btm bench`: lm-evaluation-harness on the ensemble, and on single models.

`subjects` are what is measured, `tasks` what is asked, `text_tasks` makes five tasks of the
forest's own test text, and `harness` is a forest as lm-eval asks a model. Only the last imports
lm_eval with itself, so it is imported late.
"""

from btm.steps.bench.bench import bench, bench_file, plan_of_bench

__all__ = ["bench", "bench_file", "plan_of_bench"]
