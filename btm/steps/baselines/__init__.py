"""What a forest is compared with, at equal training tokens: ``btm run <a forest's words>
baseline=X``.

dense              one LM on the balanced mix, as many tokens as the seed and all experts together
dense_large_batch  the paper's: as many updates as the seed and one expert, with larger batches in
                   the expert phase
random_split       the same forest, but the experts' documents dealt at random
demix              DEMix layers (arXiv 2108.05036): a feed-forward layer for each domain, all else
                   shared

random_split: documents are dealt domain by domain, so that every part holds as many of each,
within 1, and differs from the dense LM in nothing but the split. random_split and demix begin
with a copy of the forest's seed, moments included, and are merged whatever comes of them: a
control that the gate refuses measures nothing. demix scales all gradients by one factor, from
√(|shared|² + mean over domains of |own FFN|²), which with one domain is the plain norm.
"""

from btm.config.choices import SHARES_SEED
from btm.steps.baselines.demix import grow as grow_together
from btm.steps.baselines.derive import DEMIX, derive, trained_together
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
