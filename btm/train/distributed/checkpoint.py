"""Checkpoints that several processes write, each its share: torch.distributed.checkpoint, in
safetensors alone.

Its usual storage pickles metadata and tensors. The one for the files of Hugging Face keeps in the
header of each file which part of which tensor it holds; so it reads plain safetensors too, and any
number of processes reads what any other number wrote.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from btm.models import weights

if TYPE_CHECKING:
    from torch import Tensor

_SHARES = "shard-*.safetensors"


def stands(folder: Path) -> bool:
    """Tell whether `folder` holds what `write` wrote."""
    return any(folder.glob(_SHARES))


def names(folder: Path) -> set[str]:
    """Return the names of the tensors in `folder`; `UserError` if a header is damaged."""
    return {
        tensor.name for file in folder.glob("*.safetensors") for tensor in weights.header(file)[0]
    }


def write(folder: Path, tensors: "dict[str, Tensor]") -> None:
    """Write tensors into `folder`: every process calls this with the same names, and returns when
    all have written.

    Of a DTensor each process writes its part; of those that all have whole, each process writes
    some.
    """
    import torch.distributed.checkpoint as dcp

    dcp.save(
        dict(tensors),
        storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True),
    )


def read(folder: Path, tensors: "dict[str, Tensor]") -> None:
    """Fill `tensors` (of DTensors the part that is here) with what `folder` has under their names.

    Where there is a process group, every process calls this. Raises `ValueError` for what is
    damaged or does not fit.
    """
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    alone = not dist.is_initialized()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            dcp.load(dict(tensors), storage_reader=reader, no_dist=alone)
    except dcp.CheckpointException as error:  # is no Exception
        first = next(iter(error.failures.values()))[0]
        raise ValueError(_one_line(first)) from None
    except MemoryError:
        raise
    except Exception as error:  # what a damaged header or file raises
        raise ValueError(_one_line(error)) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
