"""The fit of a gate: its few parameters by maximum likelihood on valid texts, by Newton's method.

Shapes: P parameters, E experts, N tokens of a text in order; scores are in nats.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from btm.ensemble.gate import sums
from btm.ensemble.gate.rule import (
    DEFAULT,
    FEATURES,
    checked_begins,
    checked_ids,
    checked_scores,
    powered,
    softmax,
)
from btm.ensemble.gate.sums import Array, Features

_PULL = 10.0  # nats that a fit of one domain pays for a parameter that is 1 off its default
_STEPS = 100  # of Newton's method, at most; a dozen is usual
_ENOUGH = 1e-9  # nats/token: a step that gains less is the last
_SPARSEST = 8  # tokens of which at least one is kept
SAMPLE = 1 << 24  # numbers that a fit keeps: parameters × experts × tokens


def fit(
    samples: Sequence["Sample"], start: ArrayLike = DEFAULT, pull: float = _PULL
) -> tuple[float, ...]:
    """Fit θ to `samples` by maximum likelihood, drawn to `start`; deterministic.

    What is minimised is the mean over samples of their nats/token, each counting the same whatever
    its length, plus pull / tokens · |θ - start|². The loss is not convex: directions that curve
    down are taken as curving up, and a step that does not help is halved (Newton's method).
    """
    begin = np.asarray(start, np.float64)
    strength = pull / max(1, sum(sample.tokens for sample in samples))
    theta, (value, gradient, hessian) = begin, loss(begin, samples, begin, strength)
    for _ in range(_STEPS):
        # Where the loss curves down a plain Newton step would climb: |curvature| turns it round.
        curves, axes = np.linalg.eigh(hessian)
        step = axes @ ((axes.T @ gradient) / np.maximum(np.abs(curves), strength))
        for size in 0.5 ** np.arange(20):
            there = theta - size * step
            found = loss(there, samples, begin, strength)
            # Armijo's condition: the loss falls by a part of what its slope promises.
            if found[0] <= value - 1e-4 * size * float(gradient @ step):
                break
        else:
            break
        gained = value - found[0]
        theta, (value, gradient, hessian) = there, found
        if gained < _ENOUGH:
            break
    return tuple(float(x) for x in theta)


def loss(
    theta: Array, samples: Sequence["Sample"], start: Array, strength: float
) -> tuple[float, Array, Array]:
    """Compute the loss of `fit` in nats/token, its gradient (P,) and its Hessian (P, P)."""
    off = theta - start
    value, gradient = strength * float(off @ off), 2 * strength * off
    hessian = 2 * strength * np.eye(len(theta))
    for sample in samples:
        one = sample.loss(theta)
        value += one[0] / len(samples)
        gradient = gradient + one[1] / len(samples)
        hessian = hessian + one[2] / len(samples)
    return value, gradient, hessian


@dataclass(frozen=True)
class Sample:
    """A text as a fit reads it: log prior, features, and likelihoods over the greatest expert's."""

    inputs: Array  # (P, E, N)
    ratio: Array  # (E, N)
    top_nats: float  # mean of -log p of the likeliest expert
    tokens: int  # of the text, of which not all need be kept

    @classmethod
    def of(
        cls,
        logp_EN: ArrayLike,
        log_prior_E: ArrayLike,
        ids_N: ArrayLike,
        begins_N: ArrayLike | None = None,
        features: Features = FEATURES,
        most: int = SAMPLE,
    ) -> "Sample":
        """Prepare a text, of whose P·E·N numbers no more than `most` are kept.

        A longer text is read up to 8 times as far as is kept, and kept at even distances. Experts
        that the prior leaves out are not read.
        """
        kept_E = np.isfinite(log_prior_E)
        logp, ids = checked_scores(logp_EN)[kept_E], checked_ids(logp_EN, ids_N)
        room = max(1, most // ((len(features) + 1) * len(logp)))
        begins = checked_begins(ids, begins_N)[: _SPARSEST * room]
        logp, ids = logp[:, : _SPARSEST * room], ids[: _SPARSEST * room]
        every = -(-logp.shape[1] // room)
        kept = logp[:, ::every].astype(np.float64)
        inputs_PEN = np.empty((len(features) + 1, *kept.shape))
        inputs_PEN[0] = powered(np.asarray(log_prior_E)[kept_E], 1.0)[:, None]
        for f, experts, part_EN in sums.each(logp, ids, begins, features):
            inputs_PEN[1 + f, experts] = part_EN[:, ::every]
        top_N = kept.max(axis=0)
        return cls(inputs_PEN, np.exp(kept - top_N), -float(top_N.mean()), logp.shape[1])

    def loss(self, theta: Array) -> tuple[float, Array, Array]:
        """Compute nats/token under θ, with gradient and Hessian.

        With u the weights and q ∝ u p the posterior after the token, its derivative by a logit is u
        - q.
        """
        inputs = self.inputs
        u_EN = softmax(np.tensordot(theta, inputs, 1))
        joint_EN = u_EN * self.ratio
        mixed_N = np.maximum(joint_EN.sum(axis=0), 1e-300)
        q_EN = joint_EN / mixed_N
        pulled = inputs * (u_EN - q_EN)
        mean_u, mean_q = (
            np.einsum("pen,en->pn", inputs, u_EN),
            np.einsum("pen,en->pn", inputs, q_EN),
        )
        flat = inputs.reshape(len(inputs), -1)
        hessian = pulled.reshape(flat.shape) @ flat.T - mean_u @ mean_u.T + mean_q @ mean_q.T
        count = len(mixed_N)
        value = self.top_nats - float(np.log(mixed_N).mean())
        return value, pulled.sum(axis=(1, 2)) / count, hessian / count
