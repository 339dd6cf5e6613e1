"""The predictions of an ensemble that are kept: exact against the dense mixture, and their store."""

from pathlib import Path

import numpy as np
import pytest
import torch

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import targets
from btm.ensemble.targets import KEPT, Store, weigher
from btm.models import causal_lm

L = 16


@pytest.fixture
def models(forest):
    return [elm.load().float() for elm in forest.experts(["bible", "speeches"])]


@pytest.fixture
def tokens(models):
    rng = np.random.default_rng(0)
    return rng.integers(0, causal_lm.vocabulary(models[0]), (5, L + 1))


def dense(models, tokens, ensemble, prior):
    """Mix whole distributions token by token, by the rule's online weights; (R, L, V) of p."""
    from btm.ensemble.rules import rule_of

    with torch.no_grad():
        logp_E = [
            torch.log_softmax(model(torch.from_numpy(tokens[:, :-1])).logits.double(), -1).numpy()
            for model in models
        ]
    mixed = np.zeros(logp_E[0].shape)
    for r in range(len(tokens)):
        online = rule_of(ensemble).begin(np.log(prior))
        for t in range(L):
            weights = np.exp(online.log_weights)
            mixed[r, t] = sum(w * np.exp(p[r, t]) for w, p in zip(weights, logp_E, strict=True))
            token = tokens[r, t + 1]
            online.update([p[r, t, token] for p in logp_E], token)
    return mixed


@pytest.mark.parametrize("rule", ["bayes", "gated"])
def test_they_are_the_mixture_that_reads_token_by_token(models, tokens, rule, monkeypatch):
    monkeypatch.setattr(targets, "PART", 1)  # window by window
    ensemble, prior = EnsembleConfig(rule=rule), [0.9, 0.1]
    store = Store.of(Path("any"), {}, 0, L, causal_lm.vocabulary(models[0]))
    found = targets.targets(models, tokens, weigher(ensemble, prior), store.dtype)
    p_RLV = dense(models, tokens, ensemble, prior)
    kept = np.take_along_axis(p_RLV, found["ids"].astype(np.int64), -1)
    np.testing.assert_allclose(np.exp(found["logp"]), kept, rtol=2e-4)
    np.testing.assert_allclose(np.exp(found["rest"]), 1 - kept.sum(-1), rtol=2e-4, atol=1e-6)
    top = np.sort(p_RLV, -1)[..., ::-1][..., :KEPT]
    np.testing.assert_allclose(kept, top, rtol=2e-4)
    whole = np.exp(found["logp"]).sum(-1) + np.exp(found["rest"])
    np.testing.assert_allclose(whole, 1, atol=1e-5)


def test_a_store_gives_back_what_it_was_given(tmp_path):
    store = Store.of(tmp_path, {"elms": {"a": "1"}}, 0, L, 300)
    made = np.zeros((3, L), store.dtype)
    made["rest"] = np.arange(3)[:, None]
    store.write(2, made, {"elms": {"a": "1"}})
    assert (store.read(2, 3) == made).all()
    assert store.read(2, 4) is None  # shorter than asked
    assert store.read(0, 1) is None
    path = store.path(2)
    path.write_bytes(path.read_bytes()[:-40])
    assert store.read(2, 1) is None
    assert not path.exists()


def test_another_ensemble_has_a_store_of_its_own(tmp_path):
    one, other = (Store.of(tmp_path, {"elms": {"a": x}}, 0, L, 300) for x in "12")
    assert one.folder != other.folder
    assert Store.of(tmp_path, {"elms": {"a": "1"}}, 0, L, 1 << 17).dtype["ids"].base == np.uint32
