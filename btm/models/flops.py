"""Floating-point operations of training and inference, computed from the shape of a model."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from btm.models.causal_lm import text_config
from btm.models.configs import empty_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What transformers calls the module of a layer's routed experts, and their number in a config.
_EXPERTS = ".experts"
_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class Shape:
    """The two numbers that decide a token's cost: N, and the layers · width of the attention."""

    matrix_parameters: int
    attention: int

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Shape":
        """Measure the shape of a model; one on torch's meta device will do.

        Where a layer is itself a mixture of experts, those that a token runs count: k of E.
        """
        from torch import nn

        head = model.get_output_embeddings()
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        if head is not None:
            looked_up.discard(id(head.weight))
        experts = {
            id(p)
            for name, module in model.named_modules()
            if name.endswith(_EXPERTS)
            for p in module.parameters()
        }
        matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in looked_up]
        routed = sum(p.numel() for p in matrices if id(p) in experts)
        always = sum(p.numel() for p in matrices) - routed
        config = text_config(model.config)
        return cls(always + round(routed * _share_run(config)), _attention(config))

    @classmethod
    def of_config(cls, config: "PretrainedConfig") -> "Shape":
        """Measure the shape of an architecture without allocating parameters."""
        return cls.of(empty_model(config))

    def training_flops(self, seq_len: int) -> float:
        """Compute the FLOPs of forward and backward for one token of a sequence of `seq_len`."""
        return float(6 * self.matrix_parameters + 12 * self.attention * seq_len)

    def inference_flops(self, context: int) -> float:
        """Compute the FLOPs of a forward pass for one token of a sequence of `context`."""
        return float(2 * self.matrix_parameters + 4 * self.attention * context)


def _share_run(config: "PretrainedConfig") -> Fraction:
    """Read the share of a layer's experts that a token runs; 1 where the config does not say."""
    values = config.to_dict()
    run = _size(values.get("num_experts_per_tok"))
    experts = next((n for key in _COUNTS if (n := _size(values.get(key)))), 0)
    return Fraction(min(run, experts), experts) if run and experts else Fraction(1)


def _attention(config: "PretrainedConfig") -> int:
    """Compute layers · width of the attention; 0 for a model without heads, such as Mamba.

    Where layers differ, the size that the config has for all of them counts, or the first.
    """
    values = config.to_dict()
    layers, heads, head_dim, hidden = (
        _size(values.get(config.attribute_map.get(key, key)))
        for key in ("num_hidden_layers", "num_attention_heads", "head_dim", "hidden_size")
    )
    return layers * (heads * head_dim or hidden) if heads else 0


def _size(value: object) -> int:
    """Read a size of a config, or the first of a list of them; 0 if it has none."""
    if isinstance(value, list | tuple):
        value = value[0] if value else 0
    return value if type(value) is int else 0
