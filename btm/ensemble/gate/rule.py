"""The gate: weights by each expert's recent scores, and by its scores after the same tokens.

Shapes: E experts, N tokens of a text in order, P parameters. Scores are log p(x_t | x_<t, D=j) in
nats, ``logp_EN``; a prior is log p(D=j), (E,). The rule is

    w_t = softmax_j( θ_0 log π_j + Σ_f θ_f L_f,j(t) ),
    p(x_t | x_<t) = Σ_j w_j,t p(x_t | x_<t, D=j),

where L_f,j(t) = Σ_s 2^-(r(s)-1)/h log p(x_s | x_<s, D=j) over those s < t that c tokens stand
before which also stand before t; s is the r(s)-th last of them. FEATURES lists (c, h): with c = 0
every token counts, and the half-life h is in tokens; with c = 1 or 2 only the tokens after the same
one or two count, and h is in such occasions. Bayes' rule is θ_0 = 1 and c = 0, h =
∞ alone, with its θ = 1. All experts share θ, so it is the same for any number and order of them; it
is fitted by maximum likelihood. Gating by softmax is that of a mixture of experts (Jacobs et al.,
Neural Computation 3, 1991), inputs that count by context that of data compression (Mahoney, PAQ,
2005).

Where a new text begins, as a window or a document, L = 0 (`begins_N`). numpy alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btm.ensemble.commit import Commit
from btm.ensemble.gate import sums
from btm.ensemble.gate.sums import Array, Features, Flags, Integers

# (tokens in common, half-life). Finite ones, so that what was fitted on a short text holds in a
# long one.
FEATURES: Features = ((0, 1), (0, 8), (0, 64), (1, 1), (1, 8), (2, 1), (2, 8))
DEFAULT = (0.25, 0.3, 0.2, 0.0, 1.5, 0.6, 2.0, 2.2)  # θ, of a small forest; what a fit is drawn to
_LEAST_PRIOR = -14.0  # a lower log prior counts as this: valid splits are too short to tell them
_BLOCK = 1 << 19  # scores mixed at once: with their weights, what a cache holds


def named(theta: Sequence[float]) -> dict[str, float]:
    """Name each number of θ: the prior's power, then context and half-life."""
    names = [f"after {c} same, half-life {h}" if c else f"half-life {h}" for c, h in FEATURES]
    return dict(zip(["prior", *names], (float(value) for value in theta), strict=True))


def mixed(
    logp_EN: ArrayLike,
    log_prior_E: ArrayLike,
    theta: ArrayLike,
    ids_N: ArrayLike,
    begins_N: ArrayLike | None = None,
    features: Features = FEATURES,
) -> tuple[Array, Array]:
    """Compute the mixture's log-probability of each token, (N,), and the weights before it, (E, N).

    `ids_N` are the tokens themselves; `begins_N` marks those that begin a new text (None: the first
    alone). `ValueError` for shapes that do not fit.
    """
    logp = checked_scores(logp_EN)
    blocks = list(mixed_blocks(logp, log_prior_E, theta, ids_N, begins_N, features))
    if not blocks:
        return np.empty(0), np.empty(logp.shape)
    return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks], axis=1)


