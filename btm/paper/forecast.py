"""The forecast of a reproduction: tokens, FLOPs and time of each study."""

import os
import time
from collections.abc import Sequence

from btm.config.schema import Config
from btm.paper import one_model
from btm.paper.studies import ONE_MODEL, Study
from btm.report.tables import TableRow
from btm.steps.costs import Costs

SHARE = 0.4  # of the peak of matrix products that training small models reaches, by experience
_SIZE, _SECONDS = 1024, 0.5  # of the matrix products that measure the peak


def forecast(config: Config, studies: Sequence[Study]) -> list[TableRow]:
    """Make a row {study, needs, tokens, flops, seconds here} for each study, and a sum."""
    costs = Costs.of(studies[0].config)
    rate = SHARE * peak_flops()

    def row(name: str, needs: str, tokens: int) -> TableRow:
        flops = tokens * costs.flops_per_token
        return {
            "study": name,
            "needs": needs,
            "tokens": tokens,
            "flops": flops,
            "seconds here": flops / rate,
        }

    tokens = [training_tokens(study) for study in studies]
    rows = [row(s.name, ", ".join(s.needs), n) for s, n in zip(studies, tokens, strict=True)]
    return [*rows, row(f"all, {costs.parameters:,} parameters", "", sum(tokens))]


def training_tokens(study: Study) -> int:
    """Count the tokens that the study itself trains on, without those of the studies it needs."""
    config = study.config
    steps = config.paper.steps
    if study.kind in ("random_split", "demix"):
        steps -= config.seed.steps or 0
    if study.kind == ONE_MODEL:
        steps = config.paper.made_steps * one_model.TRAINED
    if study.kind == "rounds":
        steps = config.trainer.steps * len(config.paper.added)
    return steps * config.trainer.batch_size * config.trainer.seq_len


def peak_flops() -> float:
    """Measure the FLOP/s of matrix products here, in the precision that training would use.

    On a CPU by processor time, since other programs may use the cores meanwhile.
    """
    import torch

    from btm.models.causal_lm import pick_precision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    clock, cores = (time.monotonic, 1) if on_gpu else (time.process_time, os.cpu_count() or 1)
    dtype = torch.bfloat16 if pick_precision("auto", device) == "bf16" else torch.float32
    factor = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    factor @ factor
    begun, products = clock(), 0
    while clock() - begun < _SECONDS:
        (factor @ factor)[0, 0].item()
        products += 1
    return cores * products * 2 * _SIZE**3 / (clock() - begun)
