"""The posterior protects the forest: whatever a new expert predicts, the ensemble loses little."""

from dataclasses import replace

import numpy as np
import pytest

from btm.commons.gate.harm import Held, ensemble_nats, fitted, losses, unfitted_nats, worst_of_bayes
from btm.config.ensemble import EnsembleConfig
from btm.ensemble.text import Text

EXPERTS, WINDOWS, WINDOW = 3, 6, 32
TOKENS = WINDOWS * WINDOW - 5


def held(seed):
    draw = np.random.default_rng(seed)
    logp = -draw.gamma(2.0, 1.5, (EXPERTS, WINDOWS, WINDOW)).astype(np.float32)
    logp.reshape(EXPERTS, -1)[:, TOKENS:] = 0
    begins = np.zeros(TOKENS, bool)
    return Held(logp, TOKENS, Text(draw.integers(0, 50, TOKENS), begins))


def bad(kind, of):
    """The scores of an expert that means harm."""
    draw = np.random.default_rng(9)
    best = of.logp.max(axis=0)
    return {
        "hopeless": np.full_like(best, -40.0),
        "random": -draw.gamma(2.0, 6.0, best.shape).astype(np.float32),
        # Good until it is trusted, then as bad as can be.
        "two-faced": np.where(np.arange(WINDOW) < WINDOW // 2, best + 1, -40.0).astype(np.float32),
    }[kind]


@pytest.mark.parametrize("kind", ["hopeless", "random", "two-faced"])
@pytest.mark.parametrize("seed", range(3))
def test_bayes_loses_no_more_than_its_bound(kind, seed):
    before = held(seed)
    lost = unfitted_nats(before.with_(bad(kind, before))) - unfitted_nats(before)
    # Windows are whole but for the last, which counts in full against fewer tokens.
    assert lost <= worst_of_bayes(EXPERTS, WINDOW) * WINDOWS * WINDOW / TOKENS + 1e-9
    if kind == "hopeless":
        assert lost > 0.9 * worst_of_bayes(EXPERTS, WINDOW)


def test_a_rule_without_memory_is_harmed_and_that_is_measured():
    before = held(0)
    rule = EnsembleConfig(rule="simple", prior="uniform")
    domains = {"law": before}
    after = {"law": before.with_(bad("hopeless", before))}
    found = losses(domains, ["law"], rule)["law"].harm(losses(after, ["law"], rule)["law"])
    assert found == pytest.approx(np.log((EXPERTS + 1) / EXPERTS), rel=1e-3)


def test_a_good_expert_does_no_harm_beyond_the_bound():
    before = held(1)
    better = before.with_((before.logp.max(axis=0) * 0.5).astype(np.float32))
    rule = EnsembleConfig(rule="bayes", prior="cached")
    found = losses({"a": before}, [], rule)["a"].harm(losses({"a": better}, [], rule)["a"])
    assert found < 0


def test_a_prior_is_fitted_on_other_windows_than_it_is_measured_on():
    before = held(2)
    (first, second), swapped = before.folds()
    assert swapped == (second, first)
    assert first.logp.shape[1] + second.logp.shape[1] == WINDOWS
    assert first.tokens + second.tokens == TOKENS
    rule = fitted([first], EnsembleConfig(rule="bayes", prior="em"))
    alike = replace(first, logp=first.logp - 1.0)  # in all experts: the posterior is the same
    found = ensemble_nats(first, second, rule)
    assert ensemble_nats(alike, second, rule) == pytest.approx(found, rel=1e-6)
    other = replace(first, logp=first.logp + np.arange(EXPERTS, dtype=np.float32)[:, None, None])
    assert ensemble_nats(other, second, rule) != pytest.approx(found, rel=1e-6)
