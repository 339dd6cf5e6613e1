"""The keys and values of many texts that one model reads at once.

All texts of a batch end at the same column, whatever their lengths, so that a step writes one
column of one tensor for all of them: a text that joins is laid before the common end, one that
waits while others are read is moved up to it, and one that leaves is replaced by the last row. What
lies before a text is masked. Positions are given to the model, so that each text has its own; any
attention of `transformers` that can be generated with in batches padded on the left can be read so.

Shapes: R texts, T new tokens, C columns, H heads, D numbers of a head, V tokens of the vocabulary.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from btm.models import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FEWEST = 64  # columns that are laid out at first


class Layout:
    """Where the texts of a batch lie: rows 0 … R - 1, columns `begin` … `end` - 1."""

    def __init__(self, device: torch.device, numbers: Sequence[int]) -> None:
        self.rows = list(numbers)  # the number of each text
        self.begin = self.end = 0
        self.shape = (0, 0)  # rows and columns that there is room for
        self.lengths = torch.zeros(len(numbers), dtype=torch.long, device=device)  # (R,)
        self.real = torch.zeros(0, 0, dtype=torch.bool, device=device)  # (rows, columns)


class _Columns(DynamicLayer):
    """The keys and values of one layer, in tensors of (rows, H, columns, D) with room to spare."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        # Zeros, since what is masked is multiplied by 0, which a NaN would survive.
        self.keys, self.values = (
            states.new_zeros(self._shape(states)) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def _shape(self, states: torch.Tensor) -> tuple[int, int, int, int]:
        rows, columns = self._layout.shape
        return (rows, states.shape[1], columns, states.shape[3])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns; return all that the texts have, (R, H, columns, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        count, begin, end = len(self._layout.rows), self._layout.begin, self._layout.end
        after = end + key_states.shape[2]
        self.keys[:count, :, end:after] = key_states
        self.values[:count, :, end:after] = value_states
        return self.keys[:count, :, begin:after], self.values[:count, :, begin:after]

    def get_seq_length(self) -> int:
        return self._layout.end - self._layout.begin

    def resize(self, old: slice, begin: int) -> None:
        """Lay the columns `old` at `begin` of tensors of the layout's shape."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            states = getattr(self, name)
            larger = states.new_zeros(self._shape(states))
            count = min(len(states), len(larger))
            larger[:count, :, begin : begin + old.stop - old.start] = states[:count, :, old]
            setattr(self, name, larger)

    def take(self, other: "_Columns", row: int) -> None:
        """Lay all texts of another batch before the end, in rows from `row` on."""
        if not self.is_initialized:
            self.lazy_initialization(other.keys, other.values)
        theirs, end = other._layout, self._layout.end
        rows = slice(row, row + len(theirs.rows))
        columns = slice(end - (theirs.end - theirs.begin), end)
        for mine, new in ((self.keys, other.keys), (self.values, other.values)):
            mine[rows, :, columns] = new[: len(theirs.rows), :, theirs.begin : theirs.end]

    def shift(self, row: int, by: int) -> None:
        """Move a text to the end, which is `by` columns after its own."""
        begin, end = self._layout.begin, self._layout.end
        for states in (self.keys, self.values):
            states[row, :, begin + by : end] = states[row, :, begin : end - by].clone()

    def move(self, source: int, target: int) -> None:
        """Lay one text over another."""
        if not self.is_initialized:  # the first read failed before it came here
            return
        used = slice(self._layout.begin, self._layout.end)
        for states in (self.keys, self.values):
            states[target, :, used] = states[source, :, used]


class Batch:
    """Texts that one model reads at once, each with a number."""

    def __init__(self, model: "PreTrainedModel", numbers: Sequence[int] = ()) -> None:
        """Begin with texts that have no tokens yet."""
        self.model = model
        self._depth = len(DynamicCache(config=model.config).layers)
        self._begin(numbers)
        known = inspect.signature(model.forward).parameters
        # transformers called it past_key_values before it called it cache.
        self._key = "cache" if "cache" in known else "past_key_values"
        self._positions = "position_ids" in known
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def _begin(self, numbers: Sequence[int]) -> None:
        """Begin with empty memory."""
        self._layout = Layout(self.model.device, numbers)
        self._layers = [_Columns(self._layout) for _ in range(self._depth)]
        self._cache = Cache(layers=list(self._layers))

    @property
    def numbers(self) -> list[int]:
        """The numbers of the texts, in the order of their rows."""
        return self._layout.rows

    @torch.inference_mode()
    def read(
        self, tokens_RT: torch.Tensor, real_RT: torch.Tensor | None = None, *, last: bool = False
    ) -> torch.Tensor:
        """Read new tokens of every text; return the logits after each, float32, (R, T, V).

        Where `real_RT` is false there is no token: a text that has fewer new ones has them at the
        end, and none before; one that has none at all waits, and its logits are of no account.
        With `last`, the logits after the last token alone, (R, 1, V).
        """
        layout = self._layout
        count, new = tokens_RT.shape
        self._make_room(count, new)
        real = torch.ones_like(tokens_RT, dtype=torch.bool) if real_RT is None else real_RT
        layout.real[:count, layout.end : layout.end + new] = real
        positions = (layout.lengths[:, None] + real.cumsum(1) - 1).clamp(min=0)
        more: dict[str, Any] = {"position_ids": positions} if self._positions else {}
        if last:
            more |= self._last
        out = self.model(
            input_ids=tokens_RT,
            attention_mask=layout.real[:count, layout.begin : layout.end + new].long(),
            use_cache=True,
            **{self._key: self._cache},
            **more,
        )
        layout.end += new
        layout.lengths += real.sum(1)
        if real_RT is not None:
            self._move_up(real_RT)
        logits = causal_lm.logits_of(out).float()
        return logits[:, -1:] if last else logits

    def _move_up(self, real_RT: torch.Tensor) -> None:
        """Move the texts that had no new tokens to the end, where all end."""
        layout, new = self._layout, real_RT.shape[1]
        begin, end = layout.begin, layout.end
        for row in (~real_RT.any(1) & (layout.lengths > 0)).nonzero()[:, 0].tolist():
            for layer in self._layers:
                layer.shift(row, new)
            layout.real[row, begin + new : end] = layout.real[row, begin : end - new].clone()
            layout.real[row, begin : begin + new] = False

    @torch.inference_mode()
    def absorb(self, other: "Batch") -> None:
        """Take over all texts of another batch of the same model, with what they have read."""
        mine, theirs = self._layout, other._layout
        wide, used = theirs.end - theirs.begin, mine.end - mine.begin
        count, rows = len(mine.rows), len(mine.rows) + len(theirs.rows)
        if rows > mine.shape[0] or wide > mine.end:  # longer ones have no room before the end
            span = max(wide, used)
            self._lay(self._room(rows, span), span - used)
        for layer, new in zip(self._layers, other._layers, strict=True):
            layer.take(new, count)
        mine.real[count:rows] = False
        mine.real[count:rows, mine.end - wide : mine.end] = theirs.real[
            : len(theirs.rows), theirs.begin : theirs.end
        ]
        mine.rows += theirs.rows
        mine.lengths = torch.cat([mine.lengths, theirs.lengths])
        mine.begin = min(mine.begin, mine.end - wide) if count else mine.end - wide

    @torch.inference_mode()
    def drop(self, numbers: Sequence[int]) -> None:
        """Forget texts; those that are not here are passed over."""
        layout = self._layout
        for number in numbers:
            if number not in layout.rows:
                continue
            row, last = layout.rows.index(number), len(layout.rows) - 1
            if row != last and layout.shape[0]:  # else nothing was read yet
                for layer in self._layers:
                    layer.move(last, row)
                layout.real[row] = layout.real[last]
            layout.lengths[row] = layout.lengths[last]
            layout.rows[row] = layout.rows[last]
            layout.rows.pop()
            layout.lengths = layout.lengths[:-1]
        if not layout.rows:  # give the memory back: the next texts may be short
            self._begin(())
        else:
            layout.begin = layout.end - int(layout.lengths.max())

    def _make_room(self, rows: int, new: int) -> None:
        """See to it that `rows` texts can have `new` columns more."""
        layout = self._layout
        if rows > layout.shape[0] or layout.end + new > layout.shape[1]:
            self._lay(self._room(rows, layout.end - layout.begin + new), 0)

    def _room(self, rows: int, columns: int) -> tuple[int, int]:
        """Choose the rows and columns to lay out for so many that are used, with room to spare."""
        most_rows, most = self._layout.shape
        if rows > most_rows:
            most_rows = max(rows, 2 * most_rows)
        if columns > most // 2:  # else there is room enough where texts that left had been
            most = max(_FEWEST, 2 * columns)
        return most_rows, most

    def _lay(self, shape: tuple[int, int], begin: int) -> None:
        """Lay all texts at column `begin` of tensors for so many rows and columns."""
        layout = self._layout
        old, used = slice(layout.begin, layout.end), layout.end - layout.begin
        layout.shape = shape
        real = layout.real.new_zeros(shape)
        count = min(len(layout.real), shape[0])
        real[:count, begin : begin + used] = layout.real[:count, old]
        layout.real = real
        for layer in self._layers:
            layer.resize(old, begin)
        layout.begin, layout.end = begin, begin + used


class Alone:
    """Texts that one model reads one after another, each with a cache of its own; as `Batch`.

    For models whose state padding would enter, as those that are recurrent.
    """

    def __init__(self, model: "PreTrainedModel", numbers: Sequence[int] = ()) -> None:
        """Begin with texts that have no tokens yet."""
        self.model = model
        known = inspect.signature(model.forward).parameters
        self._key = "cache" if "cache" in known else "past_key_values"
        self._caches = {number: DynamicCache(config=model.config) for number in numbers}

    @property
    def numbers(self) -> list[int]:
        """The numbers of the texts, in the order of their rows."""
        return list(self._caches)

    @torch.inference_mode()
    def read(
        self, tokens_RT: torch.Tensor, real_RT: torch.Tensor | None = None, *, last: bool = False
    ) -> torch.Tensor:
        """Read new tokens of every text; return the logits after each as `Batch.read` does."""
        rows: list[torch.Tensor | None] = []
        for row, cache in enumerate(self._caches.values()):
            tokens = tokens_RT[row] if real_RT is None else tokens_RT[row][real_RT[row]]
            if not len(tokens):
                rows.append(None)
                continue
            out = self.model(input_ids=tokens[None], use_cache=True, **{self._key: cache})
            rows.append(causal_lm.logits_of(out)[0].float())
        sizes = [found.shape[1] for found in rows if found is not None]
        size = sizes[0] if sizes else causal_lm.vocabulary(self.model)
        wide = 1 if last else tokens_RT.shape[1]
        logits_RTV = torch.zeros(len(rows), wide, size, device=tokens_RT.device)
        for row, found in enumerate(rows):
            if found is not None:
                kept = found[-wide:]
                logits_RTV[row, wide - len(kept) :] = kept
        return logits_RTV

    def absorb(self, other: "Alone") -> None:
        """Take over all texts of another batch of the same model, with what they have read."""
        self._caches |= other._caches

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget texts; those that are not here are passed over."""
        for number in numbers:
            self._caches.pop(number, None)


def can_batch(model: "PreTrainedModel") -> bool:
    """Whether a model reads texts of several lengths together as it reads each alone.

    It is tried, since no setting tells: a model may compute positions without the mask, or keep a
    state that padding would enter.
    """
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    settings = causal_lm.text_config(model.config)
    chunked = "chunked_attention" in (getattr(settings, "layer_types", None) or ())
    rope = str(getattr(settings, "rope_parameters", None))
    # These rotate by the longest text of the batch.
    moving = any(f"'{kind}'" in rope for kind in ("dynamic", "longrope"))
    if not kinds or chunked or moving or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return False
    size = causal_lm.vocabulary(model) or 2
    texts = [[(7 * t + 3 * r) % size for t in range(length)] for r, length in enumerate((5, 3))]
    try:
        alone = [_read_one(model, text) for text in texts]
        batch = Batch(model, [0])
        batch.read(torch.tensor([texts[0][:4]], device=model.device))
        other = Batch(model, [1])
        other.read(torch.tensor([texts[1][:2]], device=model.device))
        batch.absorb(other)
        both = batch.read(torch.tensor([[text[-1]] for text in texts], device=model.device))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    return all(
        torch.allclose(found[-1], wanted, atol=1e-3) and bool(found.isfinite().all())
        for found, wanted in zip(both, alone, strict=True)
    )


def _read_one(model: "PreTrainedModel", text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([text], device=model.device), use_cache=False)
    return causal_lm.logits_of(out)[0, -1].float()
