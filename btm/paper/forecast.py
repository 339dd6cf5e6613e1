"""What a reproduction will take, before it is begun: tokens, FLOPs and time of each study."""

import os
import time
from collections.abc import Sequence
from typing import Any

from btm.config.schema import Config
from btm.paper.studies import Study
from btm.steps.costs import Costs

SHARE = 0.4  # of the peak of matrix products that training small models keeps up, by experience
_SIZE, _SECONDS = 1024, 0.5  # of the product that finds the peak


def forecast(config: Config, studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Return a row {study, needs, tokens, flops, seconds here} for each study, and one for
    the sum.
    """
    costs = Costs.of(studies[0].config)
    rate = SHARE * peak_flops()
    rows: list[dict[str, Any]] = []
    for study in studies:
        tokens = training_tokens(study)
        flops = tokens * costs.flops_per_token
        needs = ", ".join(study.needs)
        rows.append(
            {
                "study": study.name,
                "needs": needs,
                "tokens": tokens,
                "flops": flops,
                "seconds here": flops / rate,
            }
        )
    total = {key: sum(row[key] for row in rows) for key in ("tokens", "flops", "seconds here")}
    return [*rows, {"study": f"all, {costs.parameters:,} parameters", "needs": ""} | total]


def training_tokens(study: Study) -> int:
    """Return the tokens that the study itself trains on; what it begins with is another's."""
    config = study.config
    steps = config.paper.steps
    if study.kind in ("random_split", "demix"):
        steps -= config.seed.steps or 0
    if study.kind == "rounds":
        steps = config.trainer.steps * len(config.paper.added)
    return steps * config.trainer.batch_size * config.trainer.seq_len


def peak_flops() -> float:
    """Return the FLOP/s of float32 or bfloat16 matrix products on this machine, whichever training
    would use.

    On a CPU by processor time, for other programs may have the cores just now.
    """
    import torch

    from btm.models.causal_lm import pick_precision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock, cores = (
        (time.monotonic, 1) if device == "cuda" else (time.process_time, os.cpu_count() or 1)
    )
    dtype = torch.bfloat16 if pick_precision("auto", device) == "bf16" else torch.float32
    factor = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    factor @ factor
    begun, products = clock(), 0
    while clock() - begun < _SECONDS:
        (factor @ factor)[0, 0].item()
        products += 1
    return cores * products * 2 * _SIZE**3 / (clock() - begun)
