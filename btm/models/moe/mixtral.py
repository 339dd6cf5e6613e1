"""A Mixtral of Llamas: their feed-forward networks as experts byte for byte, the rest averaged.

The files are Mixtral's published layout, a tensor for each expert and matrix (w1 is the gate, w3
the other input, w2 the output); `transformers` 5 joins them in memory and saves them like this.
Everything is streamed as an average is (btm/models/average/stream.py): memory is a few buffers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.models import causal_lm, files
from btm.models import weights as wt
from btm.models.average import Settings, layout, require_same_tensors, stream
from btm.models.average.methods import combine
from btm.models.average.models import Group, Models
from btm.system.json_files import Json

Array = NDArray[np.float64]
SHARD_BYTES = 5 * 10**9  # of a weight file, at most
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_FFN = {"mlp.gate_proj.weight": "w1", "mlp.down_proj.weight": "w2", "mlp.up_proj.weight": "w3"}
_NORM = "post_attention_layernorm.weight"  # one a layer: it stands before the router
_SHARED = (
    *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
    "input_layernorm.weight",
    _NORM,
)
_OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
# Keys of a Llama's config.json that mean the same in a Mixtral's.
_KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    *("rms_norm_eps", "tie_word_embeddings", "rope_parameters", "rope_theta", "rope_scaling"),
    *("hidden_act", "initializer_range", "attention_dropout", "use_cache", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"),
)


def require_llamas(folders: Sequence[Path]) -> None:
    """Raise `UserError` unless the folders hold Llamas of one shape, which a Mixtral can hold."""
    if len(folders) < 2:
        raise UserError("a mixture has at least two experts: name more in moe.experts")
    first = folders[0]
    for folder in folders:
        config = causal_lm.read_config(folder / files.CONFIG)
        if config["model_type"] != "llama":
            raise UserError(
                f"{folder}: a {config['model_type']}, and btm moe takes Llamas (model_type llama)"
            )
        table = wt.tensors(folder)
        _require_known(folder, table)
        require_same_tensors(first, folder)
        kinds = {tensor.dtype for tensor in table.values()}
        kinds |= {tensor.dtype for tensor in wt.tensors(first).values()}
        if len(kinds) > 1:
            raise UserError(
                f"{first} and {folder} differ: numbers are stored as {', '.join(sorted(kinds))}, "
                "and a mixture has one type"
            )


def _require_known(folder: Path, table: Mapping[str, wt.Tensor]) -> None:
    """Raise `UserError` for a tensor that a Mixtral has no place for, or one that is missing."""
    parts: dict[str, set[str]] = {}
    for name in table:
        found = _LAYER.fullmatch(name)
        if found is None and name in _OUTSIDE:
            continue
        if found is None or found[2] not in (*_SHARED, *_FFN):
            raise UserError(f"{folder}: the tensor {name!r} has no place in a Mixtral")
        parts.setdefault(found[1], set()).add(found[2])
    for layer, own in parts.items():
        if missing := sorted({*_FFN, _NORM} - own):
            raise UserError(f"{folder}: layer {layer} has no tensor {missing[0]!r}")


def config_of(llama: Json, experts: int, top_k: int) -> Json:
    """Make the config.json of a Mixtral of `experts` Llamas that have the config `llama`."""
    kept = {key: llama[key] for key in _KEPT if key in llama}
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **kept,
        "num_local_experts": experts,
        "num_experts_per_tok": top_k,
        "sliding_window": None,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.01,
        "router_jitter_noise": 0.0,
    }


def expert_tensor(name: str, expert: int) -> str | None:
    """Name the tensor of a Mixtral that holds a Llama's tensor `name`; None unless it is of a
    feed-forward network.
    """
    found = _LAYER.fullmatch(name)
    if found is None or found[2] not in _FFN:
        return None
    return f"model.layers.{found[1]}.block_sparse_moe.experts.{expert}.{_FFN[found[2]]}.weight"


def router_tensor(layer: int) -> str:
    """Name the tensor of a layer's router, (experts, width)."""
    return f"model.layers.{layer}.block_sparse_moe.gate.weight"


def write(
    shared: Mapping[Path, float],
    experts: Sequence[Path],
    rows_LEH: Array,
    target: Path,
    top_k: int,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Write the weights of a Mixtral into `target`; return each file's sha256.

    `shared` are the weights of the average of everything but feed-forward networks and routers,
    {folder: weight}; `experts` the folders whose networks are the experts, in order; `rows_LEH` the
    routers' rows by layer. The bytes depend on these and on `top_k` alone.
    """
    with _RouterFile(target / ".tmp-router.safetensors", rows_LEH) as router:
        parts = _Parts(shared, experts, router)
        # Scores are kept by the sha256 of weights, and those of another top_k are other scores.
        notes = {"num_experts_per_tok": str(top_k)}
        planned = layout.new_files(parts.tensors(), None, SHARD_BYTES, notes)
        threads = stream.usual_threads(sum(e.size for file in planned for e in file.entries))
        with stream.Workers(threads, "float32", alive) as workers:
            digests = {
                file.name: stream.write(file, parts, _average, target / file.name, workers)
                for file in planned
            }
    layout.write_new_index(planned, target)
    return digests


def _average(group: Group, window: stream.Window, out: stream.Array) -> None:
    combine(group.tensors, group.shares, window, out)


class _Parts(Models):
    """The tensors of the Mixtral by name, each an average of some of the Llamas' tensors: of one
    alone for an expert's matrices and the routers.
    """

    def __init__(
        self, shared: Mapping[Path, float], experts: Sequence[Path], router: "_RouterFile"
    ) -> None:
        super().__init__(shared, Settings())
        self._single = dict(router.tensors)
        for number, folder in enumerate(experts):
            for name, tensor in wt.tensors(folder).items():
                if (new := expert_tensor(name, number)) is not None:
                    self._single[new] = replace(tensor, name=new)
        # A router is computed in float64 and rounded once, to what the other matrices have.
        self._stored = next(iter(self.first.values())).dtype

    def tensors(self) -> list[wt.Tensor]:
        """List every tensor of the Mixtral, with the dtype that it is stored in."""
        shared = [t for name, t in self.first.items() if expert_tensor(name, 0) is None]
        own = [replace(tensor, dtype=self._stored) for tensor in self._single.values()]
        size = np.dtype(wt.FLOATS[self._stored]).itemsize
        own = [replace(t, size=int(np.prod(t.shape)) * size) for t in own]
        return [*shared, *own]

    def group(self, name: str) -> Group:
        """Collect what one tensor of the Mixtral is averaged of."""
        if (tensor := self._single.get(name)) is not None:
            return Group(name, (tensor,), (1.0,), (tensor.file.parent.name,))
        return super().group(name)


class _RouterFile:
    """The routers' rows as a weight file that is deleted at the end, so that they are streamed as
    everything else is.
    """

    def __init__(self, file: Path, rows_LEH: Array) -> None:
        self.file = file
        rows = np.ascontiguousarray(rows_LEH, np.float64)
        entries: Json = {}
        for layer, rows_EH in enumerate(rows):
            begin = layer * rows_EH.nbytes
            entries[router_tensor(layer)] = {
                "dtype": "F64",
                "shape": list(rows_EH.shape),
                "data_offsets": [begin, begin + rows_EH.nbytes],
            }
        file.write_bytes(wt.head(entries) + rows.tobytes())
        self.tensors = {tensor.name: tensor for tensor in wt.header(file)[0]}

    def __enter__(self) -> "_RouterFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.unlink()
