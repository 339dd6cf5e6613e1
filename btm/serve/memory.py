"""Memory that a server will take: the weights of each model, and what each text keeps by member.

Nothing is loaded: sizes are those of the headers of weight files, and of configs.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from btm.config.load import LoadConfig
from btm.config.serve import ServeConfig
from btm.models import causal_lm
from btm.models import weights as wt
from btm.report.progress import bytes_text
from btm.serve.catalog import Served

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_ROOM = 2  # caches are laid out with room to grow (btm/serve/members/kv_cache.py)
_OF_LAYER = re.compile(r"\.\d+\.")  # model.layers.0.mlp.up_proj.weight


@dataclass(frozen=True)
class Size:
    """A model in memory."""

    weights: int  # bytes
    token: int | None  # bytes of cache for each token of a text; None: its code does not tell


@dataclass(frozen=True)
class Memory:
    """The memory that the models of a server take, by name."""

    sizes: dict[str, Size]
    texts: int  # that are written at once
    context: int  # tokens of each, at most
    most: int  # bytes of all weights, and of the caches of the largest ensemble where all are full

    @property
    def lines(self) -> list[str]:
        """Say it: weights, caches, and what they come to at most."""
        each = _grouped({name: bytes_text(size.weights) for name, size in self.sizes.items()})
        kept = _grouped(
            {
                name: "unknown" if size.token is None else bytes_text(1000 * size.token)
                for name, size in self.sizes.items()
            }
        )
        return [
            f"weights, loaded when they are first asked for: {each}",
            f"KV cache of 1,000 tokens of a text: {kept}",
            f"at most {bytes_text(self.most)}: all weights, and {self.texts} texts of "
            f"{self.context:,} tokens, with room to grow",
        ]


def memory_of(models: Iterable[Served], load: LoadConfig, limits: ServeConfig) -> Memory:
    """Count what models take: each once, however many ensembles it is a member of."""
    served = list(models)
    members = {m.name: m.path for each in served for m in each.members if m.kind != "remote"}
    sizes = {name: _size(path, load) for name, path in members.items()}
    context = max((_context(each, limits) for each in served), default=0)
    caches = []
    for each in served:
        token = sum(sizes[m.name].token or 0 for m in each.members if m.name in sizes)
        caches.append(limits.running * _ROOM * _context(each, limits) * token)
    whole = sum(size.weights for size in sizes.values()) + max(caches, default=0)
    return Memory(sizes, limits.running, context, whole)


def _context(served: Served, limits: ServeConfig) -> int:
    """Return the most tokens that a text of this model may have."""
    return min(limit for limit in (limits.context, served.context, limits.max_total) if limit)


def _size(folder: Path, load: LoadConfig) -> Size:
    width, tensors = _BYTES[load.dtype], wt.tensors(folder)
    counts = {name: prod(tensor.shape) for name, tensor in tensors.items()}
    whole, in_int8 = sum(counts.values()), 0
    if load.quantization == "int8":  # but for a few columns, the matrices of the layers
        in_int8 = sum(
            count
            for name, count in counts.items()
            if len(tensors[name].shape) > 1 and _OF_LAYER.search(name)
        )
    return Size(width * (whole - in_int8) + in_int8, _token_bytes(folder, width))


def _token_bytes(folder: Path, width: int) -> int | None:
    """Count a key and a value of each head of each layer, by `width` bytes; None where the
    attention is of another kind, or there is none.
    """
    config = causal_lm.text_config(causal_lm.load_config(folder))
    heads = getattr(config, "num_attention_heads", None)
    if not heads or hasattr(config, "kv_lora_rank"):
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * width * config.num_hidden_layers * kept * head)


def _grouped(said: dict[str, str]) -> str:
    """List what is said of each model; those of which the same is said, together."""
    groups: dict[str, list[str]] = {}
    for name, text in said.items():
        groups.setdefault(text, []).append(name)
    return "; ".join(f"{text} {_each(names)}" for text, names in groups.items())


def _each(names: Sequence[str]) -> str:
    return f"({names[0]})" if len(names) == 1 else f"each of {len(names)} ({', '.join(names)})"
