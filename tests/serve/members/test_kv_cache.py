"""Texts that join, leave and are read together have the logits that each has alone."""

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from btm.serve.members.kv_cache import Alone, Batch, can_batch

VOCABULARY = 60
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": LLAMA,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},  # ALiBi, from the mask
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},  # ALiBi, from the column
    "opt": {  # learned positions with an offset
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 32,
    },
    "mistral": LLAMA | {"sliding_window": 8},
    "gemma2": LLAMA | {"sliding_window": 8, "head_dim": 8},  # every other layer slides
    "qwen2_moe": LLAMA
    | {
        "moe_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "shared_expert_intermediate_size": 16,
    },
}
RECURRENT = {"mamba": {"hidden_size": 32, "num_hidden_layers": 2}}
MOVING = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}


def model_of(kind, sizes):
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **ends, **sizes)
    return AutoModelForCausalLM.from_config(config).eval()


class Walk:
    """Texts that join and leave at random; each piece that is read is compared."""

    def __init__(self, model, kind, atol=1e-5):
        self.model, self.kind, self.atol = model, kind, atol
        self.rng = random.Random(0)
        numbers = range(VOCABULARY)
        self.texts = [self.rng.choices(numbers, k=120) for _ in range(9)]
        self.read = {}
        self.batch = kind(model)
        self.compared = 0

    def compare(self, numbers, logits_RTV):
        for number, logits_TV in zip(numbers, logits_RTV, strict=True):
            with torch.inference_mode():
                text = torch.tensor([self.texts[number][: self.read[number]]])
                wanted = self.model(input_ids=text, use_cache=False).logits[0]
            assert torch.allclose(logits_TV[-1], wanted[-1], atol=self.atol)
            self.compared += 1

    def join(self, count):
        new = [n for n in range(len(self.texts)) if n not in self.read][:count]
        if not new:
            return
        self.join_as([self.rng.randrange(1, 40) for _ in new])

    def join_as(self, lengths):
        """Let texts of so many tokens join."""
        new = [n for n in range(len(self.texts)) if n not in self.read][: len(lengths)]
        other = self.kind(self.model, new)
        self.read |= dict(zip(new, lengths, strict=True))
        width = max(self.read[number] for number in new)
        tokens = torch.zeros(len(new), width, dtype=torch.long)
        for row, number in enumerate(new):
            tokens[row, width - self.read[number] :] = torch.tensor(
                self.texts[number][: self.read[number]]
            )
        lengths = torch.tensor([self.read[number] for number in new])
        real = torch.arange(width) >= width - lengths[:, None]
        half = width // 2
        with torch.inference_mode():
            if half:
                other.read(tokens[:, :half], real[:, :half])
            found = other.read(tokens[:, half:], real[:, half:], last=self.rng.random() < 0.5)
            self.compare(new, found)
        self.batch.absorb(other)  # as an actor does, which is in no inference mode

    def advance(self):
        numbers = self.batch.numbers
        if not numbers:
            return
        tokens = torch.tensor([[self.texts[n][self.read[n]]] for n in numbers])
        for number in numbers:
            self.read[number] += 1
        with torch.inference_mode():
            self.compare(numbers, self.batch.read(tokens))

    def advance_some(self):
        """Read a token of some texts, while the others wait."""
        numbers = self.batch.numbers
        some = [n for n in numbers if self.rng.random() < 0.5]
        if not some:
            return
        tokens = torch.tensor([[self.texts[n][self.read[n]]] for n in numbers])
        real = torch.tensor([[n in some] for n in numbers])
        for number in some:
            self.read[number] += 1
        with torch.inference_mode():
            logits_RTV = self.batch.read(tokens, None if real.all() else real)
        self.compare(some, logits_RTV[real[:, 0]])

    def leave(self, numbers):
        self.batch.drop(numbers)
        self.read = {n: count for n, count in self.read.items() if n not in numbers}

    def go(self, steps):
        for _ in range(steps):
            self.leave([n for n in self.batch.numbers if self.read[n] >= 119])
            chance = self.rng.random()
            if chance < 0.3:
                self.join(self.rng.choice((1, 2, 3)))
            elif chance < 0.45 and self.batch.numbers:
                self.leave([self.rng.choice(self.batch.numbers), 99])
            elif chance < 0.6:
                self.advance_some()
            else:
                self.advance()
        assert self.compared > steps


@pytest.mark.parametrize("kind", SIZES)
def test_texts_join_and_leave(kind):
    model = model_of(kind, SIZES[kind])
    assert can_batch(model)
    Walk(model, Batch).go(60)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_model_with_a_state_reads_each_text_alone(kind):
    model = model_of(kind, RECURRENT[kind])
    assert not can_batch(model)
    Walk(model, Alone, atol=5e-3).go(30)  # it adds up in another order


def test_positions_that_depend_on_other_texts_are_not_batched():
    assert not can_batch(model_of("llama", LLAMA | MOVING))


def test_memory_that_texts_have_left_is_used_again():
    model = model_of("llama", LLAMA)
    walk = Walk(model, Batch)
    for _ in range(30):
        walk.join(3)
        for _ in range(5):
            walk.advance()
        walk.leave(list(walk.batch.numbers))
    rows, columns = walk.batch._layout.shape
    assert rows <= 6
    assert columns <= 256


def test_a_long_text_joins_a_short_one_that_ends_far_to_the_right():
    """There is less room before the common end than the new text needs."""
    model = model_of("llama", LLAMA)
    walk = Walk(model, Batch)
    for length in (40, 3):
        walk.join_as([length])
        for _ in range(15):
            walk.advance()
    walk.leave([0])
    walk.join_as([85])
    walk.advance()
    assert walk.compared == 1 + 15 + 1 + 2 * 15 + 1 + 2


@pytest.mark.parametrize("kind", [Batch, Alone])
def test_a_piece_without_a_token_and_texts_that_leave_before_the_first(kind):
    model = model_of("llama", LLAMA)
    batch = kind(model, [0, 1, 2])
    with torch.inference_mode():
        batch.drop([0])
        assert sorted(batch.numbers) == [1, 2]
        nothing = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, dtype=torch.bool)
        assert batch.read(*nothing).shape == (2, 4, VOCABULARY)
        found = batch.read(torch.tensor([[3], [4]]))
        wanted = model(input_ids=torch.tensor([[3], [4]])).logits
    assert torch.allclose(found, wanted, atol=1e-5)


def test_memory_is_given_back_once_nothing_is_read():
    walk = Walk(model_of("llama", LLAMA), Batch)
    walk.join_as([100])
    walk.leave([0])
    assert all(layer.keys is None for layer in walk.batch._layers)
    walk.join_as([3])
    assert walk.batch._layout.shape[1] < 100


def test_texts_join_and_leave_where_reading_has_laid_out_more_room():
    """Tensors made in inference mode may not be written to outside of it."""
    walk = Walk(model_of("llama", LLAMA), Batch)
    walk.join_as([3, 3])
    for _ in range(70):
        walk.advance()
    assert walk.batch._layers[0].keys.is_inference()
    walk.leave([0])
    walk.advance()
    walk.join_as([3])
    walk.advance()
