"""The two files of an adapter that peft loads, read and written without it.

``adapter_config.json`` says rank, scale and layers, ``adapter_model.safetensors`` holds the factors
as ``base_model.model.<layer>.lora_A.weight`` (rank, in) and ``…lora_B.weight`` (out, rank). An
adapter that is more than B A beside linear layers (DoRA, biases, other modules) is refused.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError, unknown
from btm.forest.adapter import factor
from btm.models import weights
from btm.models.low_rank import LowRank
from btm.system import durable
from btm.system.json_files import Json, parse_json

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MOST = 4 << 20  # bytes of a config
_BASE = "btm-base"  # of the metadata: {parent: {weight, raw, sha256}} that the adapter is of
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")
# What changes a model by more than B A, and the values that ask for nothing.
_MORE = (
    *("use_dora", "modules_to_save", "layer_replication", "lora_bias", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config"),
    *("kasa_config", "velora_config", "monteclora_config", "megatron_config"),
)
_NOTHING: tuple[Any, ...] = (None, False, [], {})
# How factors began: other ways change the base too, which the file does not tell.
_INIT = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Peft:
    """An adapter as peft has it."""

    rank: int
    alpha: float
    layers: dict[str, LowRank]  # by the name of the layer; orientation as its config says
    base: str  # base_model_name_or_path
    parents: Json | None  # of one that btm exported


def write(
    folder: Path, rank: int, alpha: float, changes: Mapping[str, LowRank], parents: Json
) -> None:
    """Write both files of an adapter into an unpublished folder."""
    layers = {change.module: change for change in changes.values()}
    scale = alpha / rank
    other = {
        name: change
        for name, change in layers.items()
        if change.rank != rank or change.scale != scale
    }
    config: Json = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": " and ".join(parents),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(layers),
        "fan_in_fan_out": any(change.transposed for change in layers.values()),
        "rank_pattern": {re.escape(name): change.rank for name, change in other.items()},
        "alpha_pattern": {
            re.escape(name): change.scale * change.rank for name, change in other.items()
        },
        "inference_mode": True,
    }
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, change in layers.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = (change.dtype, change.a)
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = (change.dtype, change.b)
    durable.write_json(folder / CONFIG, config)
    with durable.publish_file(folder / TENSORS) as handle:
        metadata = {"format": "pt", _BASE: json.dumps(parents)}
        weights.write_tensors(handle, tensors, metadata)


def read(config: bytes, file: Path, called: Path) -> Peft:
    """Read an adapter from the content of its config and the `file` of its factors.

    Raises `UserError`, naming the folder `called`, for what is no LoRA of linear layers.
    """
    try:
        said = parse_json(config)
        _require_plain(said, called)
        stored, head = weights.header(file)
        metadata = parse_json(head[8:]).get("__metadata__") or {}
        parents = parse_json(metadata[_BASE].encode()) if _BASE in metadata else None
        rank, alpha = said["r"], float(said.get("lora_alpha", 8))
        if type(rank) is not int or rank < 1:
            raise ValueError(f"rank {rank!r}: wanted 1 or more")
        layers = _layers(stored, said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{called}: not a valid adapter of peft: {what}") from None
    return Peft(rank, alpha, layers, str(said.get("base_model_name_or_path") or ""), parents)


def _require_plain(said: Json, called: Path) -> None:
    """Raise `UserError` for an adapter that is not B A beside linear layers alone."""
    if said.get("peft_type") != "LORA":
        raise UserError(
            f"{called}: an adapter of kind {said.get('peft_type')!r}; wanted LORA: merge it into "
            "its base first (merge_and_unload of peft), and import that with format=hf"
        )
    more = [key for key in _MORE if said.get(key) not in _NOTHING]
    more += ["bias"] if said.get("bias", "none") != "none" else []
    more += ["init_lora_weights"] if said.get("init_lora_weights") not in _INIT else []
    if more:
        raise UserError(
            f"{called}: its {more[0]}={said[more[0]]!r} changes more than B A: merge it into its "
            "base first (merge_and_unload of peft), and import that with format=hf"
        )


def _layers(stored: list[weights.Tensor], said: Json) -> dict[str, LowRank]:
    """Read the change of each layer; `ValueError` if a tensor is no factor of one."""
    factors: dict[str, dict[str, weights.Tensor]] = {}
    for tensor in stored:
        match = _FACTOR.fullmatch(tensor.name)
        if match is None:
            raise ValueError(f"{tensor.name!r} is no factor of a linear layer")
        factors.setdefault(match[1].removeprefix(_PREFIX), {})[match[2]] = tensor
    if not factors:
        raise ValueError("it has no factors")
    made = {}
    for name, pair in factors.items():
        if pair.keys() != {"A", "B"}:
            raise ValueError(f"{name!r} has one factor of two")
        a, b = factor(pair["A"]), factor(pair["B"])
        if b.shape[1] != len(a):
            raise ValueError(f"{name!r} has factors of ranks {len(a)} and {b.shape[1]}")
        alpha = float(_of(said.get("alpha_pattern") or {}, name, said.get("lora_alpha", 8)))
        rank = len(a)
        scale = alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)
        if not np.isfinite(scale):
            raise ValueError(f"{name!r} has alpha {alpha}")
        made[name] = LowRank(
            name, a, b, scale, said.get("fan_in_fan_out") is True, _dtype(pair["A"], pair["B"])
        )
    return made


def _of(pattern: Json, name: str, usual: Any) -> Any:
    """Find what the patterns of a config say of a layer, as peft looks it up."""
    for key, value in pattern.items():
        try:
            if re.match(rf"(.*\.)?({key})$", name):
                return value
        except re.error:
            raise ValueError(f"{key[:100]!r} is no pattern") from None
    return usual


def _dtype(a: weights.Tensor, b: weights.Tensor) -> str:
    return a.dtype if a.dtype == b.dtype else "F32"


def fitted(layers: Mapping[str, LowRank], base: Path, called: str) -> dict[str, LowRank]:
    """Name changes by the tensors of the model in `base`, each in the orientation that fits.

    Raises `UserError` if a layer is none of the model's, or has another size there.
    """
    found, made = weights.tensors(base), {}
    known = [name.removesuffix(".weight") for name in found if name.endswith(".weight")]
    for name, change in layers.items():
        tensor = found.get(f"{name}.weight")
        if tensor is None:
            error = unknown("layer", name, known, called)
            raise UserError(f"an adapter of another base than {called}: {error}")
        other = LowRank(name, change.a, change.b, change.scale, not change.transposed, change.dtype)
        fits = [each for each in (change, other) if each.shape == tensor.shape]
        made[tensor.name] = fits[0] if fits else change
    return made
