"""The step of `btm distil`: `teachers` has the ensemble read, `student` trains one model on what it
predicts.
"""

from btm.steps.distil.student import distil, distilled_as, memory_of, plan_of_distil

__all__ = ["distil", "distilled_as", "memory_of", "plan_of_distil"]
