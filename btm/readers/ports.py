"""The ports by which the modules of a reader are joined: named arrays of a type and a shape.

A shape is written in letters, one an axis: "BT" are B questions by T tokens. The same letter is the
same length wherever it stands in a batch; a digit is that length itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from btm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Batch = Mapping[str, "Tensor"]
FLOAT, INT, BOOL = "float32", "int64", "bool"


@dataclass(frozen=True)
class Port:
    """A named array that one module gives and another takes."""

    name: str
    dtype: str = FLOAT
    shape: str = "B"

    def __str__(self) -> str:
        """Write it as an error names it: logits float32 [B, N]."""
        return f"{self.name} {self.dtype} [{', '.join(self.shape)}]"


def require(taker: str, takes: Iterable[Port], given: Iterable[Port]) -> None:
    """Raise `UserError` unless every port that the module `taker` takes is given, of its type and
    shape.
    """
    have = {port.name: port for port in given}
    for wanted in takes:
        found = have.get(wanted.name)
        if found is None:
            names = ", ".join(map(str, have.values())) or "none"
            raise UserError(
                f"{taker} takes {wanted}, which nothing before it gives; given: {names}"
            )
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            raise UserError(f"{taker} takes {wanted}, and is given {found}")


def check_batch(maker: str, ports: Iterable[Port], batch: Batch) -> None:
    """Raise `UserError` unless a module gives what its ports say: a mistake in its code."""
    lengths: dict[str, int] = {}
    for port in ports:
        tensor = batch.get(port.name)
        found = "nothing" if tensor is None else f"{str(tensor.dtype)[6:]} {list(tensor.shape)}"
        if tensor is None or str(tensor.dtype) != f"torch.{port.dtype}":
            raise UserError(f"{maker} says that it gives {port}, and gives {found}")
        known = [int(a) if a.isdigit() else lengths.get(a) for a in port.shape]
        if len(known) != tensor.dim() or any(
            length not in (None, own) for length, own in zip(known, tensor.shape, strict=True)
        ):
            raise UserError(f"{maker} says that it gives {port}, and gives {found}")
        lengths |= dict(zip(port.shape, tensor.shape, strict=True))
