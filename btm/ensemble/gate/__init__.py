"""The gate: weights by each expert's recent scores, and those after the same tokens."""

from btm.ensemble.gate.fit import SAMPLE, Sample, fit
from btm.ensemble.gate.rule import DEFAULT, FEATURES, OnlineGate, mixed, mixed_blocks, named

__all__ = [
    "DEFAULT",
    "FEATURES",
    "SAMPLE",
    "OnlineGate",
    "Sample",
    "fit",
    "mixed",
    "mixed_blocks",
    "named",
]
