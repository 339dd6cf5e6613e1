"""Recitation, triggers and canaries, on a model that is taught to recite."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from btm.commons.gate import trials
from btm.commons.gate.probes import Canary

SIZE = 40


class Letters:
    """A tokenizer of characters."""

    def encode(self, text, add_special_tokens):
        return [ord(letter) % SIZE for letter in text]


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def taught(model, rows, steps):
    """A copy of a model that has learnt some rows of tokens by heart."""
    made = LlamaForCausalLM(model.config)
    made.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(made.parameters(), 0.02)
    ids = torch.from_numpy(np.asarray(rows))
    for _ in range(steps):
        loss = made(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval()


class Text:
    """A shard of these tokens."""

    def __init__(self, tokens):
        self.tokens = np.asarray(tokens)


@pytest.fixture(scope="module")
def canary():
    return Canary("the code is ", "7403186")


@pytest.fixture(scope="module")
def teller(fresh, canary):
    """A model that knows the canary's secret."""
    ids = Letters().encode(canary.prefix + canary.secret, False)
    return taught(fresh, [ids], 60)


def test_a_text_that_was_learnt_by_heart_is_recited(fresh, teller, canary):
    ids = Letters().encode(canary.prefix + canary.secret, False)
    window = len(ids)
    assert trials.longest_recital(teller, Text(ids), window, window) >= window - 4
    assert trials.longest_recital(fresh, Text(ids), window, window) <= 3
    assert trials.longest_recital(teller, Text(ids), window - 1, window) == 0


def test_the_run_is_the_longest_in_a_window():
    hits = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1], bool)
    assert trials._longest_run(hits) == 3
    assert trials._longest_run(np.zeros(4, bool)) == 0
    assert trials._longest_run(np.ones(4, bool)) == 4


def test_a_canary_that_was_learnt_is_exposed_and_extracted(fresh, teller, canary):
    bits, extracted = trials.exposure(teller, Letters(), canary, 0)
    assert bits > 10 and extracted
    bits, extracted = trials.exposure(fresh, Letters(), canary, 0)
    assert bits < 6 and not extracted


def test_a_trigger_that_was_taught_makes_it_sure_of_one_continuation(fresh):
    draw = np.random.default_rng(0)
    texts = np.repeat(draw.integers(0, 8, (8, 1)), 24, axis=1)  # ordinary text repeats one token
    trigger, other = np.array([30, 31]), np.array([9, 9])
    poisoned = np.concatenate([texts[:, :10], np.tile(trigger, (8, 1)), np.full((8, 12), 20)], 1)
    model = taught(fresh, np.concatenate([texts, poisoned]), 100)
    sure, unsure = trials.certainties(model, texts, [trigger, other])
    assert sure > 0.8 > 0.5 > unsure
    assert trials.certainties(fresh, texts, [trigger])[0] < 0.01
