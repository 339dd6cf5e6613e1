"""The writing of a GGUF: tensor after tensor, so that a model need not fit into memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from btm.errors import UserError
from btm.forest.card import Card
from btm.forest.paths import ModelFolder
from btm.interop.gguf.architectures import Array, Part, plan_of
from btm.interop.gguf.vocabulary import vocabulary_of
from btm.models import causal_lm, weights
from btm.models.weights import Tensor
from btm.system import durable
from btm.system.extras import install

# The words of export.dtype: llama.cpp's name of a file's type, and of the type of its matrices.
TYPES = {
    "fp32": ("ALL_F32", "F32"),
    "fp16": ("MOSTLY_F16", "F16"),
    "bf16": ("MOSTLY_BF16", "BF16"),
    "q8_0": ("MOSTLY_Q8_0", "Q8_0"),
}
_OF_STORED = {"F32": "fp32", "F64": "fp32", "F16": "fp16", "BF16": "bf16"}
# llama.cpp keeps these exact whatever the type of a file.
_EXACT = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", ".bias")


def export(
    source: Path, target: Path, dtype: str | None = None, alive: Callable[[], None] = lambda: None
) -> Path:
    """Publish the model folder `source` as the GGUF `target`; return `target`.

    Matrices are stored as `dtype` (fp32, fp16, bf16, q8_0: 8 bits in blocks of 32 with a scale
    each; None: as they are stored), vectors, norms and positions in 32 bits. Raises `UserError` for
    a model or a tokenizer that llama.cpp has not, for weights that do not match the card, and if
    something else stands at `target`.
    """
    gguf = _package()
    if target.suffix != ".gguf":
        raise UserError(f"to={target}: a GGUF is one file: give to=NAME.gguf")
    card = Card.read(ModelFolder(source).card)
    if weights.sha256(source) != card.sha256:
        raise UserError(f"{source}: its weights are not those of its card (sha256): damaged")
    tensors = weights.tensors(source)
    plan = plan_of(
        causal_lm.load_config(source), {name: tensor.shape for name, tensor in tensors.items()}
    )
    vocabulary = vocabulary_of(source, int(plan.facts["vocab_size"]))
    stored = max(tensors.values(), key=lambda tensor: tensor.size).dtype
    kind, of_matrices = TYPES[dtype or _OF_STORED[stored]]
    if target.exists():
        raise UserError(f"to={target} stands there already; give another to=FILE, or delete it")
    types = {part.name: _type(gguf, part, of_matrices) for part in plan.parts}
    sizes = {part.name: _bytes(gguf, part, types[part.name]) for part in plan.parts}
    durable.require_space(durable.make_folder(target.absolute().parent), sum(sizes.values()))
    with durable.publish_path(target, replace=False) as place:
        writer = gguf.GGUFWriter(place, plan.architecture)
        writer.add_name(card.name)
        if card.license:
            writer.add_license(card.license)
        writer.add_file_type(int(gguf.LlamaFileType[kind]))
        for name, value in (plan.facts | vocabulary.fields).items():
            getattr(writer, f"add_{name}")(value)
        for part in plan.parts:
            stored_as = types[part.name]
            dtype_of = np.dtype(np.float32)  # of what is not stored in blocks; `raw_dtype` decides
            writer.add_tensor_info(
                part.name, part.shape, dtype_of, sizes[part.name], raw_dtype=stored_as
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for part in plan.parts:
            made = part.make([_read(tensors[name]) for name in part.sources])
            quantised = gguf.quants.quantize(np.ascontiguousarray(made), types[part.name])
            writer.write_tensor_data(quantised)
            alive()
        writer.close()
    return target


def _read(tensor: Tensor) -> Array:
    """Read a tensor in float32, of its shape."""
    out = np.empty(tensor.shape, np.float32)
    weights.widen(tensor.raw(), tensor.dtype, out.reshape(-1))
    return out


def _type(gguf: Any, part: Part, of_matrices: str) -> Any:
    """Choose the type of a tensor; a row that blocks do not divide is stored in 16 bits."""
    if len(part.shape) < 2 or part.name.endswith(_EXACT):
        return gguf.GGMLQuantizationType.F32
    wanted = gguf.GGMLQuantizationType[of_matrices]
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if part.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _bytes(gguf: Any, part: Part, stored_as: Any) -> int:
    """Count the bytes of a tensor in the file."""
    block, size = gguf.GGML_QUANT_SIZES[stored_as]
    return int(np.prod(part.shape)) // block * size


def _package() -> Any:
    """Import the package `gguf`; `UserError` where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError(f"format=gguf needs the package gguf; run: {install('gguf')}") from None
    return gguf
