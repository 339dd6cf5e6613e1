"""Settings of averages of parameters."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class AverageConfig:
    """How one model is made of several (btm/models/average/methods.py); its weights are the
    top-level `weights`.
    """

    name: str | None = None  # null: made of method, weights and domain
    experts: list[str] = field(default_factory=list)  # empty: every ELM trained on one domain
    # linear | slerp | task_arithmetic | ties | dare_ties | dare_linear | breadcrumbs | model_stock
    # | fisher | | greedy_soup; null: linear of weights=; without weights=, task_arithmetic of token
    # weights with scale=fit
    method: str | None = None
    base: str | None = None  # the ELM that differences are taken from; null: the seed
    scale: float | int | str = 1.0  # λ, on the sum of differences | fit: what does best on valid
    density: float = 0.5  # share of each difference that ties, dare and breadcrumbs keep
    gamma: float = 0.01  # share of each difference, its largest entries, that breadcrumbs drops
    t: float = 0.5  # of slerp: 0 is the base, 1 the other ELM
    rescale: str = "density"  # of what dare keeps: density (1/density) | l1 | none
    seed: int = 0  # of what dare drops
    sequences: int = 100  # valid windows that fisher estimates its information on
    # {pattern of tensors' names: {elm: weight}}; of several that match, the last counts
    layers: Any = None
    accumulate: str = "float32"  # or float64
    dtype: str | None = None  # of the parameters: fp32 | bf16 | fp16; null: as stored
    shard_gb: float = 0.0  # of a weight file, at most; 0: the files of the first ELM
    # on valid splits, beside the seed, before it is sealed; its card says what came of it
    measure: bool = True
