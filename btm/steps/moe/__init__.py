"""The step of `btm moe`: `recipe` says which mixture of experts is meant, `router` makes its
router, and `make` puts the ELMs' networks behind it.
"""

from btm.steps.moe.make import make, moe, plan_of_moe

__all__ = ["make", "moe", "plan_of_moe"]
