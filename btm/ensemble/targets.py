"""The predictions of an ensemble at every token of a text: its likeliest tokens and the rest.

A file holds the targets of some windows that a training reads, in the order in which it reads
them: for each token the ids and the float32 log-probabilities of its k likeliest successors, and
the float32 log of what all others have together, which is the exact sum. With k = 64 that is 388
bytes a token (516 where the vocabulary needs ids of 32 bits).

    targets/<shard>/<identity>/ensemble.json     what the numbers depend on
    targets/<shard>/<identity>/<piece>-<number>.npy

The number counts runs of `CHUNK` windows. Each file is published whole, so a computation that is
killed goes on with the first file that is missing.

Shapes: E experts, R windows, L tokens of one, V of the vocabulary, k of them kept. Memory: E models
and, for a part of a batch, E · rows · L · V float32 (`PART` bytes, or one window's where that is
more).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate
from btm.ensemble.posterior import Array
from btm.ensemble.rule import SequenceRule
from btm.ensemble.rules import Gated, rule_of
from btm.forest.paths import ENSEMBLE
from btm.models import causal_lm
from btm.system import durable
from btm.system.json_files import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT = 64  # tokens
CHUNK = 32  # windows of a file
PART = 1 << 28  # bytes of distributions that stand in memory at once
_TINY = 1e-38  # a probability that float32 still holds
Targets = NDArray[np.void]  # with the fields ids (k), logp (k) and rest
# Of the experts' scores (E, R, L) and the tokens (R, L): the weights before each token, (E, R, L)
Weigh = Callable[[NDArray[np.float32], NDArray[np.int64]], Array]


@dataclass(frozen=True)
class Store:
    """The targets of one piece of a shard by one ensemble."""

    folder: Path  # targets/<shard>/<identity>
    piece: int
    window: int  # L
    vocabulary: int  # V

    @classmethod
    def of(cls, home: Path, identity: Json, piece: int, window: int, vocabulary: int) -> "Store":
        """Place the targets of the ensemble `identity` in `home`, the folder of their shard."""
        text = json.dumps(identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        return cls(home / digest, piece, window, vocabulary)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The record of one token."""
        kept = min(KEPT, self.vocabulary)
        ids = "<u2" if self.vocabulary <= 1 << 16 else "<u4"
        return np.dtype([("ids", ids, (kept,)), ("logp", "<f4", (kept,)), ("rest", "<f4")])

    def path(self, number: int) -> Path:
        """Name the file of the windows from ``number · CHUNK`` on."""
        return self.folder / f"{self.piece:04d}-{number:06d}.npy"

    def read(self, number: int, windows: int) -> Targets | None:
        """Open the targets of `windows` windows or more, memory-mapped; None where there are fewer.

        A damaged file is deleted.
        """
        path = self.path(number)
        try:
            found: Targets = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError):
            path.unlink(missing_ok=True)
            return None
        fits = found.dtype == self.dtype and found.shape[1:] == (self.window,)
        return found if fits and len(found) >= windows else None

    def write(self, number: int, targets: Targets, identity: Json) -> None:
        """Publish the targets of a run of windows, and beside them what they depend on."""
        if not (self.folder / ENSEMBLE).exists():
            durable.make_folder(self.folder)
            durable.write_json(self.folder / ENSEMBLE, identity)
        with durable.publish_file(self.path(number)) as out:
            np.lib.format.write_array(out, targets, allow_pickle=False)


def weigher(ensemble: EnsembleConfig, prior: Sequence[float]) -> Weigh:
    """Make the function that weighs experts by a fitted rule; each window begins anew.

    The weights before a token depend on the text of its window before it alone.
    """
    rule = rule_of(ensemble)
    with np.errstate(divide="ignore"):
        log_prior_E = np.log(np.asarray(prior, np.float64))

    def weigh(logp_ERL: NDArray[np.float32], ids_RL: NDArray[np.int64]) -> Array:
        if isinstance(rule, SequenceRule):
            return rule.weigh(logp_ERL, log_prior_E)[1]
        assert isinstance(rule, Gated)
        begins_RL = np.zeros(ids_RL.shape, bool)
        begins_RL[:, 0] = True
        flat = logp_ERL.reshape(len(logp_ERL), -1)
        _, weights_EN = gate.mixed(flat, log_prior_E, rule.theta, ids_RL.ravel(), begins_RL.ravel())
        return weights_EN.reshape(logp_ERL.shape)

    return weigh


def targets(
    models: Sequence["PreTrainedModel"],
    tokens: NDArray[np.int64],
    weigh: Weigh,
    dtype: np.dtype[np.void],
    given: int | None = None,
) -> Targets:
    """Compute the targets of windows `tokens` (R, L + 1), inputs and what follows them; (R, L).

    `given` is the token that texts begin with, which is not predicted: it tells no expert from
    another.
    """
    import torch

    windows, length = len(tokens), tokens.shape[1] - 1
    rows = max(1, PART // (4 * len(models) * length * causal_lm.vocabulary(models[0])))
    made = np.empty((windows, length), dtype)
    with torch.inference_mode():
        for start in range(0, windows, rows):
            some = slice(start, start + rows)
            made[some] = _part(models, tokens[some], weigh, dtype, given)
    return made


def _part(
    models: Sequence["PreTrainedModel"],
    tokens: NDArray[np.int64],
    weigh: Weigh,
    dtype: np.dtype[np.void],
    given: int | None,
) -> Targets:
    """Compute the targets of as many windows as memory holds the distributions of."""
    import torch

    device = models[0].device
    inputs = torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])).to(device)
    next_RL = np.ascontiguousarray(tokens[:, 1:])
    p_E = [
        torch.softmax(causal_lm.logits_of(model(input_ids=inputs, use_cache=False)).float(), -1)
        for model in models
    ]
    at = torch.from_numpy(next_RL).to(device)[..., None]
    seen = torch.stack([p.gather(-1, at)[..., 0].clamp_min(_TINY).log() for p in p_E])
    logp_ERL = seen.cpu().numpy()
    if given is not None:
        logp_ERL[:, next_RL == given] = 0
    weights = torch.from_numpy(weigh(logp_ERL, next_RL)).to(device, torch.float32)
    mixed = p_E[0].mul_(weights[0][..., None])
    for p, weight in zip(p_E[1:], weights[1:], strict=True):
        mixed.addcmul_(p, weight[..., None])
    top, ids = mixed.topk(dtype["ids"].shape[0], dim=-1)
    rest = mixed.scatter_(-1, ids, 0.0).sum(-1)
    made = np.empty(next_RL.shape, dtype)
    made["ids"] = ids.cpu().numpy()
    made["logp"] = top.clamp_min(_TINY).log().cpu().numpy()
    made["rest"] = rest.clamp_min(_TINY).log().cpu().numpy()
    return made
