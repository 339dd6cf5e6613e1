"""The architecture of a `transformer_lm` checkpoint, and the part of it that can be converted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from btm.errors import UserError
from btm.system.json_files import Json

# fairseq's name of an activation, and that of transformers.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "tanh": "tanh",
    "linear": "linear",
}
# Settings that change the function in ways that no model of transformers has. A setting that is
# false, 0, null or absent is off.
_REFUSED = {
    "adaptive_softmax_cutoff": "an adaptive softmax, of which transformers has none",
    "adaptive_input": "adaptive inputs, of which transformers has none",
    "character_embeddings": "characters as input, of which transformers has no such model",
    "base_layers": "BASE layers, a mixture of experts inside the model",
    "moe_freq": "a mixture of experts inside the model",
    "layernorm_embedding": "a layer norm of the embeddings",
    "no_token_positional_embeddings": "no positions",
    "scale_fc": "NormFormer's layer norms",
    "scale_attn": "NormFormer's layer norms",
    "scale_heads": "NormFormer's scales of heads",
    "scale_resids": "NormFormer's scales of residuals",
    "decoder_layers_to_keep": "layers to be dropped on loading; save it without the others first",
    "decoder_xformers_att_config": "attention of xFormers",
}


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer of fairseq."""

    vocab: int
    positions: int  # the longest input
    width: int
    ffn: int
    layers: int
    heads: int
    learned: bool  # positions are parameters; otherwise sinusoids
    scaled: bool  # embeddings are multiplied by √width
    pre_norm: bool  # layer norms stand before attention and feed-forward, and one at the end
    tied: bool  # the output layer is the embeddings
    activation: str = "gelu"  # by transformers' name
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    layerdrop: float = 0.0


def read(settings: Mapping[str, Any], vocab: int, where: str) -> Architecture:
    """Read the architecture from a checkpoint's flat `settings`.

    Raises `UserError` naming the first setting that no model of transformers can compute.
    """
    name = str(settings.get("_name") or settings.get("arch") or "a model without a name")
    if not name.startswith("transformer_lm"):
        raise UserError(
            f"{where}: {name}; wanted a transformer_lm, fairseq's decoder-only language model"
        )
    for key, what in _REFUSED.items():
        if settings.get(key):
            raise UserError(f"{where}: {key}={settings[key]}: {what}; it cannot be converted")
    value = _Values(settings, where)
    width = value.whole("decoder_embed_dim", 512)
    for key in ("decoder_input_dim", "decoder_output_dim"):
        if value.whole(key, width) != width:
            raise UserError(
                f"{where}: {key}={settings[key]} is not decoder_embed_dim={width}; not converted"
            )
    pre_norm = bool(settings.get("decoder_normalize_before", False))
    # Older checkpoints have decoder_final_norm instead of no_decoder_final_norm; those with
    # no_tie_adaptive_proj are older still and never had a final norm.
    final = settings.get("decoder_final_norm", "no_tie_adaptive_proj" not in settings)
    if pre_norm and settings.get("no_decoder_final_norm", not final):
        raise UserError(
            f"{where}: no_decoder_final_norm: no layer norm at the end; it cannot be converted"
        )
    activation = str(settings.get("activation_fn") or "relu")
    if activation not in ACTIVATIONS:
        raise UserError(f"{where}: activation_fn={activation}; have: {', '.join(ACTIVATIONS)}")
    return Architecture(
        vocab=vocab,
        positions=value.whole("max_target_positions", value.whole("tokens_per_sample", 1024)),
        width=width,
        ffn=value.whole("decoder_ffn_embed_dim", 2048),
        layers=value.whole("decoder_layers", 6),
        heads=value.whole("decoder_attention_heads", 8),
        learned=bool(settings.get("decoder_learned_pos", False)),
        scaled=not settings.get("no_scale_embedding", False),
        pre_norm=pre_norm,
        tied=bool(settings.get("share_decoder_input_output_embed", False)),
        activation=ACTIVATIONS[activation],
        dropout=value.share("dropout", 0.1),
        attention_dropout=value.share("attention_dropout", 0.0),
        activation_dropout=value.share("activation_dropout", 0.0)
        or value.share("relu_dropout", 0.0),
        layerdrop=value.share("decoder_layerdrop", 0.0),
    )


@dataclass(frozen=True)
class _Values:
    """Numbers among settings; null means the default, as it does to fairseq."""

    settings: Mapping[str, Any]
    where: str

    def whole(self, key: str, default: int) -> int:
        found = self.settings.get(key)
        found = default if found is None else found
        if isinstance(found, bool) or not isinstance(found, int) or not 0 < found < 1 << 31:
            raise UserError(f"{self.where}: {key}={found!r}; wanted a whole number above 0")
        return found

    def share(self, key: str, default: float) -> float:
        found = self.settings.get(key)
        found = default if found is None else found
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 1:
            raise UserError(f"{self.where}: {key}={found!r}; wanted a number from 0 to below 1")
        return float(found)


def flatten(args: Mapping[str, Any] | None, cfg: Mapping[str, Any] | None, where: str) -> Json:
    """Flatten a checkpoint's `args` (older) or `cfg` (model and task) to {setting: value}."""
    if args:
        return dict(args)
    parts = [(cfg or {}).get(key) for key in ("task", "model")]
    if not isinstance(parts[1], Mapping):
        raise UserError(
            f"{where}: neither args nor cfg.model in it; wanted a checkpoint of fairseq-train"
        )
    task = parts[0] if isinstance(parts[0], Mapping) else {}
    model = {key: _resolved(value, cfg or {}) for key, value in parts[1].items()}
    return {"tokens_per_sample": task.get("tokens_per_sample"), **model}


def _resolved(value: Any, cfg: Mapping[str, Any]) -> Any:
    """Resolve a reference as ``${task.tokens_per_sample}``; older files hold such."""
    match = re.fullmatch(r"\$\{(\w+)\.(\w+)\}", value) if isinstance(value, str) else None
    section = cfg.get(match[1]) if match else None
    return section.get(match[2]) if match and isinstance(section, Mapping) else value


def settings_of(architecture: Architecture) -> Json:
    """Write `cfg.model` of a checkpoint: the settings that decide the function, and dropouts."""
    a = architecture
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    if a.activation not in names:
        raise UserError(
            f"activation {a.activation!r}: fairseq has none of that; have: {', '.join(names)}"
        )
    return {
        "_name": "transformer_lm",
        "activation_fn": names[a.activation],
        "dropout": a.dropout,
        "attention_dropout": a.attention_dropout,
        "activation_dropout": a.activation_dropout,
        "decoder_layerdrop": a.layerdrop,
        "decoder_embed_dim": a.width,
        "decoder_input_dim": a.width,
        "decoder_output_dim": a.width,
        "decoder_ffn_embed_dim": a.ffn,
        "decoder_layers": a.layers,
        "decoder_attention_heads": a.heads,
        "decoder_normalize_before": a.pre_norm,
        "no_decoder_final_norm": False,
        "decoder_learned_pos": a.learned,
        "no_scale_embedding": not a.scaled,
        "share_decoder_input_output_embed": a.tied,
        "add_bos_token": False,
        "tokens_per_sample": a.positions,
        "max_target_positions": a.positions,
        "tpu": False,
    }
