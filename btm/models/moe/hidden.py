"""Sums over the hidden states that the routers of a mixture see, kept beside it for each expert.

X are the inputs of a layer's router, which are those of the ELM's feed-forward network, one row a
token of an expert's domain. XᵀX and XᵀY, of which an expert's column is Σ x over its own domain,
are sums over tokens. So those of each expert are kept apart: an expert joins or leaves by adding or
taking off its part, exactly, without reading the others' text again (DUME, arXiv 2603.29765).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.models import weights as wt
from btm.system.json_files import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Array = NDArray[np.float64]
_FACTS = ("expert", "shard", "reader", "tokens", "window", "model")


@dataclass(frozen=True)
class Sums:
    """The sums over one expert's domain. L layers, H the width."""

    expert: str  # sha256 of its weights
    shard: str  # sha256 of the train shard that was read
    reader: str  # how the hidden states came about: moe.reader
    tokens: int
    gram: Array  # XᵀX, (L, H, H)
    total: Array  # Σ x, (L, H)
    window: int = 0  # the tokens of context; 0: it was not recorded
    model: str = ""  # hash of the model that read; "": it was not recorded

    def is_of(self, facts: Mapping[str, str | int]) -> bool:
        """Tell whether these sums are of all `facts`, by the names of the fields."""
        return all(getattr(self, name) == value for name, value in facts.items())

    def write(self, file: Path) -> None:
        """Write the sums as safetensors, with what they are of as its metadata."""
        arrays = {"gram": self.gram, "total": self.total}
        entries: dict[str, Any] = {
            "__metadata__": {name: str(getattr(self, name)) for name in _FACTS}
        }
        begin = 0
        for name, array in arrays.items():
            end = begin + array.nbytes
            place = {"dtype": "F64", "shape": list(array.shape), "data_offsets": [begin, end]}
            entries[name], begin = place, end
        with file.open("xb") as handle:
            handle.write(wt.head(entries))
            for array in arrays.values():
                handle.write(np.ascontiguousarray(array).data)

    @classmethod
    def read(cls, file: Path) -> "Sums":
        """Read what `write` wrote; `UserError` if it is damaged."""
        tensors, head = wt.header(file)
        own = {tensor.name: np.array(tensor.raw()).reshape(tensor.shape) for tensor in tensors}
        try:
            facts = {"window": 0, "model": ""} | parse_json(head[8:])["__metadata__"]
            expert, shard, reader, tokens, window, model = (facts[name] for name in _FACTS)
            sums = (own["gram"], own["total"])
            return cls(expert, shard, reader, int(tokens), *sums, int(window), model)
        except (KeyError, ValueError, TypeError):
            raise UserError(
                f"{file}: no sums of hidden states: make the mixture again: btm moe"
            ) from None


def read(
    model: "PreTrainedModel",
    batches: Iterable[tuple[NDArray[np.int64], int]],
    told: Callable[[int], None] = lambda tokens: None,
) -> tuple[Array, Array]:
    """Run an ELM over token ids; return XᵀX, (L, H, H), and Σ x, (L, H), of its layers.

    Each batch is (ids, how many of them count): ids (rows, tokens), of which the last may fill up.
    `told` is called with the number of tokens after each.
    """
    import torch

    layers = model.base_model.layers
    width = int(model.config.hidden_size)
    gram = np.zeros((len(layers), width, width))
    total = np.zeros((len(layers), width))
    rows = 0  # of the batch that count

    def add(layer: int) -> Callable[[Any, Any], None]:
        def hook(module: Any, given: Any) -> None:
            x = given[0].flatten(0, 1)[:rows].double()
            gram[layer] += (x.T @ x).cpu().numpy()
            total[layer] += x.sum(0).cpu().numpy()

        return hook

    hooks = [
        layer.mlp.register_forward_pre_hook(add(number)) for number, layer in enumerate(layers)
    ]
    try:
        with torch.inference_mode():
            for ids, rows in batches:
                inputs = torch.from_numpy(ids).to(model.device)
                model.base_model(input_ids=inputs, use_cache=False)
                told(rows)
    finally:
        for hook in hooks:
            hook.remove()
    return gram, total
