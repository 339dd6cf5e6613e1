"""Pickled weights to safetensors, in a box.

torch's restricted unpickler (``weights_only=True``) makes tensors and plain containers, and calls nothing else. The
box is there for what is found wrong in it some day, and for archives that unpack to more than any memory holds.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from btm.errors import UserError
from btm.interop import box
from btm.interop.shards import Entry, write_file
from btm.models import why

if TYPE_CHECKING:
    import torch

_SECONDS = 600  # of CPU time
_PIECE = 1 << 24  # bytes written at a time
_OF = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def convert(place: str, target: str) -> int:
    """Write each ``*.bin`` in the folder `place` as a safetensors file of the same stem into `target`; return how many.

    Raises `UserError` for a file that is anything but a dict of dense tensors.
    """
    files = sorted(Path(place).glob("*.bin"))
    box.close(4 * max(file.stat().st_size for file in files) + (1 << 30), _SECONDS, Path(target))
    for file in files:
        write_file(Path(target) / f"{file.stem}.safetensors", list(_entries(file)))
    return len(files)


def _entries(file: Path) -> Iterator[Entry]:
    """Yield the tensors of a pickled state dict; `UserError` if it is anything else."""
    import torch

    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch explains, at length, how to switch the protection off
        raise UserError(f"{file}: not pickled tensors alone, so it is not read: {why(error)[:200]}") from None
    if not isinstance(values, dict) or not values:
        raise UserError(f"{file}: wanted a dict of tensors")
    for name, tensor in values.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_meta
        dtype = _OF.get(str(tensor.dtype).removeprefix("torch.")) if plain else None
        if not isinstance(name, str) or dtype is None:
            raise UserError(f"{file}: {name!r} is no dense tensor of a type that btm reads")
        yield Entry(name, dtype, tuple(tensor.shape), partial(_bytes, tensor))


def _bytes(tensor: "torch.Tensor") -> Iterator[bytes]:
    import torch

    flat = tensor.detach().contiguous().flatten()
    raw = flat.view(torch.uint8) if flat.numel() else flat
    for start in range(0, len(raw), _PIECE):
        yield raw[start : start + _PIECE].numpy().tobytes()
