"""What rules and the cache keep is bounded, however long one text is."""

import numpy as np
import pytest

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import cache, text
from btm.ensemble.posterior import uniform_prior
from btm.ensemble.rules import rule_of


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    logp = -rng.random((3, 40, 25), np.float32) * 5 - 0.1
    begins = np.zeros(1000, bool)
    begins[[0, 30, 700]] = True
    return logp, text.Text(rng.integers(0, 40, 1000), begins)


def test_memory_begins_anew_within_a_document_that_is_very_long(scored, monkeypatch):
    _, words = scored
    assert np.flatnonzero(text.resets("document", 1000, 25, words)).tolist() == [0, 30, 700]
    monkeypatch.setattr(text, "LONGEST", 300)
    assert np.flatnonzero(text.resets("document", 1000, 25, words)).tolist() == [
        *(0, 30, 330, 630, 700)
    ]


@pytest.mark.parametrize("rule", ["gated", "bayes", "fixed_share"])
def test_a_text_in_portions_is_mixed_as_a_whole(scored, rule, monkeypatch):
    logp, words = scored
    config = EnsembleConfig(
        rule=rule, carry="document", alpha=0.1 if rule == "fixed_share" else None
    )
    whole = rule_of(config).mix(logp, uniform_prior(3), 1000, words)
    monkeypatch.setattr(text, "_PORTION", 100)
    monkeypatch.setattr(text, "_MOST", 100)
    apart = rule_of(config).mix(logp, uniform_prior(3), 1000, words)
    # Scores are float32: its exponential depends on where a number lies in a register.
    np.testing.assert_allclose(apart.logp, whole.logp, rtol=1e-7)
    np.testing.assert_allclose(apart.mean_posterior, whole.mean_posterior, rtol=1e-7)


def test_the_cache_counts_portions_as_the_whole(scored, monkeypatch):
    logp, words = scored
    read = cache.Read(logp[0].reshape(-1), words.ids, text.resets("window", 1000, 25, words))
    weights = cache.fit([read])
    mixed = cache.mix(read, weights)
    monkeypatch.setattr(text, "_PORTION", 60)
    np.testing.assert_allclose(cache.fit([read]), weights, rtol=1e-9)
    np.testing.assert_array_equal(cache.mix(read, weights), mixed)
