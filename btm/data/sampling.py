"""Shares of domains in a mix, p ∝ n^α of their sizes n: of a tokenizer's text, a seed's batches.

α = 1 gives each domain its share of all text, α = 0 equal shares; between them, small domains have
more than their size gives (XLM, arXiv 1901.07291, section 3.1; BLOOM, arXiv 2211.05100).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from btm.data.slices import utf8_size
from btm.data.splits import Survey

_OVER = 1_000_000  # characters that a document may go beyond what is still wanted of a domain
_MOST = 8_000_000  # characters of one document that a tokenizer is trained on
_TURNS = 1 << 16  # sequences of a cycle, in which shares are exact to one sequence


def shares(sizes: Sequence[int], alpha: float) -> np.ndarray:
    """Compute p_i = n_i^α / Σ n_j^α, float64 (n_domains,), of positive sizes."""
    n_D = np.asarray(sizes, np.float64)
    scaled_D = (n_D / n_D.max()) ** alpha
    return scaled_D / scaled_D.sum()


class Turns:
    """The order in which the shards of a mix are read, a sequence each: a cycle, again and again.

    Where `alpha` is None the shards take turns; else shard i has p_i ∝ n_i^α of the sequences of a
    cycle, spread evenly over it, and at least one.
    """

    def __init__(self, sizes: Sequence[int], alpha: float | None = None) -> None:
        """Lay out a cycle over shards of `sizes` tokens."""
        self.counts_S = np.ones(len(sizes), np.int64)
        if alpha is not None:
            self.counts_S = _rounded(shares(sizes, alpha), max(_TURNS, 2 * len(sizes)))
        of_shard = np.repeat(np.arange(len(sizes)), self.counts_S)
        nth = np.concatenate([np.arange(count) for count in self.counts_S])
        order = np.argsort((nth + 0.5) / self.counts_S[of_shard], kind="stable")
        self._shard_C, self._nth_C = of_shard[order], nth[order]

    def place(self, sequence: int) -> tuple[int, int]:
        """Find (number of the shard, number of its sequence) of a sequence of the mix."""
        cycle, at = divmod(sequence, len(self._shard_C))
        shard = int(self._shard_C[at])
        return shard, cycle * int(self.counts_S[shard]) + int(self._nth_C[at])

    def count(self, sequences: int) -> list[int]:
        """Count the sequences of each shard among the first `sequences` of the mix."""
        cycles, more = divmod(sequences, len(self._shard_C))
        begun_S = np.bincount(self._shard_C[:more], minlength=len(self.counts_S))
        return (cycles * self.counts_S + begun_S).tolist()

    def parts(self, total: int) -> list[float]:
        """Share `total` out to the shards as a cycle does."""
        return (total * self.counts_S / len(self._shard_C)).tolist()


def _rounded(share_S: np.ndarray, total: int) -> np.ndarray:
    """Round shares to counts of at least 1 that sum to `total`, by largest remainders."""
    free = total - len(share_S)
    counts_S = np.floor(share_S * free).astype(np.int64)
    left = free - int(counts_S.sum())
    counts_S[np.argsort(counts_S - share_S * free, kind="stable")[:left]] += 1
    return counts_S + 1


def training_texts(
    surveys: Iterable[Survey],
    column: str,
    budget: int,
    plain: Callable[[str], str] = lambda document: document,
    alpha: float | None = None,
) -> Iterator[str]:
    """Yield about `budget` bytes of train documents, evenly spread over each domain.

    Domains have equal parts, or as much as they hold; with `alpha` p ∝ n^α of all, for which a
    small domain is read several times. `plain` gives the text of a document that is no text.
    """
    by_name = {survey.source.domain: survey for survey in surveys}
    sizes = {name: survey.splits["train"].bytes for name, survey in by_name.items()}
    wanted = quotas(sizes, budget, alpha)
    for name, survey in by_name.items():
        whole, part = divmod(wanted[name], sizes[name])
        for quota in [sizes[name]] * whole + [part] * (part > 0):
            yield from _spread(survey, column, quota, plain)


def _spread(survey: Survey, column: str, quota: int, plain: Callable[[str], str]) -> Iterator[str]:
    """Yield about `quota` bytes of the train documents of a domain, evenly spread over it."""
    size, seen, taken = survey.splits["train"].bytes, 0, 0
    for split, text in survey.documents(column):
        # A document is taken whenever the share taken has fallen behind the share seen.
        if split == "train":
            n_bytes = utf8_size(text)
            if taken * size <= seen * quota and taken < quota:
                # Of a long one a part: what it goes beyond the quota, and its new words, of
                # which the trainer keeps 60 bytes a character, are bounded.
                whole = plain(text)
                part = whole[: min(quota - taken + _OVER, _MOST)]
                taken += n_bytes if len(part) == len(whole) else utf8_size(part)
                yield part
            seen += n_bytes


def quotas(sizes: Mapping[str, int], budget: int, alpha: float | None = None) -> dict[str, int]:
    """Share `budget` bytes out to domains of `sizes`, all that there is at most.

    In equal parts, where what a small domain cannot use goes to the larger ones; or p ∝ n^α.
    """
    if alpha is not None:
        whole = min(budget, sum(sizes.values()))
        parts = shares(list(sizes.values()), alpha)
        return {name: round(whole * p) for name, p in zip(sizes, parts.tolist(), strict=True)}
    found: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: sizes[name]):
        found[name] = min(sizes[name], budget // (len(sizes) - len(found)))
        budget -= found[name]
    return found
