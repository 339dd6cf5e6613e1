"""The classes of transformers that hold a mixture, by the class of the ELMs it is made of.

A layer of such a mixture is a layer of the ELMs but for its feed-forward network: several stand
behind a router. File layouts are the published ones, a tensor for each expert and matrix;
`transformers` 5 joins them in memory and saves them like this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from btm.errors import UserError
from btm.system.json_files import Json

OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")  # of the layers
_ATTENTION = tuple(f"self_attn.{part}_proj.weight" for part in "qkvo")
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
# Keys of a config.json that mean the same in both classes.
_KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    *("rms_norm_eps", "tie_word_embeddings", "rope_parameters", "rope_theta", "rope_scaling"),
    *("hidden_act", "initializer_range", "attention_dropout", "use_cache", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"),
)


@dataclass(frozen=True)
class MoeClass:
    """A class of mixtures: its names, and where it keeps what the ELMs have."""

    kind: str  # its model_type
    architecture: str
    block: str  # of a layer: where its experts and its router stand
    matrices: tuple[str, str, str]  # of an expert: gate, down and up projection
    shared: tuple[str, ...]  # the other tensors of a layer, which ELMs and mixtures have alike
    count: str  # the key of its config.json that counts experts
    settings: Mapping[str, object]  # further keys of its config.json
    inner: str | None = None  # the key that has an expert's inner size, where it is not the ELMs'

    @property
    def network(self) -> dict[str, str]:
        """The matrices of a layer's feed-forward network: the ELMs' name to the expert's."""
        names = ("mlp.gate_proj.weight", "mlp.down_proj.weight", "mlp.up_proj.weight")
        return dict(zip(names, self.matrices, strict=True))

    def expert(self, matrix: str, expert: int) -> str:
        """Name an expert's matrix within its layer, by the ELMs' name."""
        return f"{self.block}.experts.{expert}.{self.network[matrix]}.weight"

    def router(self, layer: int) -> str:
        """Name the tensor of a layer's router, (experts, width)."""
        return f"model.layers.{layer}.{self.block}.gate.weight"

    def config(self, elm: Json, experts: int, top_k: int) -> Json:
        """Make the config.json of a mixture of `experts` ELMs that have the config `elm`."""
        made = {
            "architectures": [self.architecture],
            "model_type": self.kind,
            **{key: elm[key] for key in _KEPT if key in elm},
            self.count: experts,
            "num_experts_per_tok": top_k,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.01,
            **self.settings,
        }
        if self.inner:
            made[self.inner] = elm["intermediate_size"]
        return made


_AS_LLAMA = ("gate_proj", "down_proj", "up_proj")
# Weights of the chosen experts add up to 1, as Mixtral's always do: copies of one model are it.
_NORMED = MappingProxyType({"norm_topk_prob": True})
CLASSES: Mapping[str, MoeClass] = MappingProxyType(
    {
        "llama": MoeClass(
            "mixtral",
            "MixtralForCausalLM",
            "block_sparse_moe",
            ("w1", "w2", "w3"),
            (*_ATTENTION, "input_layernorm.weight", "post_attention_layernorm.weight"),
            "num_local_experts",
            MappingProxyType({"sliding_window": None, "router_jitter_noise": 0.0}),
        ),
        "qwen3": MoeClass(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            "mlp",
            _AS_LLAMA,
            (
                *(*_ATTENTION, *_HEAD_NORMS),
                *("input_layernorm.weight", "post_attention_layernorm.weight"),
            ),
            "num_experts",
            MappingProxyType({**_NORMED, "decoder_sparse_step": 1, "mlp_only_layers": []}),
            inner="moe_intermediate_size",
        ),
        "olmo2": MoeClass(
            "flex_olmo",
            "FlexOlmoForCausalLM",
            "mlp",
            _AS_LLAMA,
            (
                *(*_ATTENTION, *_HEAD_NORMS),
                *("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
            ),
            "num_experts",
            _NORMED,
        ),
    }
)


def class_of(elm: Json, said: object) -> MoeClass:
    """Find the class of mixtures of ELMs with the config `elm`; `UserError`, which begins with
    `said`, if there is none.
    """
    kind = elm["model_type"]
    if kind not in CLASSES:
        known = ", ".join(f"{dense} (to {found.kind})" for dense, found in CLASSES.items())
        raise UserError(f"{said}: a {kind}, and btm moe takes ELMs of model_type {known}")
    if elm.get("use_sliding_window"):
        raise UserError(f"{said}: use_sliding_window: btm moe takes models with whole attention")
    return CLASSES[kind]
