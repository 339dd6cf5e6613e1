"""Conversion of fairseq's `transformer_lm` to a model of `transformers` that computes the same.

    sinusoidal positions, pre-norm (`transformer_lm_gpt`)          XGLM
    learned positions, pre-norm, scaled (`transformer_lm_gpt3_*`)  BioGPT
    learned positions, not scaled (`--no-scale-embedding`)         OPT
    anything else, as post-norm (`transformer_lm`)                 OPT, sinusoids and √d in weights

All four number positions from 2 and name the parameters of a layer alike; only the names outside
the layers differ. `from_hugging_face` converts back.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from btm.errors import UserError
from btm.fairseq import architecture, checkpoint, state
from btm.fairseq import tokenizer as tokenizers
from btm.fairseq.architecture import Architecture
from btm.fairseq.families import FAMILIES, Family, describe, family_of, understand
from btm.models.files import CONFIG, WEIGHTS
from btm.system.durable import write_json
from btm.system.json_files import Json, read_object

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint_best.pt"
_IGNORED = (
    "decoder.version",
    "decoder.embed_positions._float_tensor",
    "decoder.embed_positions.weights",
)
_EMBED, _OUTPUT = "decoder.embed_tokens.weight", "decoder.output_projection.weight"
_POSITIONS = "decoder.embed_positions.weight"
_OFFSET = 2  # positions are numbered from the padding id + 1, and fairseq pads with 1


def to_hugging_face(source: Path, target: Path, *, legacy: bool = False) -> None:
    """Convert a checkpoint and the dict.txt beside it to an unpublished model folder `target`.

    `source` is the .pt file or its folder. Parameters are written in float32, in which fairseq
    computes, whatever they are stored in. Raises `UserError` for what cannot be converted, or only
    with `legacy` (`checkpoint.read`).
    """
    path = checkpoint.find(source)
    dictionary = tokenizers.find_dictionary(path.parent)
    with tempfile.TemporaryDirectory(prefix=".legacy-", dir=target) as scratch:
        found = checkpoint.read(path, Path(scratch), legacy=legacy)
        config, parameters = as_transformers(found, len(dictionary), path)
        _write_model(target, config, parameters)
    tokenizers.write_tokenizer(dictionary, path.parent, target, config["max_position_embeddings"])
    shutil.copyfile(path.parent / "dict.txt", target / "dict.txt")


def as_transformers(
    found: state.Checkpoint, symbols: int, path: Path
) -> tuple[Json, "checkpoint.Tensors"]:
    """Convert a checkpoint to config.json and float32 parameters of the equivalent model.

    `symbols` is the size of its dictionary, `path` the checkpoint's, for messages. Raises
    `UserError` for what cannot be converted.
    """
    embeddings = found.parameters.get(_EMBED)
    if embeddings is None or embeddings.dim() != 2:
        raise UserError(
            f"{path}: no {_EMBED}; wanted a transformer_lm, fairseq's decoder-only language model"
        )
    if len(embeddings) != symbols:
        raise UserError(
            f"{path}: embeddings of {len(embeddings):,} symbols, but {path.parent / 'dict.txt'} "
            f"has {symbols:,} (its lines and 4): put the dict.txt of the model's own data there"
        )
    model = architecture.read(found.settings, symbols, str(path))
    return _as_transformers(model, _take(found.parameters, model, str(path)))


def from_hugging_face(folder: Path, target: Path) -> None:
    """Convert an XGLM, BioGPT or OPT model to checkpoint_best.pt and dict.txt in `target`.

    `target` is unpublished. The tokenizer must have fairseq's special symbols as its first four, as
    one made from a dictionary has. Raises `UserError` if it has not, or if fairseq has no such
    model.
    """
    from safetensors.torch import load_file

    from btm.models import weights

    config = read_object(folder / CONFIG, model_type=str)
    model, family = understand(config, str(folder))
    exported = fairseq_tokenizer(folder)
    if len(exported.dictionary) != model.vocab:
        raise UserError(
            f"{folder}: {model.vocab:,} embeddings, {len(exported.dictionary):,} tokens; "
            "wanted equal numbers"
        )
    stored: state.Tensors = {}
    for file in weights.files(folder):
        stored |= load_file(file)
    parameters = {theirs: _stored(stored, ours, folder) for theirs, ours in _names(model, family)}
    if _lacks_position(model, config):
        model = replace(model, learned=True)
        parameters[_POSITIONS] = sinusoids(
            model.positions + _OFFSET, model.width, config["pad_token_id"]
        )
    parameters.setdefault(_OUTPUT, parameters[_EMBED])
    checkpoint.write(target / CHECKPOINT, model, parameters)
    tokenizers.copy_dictionary(folder, target, exported)


def fairseq_tokenizer(folder: Path) -> tokenizers.Exported:
    """Export the tokenizer in `folder` as a dictionary; `UserError` unless it keeps all ids."""
    exported = tokenizers.export(folder)
    if not exported.same_ids:
        raise UserError(
            f"{folder}: its tokenizer has no <s>, <pad>, </s>, <unk> as ids 0 to 3, where fairseq "
            "has them: prepare text with data.special_tokens=fairseq and another data.name, or "
            "take a folder of data-bins"
        )
    return exported


def trainable(config: Json, where: str) -> Architecture:
    """Return the fairseq model of a config.json that can be converted back after training.

    Raises `UserError` if fairseq has no such model, or could train an XGLM's positions only as
    learned ones.
    """
    try:
        model, _ = understand(config, where)
        architecture.settings_of(model)
    except UserError as error:
        raise UserError(
            f"{error}: give model=fairseq_lm or model=opt, or trainer=default"
        ) from None
    if _lacks_position(model, config):
        raise UserError(
            f"{where}: an XGLM with pad_token_id={config['pad_token_id']} has no sinusoid in that "
            "row, where fairseq, which pads with 1, has one: give model=fairseq_lm or model=opt"
        )
    return model


def _lacks_position(model: Architecture, config: Json) -> bool:
    """Tell whether an XGLM has a row of zeros for a position, where its padding token is."""
    pad = config.get("pad_token_id")
    return not model.learned and isinstance(pad, int) and pad >= _OFFSET


def _stored(stored: "checkpoint.Tensors", name: str, folder: Path) -> "torch.Tensor":
    if name not in stored:
        raise UserError(f"{folder}: no parameter {name!r} in its weights; wanted a whole model")
    return stored[name].float()


def _names(model: Architecture, family: Family) -> Iterator[tuple[str, str]]:
    """Yield (fairseq's name, transformers' name) of every parameter but a tied output layer."""
    for i in range(model.layers):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            part = f"self_attn.{part}"
            yield from _pair(f"decoder.layers.{i}.{part}", f"{family.body}.layers.{i}.{part}")
        for part in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"):
            yield from _pair(f"decoder.layers.{i}.{part}", f"{family.body}.layers.{i}.{part}")
    if model.pre_norm:
        yield from _pair("decoder.layer_norm", f"{family.body}.{family.last_norm}")
    if model.learned:
        yield _POSITIONS, f"{family.body}.embed_positions.weight"
    yield _EMBED, f"{family.body}.embed_tokens.weight"
    if not model.tied:
        yield _OUTPUT, f"{family.output}.weight"


def _pair(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias"))


def _take(found: "checkpoint.Tensors", model: Architecture, where: str) -> "checkpoint.Tensors":
    """Take the parameters of `model`, in float32; `UserError` for others or for other sizes."""
    found = _modern({name: tensor for name, tensor in found.items() if name not in _IGNORED})
    if model.tied:
        found.pop(_OUTPUT, None)
    wanted = dict.fromkeys(name for name, _ in _names(model, FAMILIES["opt"]))
    more = sorted(set(found) - set(wanted))
    if more:
        mixture = any("expert" in name or "moe" in name for name in more)
        kind = "a mixture of experts" if mixture else "no part"
        raise UserError(
            f"{where}: has {more[0]}: {kind} of a transformer_lm; it cannot be converted"
        )
    shapes = _shapes(model)
    for name in wanted:
        shape = shapes[name.split(".", 3)[3] if ".layers." in name else name]
        if name not in found or tuple(found[name].shape) != shape:
            have = tuple(found[name].shape) if name in found else "nothing"
            raise UserError(f"{where}: {name}: {have}; its settings want {shape}")
    return {name: found[name].float() for name in wanted}


def _modern(found: "checkpoint.Tensors") -> "checkpoint.Tensors":
    """Rename parameters as fairseq has since 0.9, and split the older joint q, k and v."""
    modern: state.Tensors = {}
    for name, tensor in found.items():
        name = name.replace("layer_norms.0.", "self_attn_layer_norm.")
        name = name.replace("layer_norms.2.", "final_layer_norm.")
        name = name.replace("decoder.embed_out", _OUTPUT)
        head, joined, kind = name.rpartition("in_proj_")
        if joined and kind in ("weight", "bias") and len(tensor) % 3 == 0:
            modern |= {
                f"{head}{p}_proj.{kind}": t for p, t in zip("qkv", tensor.chunk(3), strict=True)
            }
        else:
            modern[name] = tensor
    return modern


def _shapes(model: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter; parameters of a layer go by their names within it."""
    d, f = model.width, model.ffn
    attention = {f"self_attn.{p}_proj": (d, d) for p in ("k", "v", "q", "out")}
    linear = attention | {"fc1": (f, d), "fc2": (d, f)}
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    for norm in ("self_attn_layer_norm", "final_layer_norm", "decoder.layer_norm"):
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    shapes |= {_EMBED: (model.vocab, d), _OUTPUT: (model.vocab, d)}
    return shapes | {_POSITIONS: (model.positions + _OFFSET, d)}


