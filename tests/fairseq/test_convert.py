"""Models of fairseq computed by transformers, and written back for fairseq."""

import json

import numpy as np
import pytest
import torch
from fairseq_models import MODELS

from btm.models import load_model


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_fairseq(place, converted, name):
    model = load_model(converted[name])
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(np.load(place / "inputs.npy"))).logits.numpy()
    wanted = np.load(place / "models" / name / "logits.npy")
    assert wanted.std() > 0.1
    print(name, type(model).__name__, np.abs(found - wanted).max())
    assert np.abs(found - wanted).max() <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_back_is_worth_as_much_to_fairseq(place, returned, name):
    wanted = json.loads((place / "perplexities.json").read_text())[name]["loss"]
    found = returned[1][f"eval {name}"]["loss"]
    print(name, wanted, found, abs(found - wanted))
    assert 3 < wanted < 10
    assert abs(found - wanted) <= 1e-6
