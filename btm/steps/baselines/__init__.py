"""What a forest is compared with, at equal training tokens: ``btm run <a forest's words>
baseline=X``.

dense              one LM on the balanced mix, as many tokens as the seed and all experts together
dense_large_batch  the paper's: as many updates as the seed and one expert, with larger batches in
                   the expert phase
random_split       the same forest, but the experts' documents dealt at random
demix              DEMix layers (arXiv 2108.05036): a feed-forward layer for each domain, all else
                   shared
"""

from btm.steps.baselines.demix import grow as grow_together
from btm.steps.baselines.derive import DEMIX, SHARES_SEED, derive, trained_together
from btm.steps.baselines.ready import ready, run

__all__ = [
    "DEMIX",
    "SHARES_SEED",
    "derive",
    "grow_together",
    "ready",
    "run",
    "trained_together",
]