def mixed_blocks(
    logp_EN: ArrayLike,
    log_prior_E: ArrayLike,
    theta: ArrayLike,
    ids_N: ArrayLike,
    begins_N: ArrayLike | None = None,
    features: Features = FEATURES,
    commit: Commit | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Yield the two arrays of `mixed`, as many tokens at a time as a processor's cache holds.

    With `commit`, texts go on with their best experts alone.
    """
    logp, ids, powers = (
        checked_scores(logp_EN),
        checked_ids(logp_EN, ids_N),
        np.asarray(theta, np.float64),
    )
    if powers.shape != (len(features) + 1,):
        raise ValueError(f"θ has shape {powers.shape}; wanted ({len(features) + 1},)")
    prior_E = powered(log_prior_E, powers[0])
    if prior_E.shape != logp.shape[:1]:
        raise ValueError(f"the prior has shape {prior_E.shape}; wanted {logp.shape[:1]}")
    begins = checked_begins(ids, begins_N)
    logits_EN = sums.weighted(logp, ids, powers[1:], begins, features)
    if commit is not None:
        commit.leave_out(logits_EN, logp, np.asarray(log_prior_E, np.float64), begins)
    step = max(1, _BLOCK // len(logp))
    for start in range(0, logp.shape[1], step):
        some = slice(start, start + step)
        weights_EB = softmax(logits_EN[:, some] + prior_E[:, None])
        yield _mix(logp[:, some], weights_EB), weights_EB


class OnlineGate:
    """The weights of one text that is read token by token: those of `mixed`.

    It remembers E numbers for each feature and each one and two tokens that it has read.
    """

    def __init__(
        self, log_prior_E: ArrayLike, theta: ArrayLike = DEFAULT, features: Features = FEATURES
    ) -> None:
        """Begin a text of which nothing was seen."""
        self._theta = np.asarray(theta, np.float64)
        self._prior_E = powered(log_prior_E, self._theta[0])
        self._contexts = sorted({context for context, _ in features})
        self._rows = {
            c: [f for f, (context, _) in enumerate(features) if context == c]
            for c in self._contexts
        }
        self._seen: dict[tuple[int, ...], Array] = {}
        self._last: tuple[int, ...] = ()
        self._decay_F1 = sums.decays([half_life for _, half_life in features])[:, None]

    @property
    def log_weights(self) -> Array:
        """The log weight of each expert before the next token, shape (E,); they sum to 1 in
        probability.
        """
        logits_E = self._prior_E.copy()
        for context in self._contexts:
            seen_FE = self._seen.get(self._key(context))
            if seen_FE is not None:
                logits_E += self._theta[1:][self._rows[context]] @ seen_FE
        return logits_E - np.logaddexp.reduce(logits_E)

    def update(self, logp_E: ArrayLike, token: int) -> float:
        """Read one token and its log p(x_t | x_<t, D=j); return the mixture's log p(x_t | x_<t)."""
        scores_E = np.asarray(logp_E, np.float64)
        found = float(np.logaddexp.reduce(self.log_weights + scores_E))
        for context in self._contexts:
            key = self._key(context)
            # Over the mean of all experts, as in `sums`: no weight depends on it.
            old_FE = self._seen.get(key, np.zeros((len(self._rows[context]), len(scores_E))))
            self._seen[key] = old_FE * self._decay_F1[self._rows[context]] + (
                scores_E - scores_E.mean()
            )
        self._last = (*self._last, int(token))[-max(1, self._contexts[-1]) :]
        return found

    def restrict(self, best: Integers) -> None:
        """Go on with the experts of these numbers alone, (k,): from now on E = k."""
        self._prior_E = self._prior_E[best]
        self._seen = {key: seen_FE[:, best] for key, seen_FE in self._seen.items()}

    def _key(self, context: int) -> tuple[int, ...]:
        last = (-1,) * context + self._last
        return (context, *last[len(last) - context :])


def powered(log_prior_E: ArrayLike, power: float) -> Array:
    """Compute θ_0 log π, (E,); an expert that is left out stays so whatever θ_0 is."""
    prior_E = np.asarray(log_prior_E, np.float64)
    return np.where(np.isneginf(prior_E), prior_E, np.maximum(prior_E, _LEAST_PRIOR) * power)


def softmax(logits_EN: Array) -> Array:
    """Turn logits into weights, (E, N), that sum to 1 over the experts."""
    weights = np.exp(logits_EN - logits_EN.max(axis=0))
    weights /= weights.sum(axis=0)
    return weights


def _mix(logp_EN: NDArray[Any], weights_EN: Array) -> Array:
    """Compute log Σ_j w_j p_j, (N,)."""
    top_N = logp_EN.max(axis=0)
    total_N = np.einsum("en,en->n", weights_EN, np.exp(logp_EN - top_N))
    return np.log(np.maximum(total_N, 1e-300)) + top_N


def checked_scores(logp_EN: ArrayLike) -> NDArray[Any]:
    """Convert scores to float32 or float64, (E, N); `ValueError` for another shape."""
    scores = np.asarray(logp_EN)
    if scores.ndim != 2 or not scores.shape[0]:
        raise ValueError(f"log-probabilities have shape {scores.shape}; wanted (experts, tokens)")
    return scores if scores.dtype == np.float32 else scores.astype(np.float64)


def checked_ids(logp_EN: ArrayLike, ids_N: ArrayLike) -> Integers:
    """Convert the tokens to integers, (N,); `ValueError` if they are not as many as the scores."""
    ids = np.asarray(ids_N, np.int64)
    if ids.shape != np.shape(logp_EN)[1:]:
        raise ValueError(f"{ids.shape} tokens for {np.shape(logp_EN)[1:]} scores")
    return ids


def checked_begins(ids_N: Integers, begins_N: ArrayLike | None) -> Flags:
    """Convert the marks of tokens that begin a text to flags, (N,); None marks none but the first.

    `ValueError` if they are not as many as the tokens.
    """
    begins = np.zeros(len(ids_N), bool) if begins_N is None else np.array(begins_N, bool)
    if begins.shape != ids_N.shape:
        raise ValueError(f"{begins.shape} marks for {ids_N.shape} tokens")
    begins[:1] = True
    return begins
