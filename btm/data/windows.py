"""The text of a shard in windows to score, each token a target of exactly one."""

from dataclasses import dataclass

import numpy as np

from btm.data.shards import Shard


@dataclass(frozen=True)
class Windows:
    """The head of a shard in windows of L tokens, whose new tokens are each target of exactly one.

    The text is read as one stream, as it is trained on: it goes on from the EOS of a document
    before, and the last window is filled up with EOS. Where texts begin with a BOS
    (btm/data/bos.py), so do the inputs of each window, and each document of the stream; `given`
    says where: that is not predicted.

    Windows begin `stride` tokens apart, or L (0), so that they do not overlap. Of one that overlaps
    the window before, the last `stride` targets are new, and the others are context.
    """

    shard: Shard
    L: int
    n_tokens: int  # targets that count; the last window's beyond these are filling
    n_bytes: int
    stride: int = 0

    @property
    def step(self) -> int:
        """The tokens from the begin of a window to that of the next."""
        return self.stride or self.L

    @property
    def n_predicted(self) -> int:
        """The number of tokens that are predicted: all that count but those that are `given`."""
        return self.n_tokens - self.shard.n_given(self.n_tokens)

    @property
    def n_windows(self) -> int:
        """The number of windows."""
        return 1 + -(-max(0, self.n_tokens - self.L) // self.step) if self.n_tokens else 0

    @property
    def n_read(self) -> int:
        """The number of tokens that a model reads, those of context included."""
        again = max(0, self.n_windows - 1) * (self.L - self.step)
        return self.n_tokens + again

    def inputs(self, i: int, j: int) -> np.ndarray:
        """Read the inputs of windows i to j - 1, int64 (j - i, L): the targets shifted by one."""
        inputs = self._read(i, j, 1)
        if self.shard.bos is not None:
            inputs[:, 0] = self.shard.bos
        return inputs

    def targets(self, i: int, j: int) -> np.ndarray:
        """Read the targets of windows i to j - 1, int64 (j - i, L)."""
        return self._read(i, j, 0)

    def given(self, i: int, j: int) -> np.ndarray | None:
        """Mark the targets of windows i to j - 1 that are given, (j - i, L) of bool; None if none.

        A BOS stands before every document, whatever its text: it has probability 1.
        """
        if self.shard.bos in (None, self.shard.eos):
            return None
        given: np.ndarray = self.targets(i, j) == self.shard.bos
        return given

    def uncounted(self, i: int, j: int) -> np.ndarray | None:
        """Mark the targets of windows i to j - 1 that no loss is taken of: those `given`."""
        return self.given(i, j)

    def kept(self, n: int, i: int) -> int:
        """Count those of the `n` targets of windows i and after that do not fill up the last one.

        For windows that do not overlap.
        """
        return min(n, self.n_tokens - i * self.L)

    def new(self, values: np.ndarray, i: int) -> np.ndarray:
        """Select from `values`, (windows, L) of windows i and after, those of their new targets.

        They are flat, in the order of the text, without what fills up the last window.
        """
        first = values[:1] if i == 0 else values[:0]
        later = values[len(first) :, self.L - self.step :]
        flat = np.concatenate([first.reshape(-1), later.reshape(-1)])
        begin = 0 if i == 0 else self.L + (i - 1) * self.step
        return flat[: max(0, self.n_tokens - begin)]

    def _read(self, i: int, j: int, back: int) -> np.ndarray:
        """Read windows i to j - 1 of the stream, which EOS begins and ends, moved `back`."""
        begin = i * self.step - back
        filled = np.full((j - i - 1) * self.step + self.L, self.shard.eos, np.int64)
        first = max(0, begin)
        tokens = self.shard.tokens[first : min(begin + len(filled), self.n_tokens)]
        filled[first - begin : first - begin + len(tokens)] = tokens
        return np.lib.stride_tricks.sliding_window_view(filled, self.L)[:: self.step].copy()
