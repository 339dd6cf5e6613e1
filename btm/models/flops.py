"""Floating-point operations of training and inference, computed from the shape of a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """The two numbers that decide a token's cost: N, and the layers · width of the attention."""

    matrix_parameters: int
    attention: int

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Shape":
        """Measure the shape of a model; one on torch's meta device will do.

        Every expert of a layer counts where a layer is itself a mixture of experts.
        """
        from torch import nn

        head = model.get_output_embeddings()
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        if head is not None:
            looked_up.discard(id(head.weight))
        matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in looked_up]
        config = model.config
        heads = int(getattr(config, "num_attention_heads", 0) or 0)
        width = heads * int(getattr(config, "head_dim", 0) or 0) or int(config.hidden_size)
        return cls(sum(p.numel() for p in matrices), int(config.num_hidden_layers) * width)

    @classmethod
    def of_config(cls, config: "PretrainedConfig") -> "Shape":
        """Measure the shape of an architecture without allocating parameters."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return cls.of(AutoModelForCausalLM.from_config(config))

    def training_flops(self, seq_len: int) -> float:
        """Compute the FLOPs of forward and backward for one token of a sequence of `seq_len`."""
        return float(6 * self.matrix_parameters + 12 * self.attention * seq_len)

    def inference_flops(self, context: int) -> float:
        """Compute the FLOPs of a forward pass for one token of a sequence of `context`."""
        return float(2 * self.matrix_parameters + 4 * self.attention * context)
