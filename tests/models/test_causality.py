"""A model that sees what it is to predict is told from one that reads from left to right."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput

from btm.errors import UserError
from btm.models.causality import require_causal

_SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "n_words": 100}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


def make(model_type, dtype=torch.float32, **values):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **{**_SIZES, **values})
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.mark.parametrize(
    ("model_type", "values"),
    [
        ("bert", {}),
        ("roberta", {}),
        ("electra", {}),
        ("rembert", {}),
        ("megatron-bert", {}),
        ("bert", {"dtype": torch.bfloat16}),
        ("bert", {"dtype": torch.float16}),
        ("bert", {"max_position_embeddings": 2}),
        ("xlm", _XLM),
        ("gemma3_text", {"use_bidirectional_attention": True}),
        ("gemma3_text", {"use_bidirectional_attention": True, "sliding_window": 2}),
    ],
)
def test_what_reads_both_ways_is_refused(model_type, values):
    with pytest.raises(UserError, match="it: no causal LM: another token moves the logits before"):
        require_causal(make(model_type, **values), "it")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_type", "values"),
    [
        ("llama", {}),
        ("gemma3_text", {}),
        ("bert", {"is_decoder": True}),
        ("roberta", {"is_decoder": True}),
        ("xlm", {"causal": True, **_XLM}),
        ("mamba", {}),
        ("mixtral", {"num_local_experts": 4}),
        ("olmoe", _EXPERTS),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 4}),
    ],
)
def test_what_reads_from_left_to_right_passes_and_stays_as_it_was(model_type, values, dtype):
    model = make(model_type, dtype, **values).train()
    before = [parameter.clone() for parameter in model.parameters()]
    require_causal(model, "it")
    assert model.training and model.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


class Prefix(nn.Module):
    """A model of one average over what a token sees: all before it, and the whole of a prefix."""

    def __init__(self, prefix, behind=0):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)
        self.prefix, self.behind = prefix, behind
        self.config, self.dtype, self.device = PretrainedConfig(), torch.float32, "cpu"

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, use_cache):
        at = torch.arange(input_ids.shape[1])
        sees = (at[:, None] + self.behind >= at) | (at < self.prefix)
        seen = sees / sees.sum(1, keepdim=True)
        return CausalLMOutput(logits=self.head(seen @ self.embed(input_ids)))


def test_a_prefix_that_is_read_both_ways_and_a_token_ahead_are_found():
    require_causal(Prefix(0), "it")
    for model in (Prefix(2), Prefix(5), Prefix(0, behind=1)):
        with pytest.raises(UserError, match="no causal LM"):
            require_causal(model, "it")
