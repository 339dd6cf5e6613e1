"""For each architecture that llama.cpp has: the facts of its GGUF, and what becomes of its tensors.

A tensor of a GGUF is made of one tensor of the model, or of several: attention is permuted where
llama.cpp rotates other pairs of dimensions, joined projections are taken apart, the experts of a
layer are stacked. The rules are those of llama.cpp's own converter (convert_hf_to_gguf.py); which
name belongs to which tensor is asked of the package `gguf`.

Shapes: a matrix is (out, in), of H heads of D dimensions; a stack of experts is (E, out, in).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Array = NDArray[np.float32]
Make = Callable[[Sequence[Array]], Array]  # of the tensors that it is made of


@dataclass(frozen=True)
class Part:
    """One tensor of a GGUF: its name, the tensors of the model that it is made of, and how."""

    name: str
    sources: tuple[str, ...]
    make: Make
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a GGUF says of a model, and its tensors."""

    architecture: str  # llama.cpp's name
    facts: dict[str, Any]  # by the methods of `gguf.GGUFWriter`, without "add_"
    parts: list[Part]


def plan_of(config: "PretrainedConfig", shapes: dict[str, tuple[int, ...]]) -> Plan:
    """Plan the GGUF of a model with these tensors {name: shape}.

    Raises `UserError` for an architecture, or a variant of one, that llama.cpp has not.
    """
    kind = str(config.model_type)
    if kind not in _KINDS:
        reason = _REFUSED.get(kind, "it is not among what btm can convert")
        raise UserError(
            f"format=gguf: no {kind} model: {reason}; wanted one of {', '.join(sorted(_KINDS))}"
        )
    return _KINDS[kind](config, shapes)


def _llama(config: "PretrainedConfig", shapes: dict[str, tuple[int, ...]]) -> Plan:
    """Plan a Llama, a Mistral or a Mixtral, whose experts llama.cpp keeps in one tensor a layer."""
    _require(config, "hidden_act", "silu")
    _require_whole_attention(config)
    heads, kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    facts = {
        **_sizes(config, config.num_hidden_layers, config.hidden_size, config.intermediate_size),
        "head_count": heads,
        "head_count_kv": kv_heads,
        "key_length": head_dim,
        "value_length": head_dim,
        "layer_norm_rms_eps": float(config.rms_norm_eps),
        "rope_dimension_count": head_dim,
        **_rope(config),
    }
    if config.model_type == "mixtral":
        facts["expert_count"] = int(config.num_local_experts)
        facts["expert_used_count"] = int(config.num_experts_per_tok)
    rotated = {"q_proj": heads, "k_proj": kv_heads}
    parts: list[Part] = []
    experts: dict[str, dict[int, str]] = {}
    for name in shapes:
        if found := _EXPERT.fullmatch(name):
            where = f"{found['layer']}.{_EXPERT_PARTS[found['part']]}"
            experts.setdefault(where, {})[int(found["expert"])] = name
            continue
        turned = rotated.get(name.split(".")[-2])
        make = _kept if turned is None else _interleaved(turned)
        parts.append(Part(name, (name,), make, shapes[name]))
    for where, names in experts.items():
        layer, part = where.split(".")
        ordered = tuple(names[number] for number in sorted(names))
        shape = (len(ordered), *shapes[ordered[0]])
        parts.append(Part(f"blk.{layer}.{part}_exps.weight", ordered, np.stack, shape))
    return Plan("llama", facts, _named("LLAMA", config.num_hidden_layers, parts))


