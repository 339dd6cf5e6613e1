"""Shards to arrays of token ids: batches to train on, windows to score.

A training batch is a pure function of (seed, order, step): resuming needs no state but the step. B
is the batch size, L the tokens of a sequence.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from btm.data.prompted.rows import Examples, Rows, require_fit
from btm.data.sampling import Turns
from btm.data.shards import Piece, Shard
from btm.data.windows import Windows
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


@dataclass(frozen=True)
class Marks:
    """The weights and positions of a batch that has examples in it, (B, L) of its inputs.

    The loss of a batch is Σ weight · −log p(target) / Σ weight, over all of its targets.
    """

    weights: np.ndarray  # float32, of the target after each input; they sum to 1
    positions: np.ndarray | None  # int64, within each example; None where a row is one example

    def share(self, rank: int, size: int) -> "Marks":
        """Take the rows of one of `size` processes, so that the mean over all is the whole loss."""
        rows, positions = len(self.weights) // size, self.positions
        own = slice(rank * rows, (rank + 1) * rows)
        return Marks(self.weights[own] * size, None if positions is None else positions[own])


class Batches:
    """An endless mix of shards, exactly balanced or with shares by `sampling`, each read in one
    epoch after another.

    An epoch of a shard visits its windows of L tokens once each, in an order of its own and cut
    from an offset of its own, so fewer than 2 L tokens at the ends sit an epoch out. Where texts
    begin with a BOS, each window does, in place of its first input.

    Of prompted data an epoch visits its rows (btm/data/prompted/rows.py) once each. They hold
    several examples unless `unpack` says that the model does not keep them apart.

    `order` names the training, as by its ELM: an expert does not read again, window by window, what
    the seed phase has just read of its domain. `sampling` is the power α of shares p ∝ n^α of the
    shards' tokens (btm/data/sampling.py).
    """

    def __init__(
        self,
        shards: Sequence[Shard | Piece],
        seq_len: int,
        batch_size: int,
        seed: int,
        growth: Growth = Growth(),
        order: str = "",
        sampling: float | None = None,
        first: int = 0,
    ) -> None:
        """Make the batches of a training, but for its `first` steps, which another had.

        Raises `UserError` if a shard is too short for one sequence and its targets.
        """
        if not shards:
            raise UserError("no shard to train on; name a domain")
        for shard in shards:
            if not _is_prompted(shard) and shard.n_tokens < seq_len + 1:
                raise UserError(
                    f"{shard.folder}: {shard.split} has {shard.n_tokens:,} tokens; "
                    f"trainer.seq_len={seq_len} needs {seq_len + 1:,}: add text or shorten it"
                )
        self.shards, self.growth, self.sampling = tuple(shards), growth, sampling
        self._turns = Turns([shard.n_tokens for shard in shards], sampling)
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.first = first
        self._keys = _keys(self.shards, order)
        self._epochs: dict[int, tuple[int, int, np.ndarray]] = {}
        self.packed = True
        self._rows = self._laid_out()

    @property
    def has_examples(self) -> bool:
        """Whether some of the shards are prompted data."""
        return bool(self._rows)

    def unpack(self) -> None:
        """Give each example a row of its own from now on."""
        self.packed = False
        self._rows, self._epochs = self._laid_out(), {}

    def _laid_out(self) -> dict[int, Rows]:
        """Lay out the prompted shards, by their numbers."""
        return {
            index: Rows(shard, self.seq_len, packed=self.packed)
            for index, shard in enumerate(self.shards)
            if isinstance(shard, Shard) and shard.is_prompted
        }

    def batch(self, step: int) -> np.ndarray:
        """Read the sequences of a step, int64 (B, L + 1): inputs and, shifted by one, targets.

        Where a row is one example, all are cut to the longest of the batch.
        """
        found = np.stack([self.window(index, n) for index, n in self.places(step)])
        return found if self.packed else found[:, : self._longest(step) + 1]

    def marks(self, step: int) -> Marks | None:
        """Read what the loss of a step is taken of; None where it is the mean of all targets."""
        if not self.has_examples:
            return None
        weights, positions = [], []
        for index, n in self.places(step):
            if index in self._rows:
                row = self._rows[index].row(self._row_number(index, n))
                weights.append(row.weights)
                positions.append(row.positions)
            else:
                weights.append(np.ones(self.seq_len, np.float32))
                positions.append(np.arange(self.seq_len))
        stacked = np.stack(weights)
        stacked = (stacked / stacked.sum(dtype=np.float64)).astype(np.float32)
        if self.packed:
            return Marks(stacked, np.stack(positions))
        return Marks(stacked[:, : self._longest(step)], None)

    def tokens(self, steps: int) -> int:
        """Count the tokens that the first `steps` steps train on: of examples, those predicted."""
        if not self.has_examples:
            return self.growth.before(steps, self.batch_size) * self.seq_len
        return sum(self._of_shard(index, n)[0] for index, n in enumerate(self.counts(steps)))

    def read(self, steps: int) -> int:
        """Count the tokens that the first `steps` steps read; what fills up rows is none."""
        if not self.has_examples:
            return self.tokens(steps)
        return sum(self._of_shard(index, n)[1] for index, n in enumerate(self.counts(steps)))

    def epochs(self, steps: int) -> dict[str, float]:
        """Compute how often the first `steps` steps pass over the text of each domain."""
        parts = self._turns.parts(self.read(steps))  # tokens of each shard
        seen: dict[str, float] = {}
        held: dict[str, int] = {}
        for shard, part in zip(self.shards, parts, strict=True):
            seen[shard.domain] = seen.get(shard.domain, 0) + part
            held[shard.domain] = held.get(shard.domain, 0) + shard.n_tokens
        return {domain: seen[domain] / held[domain] for domain in seen}

    def places(self, step: int) -> list[tuple[int, int]]:
        """List the sequences of a step as (number of the shard, number of its window), as `window`
        takes them.
        """
        step += self.first
        first, end = (self.growth.before(s, self.batch_size) for s in (step, step + 1))
        return [self._turns.place(g) for g in range(first, end)]

    def counts(self, steps: int) -> list[int]:
        """Count the windows that the first `steps` steps read of each shard."""
        return self._turns.count(self.growth.before(steps, self.batch_size))

    def window(self, index: int, n: int) -> np.ndarray:
        """Read the `n`-th window that is trained on of the shard number `index`, int64 (L + 1)."""
        shard, L = self.shards[index], self.seq_len
        if index in self._rows:
            return self._rows[index].row(self._row_number(index, n)).ids
        epoch, i = divmod(n, _n_windows(shard, L))
        offset, order = self._epoch(index, epoch)
        start = offset + int(order[i]) * L
        window = shard.tokens[start : start + L + 1].astype(np.int64)
        if shard.bos is not None:
            window[0] = shard.bos
        return window

    def _row_number(self, index: int, n: int) -> int:
        """Find the row that is the `n`-th to be trained on of a prompted shard."""
        epoch, i = divmod(n, len(self._rows[index]))
        return int(self._epoch(index, epoch)[1][i])

    def _longest(self, step: int) -> int:
        """Measure the longest row of a step, in tokens."""
        return max(
            int(self._rows[index].read_R[self._row_number(index, n)])
            if index in self._rows
            else self.seq_len
            for index, n in self.places(step)
        )

    def _of_shard(self, index: int, n: int) -> tuple[int, int]:
        """Count the tokens (predicted, read) of the first `n` rows or windows of a shard."""
        rows = self._rows.get(index)
        if rows is None:
            return n * self.seq_len, n * self.seq_len
        epochs, more = divmod(n, len(rows))
        last = self._epoch(index, epochs)[1][:more]
        predicted, read = (
            epochs * int(of_R.sum()) + int(of_R[last].sum())
            for of_R in (rows.predicted_R, rows.read_R)
        )
        return predicted, read

    def _epoch(self, index: int, epoch: int) -> tuple[int, np.ndarray]:
        """Draw (offset, order of windows) of a shard's epoch; the latest of each shard is kept."""
        known = self._epochs.get(index)
        if known is None or known[0] != epoch:
            shard, L = self.shards[index], self.seq_len
            rows = self._rows.get(index)
            n = _n_windows(shard, L) if rows is None else len(rows)
            # A function of these alone: a resumed training draws the same order again.
            entropy = np.random.SeedSequence([self.seed, self._keys[index], epoch])
            rng = np.random.Generator(np.random.Philox(entropy))
            offset = 0 if rows is not None else int(rng.integers(min(L, shard.n_tokens - n * L)))
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


def _is_prompted(shard: Shard | Piece) -> bool:
    return isinstance(shard, Shard) and shard.is_prompted


def _n_windows(shard: Shard | Piece, L: int) -> int:
    """Count the windows of an epoch: as many as fit at every offset, so all are equally long."""
    return max(1, (shard.n_tokens - L) // L)


def windows(shard: Shard, window: int, max_tokens: int = 0, stride: int = 0) -> Windows:
    """Cut the first whole documents of up to `max_tokens` tokens (0: all) into windows.

    Of prompted data each example is one; `UserError` if one is longer than `window`.
    """
    if shard.is_prompted:
        require_fit(shard, window, "score.window")
        return Examples(shard, window, *shard.head(max_tokens))
    return Windows(shard, window, *shard.head(max_tokens), stride)
