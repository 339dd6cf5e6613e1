"""Examples laid out: several in a row to train on, one in a row to score.

A row of L tokens holds whole examples, one behind the other, and is filled up with EOS. The
position of a token is that within its example, by which transformers tells examples of a row apart:
none attends to another. For a model that does not tell them apart, a row is one example.

R rows, D examples, L tokens of a row.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from btm.data.shards import Shard
from btm.data.windows import Windows
from btm.errors import UserError


@dataclass(frozen=True)
class Row:
    """A row: ids (L + 1), of which the first L are inputs; weights and positions are of inputs."""

    ids: np.ndarray  # int64
    weights: np.ndarray  # float32 (L,): of the target after each input, 0 where it is not predicted
    positions: np.ndarray  # int64 (L,)


class Rows:
    """The rows of a shard; which examples stand together follows from their lengths alone."""

    def __init__(self, shard: Shard, L: int, *, packed: bool) -> None:
        """Raise `UserError` if an example is longer than a row."""
        self.shard, self.L = shard, L
        self._lengths_D = np.asarray(shard.documents)[:, 0].astype(np.int64)
        self._ends = np.cumsum(self._lengths_D)
        require_fit(shard, L, "trainer.seq_len")
        rows = _packed(self._lengths_D, L) if packed else [[d] for d in range(len(self._ends))]
        self._rows = [np.array(row, np.int64) for row in rows]
        predicted_D = np.add.reduceat(
            np.asarray(shard.mask, np.int64), self._ends - self._lengths_D
        )
        self.read_R = np.array([int(self._lengths_D[row].sum()) for row in self._rows])
        self.predicted_R = np.array([int(predicted_D[row].sum()) for row in self._rows])

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._rows)

    def row(self, number: int) -> Row:
        """Lay out a row."""
        ids = np.full(self.L + 1, self.shard.eos, np.int64)
        weights = np.zeros(self.L + 1, np.float32)
        positions = np.zeros(self.L, np.int64)
        begin = 0
        for d in self._rows[number]:
            end = begin + int(self._lengths_D[d])
            text = slice(int(self._ends[d] - self._lengths_D[d]), int(self._ends[d]))
            ids[begin:end] = self.shard.tokens[text]
            weights[begin:end] = self.shard.mask[text] * self.shard.weights[d]
            positions[begin:end] = np.arange(end - begin)
            begin = end
        positions[begin:] = np.arange(self.L - begin)
        return Row(ids, weights[1:], positions)


def require_fit(shard: Shard, L: int, key: str) -> None:
    """Raise `UserError` if an example is longer than L tokens, which `key` has set."""
    longest = int(np.asarray(shard.documents)[:, 0].max())
    if longest > L:
        raise UserError(
            f"{shard.folder}: {shard.split} has an example of {longest:,} tokens; {key}={L} is "
            f"shorter: raise it, or prepare the data with data.max_tokens={L}"
        )


def _packed(lengths_D: np.ndarray, L: int) -> list[list[int]]:
    """Put examples into as few rows as best fit, the longest first, finds (D. S. Johnson, 1974)."""
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # rows by the tokens that they have left
    rooms: list[int] = []  # the keys of it, sorted
    for d in np.argsort(-lengths_D, kind="stable").tolist():
        length = int(lengths_D[d])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            rows.append([d])
            row, left = len(rows) - 1, L - length
        else:
            room = rooms[at]
            row, left = with_room[room].pop(), room - length
            rows[row].append(d)
            if not with_room[room]:
                del with_room[room], rooms[at]
        if left:
            if left not in with_room:
                rooms.insert(bisect_left(rooms, left), left)
            with_room.setdefault(left, []).append(row)
    return rows


@dataclass(frozen=True)
class Examples(Windows):
    """The head of a shard of prompted data, an example a row, each with its own context alone.

    Rows are as long as the longest of those that are read at once. Prompts have scores too, which
    an ensemble weighs its experts by; `uncounted` says what no loss is taken of.
    """

    @property
    def n_windows(self) -> int:
        """The number of examples."""
        return int(np.searchsorted(self._ends, self.n_tokens, side="right"))

    @property
    def n_read(self) -> int:
        """The number of tokens that a model reads."""
        return self.n_tokens

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each example ends, in tokens, (D,)."""
        return np.cumsum(np.asarray(self.shard.documents)[:, 0], dtype=np.int64)

    def inputs(self, i: int, j: int) -> np.ndarray:
        """Read examples i to j - 1 without their last tokens, int64 (j - i, longest - 1)."""
        return self._text(i, j)[:, :-1]

    def targets(self, i: int, j: int) -> np.ndarray:
        """Read examples i to j - 1 without their first tokens, int64 (j - i, longest - 1)."""
        return self._text(i, j)[:, 1:]

    def given(self, i: int, j: int) -> np.ndarray | None:
        """Mark no target: the first token of an example, which is given, is none."""
        return None

    def uncounted(self, i: int, j: int) -> np.ndarray | None:
        """Mark the targets of examples i to j - 1 that no loss is taken of, of bool."""
        lengths, begin, end = self._place(i, j)
        marked = np.ones((j - i, int(lengths.max())), bool)
        marked[_places(lengths)] = np.asarray(self.shard.mask[begin:end]) == 0
        return marked[:, 1:]

    def kept(self, n: int, i: int) -> int:
        """Keep all: what fills up a row is marked as `uncounted`."""
        return n

    def new(self, values: np.ndarray, i: int) -> np.ndarray:
        """Select the tokens of examples i and after from `values` of their targets, in the order
        of the text; the first of an example, which is given, has 0.
        """
        lengths, _, _ = self._place(i, i + len(values))
        whole = np.concatenate([np.zeros((len(values), 1), values.dtype), values], axis=1)
        flat: np.ndarray = whole[_places(lengths)]
        return flat

    def _place(self, i: int, j: int) -> tuple[np.ndarray, int, int]:
        """Return the lengths of examples i to j - 1, and where they begin and end in the shard."""
        ends = self._ends
        lengths = np.asarray(self.shard.documents[i:j, 0], np.int64)
        return lengths, int(ends[i] - lengths[0]), int(ends[j - 1])

    def _text(self, i: int, j: int) -> np.ndarray:
        lengths, begin, end = self._place(i, j)
        filled = np.full((j - i, int(lengths.max())), self.shard.eos, np.int64)
        filled[_places(lengths)] = self.shard.tokens[begin:end]
        return filled


def _places(lengths: np.ndarray) -> np.ndarray:
    """Mark the places of rows of these lengths, side by side."""
    marked: np.ndarray = np.arange(int(lengths.max())) < lengths[:, None]
    return marked
