"""Commit early: all experts read the first tokens of a context, then the best go on alone.

Before a context is read nobody knows which expert it wants; after N tokens the posterior
p(D=j | x_1..x_N) does. So the k experts of greatest posterior, whatever the rule, are an ensemble
of their own from then on: the rule goes on with their weights and their prior normalised among
themselves, and the others are not run any more. On the average of a context of T tokens, a token
costs (E·N + k·(T - N)) / T forward passes. The others may be recalled where the text turns out to
want them (btm/ensemble/course.py).

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
    recall: bool = False  # whether those that are left out may come back

    def best(self, log_posterior: Array) -> Integers:
        """Number the experts of greatest posterior, (k,) or (k, Q), in rising order.

        `log_posterior` is log p(D=j, x_1..x_N), (E,) or (E, Q). Of equals the first are taken, so
        that exactly k are run.
        """
        order = np.argsort(-log_posterior, axis=0, kind="stable")
        return np.sort(order[: self.experts], axis=0)

    def late(self, begins_N: Flags) -> tuple[Integers, Integers]:
        """Find what is read after a commitment: the places of those tokens, and the place where the
        context of each begins, (M,) each.

        `begins_N` marks the tokens that begin a context.
        """
        starts = np.flatnonzero(begins_N)
        lengths = np.diff(np.append(starts, len(begins_N)))
        start_N, places = np.repeat(starts, lengths), np.arange(len(begins_N))
        late = places >= start_N + self.tokens
        return places[late], start_N[late]

    def experts_run(self, begins_N: Flags, experts: int) -> float:
        """Compute how many of `experts` are run for a token, on the average of a text."""
        late = len(self.late(begins_N)[0]) / len(begins_N)
        return experts * (1 - late) + min(self.experts, experts) * late

    def leave_out(
        self, logits_EN: NDArray[Any], logp_EN: NDArray[Any], log_prior_E: Array, begins_N: Flags
    ) -> None:
        """Set the logits of the experts that are not run any more to -inf, in place.

        The weights before each token are the softmax of `logits_EN`, the scores of the experts are
        `logp_EN`.
        """
        places, starts = self.late(begins_N)
        if not len(places):
            return
        begun_Q, of_place = np.unique(starts, return_inverse=True)
        read_EQN = logp_EN[:, begun_Q[:, None] + np.arange(self.tokens)]
        best_kQ = self.best(log_prior_E[:, None] + read_EQN.sum(axis=2, dtype=np.float64))
        kept_EQ = np.zeros((len(logits_EN), len(begun_Q)), bool)
        np.put_along_axis(kept_EQ, best_kQ, True, axis=0)
        logits_EN[:, places] = np.where(kept_EQ[:, of_place], logits_EN[:, places], -np.inf)


def rows(array: NDArray[Any], best: Integers) -> NDArray[Any]:
    """Pick the rows `best`, (k, Q), of an array of shape (E, Q) or (E, Q, T)."""
    index = best if array.ndim == best.ndim else best[..., None]
    return np.take_along_axis(array, index, axis=0)
