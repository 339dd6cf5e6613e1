"""The tokens of a shard as rules read them: where memory begins anew, and sequences cut there.

Shapes: E experts, S windows, T tokens of a window, N tokens of a shard in order, Q sequences, L
tokens of the longest of some. Scores are log p(x_t | x_<t, D=j) in nats. numpy alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.data.shards import Shard

Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

LONGEST = 1 << 18  # tokens of a document after which memory begins anew, so that it is bounded
_PORTION = 1 << 20  # tokens
_BLOCK = 1 << 19  # scores mixed at once: with their weights, what a cache holds
_STEP = 2048  # … but at least so many (expert, sequence) pairs: a step over fewer is all overhead
_MOST = 1 << 23  # … and no more scores than these, where a sequence is far longer than the others


@dataclass(frozen=True)
class Text:
    """Consecutive tokens, and which of them begin a document."""

    ids: Integers  # (N,)
    begins: Flags  # (N,); the first token begins one in any case
    # (N,) of examples: the tokens that losses are taken of. Each of their documents was read alone.
    predicted: Flags | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` unless there is a flag for each token."""
        if self.ids.ndim != 1 or self.ids.shape != self.begins.shape:
            raise ValueError(f"{self.begins.shape} flags for {self.ids.shape} tokens")

    @classmethod
    def of(cls, shard: Shard, tokens: int) -> "Text":
        """Read the first `tokens` tokens of a shard."""
        begins = np.zeros(tokens, bool)
        ends = np.cumsum(shard.documents[:tokens, 0], dtype=np.int64)
        begins[np.concatenate([[0], ends[ends < tokens]])] = True
        ids = np.asarray(shard.tokens[:tokens], np.int64)
        return cls(ids, begins, shard.predicted(tokens))


def resets(carry: str, tokens: int, window: int, text: Text | None) -> Flags:
    """Mark the tokens before which an ensemble's memory begins anew, (N,).

    `carry` is that of `EnsembleConfig`: every window of `window` tokens, or every document, and
    within one that is longer after every `LONGEST` tokens. Of examples it is every document.
    `ValueError` if documents are wanted and `text` is None.
    """
    if carry == "document" or (text is not None and text.predicted is not None):
        if text is None:
            raise ValueError("ensemble.carry=document needs the tokens beside their scores")
        found = text.begins[:tokens].copy()
        starts = np.flatnonzero(found)
        for start, end in zip(starts, np.append(starts[1:], tokens), strict=True):
            found[start:end:LONGEST] = True
    else:
        found = np.arange(tokens) % window == 0
    found[:1] = True
    return found


def portions(resets_N: Flags) -> Iterator[slice]:
    """Cut a text where memory begins anew, into as few parts of `_PORTION` tokens as that allows.

    What a rule keeps for each token is then bounded; a part is longer by one memory at most.
    """
    starts = np.flatnonzero(resets_N)
    begin = 0
    while begin < len(resets_N):
        next_ = int(np.searchsorted(starts, begin + _PORTION))
        end = int(starts[next_]) if next_ < len(starts) else len(resets_N)
        yield slice(begin, end)
        begin = end


def evidence(logp_EN: NDArray[Any], resets_N: Flags) -> NDArray[np.float64]:
    """Sum the scores of each sequence that `resets_N` begins, (E, Q)."""
    starts = np.flatnonzero(resets_N)
    return np.add.reduceat(logp_EN, starts, axis=1, dtype=np.float64)


@dataclass(frozen=True)
class Block:
    """Some of a text's sequences side by side; the shorter ones are filled with scores of 0."""

    logp: NDArray[Any]  # (E, q, L)
    sequences: Integers  # (q,): their numbers, in the order of the text
    at: Integers  # (q, L): places in the text; those of the filling are of no account
    real: Flags  # (q, L): whether a score is real


def blocks(logp_EN: NDArray[Any], resets_N: Flags) -> Iterator[Block]:
    """Yield the sequences that `resets_N` begins, the longest first, in blocks for a cache."""
    starts = np.flatnonzero(resets_N)
    lengths = np.diff(np.append(starts, logp_EN.shape[1]))
    by_length = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(by_length):
        longest = int(lengths[by_length[first]])
        one = len(logp_EN) * longest
        rows = max(1, min(max(_BLOCK // one, _STEP // len(logp_EN)), _MOST // one))
        some = by_length[first : first + rows]
        offsets = np.arange(longest)
        real = offsets < lengths[some, None]
        at = np.where(real, starts[some, None] + offsets, 0)
        logp = logp_EN[:, at]
        logp[:, ~real] = 0
        yield Block(logp, some, at, real)
        first += rows
