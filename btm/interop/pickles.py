"""Pickled weights to safetensors, in a sandbox.

torch's restricted unpickler (``weights_only=True``) makes tensors and plain containers, and calls
nothing else. The sandbox guards against faults still to be found in it, and against archives that
unpack to more than any memory holds.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from btm.errors import UserError
from btm.models.causal_lm import why
from btm.system import sandbox

if TYPE_CHECKING:
    import torch

QUESTION = f"{__name__}:convert"
BEFORE_BOXES = ("torch", "safetensors.torch")
_SECONDS = 600  # of CPU time
_DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)


def convert(place: str, target: str) -> int:
    """Convert each ``*.bin`` in the folder `place` to safetensors in `target`; return their number.

    Raises `UserError` for a file that is anything but a dict of dense tensors.
    """
    from safetensors.torch import save_file

    files = sorted(Path(place).glob("*.bin"))
    largest = max(file.stat().st_size for file in files)
    sandbox.close(4 * largest + (1 << 30), _SECONDS, Path(target))
    for file in files:
        save_file(_tensors(file), Path(target) / f"{file.stem}.safetensors", {"format": "pt"})
    return len(files)


def _tensors(file: Path) -> "dict[str, torch.Tensor]":
    """Read the tensors of a pickled state dict, unshared; `UserError` for anything else."""
    import torch

    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch explains, at length, how to switch the protection off
        raise UserError(
            f"{file}: it holds more than pickled tensors, so it is not read: {why(error)[:200]}"
        ) from None
    if not isinstance(values, dict) or not values:
        raise UserError(f"{file}: wanted a dict of tensors")
    for name, tensor in values.items():
        tensor_alone = isinstance(name, str) and isinstance(tensor, torch.Tensor)
        dense = tensor_alone and tensor.layout == torch.strided and not tensor.is_meta
        if not dense or str(tensor.dtype).removeprefix("torch.") not in _DTYPES:
            raise UserError(f"{file}: {name!r} is no dense tensor of a type that btm reads")
    return {name: tensor.detach().clone().contiguous() for name, tensor in values.items()}
