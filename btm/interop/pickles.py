"""Pickled weights to safetensors, in a box.

torch's restricted unpickler (``weights_only=True``) makes tensors and plain containers, and calls
nothing else. The box is there for what is found wrong in it some day, and for archives that unpack
to more than any memory holds.
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
_DTYPES = [
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
]


def convert(place: str, target: str) -> int:
    """Write each ``*.bin`` in the folder `place` as a safetensors file of the same stem into
    `target`; return how many.

    Raises `UserError` for a file that is anything but a dict of dense tensors.
    """
    from safetensors.torch import save_file

    files = sorted(Path(place).glob("*.bin"))
    sandbox.close(
        4 * max(file.stat().st_size for file in files) + (1 << 30), _SECONDS, Path(target)
    )
    for file in files:
        save_file(_tensors(file), Path(target) / f"{file.stem}.safetensors", {"format": "pt"})
    return len(files)


def _tensors(file: Path) -> "dict[str, torch.Tensor]":
    """Return the tensors of a pickled state dict, none of which shares memory; `UserError` if it is
    anything else.
    """
    import torch

    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch explains, at length, how to switch the protection off
        raise UserError(
            f"{file}: not pickled tensors alone, so it is not read: {why(error)[:200]}"
        ) from None
    if not isinstance(values, dict) or not values:
        raise UserError(f"{file}: wanted a dict of tensors")
    for name, tensor in values.items():
        plain = (
            isinstance(tensor, torch.Tensor)
            and tensor.layout == torch.strided
            and not tensor.is_meta
        )
        if (
            not isinstance(name, str)
            or not plain
            or str(tensor.dtype).removeprefix("torch.") not in _DTYPES
        ):
            raise UserError(f"{file}: {name!r} is no dense tensor of a type that btm reads")
    return {name: tensor.detach().clone().contiguous() for name, tensor in values.items()}
