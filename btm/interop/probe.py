"""A trial load of a copied model folder, in a sandbox.

Sizes in a config.json, and the content of a tokenizer.json, can make the library that reads them
take any memory or time. Here that ends this process alone. The parameters are made on torch's meta
device: shapes without memory.
"""

from pathlib import Path
from typing import Any

from btm.data.tokenizer import load_tokenizer
from btm.errors import UserError
from btm.models import causal_lm, weights
from btm.system import sandbox

QUESTION = f"{__name__}:probe"
BEFORE_BOXES = (
    "torch",
    "transformers.generation",
    "transformers.modeling_layers",
    "transformers.modeling_utils",
    "transformers.models.auto",
)
_MEMORY, _SECONDS = 2 << 30, 60  # bytes, and seconds of CPU time
_SLACK = 1 << 28  # elements of tables (buffers) that are computed, not stored


def probe(place: str) -> int:
    """Count the parameters of a model folder; `UserError` if its parts do not fit each other."""
    sandbox.close(_MEMORY, _SECONDS)
    folder = Path(place)
    load_tokenizer(folder)
    config = causal_lm.load_config(folder)
    stored = weights.tensors(folder)
    layers = getattr(causal_lm.text_config(config), "num_hidden_layers", 0)
    if not isinstance(layers, int) or not 0 <= layers <= len(stored):
        raise UserError(
            f"{folder}: its config.json says {layers} layers, "
            f"its weights have {len(stored):,} tensors"
        )
    model = _empty(config)
    for name, parameter in model.named_parameters():
        if name in stored and stored[name].shape != parameter.shape:
            raise UserError(
                f"{folder}: tensor {name!r} is {list(stored[name].shape)}, its config.json says "
                f"{list(parameter.shape)}"
            )
    wanted = sum(parameter.numel() for parameter in model.parameters())
    held = weights.parameters(folder)
    if wanted > held:
        raise UserError(
            f"{folder}: its config.json says {wanted:,} parameters, its weights hold {held:,}"
        )
    computed = sum(buffer.numel() for buffer in model.buffers())
    if computed > held + _SLACK:
        raise UserError(
            f"{folder}: its config.json asks for tables of {computed:,} numbers beside the weights"
        )
    return wanted


def _empty(config: Any) -> Any:
    """Make a model of `config` whose tensors have shapes and no content."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
