"""The rule `gated`: weights from what each expert was worth lately, and after the same tokens
(rule.py).
"""

from btm.ensemble.gate.fit import SAMPLE, Sample, fit
from btm.ensemble.gate.rule import DEFAULT, FEATURES, Belief, mixed, mixed_blocks, named

__all__ = [
    "DEFAULT",
    "FEATURES",
    "SAMPLE",
    "Belief",
    "Sample",
    "fit",
    "mixed",
    "mixed_blocks",
    "named",
]
