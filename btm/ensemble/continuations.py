"""Score continuations of many texts by an ensemble whose members are in memory one at a time.

A benchmark asks how likely a continuation is after its context, and whether it is what greedy
decoding would write. The first needs the tokens' log-probabilities under each member and the rule's
weights alone, so every member is loaded once, for all texts. The second needs the likeliest token
of the mixture. The members' own likeliest tokens decide most of that; where they do not, whole
distributions are mixed, some texts at a time, in a second pass.

Shapes: E members, T tokens of a text that are predicted (all but its first), C of them that are
scored, V tokens of the vocabulary, P places of several texts. Log-probabilities in nats.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from btm.ensemble.course import Course, follow
from btm.ensemble.posterior import Array
from btm.ensemble.text import Integers
from btm.models import causal_lm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Loader = Callable[[], "PreTrainedModel"]
Told = Callable[[int], None]  # is told how many more tokens were read

_LOGITS = 1 << 27  # of one forward pass, at most: 0.5 GB in float32
_MIXED = 1 << 26  # probabilities that are mixed at once, at most: 0.5 GB in float64


@dataclass(frozen=True)
class Continuation:
    """A text whose last `scored` tokens follow a context of one token or more."""

    tokens: tuple[int, ...]
    scored: int

    def __post_init__(self) -> None:
        """Raise `ValueError` unless something is scored, after something that is not."""
        if not 0 < self.scored < len(self.tokens):
            raise ValueError(f"{self.scored} of {len(self.tokens)} tokens to score")

    @property
    def targets(self) -> Integers:
        """The tokens that are predicted: all but the first, (T,)."""
        return np.array(self.tokens[1:], np.int64)


@dataclass(frozen=True)
class Scored:
    """A continuation's log-probability, and whether greedy decoding would write it."""

    logp: float
    is_greedy: bool


class _Read(NamedTuple):
    """The scores of one text by one member."""

    logp: NDArray[np.float32]  # of each token, (T,)
    top: Integers  # the likeliest token instead of each that is scored, (C,)
    top_logp: NDArray[np.float32]  # (C,)


@dataclass(frozen=True)
class _Mixed:
    """The mixture on one text."""

    logp: Array  # of each scored token, (C,)
    log_weights: Array  # of each member before it, (E, C); -inf for one that is not run any more


@dataclass(frozen=True)
class Mix:
    """E members under a rule; ids from `vocabulary` on, the tokenizer's size, are padding."""

    members: Sequence[Loader]
    begin: Callable[[], Course]
    vocabulary: int
    batch_size: int = 16

    def logp(self, texts: Sequence[Continuation], told: Told = lambda tokens: None) -> list[float]:
        """Sum log p of the scored tokens of each text; `told` hears of the tokens that are read."""
        read = self._read_all(texts, told)
        return [
            float(self._mix(text, of_members).logp.sum())
            for text, of_members in zip(texts, read, strict=True)
        ]

    def score(
        self, texts: Sequence[Continuation], told: Told = lambda tokens: None
    ) -> list[Scored]:
        """Do as `logp`, and tell of each text whether greedy decoding would write it."""
        read = self._read_all(texts, told)
        mixed = list(map(self._mix, texts, read))
        greedy = list(map(_is_greedy, texts, read, mixed))
        still = [number for number, known in enumerate(greedy) if known is None]
        for some in _groups([texts[i] for i in still], self.vocabulary):
            numbers = [still[i] for i in some]
            found = self._are_greedy([texts[i] for i in numbers], [mixed[i] for i in numbers], told)
            for number, is_greedy in zip(numbers, found, strict=True):
                greedy[number] = is_greedy
        return [
            Scored(float(each.logp.sum()), bool(is_greedy))
            for each, is_greedy in zip(mixed, greedy, strict=True)
        ]

    def _read_all(self, texts: Sequence[Continuation], told: Told) -> list[tuple[_Read, ...]]:
        """Have each member in turn read all texts; return what they make of each text."""
        if not texts:
            return []
        size, rows = self.vocabulary, self.batch_size
        return list(
            zip(*(_read(load(), texts, size, rows, told) for load in self.members), strict=True)
        )

    def _mix(self, text: Continuation, read: Sequence[_Read]) -> _Mixed:
        """Follow the weights through a text, as `btm.ensemble.generate.Ensemble` does."""
        logp_ET = np.stack([each.logp for each in read]).astype(np.float64)
        if len(logp_ET) == 1:
            return _Mixed(logp_ET[0, -text.scored :], np.zeros((1, text.scored)))
        mixed_T, log_weights_ET = follow(self.begin(), logp_ET, text.targets)
        return _Mixed(mixed_T[-text.scored :], log_weights_ET[:, -text.scored :])

    def _are_greedy(
        self, texts: Sequence[Continuation], mixed: Sequence[_Mixed], told: Told
    ) -> list[bool]:
        """Mix the whole distributions at the scored places of some texts; compare the likeliest."""
        places = np.cumsum([0, *(text.scored for text in texts)])
        p_PV = np.zeros((places[-1], self.vocabulary))
        for j, load in enumerate(self.members):
            for number, logp_CV in _distributions(
                load(), texts, self.vocabulary, self.batch_size, told
            ):
                log_weights_C = mixed[number].log_weights[j]
                if np.isfinite(log_weights_C).any():
                    own = slice(places[number], places[number + 1])
                    p_PV[own] += np.exp(logp_CV.astype(np.float64) + log_weights_C[:, None])
        likeliest_P = p_PV.argmax(axis=1)
        return [
            bool((likeliest_P[start:stop] == text.targets[-text.scored :]).all())
            for text, start, stop in zip(texts, places, places[1:], strict=False)
        ]


