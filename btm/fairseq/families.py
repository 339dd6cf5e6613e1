"""The three architectures of `transformers` that fairseq has too: their parameters and settings."""

from collections.abc import Mapping
from dataclasses import dataclass

from btm.errors import UserError
from btm.fairseq.architecture import Architecture
from btm.system.json_files import Json


@dataclass(frozen=True)
class Family:
    """A model_type of transformers: the names of its parameters and of its settings."""

    name: str
    model_class: str
    body: str  # prefix of the layers in the names of parameters
    last_norm: str
    output: str
    keys: dict[str, str]  # {field of `Architecture`: key of config.json}
    fixed: Mapping[str, bool]  # values that config.json must have besides


_COMMON = {"vocab": "vocab_size", "positions": "max_position_embeddings", "layerdrop": "layerdrop"}
FAMILIES = {
    "xglm": Family(
        "xglm",
        "XGLMForCausalLM",
        "model",
        "layer_norm",
        "lm_head",
        _COMMON
        | {
            "width": "d_model",
            "ffn": "ffn_dim",
            "layers": "num_layers",
            "heads": "attention_heads",
            "activation": "activation_function",
            "dropout": "dropout",
            "attention_dropout": "attention_dropout",
            "activation_dropout": "activation_dropout",
            "scaled": "scale_embedding",
        },
        {"add_cross_attention": False},
    ),
    "biogpt": Family(
        "biogpt",
        "BioGptForCausalLM",
        "biogpt",
        "layer_norm",
        "output_projection",
        _COMMON
        | {
            "width": "hidden_size",
            "ffn": "intermediate_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "activation": "hidden_act",
            "dropout": "hidden_dropout_prob",
            "attention_dropout": "attention_probs_dropout_prob",
            "activation_dropout": "activation_dropout",
            "scaled": "scale_embedding",
        },
        {},
    ),
    "opt": Family(
        "opt",
        "OPTForCausalLM",
        "model.decoder",
        "final_layer_norm",
        "lm_head",
        _COMMON
        | {
            "width": "hidden_size",
            "ffn": "ffn_dim",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "activation": "activation_function",
            "dropout": "dropout",
            "attention_dropout": "attention_dropout",
            "pre_norm": "do_layer_norm_before",
        },
        {
            "enable_bias": True,
            "layer_norm_elementwise_affine": True,
            "_remove_final_layer_norm": False,
        },
    ),
}


def family_of(model: Architecture) -> Family:
    """Choose the architecture of transformers that computes the same as `model`."""
    if model.pre_norm and not model.learned:
        return FAMILIES["xglm"]
    return FAMILIES["biogpt" if model.pre_norm and model.scaled else "opt"]


def describe(model: Architecture, family: Family) -> Json:
    """Write the config.json of `model`."""
    return {
        "architectures": [family.model_class],
        "model_type": family.name,
        **{key: getattr(model, field) for field, key in family.keys.items()},
        **family.fixed,
        "tie_word_embeddings": model.tied,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }


def understand(config: Json, where: str) -> tuple[Architecture, Family]:
    """Read the architecture in a config.json; `UserError` if fairseq has no such model."""
    family = FAMILIES.get(config["model_type"])
    if family is None:
        have = ", ".join(FAMILIES)
        raise UserError(
            f"{where}: model_type {config['model_type']!r}; fairseq has equivalents of {have} only"
        )
    from transformers import CONFIG_MAPPING

    settings = {key: value for key, value in config.items() if key != "model_type"}
    full = CONFIG_MAPPING[family.name](**settings).to_dict()
    wanted = dict(family.fixed)
    if family.name == "opt":  # fairseq has no embeddings narrower than the layers
        wanted["word_embed_proj_dim"] = full.get("hidden_size")
    for key, value in wanted.items():
        if full.get(key, value) != value:
            raise UserError(f"{where}: {key}={full[key]!r}; fairseq supports {value!r} only")
    flags = {"learned": family.name != "xglm", "scaled": False, "pre_norm": True}
    found = {field: full[key] for field, key in family.keys.items()}
    return Architecture(**(flags | found | {"tied": bool(full["tie_word_embeddings"])})), family
