"""Token log-probabilities of one ELM on one shard, computed once and kept.

A score file holds float32 log p(x_t | x_<t) in nats, shape (rows, window), under
``scores/<shard>/<sha256 of the weights>.npy``: the tokens of the shard's head in the order of the
text, each once. What pads the last row is 0, as is the BOS of each document. Of prompted data
(btm/data/prompted) each example is read alone; its first token is 0, and its prompt has scores too,
since an ensemble weighs its experts by them. Mixing scores needs no model and no torch. Scores of a
model that was not loaded in float32 are other scores, so what it was loaded as stands in their
name: ``<sha256>-int8.npy``.

A row is a window, whose first token has a context of one token, unless windows overlap: with a
stride of s < W tokens (``score.stride``) every token after the first W has a context of at least
W - s + 1, at the price of W / s passes over the text. Its score is that of the first window that
holds it, as in Hugging Face's guide to perplexity of models with a fixed length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.data.batches import windows
from btm.data.shards import Shard
from btm.data.windows import Windows
from btm.errors import UserError
from btm.forest.paths import scores_name
from btm.models import causal_lm
from btm.system import durable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Report = Callable[[int], None]  # is told how many more tokens are done


@dataclass(frozen=True)
class Scores:
    """The score cache of one forest: it names and reads the file of given weights on a shard."""

    root: Path  # <forest>/scores
    window: int
    max_tokens: int = 0
    stride: int = 0  # tokens from window to window; 0: the window, so that they do not overlap
    loaded: str = ""  # what models are loaded as (LoadConfig.word); empty: in float32

    def windows(self, shard: Shard) -> Windows:
        """Cut `shard` into the windows that are scored."""
        return windows(shard, self.window, self.max_tokens, self.stride)

    def shape(self, shard: Shard) -> tuple[int, int]:
        """Return the shape of the scores of `shard`: rows of `window` tokens."""
        return -(-self.windows(shard).n_tokens // self.window), self.window

    def reads(self, shard: Shard) -> int:
        """Count the tokens that a model reads to score `shard`, those of context included."""
        return self.windows(shard).n_read

    def path(self, shard: Shard, weights_sha256: str) -> Path:
        """Name the file for one ELM by all that its numbers depend on."""
        head = f"-t{self.max_tokens}" if self.max_tokens else ""
        stride = f"-s{self.stride}" if self.stride else ""
        head += "" if shard.bos is None else "-bos"  # once only documents began with it
        name = f"{shard.domain}-{shard.split}-{shard.sha256[:16]}-w{self.window}{stride}{head}"
        return self.root / name / scores_name(weights_sha256, self.loaded)

    def read(self, shard: Shard, weights_sha256: str) -> NDArray[np.float32] | None:
        """Open the scores, memory-mapped; None where there are none. A damaged file is deleted."""
        path = self.path(shard, weights_sha256)
        try:
            logp = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError):
            path.unlink(missing_ok=True)
            return None
        return logp if logp.shape == self.shape(shard) else None


def score(
    model: "PreTrainedModel",
    shard: Shard,
    scores: Scores,
    weights_sha256: str,
    *,
    batch_size: int = 32,
    report: Report | None = None,
) -> Path:
    """Write the scores of `model` on `shard` into the cache, in float32; return the file.

    `UserError` for a model that gives NaN or infinite log-probabilities.
    """
    import torch

    chosen = scores.windows(shard)
    path = scores.path(shard, weights_sha256)
    shape = scores.shape(shard)
    layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
    done = 0
    with durable.publish_file(path) as out, torch.inference_mode():
        np.lib.format.write_array_header_1_0(out, layout)
        for start in range(0, chosen.n_windows, batch_size):
            stop = min(start + batch_size, chosen.n_windows)
            inputs = torch.from_numpy(chosen.inputs(start, stop)).to(model.device)
            targets = torch.from_numpy(chosen.targets(start, stop)).to(model.device)
            logp = causal_lm.token_logp(model, inputs, targets).float().cpu().numpy()
            if (given := chosen.given(start, stop)) is not None:
                logp[given] = 0
            logp = chosen.new(logp, start)
            if not np.isfinite(logp).all():
                raise UserError(
                    "the model gives NaN or infinite log-probabilities on "
                    f"{shard.domain}/{shard.split}"
                )
            out.write(np.ascontiguousarray(logp, dtype="<f4").tobytes())
            done += len(logp)
            if report:
                report(len(logp))
        out.write(bytes(4 * (shape[0] * shape[1] - done)))  # fills up the last row
    return path


def nats_of(logp: NDArray[np.float32], shard: Shard, tokens: int) -> float:
    """Average the scores of the first `tokens` tokens of a shard, as nats per predicted token."""
    predicted = shard.predicted(tokens)
    if predicted is None:
        return mean_nats(logp, tokens, shard.n_given(tokens))
    return mean_nats(logp.reshape(-1)[:tokens][predicted], int(predicted.sum()))


def mean_nats(logp: NDArray[np.float32], tokens: int, given: int = 0) -> float:
    """Average scores whose first `tokens` are real, as nats per token; `given` of them are no
    predictions.
    """
    return -float(logp.reshape(-1)[:tokens].astype(np.float64).sum()) / (tokens - given)
