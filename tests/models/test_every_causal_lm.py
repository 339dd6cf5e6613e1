"""Every causal LM that the installed transformers knows: what is planted is what is saved.

All on torch's meta device, at two layers where the type allows that. A type that cannot be made
stands in `NOT_MADE` with what is said of it, so a newer transformers that mends it fails here.
"""

import math

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from btm.config.training import ModelConfig
from btm.errors import UserError
from btm.models import causal_lm, configs, flops

pytestmark = [pytest.mark.slow, pytest.mark.traced]

VOCABULARY = 512
# Fields without which the defaults of a class make no model.
NEEDED = {
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "hunyuan_v1_dense": {"head_dim": 64},
    "hunyuan_v1_moe": {"head_dim": 64},
    "lfm2_moe": {"layer_types": ["full_attention"] * 2},
    "ministral": {"head_dim": 64},
    "qwen4_exp_text": {"head_dim": 64},
    "reformer": {"is_decoder": True},
}
# Their number of layers is tied to other fields, or lies in several sections.
AS_THEY_ARE = (
    "gemma3n_text",
    "gemma4_unified_assistant",
    "gpt_neo",
    "moss_transcribe_diarize",
    "prophetnet",
    "zamba",
    "zamba2",
)
NOT_MADE = {
    "cohere_compass_text": "'full_attention'",  # its defaults have no rotary base for these layers
    "dbrx": "'DbrxAttentionConfig' object has no attribute 'rope_theta'",
    "emu3": "saved as 'emu3_text_model', of which transformers makes no causal LM",
    "gemma3n": "requires the timm library",
    "gemma4_assistant": "must be 0",  # it drafts for a larger model, whose keys it reads
    "mllama": "saved as 'mllama_text_model', of which transformers makes no causal LM",
    "musicgen": "'MusicgenConfig' object has no attribute 'dropout'",
    "musicgen_melody": "'MusicgenMelodyConfig' object has no attribute 'dropout'",
    "nemotron": "unsupported operand type(s) for //: 'int' and 'NoneType'",
    "qwen4_exp": "unsupported operand type(s) for //: 'NoneType' and 'NoneType'",
}
# Rows of embeddings that are no tokens of the vocabulary: prompts, silence; bytes alone.
OTHER_ROWS = {"blt": 260, "cpmant": 1536, "moshi": VOCABULARY + 1}
NO_LIMIT = (
    "bloom",
    "cpmant",
    "falcon_mamba",
    "mamba",
    "mamba2",
    "recurrent_gemma",
    "xlnet",
    "xlstm",
)


def config_of(model_type):
    layers = {} if model_type in AS_THEY_ARE else {"num_hidden_layers": 2}
    fields = {"model_type": model_type, **layers, **NEEDED.get(model_type, {})}
    return configs.make_config(ModelConfig(config=fields), VOCABULARY, 0)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "model_type", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(NOT_MADE))
)
def test_what_is_planted_is_what_is_saved(model_type):
    config = config_of(model_type)
    model = configs.empty_model(config)
    saved = configs.reloaded(model.config)
    assert configs.differences(config, saved) == []
    assert configs.fingerprint(config) == configs.fingerprint(saved)
    assert shapes(model) == shapes(configs.empty_model(saved))
    assert causal_lm.vocabulary(model) == OTHER_ROWS.get(model_type, VOCABULARY)
    shape = flops.Shape.of(model)
    assert shape.matrix_parameters > 0 and math.isfinite(shape.training_flops(32))
    limit = causal_lm.context_limit(config.to_dict())
    assert (limit is None) == (model_type in NO_LIMIT)


@pytest.mark.parametrize("model_type", NOT_MADE)
def test_what_cannot_be_made_is_said_in_a_line(model_type):
    with pytest.raises(UserError) as error:
        config_of(model_type)
    assert NOT_MADE[model_type] in str(error.value)
    assert "\n" not in str(error.value)
