"""Plant outlier features in a model without changing its function, as large models grow them.

A gain (and bias) of a norm is multiplied by `scale` in a few dimensions, and the matching columns
of the linears that read the norm are divided by it. The product is the same up to rounding, while
activations reach `scale` times their size: what LLM.int8() (arXiv 2208.07339) is made for, and what
models of a few million parameters do not have of their own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from btm.forest.paths import ModelFolder
from btm.models import causal_lm, weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCALE, DIMENSIONS = 60.0, 2
# By model_type: each norm of a layer, and the linears that read it.
READERS: dict[str, dict[str, tuple[str, ...]]] = {
    "llama": {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    },
    "gpt2": {"ln_1": ("attn.c_attn",), "ln_2": ("mlp.c_fc",)},
    "bloom": {
        "input_layernorm": ("self_attention.query_key_value",),
        "post_attention_layernorm": ("mlp.dense_h_to_4h",),
    },
}


def plant(
    model: "PreTrainedModel", scale: float = SCALE, dimensions: int = DIMENSIONS
) -> "PreTrainedModel":
    """Plant outliers in the first `dimensions` of every norm that linears read; changes `model`."""
    chosen = slice(0, dimensions)
    with torch.no_grad():
        for norm, linears in _pairs(model):
            norm.weight[chosen] *= scale
            if getattr(norm, "bias", None) is not None:
                norm.bias[chosen] *= scale
            for linear in linears:
                columns = linear.weight.T if isinstance(linear, nn.Linear) else linear.weight
                columns[chosen] /= scale
    return model


def plant_in_forest(root: Path, scale: float = SCALE) -> None:
    """Plant outliers in every ELM of the forest at `root`, a copy that nothing else needs.

    Their cards say the new weights' sha256, so nobody takes scores of the old ones for theirs.
    """
    for folder in sorted((root / "elms").iterdir()):
        model = plant(causal_lm.load_model(folder, dtype=torch.float32), scale)
        causal_lm.write(folder, model, "float32")
        card = ModelFolder(folder).card
        values = json.loads(card.read_text()) | {"sha256": weights.sha256(folder)}
        card.write_text(json.dumps(values))


def _pairs(model: "PreTrainedModel") -> Iterator[tuple[nn.Module, list[nn.Linear | Conv1D]]]:
    """Yield each norm of the layers with the linears that read it."""
    for layer in causal_lm.decoder_layers(model):
        for norm, linears in READERS[model.config.model_type].items():
            yield layer.get_submodule(norm), [layer.get_submodule(name) for name in linears]
