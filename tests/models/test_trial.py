"""A model is tried before it is kept; what it lacks is named."""

import pytest
import torch
from folders import tree
from interop.models import make_model

from btm.errors import UserError
from btm.models import causal_lm, trial


def test_a_model_comes_back_as_it_was(tmp_path):
    model = make_model().train()
    state = torch.get_rng_state()
    kept = trial.comes_back(model, 8, tmp_path / "place", "it", vocabulary=512)
    trial.train(model, 8, "it")
    assert kept.model_type == "llama"
    assert not (tmp_path / "place").exists()
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_vocabulary_larger_than_the_models_is_refused():
    with pytest.raises(UserError, match="it: embeddings for 512 tokens, the tokenizer has 513"):
        trial.run(make_model(), 8, "it", vocabulary=513)


def test_weights_that_saving_loses_are_noticed(tmp_path):
    """As those of an architecture whose code names tensors that it does not store."""
    model = make_model(tie_word_embeddings=False)
    model._keys_to_ignore_on_save = ["model.norm.weight"]
    with pytest.raises(UserError, match=r"^it: once saved, it does not load: .*norm"):
        trial.comes_back(model, 8, tmp_path, "it")
    assert tree(tmp_path) == {}


def test_a_config_that_saving_changes_is_noticed(tmp_path):
    """As those of an architecture that writes a field on the way out."""
    model = make_model()
    model.save_pretrained = make_model(rms_norm_eps=0.5).save_pretrained
    with pytest.raises(UserError, match=r"it: its config changes when it is saved: rms_norm_eps"):
        trial.comes_back(model, 8, tmp_path, "it")


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "gpt2"}, 1024),  # a config.json that leaves it to the class
        ({"model_type": "mpt", "max_seq_len": 7}, 7),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 9}}, 9),
        ({"model_type": "whisper", "max_source_positions": 3, "max_target_positions": 5}, 5),
        ({"model_type": "kimi_linear", "model_max_length": 11}, 11),
        ({"model_type": "bloom", "seq_length": 2048}, None),  # what it was trained on
        ({"model_type": "mamba", "hidden_size": 8}, None),
        ({"model_type": "nobody knows"}, None),
    ],
)
def test_positions_are_found_under_every_name(config, limit):
    assert causal_lm.context_limit(config) == limit