def _as_transformers(
    model: Architecture, parameters: "checkpoint.Tensors"
) -> tuple[Json, "checkpoint.Tensors"]:
    """Return config.json and the parameters of the equivalent model of transformers."""
    family = family_of(model)
    if family.name == "opt":
        model, parameters = _plain_embeddings(model, parameters)
    renamed = {ours: parameters[theirs] for theirs, ours in _names(model, family)}
    return describe(model, family), renamed


def _plain_embeddings(
    model: Architecture, parameters: "checkpoint.Tensors"
) -> tuple[Architecture, "checkpoint.Tensors"]:
    """Write sinusoids and √d into the weights: OPT has settings for neither."""
    changed = dict(parameters)
    if not model.learned:
        changed[_POSITIONS] = sinusoids(model.positions + _OFFSET, model.width)
    if model.scaled:  # √d scales the input alone: a tied output layer keeps the plain embeddings
        changed.setdefault(_OUTPUT, parameters[_EMBED])
        changed[_EMBED] = parameters[_EMBED] * math.sqrt(model.width)
    return replace(model, learned=True, scaled=False, tied=model.tied and not model.scaled), changed


def sinusoids(rows: int, width: int, pad: int = 1) -> "torch.Tensor":
    """Compute fairseq's table of positions, (rows, width): sines, then cosines; row `pad` is 0."""
    import torch

    half = width // 2
    step = math.log(10_000) / (half - 1)
    angles = torch.arange(rows).float()[:, None] * torch.exp(torch.arange(half).float() * -step)
    table = torch.zeros(rows, width)
    table[:, : 2 * half] = torch.cat([angles.sin(), angles.cos()], dim=1)
    table[pad : pad + 1] = 0
    return table


def _write_model(target: Path, config: Json, parameters: "checkpoint.Tensors") -> None:
    from safetensors.torch import save_file

    write_json(target / CONFIG, config)
    whole = {name: tensor.contiguous() for name, tensor in parameters.items()}
    save_file(whole, target / WEIGHTS, metadata={"format": "pt"})