def _is_greedy(text: Continuation, read: Sequence[_Read], mixed: _Mixed) -> bool | None:
    """Decide whether each scored token is the mixture's likeliest; None where that stays open.

    It is where all members that are run have it first, or the mixture gives it more than half.
    It is not where one member's first choice alone, by its weight, has more than the mixture gives
    it.
    """
    targets_C = text.targets[-text.scored :]
    top_EC = np.stack([each.top for each in read])
    top_logp_EC = np.stack([each.top_logp for each in read]).astype(np.float64)
    runs_EC = np.isfinite(mixed.log_weights)
    agrees_EC = top_EC == targets_C
    least_EC = np.where(agrees_EC, -np.inf, mixed.log_weights + top_logp_EC)
    if (least_EC.max(axis=0) > mixed.logp).any():
        return False
    sure_C = (agrees_EC | ~runs_EC).all(axis=0) | (mixed.logp > np.log(0.5))
    return True if sure_C.all() else None


def _groups(texts: Sequence[Continuation], vocabulary: int) -> Iterator[list[int]]:
    """Number the texts in groups whose whole distributions are held at once."""
    group: list[int] = []
    size = 0
    for number, text in enumerate(texts):
        own = text.scored * vocabulary
        if group and size + own > _MIXED:
            yield group
            group, size = [], 0
        group.append(number)
        size += own
    if group:
        yield group


def _read(
    model: "PreTrainedModel",
    texts: Sequence[Continuation],
    vocabulary: int,
    batch_size: int,
    told: Told,
) -> list[_Read]:
    """Read every text by one member, in the order of `texts`."""
    import torch

    found: dict[int, _Read] = {}
    for batch, logits_BTV in _passes(model, texts, vocabulary, batch_size, told):
        total_BT = logits_BTV.logsumexp(dim=-1)
        for row, number in _placed(batch):
            text = texts[number]
            tokens = len(text.tokens) - 1
            logits_TV = logits_BTV[row, :tokens]
            total_T = total_BT[row, :tokens]
            targets_T = torch.from_numpy(text.targets).to(logits_TV.device)
            own_T = logits_TV.gather(1, targets_T[:, None])[:, 0] - total_T
            top, ids = logits_TV[-text.scored :, :vocabulary].max(dim=-1)
            found[number] = _Read(
                own_T.cpu().numpy(),
                ids.cpu().numpy(),
                (top - total_T[-text.scored :]).cpu().numpy(),
            )
    return [found[number] for number in range(len(texts))]


def _distributions(
    model: "PreTrainedModel",
    texts: Sequence[Continuation],
    vocabulary: int,
    batch_size: int,
    told: Told,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the number of each text and log p of every token at its scored places, (C, V)."""
    for batch, logits_BTV in _passes(model, texts, vocabulary, batch_size, told):
        for row, number in _placed(batch):
            stop = len(texts[number].tokens) - 1
            scored_CV = logits_BTV[row, stop - texts[number].scored : stop]
            yield number, scored_CV.log_softmax(dim=-1)[:, :vocabulary].cpu().numpy()


def _placed(batch: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Yield the row and the number of each text of a batch."""
    return ((row, number) for row, numbers in enumerate(batch) for number in numbers)


def _passes(
    model: "PreTrainedModel",
    texts: Sequence[Continuation],
    vocabulary: int,
    batch_size: int,
    told: Told,
) -> Iterator[tuple[list[list[int]], "torch.Tensor"]]:
    """Run a model over texts of like length together, the longest first.

    Yields the numbers of the texts in each row of a batch, and its logits, (B, T, V). Texts of
    which one reads the beginning of what another reads share a row: choices of one token after the
    same context cost one pass. A text that is shorter than its row or batch is filled on the right,
    where a causal model looks from none of its tokens.
    """
    import torch

    order = _rows(texts)
    while order:
        longest = len(texts[order[0][0]].tokens) - 1
        rows = max(1, min(batch_size, _LOGITS // (longest * vocabulary)))
        batch, order = order[:rows], order[rows:]
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, numbers in enumerate(batch):
            read = texts[numbers[0]].tokens[:-1]
            ids[row, : len(read)] = torch.tensor(read)
        with torch.inference_mode():
            out = model(input_ids=ids.to(model.device), use_cache=False)
            yield batch, causal_lm.logits_of(out).float()
        told(sum(len(texts[number].tokens) - 1 for numbers in batch for number in numbers))


def _rows(texts: Sequence[Continuation]) -> list[list[int]]:
    """Number the texts that share a row, its longest first; the longest rows come first."""
    read = [text.tokens[:-1] for text in texts]
    rows: list[list[int]] = []
    # From the last in the order of their tokens on, a text comes right after those it begins.
    for number in sorted(range(len(texts)), key=read.__getitem__, reverse=True):
        if rows and read[rows[-1][0]][: len(read[number])] == read[number]:
            rows[-1].append(number)
        else:
            rows.append([number])
    return sorted(rows, key=lambda numbers: -len(read[numbers[0]]))
