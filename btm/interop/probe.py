"""Can a copied model folder be loaded at all? Asked in a box.

Sizes in a config.json, and what a tokenizer.json holds, can make the library that reads them take any memory or time.
Here that ends this process alone. The parameters are made on torch's meta device: shapes without memory.
"""

from pathlib import Path
from typing import Any

from btm import models, weights
from btm.data.tokenizer import load_tokenizer
from btm.errors import UserError
from btm.interop import box

_MEMORY, _SECONDS = 4 << 30, 120
_SLACK = 1 << 28  # elements of tables that are computed, not stored


def probe(place: str) -> int:
    """Return the parameters of the model folder at `place`; `UserError` if config, tokenizer and weights do not fit."""
    box.close(_MEMORY, _SECONDS)
    folder = Path(place)
    load_tokenizer(folder)
    config = models.load_config(folder)
    model = _empty(config)
    stored = weights.tensors(folder)
    for name, parameter in model.named_parameters():
        if name in stored and stored[name].shape != parameter.shape:
            raise UserError(
                f"{folder}: tensor {name!r} is {list(stored[name].shape)}, its config.json says "
                f"{list(parameter.shape)}"
            )
    wanted = sum(parameter.numel() for parameter in model.parameters())
    held = weights.parameters(folder)
    if wanted > held:
        raise UserError(f"{folder}: its config.json says {wanted:,} parameters, its weights hold {held:,}")
    computed = sum(buffer.numel() for buffer in model.buffers())
    if computed > held + _SLACK:
        raise UserError(
            f"{folder}: its config.json asks for tables of {computed:,} numbers beside the weights"
        )
    return wanted


def _empty(config: Any) -> Any:
    """Return a model of `config` whose tensors have shapes and no content."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
