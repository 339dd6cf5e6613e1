"""The harm that one more expert does to an ensemble, from scores of its members. numpy alone.

Bayes' rule bounds it. With the prior mass π on the new expert, the evidence of a sequence is at
least (1 - π) times what it was, so that the loss of T tokens grows by at most -ln(1 - π) nats in
all, whatever the expert predicts: under a uniform prior by ln((E + 1)/E), E members before it
(`worst_of_bayes`). Rules that forget, or have fitted weights, have no such bound: they are
measured.

Shapes: E experts, S windows, T tokens of a window. Scores are log p(x_t | x_<t, D=j) in nats.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior
from btm.ensemble.rule import Rule, ValidScores
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text


@dataclass(frozen=True)
class Held:
    """The scores of an ensemble's members on held-out text, (E, S, T), and its tokens."""

    logp: NDArray[np.float32]
    tokens: int
    text: Text

    def with_(self, logp: NDArray[np.float32]) -> "Held":
        """Add the scores of one more expert, (S, T)."""
        return Held(np.concatenate([self.logp, logp[None]]), self.tokens, self.text)

    def folds(self) -> list[tuple["Held", "Held"]]:
        """Cut the text between two windows: each half to fit on, with the other to measure on."""
        windows, window = self.logp.shape[1:]
        cut = (windows + 1) // 2
        first, second = self._part(0, cut, window), self._part(cut, windows, window)
        return [(first, second), (second, first)]

    @property
    def is_cut(self) -> bool:
        """Whether there are two windows at least, so that both halves have text."""
        return self.logp.shape[1] > 1

    def _part(self, first: int, last: int, window: int) -> "Held":
        begin, end = first * window, min(last * window, self.tokens)
        predicted = self.text.predicted
        text = Text(
            self.text.ids[begin:end],
            self.text.begins[begin:end],
            None if predicted is None else predicted[begin:end],
        )
        return Held(self.logp[:, first:last], end - begin, text)

    def nats(self, logp_N: NDArray[np.float64]) -> float:
        """Average the loss over the tokens that count, in nats per token."""
        counted = logp_N if self.text.predicted is None else logp_N[self.text.predicted]
        return -float(counted.mean())


def fitted(parts: Sequence[Held], ensemble: EnsembleConfig) -> Rule:
    """Fit the rule of an ensemble on texts; a rule without settings to fit is as it was."""
    rule = rule_of(ensemble)
    priors = [rule.fit_prior(part.logp, part.tokens) for part in parts]
    valid = [
        ValidScores(part.logp, log_prior_E, part.tokens, part.text)
        for part, log_prior_E in zip(parts, priors, strict=True)
    ]
    return rule.fit(valid) if valid else rule


def ensemble_nats(fitted_on: Held, measured: Held, rule: Rule) -> float:
    """Measure an ensemble's loss on a text, its prior fitted on another; in nats per token."""
    log_prior_E = rule.fit_prior(fitted_on.logp, fitted_on.tokens)
    return measured.nats(rule.mix(measured.logp, log_prior_E, measured.tokens, measured.text).logp)


def unfitted_nats(held: Held) -> float:
    """Measure an ensemble that has fitted nothing: Bayes' rule from a uniform prior, which begins
    anew in each window; on all of the text, in nats per token.
    """
    log_prior_E = posterior.uniform_prior(len(held.logp))
    rule = rule_of(EnsembleConfig(rule="bayes", prior="uniform"))
    return held.nats(rule.mix(held.logp, log_prior_E, held.tokens, held.text).logp)


@dataclass(frozen=True)
class Losses:
    """The losses of an ensemble on one domain, in nats per token."""

    unfitted: float  # Bayes' rule with nothing fitted, as of a domain that nobody knows yet
    own_rule: float | None  # the forest's rule, fitted on other text; None where that is not known

    def harm(self, after: "Losses") -> float:
        """Compute the greater growth of the two, in nats per token; < 0 where both fall."""
        grown = after.unfitted - self.unfitted
        if self.own_rule is None or after.own_rule is None:
            return grown
        return max(grown, after.own_rule - self.own_rule)


def losses(
    helds: Mapping[str, Held], fitted_on: Collection[str], ensemble: EnsembleConfig
) -> dict[str, Losses]:
    """Measure an ensemble on every domain of `helds`.

    Cross-fitted: what is fitted on one half of the texts is measured on the other, and the two
    are averaged. The rule is fitted once on all domains of `fitted_on`, as with
    ``ensemble.fit=forest``: a fit on one short text would be the greatest difference that is seen.
    The forest's own rule is left out where it needs a router, which knows no new expert.
    """
    measured: dict[str, list[float]] = {name: [] for name in helds}
    for fold in () if rule_of(ensemble).needs_route else (0, 1):
        cut = {name: held.folds()[fold] for name, held in helds.items() if held.is_cut}
        rule = fitted([cut[name][0] for name in fitted_on if name in cut], ensemble)
        for name, (first, second) in cut.items():
            measured[name].append(ensemble_nats(first, second, rule))
    return {
        name: Losses(unfitted_nats(held), float(np.mean(found)) if found else None)
        for (name, held), found in zip(helds.items(), measured.values(), strict=True)
    }


def worst_of_bayes(experts: int, window: int) -> float:
    """Bound what Bayes' rule from a uniform prior can lose by one expert more than `experts`, in
    nats per token of windows of `window` tokens.
    """
    return math.log((experts + 1) / experts) / window
