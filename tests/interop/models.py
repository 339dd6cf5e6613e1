"""Tiny real models of many architectures, as Hugging Face folders with a tokenizer."""

import shutil
from pathlib import Path

import torch

IDS = torch.arange(2 * 20).view(2, 20) % 300
SIZES = {
    "llama": {"num_key_value_heads": 2},
    "mixtral": {"num_key_value_heads": 1, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 16},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "phi": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {
        "ffn_dim": 48,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 32,
        "pad_token_id": 1,
    },
    "bloom": {"n_layer": 2, "n_head": 2},
    "xglm": {
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 2,
        "attention_heads": 2,
        "pad_token_id": 1,
    },
}
_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_NAMED_OTHERWISE = ("gpt2", "bloom", "xglm")


def make_model(model_type="llama", seed=0, dtype=torch.float32, vocab_size=512, **values):
    """A model with random parameters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32} if model_type == "bloom" else {}
    sizes = sizes if model_type in _NAMED_OTHERWISE else _COMMON
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(
        model_type, **{"vocab_size": vocab_size, **ids, **sizes, **SIZES[model_type], **values}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def make_folder(folder, tokenizer, model_type="llama", **values):
    """A model folder as its authors would publish it."""
    shard = values.pop("shard", "5GB")
    Path(folder).mkdir(parents=True)
    make_model(model_type, **values).save_pretrained(folder, max_shard_size=shard)
    for file in Path(tokenizer).iterdir():
        if file.name != "origin.json":
            shutil.copyfile(file, Path(folder) / file.name)
    (Path(folder) / "README.md").write_text(
        "---\nlicense: apache-2.0\ntags:\n- test\n---\n# a model\n"
    )
    return Path(folder)