def _gpt2(config: "PretrainedConfig", shapes: dict[str, tuple[int, ...]]) -> Plan:
    """Plan a GPT-2, whose projections are stored as (in, out)."""
    _require(config, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    _require(config, "scale_attn_by_inverse_layer_idx", False)
    inner = config.n_inner or 4 * config.n_embd
    facts = {
        **_sizes(config, config.n_layer, config.n_embd, inner),
        "head_count": int(config.n_head),
        "layer_norm_eps": float(config.layer_norm_epsilon),
    }
    parts = []
    for name, shape in shapes.items():
        if _CONV1D.search(name):
            parts.append(Part(name, (name,), _transposed, shape[::-1]))
        elif not name.endswith((".attn.bias", ".attn.masked_bias")):
            parts.append(Part(name, (name,), _kept, shape))
    return Plan("gpt2", facts, _named("GPT2", config.n_layer, parts))


def _gpt_neox(config: "PretrainedConfig", shapes: dict[str, tuple[int, ...]]) -> Plan:
    """Plan a GPT-NeoX, whose queries, keys and values alternate by head."""
    _require(config, "hidden_act", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast")
    heads = int(config.num_attention_heads)
    known = _parameters(config).get("partial_rotary_factor", 1.0)
    part = float(getattr(config, "rotary_pct", None) or known)
    facts = {
        **_sizes(config, config.num_hidden_layers, config.hidden_size, config.intermediate_size),
        "head_count": heads,
        "layer_norm_eps": float(config.layer_norm_eps),
        "rope_dimension_count": int(part * (config.hidden_size // heads)),
        "parallel_residual": bool(config.use_parallel_residual),
        **_rope(config),
    }
    parts = [
        Part(name, (name,), _apart(heads) if "query_key_value" in name else _kept, shape)
        for name, shape in shapes.items()
        if not name.endswith((".attention.bias", ".masked_bias", ".inv_freq"))
    ]
    return Plan("gptneox", facts, _named("GPTNEOX", config.num_hidden_layers, parts))


def _bloom(config: "PretrainedConfig", shapes: dict[str, tuple[int, ...]]) -> Plan:
    """Plan a BLOOM: attention with linear biases, and queries, keys and values as in NeoX."""
    _require(config, "apply_residual_connection_post_layernorm", False)
    positions = int(getattr(config, "seq_length", None) or 2048)  # it has no limit of its own
    facts = {
        **_sizes(config, config.n_layer, config.hidden_size, 4 * config.hidden_size, positions),
        "head_count": int(config.n_head),
        "head_count_kv": int(config.n_head),
        "layer_norm_eps": float(config.layer_norm_epsilon),
    }
    apart = _apart(int(config.n_head))
    parts = [
        Part(
            name.removeprefix("transformer."),
            (name,),
            apart if "query_key_value" in name else _kept,
            shape,
        )
        for name, shape in shapes.items()
    ]
    return Plan("bloom", facts, _named("BLOOM", config.n_layer, parts))


_KINDS = {
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _llama,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "bloom": _bloom,
}
_REFUSED = {
    "opt": "llama.cpp has no OPT, whose positions begin at 2 and whose norms may come after",
    "xglm": "llama.cpp has no XGLM, whose positions are sines",
}
_EXPERT = re.compile(
    r"model\.layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<expert>\d+)\.(?P<part>w[123])\.weight"
)
_EXPERT_PARTS = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def _sizes(
    config: "PretrainedConfig", layers: int, width: int, inner: int, positions: int = 0
) -> dict[str, Any]:
    return {
        "context_length": positions or int(config.max_position_embeddings),
        "embedding_length": int(width),
        "block_count": int(layers),
        "feed_forward_length": int(inner),
        "vocab_size": int(config.vocab_size),
    }


def _parameters(config: "PretrainedConfig") -> dict[str, Any]:
    """Read the settings of the rotary embedding, under the name that transformers 5 gives them."""
    return dict(getattr(config, "rope_parameters", None) or {})


def _rope(config: "PretrainedConfig") -> dict[str, Any]:
    found = _parameters(config)
    kind = found.get("rope_type", "default")
    if kind != "default":
        raise UserError(f"format=gguf: rope_type={kind}: only models without rope scaling so far")
    return {"rope_freq_base": float(found.get("rope_theta", 10_000.0))}


def _require(config: "PretrainedConfig", field: str, *wanted: Any) -> None:
    """Raise `UserError` unless a field of the config has one of these values."""
    found = getattr(config, field, wanted[0])
    if found not in wanted:
        said = ", ".join(map(str, wanted))
        raise UserError(
            f"format=gguf: {field}={found}: llama.cpp has {config.model_type} with {said}"
        )


def _require_whole_attention(config: "PretrainedConfig") -> None:
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise UserError(
            f"format=gguf: sliding_window={window}: llama.cpp would attend to all "
            f"{config.max_position_embeddings} positions"
        )


def _named(architecture: str, layers: int, parts: Iterable[Part]) -> list[Part]:
    """Give parts the names of the GGUF; `UserError` for a tensor that has no place there."""
    import gguf

    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture), int(layers))
    found = []
    for part in parts:
        if part.name.startswith("blk."):
            found.append(part)
            continue
        name = names.get_name(part.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"format=gguf: {part.name}: no place for this tensor in a GGUF")
        found.append(replace(part, name=name))
    return found


def _kept(tensors: Sequence[Array]) -> Array:
    return tensors[0]


def _transposed(tensors: Sequence[Array]) -> Array:
    return tensors[0].T


def _interleaved(heads: int) -> Make:
    """Reorder the rows of each head: transformers rotates dimension d with d + D/2, llama.cpp the
    neighbours 2d and 2d + 1.
    """

    def make(tensors: Sequence[Array]) -> Array:
        tensor = tensors[0]
        halves = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)

    return make


def _apart(heads: int) -> Make:
    """Reorder rows that are (H, 3, D) to (3, H, D): all queries, then all keys, then all values."""

    def make(tensors: Sequence[Array]) -> Array:
        tensor = tensors[0]
        each = tensor.reshape(heads, 3, len(tensor) // heads // 3, *tensor.shape[1:])
        return each.swapaxes(0, 1).reshape(tensor.shape)

    return make
