"""Commit early: all experts read the first tokens of a context, then the best go on alone.

Before a context is read nobody knows which expert it wants; after N tokens the posterior does. So
the k experts of greatest weight after N tokens are an ensemble of their own from then on: their
weights and their prior are normalised among themselves, and the others are not run any more. One
token costs (E·N + k·(T - N)) / T forward passes on the average of a context of T tokens.

Shapes: E experts, Q contexts, N tokens of a text in order. numpy alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.ensemble.posterior import Array
from btm.ensemble.text import Flags, Integers


@dataclass(frozen=True)
class Commit:
    """After how many tokens of a context to commit, and to how many experts."""

    tokens: int
    experts: int

    def best(self, weights: Array) -> Integers:
        """Number the experts of greatest weight, (k,) or (k, Q), in rising order.

        `weights` are theirs, (E,) or (E, Q), or anything that grows with them. Of equals the first
        are taken, so that exactly k are run.
        """
        order = np.argsort(-weights, axis=0, kind="stable")
        return np.sort(order[: self.experts], axis=0)

    def late(self, begins_N: Flags) -> tuple[Integers, Integers]:
        """Find what is read after a commitment: the places of those tokens, and the place at which
        each of their contexts commits, (M,) each.

        `begins_N` marks the tokens that begin a context.
        """
        starts = np.flatnonzero(begins_N)
        lengths = np.diff(np.append(starts, len(begins_N)))
        first_N = np.repeat(starts, lengths) + self.tokens
        places = np.arange(len(begins_N))
        late = places >= first_N
        return places[late], first_N[late]

    def experts_run(self, begins_N: Flags, experts: int) -> float:
        """Compute how many of `experts` are run for a token, on the average of a text."""
        late = len(self.late(begins_N)[0]) / len(begins_N)
        return experts * (1 - late) + min(self.experts, experts) * late

    def leave_out(self, logits_EN: NDArray[Any], log_prior_E: Array, begins_N: Flags) -> None:
        """Set the logits of the experts that are not run any more to -inf, in place.

        The weights before each token are the softmax of `logits_EN` and the prior.
        """
        places, at = self.late(begins_N)
        if not len(places):
            return
        committed, of_place = np.unique(at, return_inverse=True)
        kept_EQ = np.zeros((len(logits_EN), len(committed)), bool)
        best_kQ = self.best(logits_EN[:, committed] + log_prior_E[:, None])
        np.put_along_axis(kept_EQ, best_kQ, True, axis=0)
        logits_EN[:, places] = np.where(kept_EQ[:, of_place], logits_EN[:, places], -np.inf)


def rows(array: NDArray[Any], best: Integers) -> NDArray[Any]:
    """Pick the rows `best`, (k, Q), of an array of shape (E, Q) or (E, Q, T)."""
    index = best if array.ndim == best.ndim else best[..., None]
    return np.take_along_axis(array, index, axis=0)
