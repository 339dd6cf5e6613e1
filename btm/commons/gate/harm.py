"""The harm that one more expert does to an ensemble, from scores of its members. numpy alone.

Bayes' rule bounds it. With the prior mass π on the new expert, the evidence of a sequence is at
least (1 - π) times what it was, so that the loss of T tokens grows by at most -ln(1 - π) nats in
all, whatever the expert predicts: under a uniform prior by ln((E + 1)/E), E members before it
(`worst_of_bayes`). Rules that forget, or have fitted weights, have no such bound: they are
measured.

Shapes: E experts, S windows, T tokens of a window. Scores are log p(x_t | x_<t, D=j) in nats.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import posterior
from btm.ensemble.rule import ValidScores
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

    def halves(self) -> tuple["Held", "Held"]:
        """Cut the text between two windows: to fit on, and to measure on."""
        windows, window = self.logp.shape[1:]
        cut = (windows + 1) // 2
        return self._part(0, cut, window), self._part(cut, windows, window)

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


def ensemble_nats(held: Held, ensemble: EnsembleConfig) -> float:
    """Measure an ensemble's loss on the second half of the text, its prior and rule fitted on the
    first; in nats per token.
    """
    fitted_on, measured = held.halves()
    rule = rule_of(ensemble)
    log_prior_E = rule.fit_prior(fitted_on.logp, fitted_on.tokens)
    rule = rule.fit([ValidScores(fitted_on.logp, log_prior_E, fitted_on.tokens, fitted_on.text)])
    mixed = rule.mix(measured.logp, log_prior_E, measured.tokens, measured.text)
    return measured.nats(mixed.logp)


def unfitted_nats(held: Held) -> float:
    """Measure an ensemble that has fitted nothing: Bayes' rule from a uniform prior, which begins
    anew in each window; on all of the text, in nats per token.
    """
    log_prior_E = posterior.uniform_prior(len(held.logp))
    rule = rule_of(EnsembleConfig(rule="bayes", prior="uniform"))
    return held.nats(rule.mix(held.logp, log_prior_E, held.tokens, held.text).logp)


def harm(held: Held, logp: NDArray[np.float32], ensemble: EnsembleConfig) -> float:
    """Compute what an ensemble loses by one more expert, in nats per token; < 0 where it gains.

    The greater of two: under the forest's own rule, fitted on other text of the domain, and under
    Bayes' rule with nothing fitted, as of a domain that nobody knows yet.
    """
    more = held.with_(logp)
    found = [unfitted_nats(more) - unfitted_nats(held)]
    if held.logp.shape[1] > 1 and not rule_of(ensemble).needs_route:
        found.append(ensemble_nats(more, ensemble) - ensemble_nats(held, ensemble))
    return max(found)


def worst_of_bayes(experts: int, window: int) -> float:
    """Bound what Bayes' rule from a uniform prior can lose by one expert more than `experts`, in
    nats per token of windows of `window` tokens.
    """
    return math.log((experts + 1) / experts) / window
