"""Shards to arrays of token ids: batches to train on, windows to score.

A training batch is a pure function of (seed, order, step): resuming needs no state but the step. B
is the batch size, L the tokens of a sequence.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from btm.data.shards import Piece, Shard
from btm.errors import UserError

# The version of the rule by which windows are ordered, which a checkpoint keeps. In version 1 the
# order did not depend on the name of the training.
ORDER = 2


@dataclass(frozen=True)
class Growth:
    """A larger batch late in training: `factor` times the sequences from step `after` on."""

    factor: int = 1
    after: int = 0

    def before(self, step: int, size: int) -> int:
        """Count the sequences of all steps before `step`, for a usual batch of `size`."""
        return size * (step + (self.factor - 1) * max(0, step - self.after))


class Batches:
    """An endless, exactly balanced mix of shards, each read in one epoch after another.

    An epoch of a shard visits its windows of L tokens once each, in an order of its own and cut
    from an offset of its own, so fewer than 2 L tokens at the ends sit an epoch out. Where texts
    begin with a BOS, each window does, in place of its first input.

    `order` names the training, as by its ELM: an expert does not read again, window by window, what
    the seed phase has just read of its domain.
    """

    def __init__(
        self,
        shards: Sequence[Shard | Piece],
        seq_len: int,
        batch_size: int,
        seed: int,
        growth: Growth = Growth(),
        order: str = "",
    ) -> None:
        """Raise `UserError` if a shard is too short for one sequence and its targets."""
        if not shards:
            raise UserError("no shard to train on; name a domain")
        for shard in shards:
            if shard.n_tokens < seq_len + 1:
                raise UserError(
                    f"{shard.folder}: {shard.split} has {shard.n_tokens:,} tokens; "
                    f"trainer.seq_len={seq_len} needs {seq_len + 1:,}: add text or shorten it"
                )
        self.shards, self.growth = tuple(shards), growth
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self._keys = _keys(self.shards, order)
        self._epochs: dict[int, tuple[int, int, np.ndarray]] = {}

    def batch(self, step: int) -> np.ndarray:
        """Read the sequences of a step, int64 (B, L + 1): inputs and, shifted by one, targets."""
        return np.stack([self.window(index, n) for index, n in self.places(step)])

    def tokens(self, steps: int) -> int:
        """Count the tokens that the first `steps` steps train on."""
        return self.growth.before(steps, self.batch_size) * self.seq_len

    def epochs(self, steps: int) -> dict[str, float]:
        """Compute how often the first `steps` steps pass over the text of each domain."""
        turns = self.tokens(steps) / len(self.shards)  # tokens of each shard, which take turns
        seen: dict[str, float] = {}
        held: dict[str, int] = {}
        for shard in self.shards:
            seen[shard.domain] = seen.get(shard.domain, 0) + turns
            held[shard.domain] = held.get(shard.domain, 0) + shard.n_tokens
        return {domain: seen[domain] / held[domain] for domain in seen}

    def places(self, step: int) -> list[tuple[int, int]]:
        """List the sequences of a step as (number of the shard, number of its window), as `window`
        takes them.
        """
        first, end = (self.growth.before(s, self.batch_size) for s in (step, step + 1))
        return [divmod(g, len(self.shards))[::-1] for g in range(first, end)]

    def counts(self, steps: int) -> list[int]:
        """Count the windows that the first `steps` steps read of each shard."""
        every, more = divmod(self.growth.before(steps, self.batch_size), len(self.shards))
        return [every + (index < more) for index in range(len(self.shards))]

    def window(self, index: int, n: int) -> np.ndarray:
        """Read the `n`-th window that is trained on of the shard number `index`, int64 (L + 1)."""
        shard, L = self.shards[index], self.seq_len
        epoch, i = divmod(n, _n_windows(shard, L))
        offset, order = self._epoch(index, epoch)
        start = offset + int(order[i]) * L
        window = shard.tokens[start : start + L + 1].astype(np.int64)
        if shard.bos is not None:
            window[0] = shard.bos
        return window

    def _epoch(self, index: int, epoch: int) -> tuple[int, np.ndarray]:
        """Draw (offset, order of windows) of a shard's epoch; the latest of each shard is kept."""
        known = self._epochs.get(index)
        if known is None or known[0] != epoch:
            shard, L = self.shards[index], self.seq_len
            n = _n_windows(shard, L)
            # A function of these alone: a resumed training draws the same order again.
            entropy = np.random.SeedSequence([self.seed, self._keys[index], epoch])
            rng = np.random.Generator(np.random.Philox(entropy))
            offset = int(rng.integers(min(L, shard.n_tokens - n * L)))
            known = self._epochs[index] = (epoch, offset, rng.permutation(n))
        return known[1], known[2]


def _keys(shards: Sequence[Shard | Piece], order: str) -> list[int]:
    """Hash (order, domain, number within the domain) of each shard to an integer of 64 bits."""
    seen: Counter[str] = Counter()
    keys = []
    for shard in shards:
        name = f"{order}/{shard.domain}/{seen[shard.domain]}".encode()
        keys.append(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little"))
        seen[shard.domain] += 1
    return keys


def _n_windows(shard: Shard | Piece, L: int) -> int:
    """Count the windows of an epoch: as many as fit at every offset, so all are equally long."""
    return max(1, (shard.n_tokens - L) // L)


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


def windows(shard: Shard, window: int, max_tokens: int = 0, stride: int = 0) -> Windows:
    """Cut the first whole documents of up to `max_tokens` tokens (0: all) into windows."""
    return Windows(shard, window, *shard.head(max_tokens), stride)
