"""The architecture of a model: its config, and the fingerprint that the ELMs of a forest share.

A config is what `transformers` saves of a model, not what was asked for: some classes write more
into it when a model is made (a decoder of BART says so, the text part of a model with vision stands
alone), and only what is saved is the same when it is loaded again.
"""

import hashlib
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.training import ModelConfig
from btm.errors import UserError, nearest, unknown
from btm.models.causal_lm import made_of, quiet, read_config, text_config, why
from btm.system.json_files import Json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Fields of a config.json, at any depth, that do not change the function that the parameters
# compute.
_VOLATILE = {
    "_name_or_path",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}
_OF_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def make_config(model: ModelConfig, vocab_size: int, eos: int) -> "PretrainedConfig":
    """Make the `transformers` config of `model` with the vocabulary of a tokenizer.

    It is as its model will be saved. Raises `UserError` for a type that is no causal LM, a field of
    model.config that the type does not have, and a config of which no model can be made.
    """
    values = dict(model.config) if model.file is None else read_config(Path(model.file))
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise UserError(
            f"model {model.name!r} has no model_type: give model=pico or model.file=config.json"
        )
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or model_type not in CONFIG_MAPPING:
        close = nearest(str(model_type), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise UserError(f"model_type {model_type!r} is no causal LM of transformers{close}")
    ids = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}
    try:
        with quiet():
            if model.file is None:
                _require_known(values, model_type)
            made = as_saved(_over_tokens(model_type, values, {"vocab_size": vocab_size, **ids}))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each architecture refuses values in its own way
        raise UserError(f"{called(model)}: {why(error)}") from None
    layers = getattr(text_config(made), "num_hidden_layers", None)
    if type(layers) is int and layers < 1:
        raise UserError(f"{called(model)}: {layers} layers; wanted 1 or more")
    return made


def called(model: ModelConfig) -> str:
    """Name `model` as the user did."""
    return f"model={model.name}" if model.file is None else f"model.file={model.file}"


def as_saved(config: "PretrainedConfig") -> "PretrainedConfig":
    """Return the config that a model of `config` comes back with once it is saved.

    Raises `UserError` if the architecture's code cannot make such a model, or saves one of a type
    that is no causal LM by itself.
    """
    from transformers import AutoModelForCausalLM

    saved = reloaded(empty_model(config).config)
    if type(saved) not in AutoModelForCausalLM._model_mapping:
        raise UserError(
            f"model_type {config.model_type!r} is saved as {saved.model_type!r}, of which "
            "transformers makes no causal LM"
        )
    return saved


def empty_model(config: "PretrainedConfig") -> "PreTrainedModel":
    """Make a float32 model of `config` on torch's meta device: shapes without memory.

    Raises `UserError` if the architecture's code cannot.
    """
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("meta"), quiet():
        return made_of(config)


def reloaded(config: "PretrainedConfig") -> "PretrainedConfig":
    """Save a config and load it again, as `transformers` does with a model's."""
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as folder, quiet():
        config.save_pretrained(folder)
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def has_field(model_type: str, key: str) -> bool:
    """Tell whether the configs of a type have the field `key`; true of a type nobody knows."""
    from transformers import CONFIG_MAPPING

    return model_type not in CONFIG_MAPPING or key in _names(CONFIG_MAPPING[model_type])


def fingerprint(config: "PretrainedConfig") -> str:
    """Fingerprint the fields that two models must share to be averaged.

    Only fields that differ from the defaults count: a newer transformers may add fields, not change
    those.
    """
    kept = _shared_fields(config)
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def differences(one: "PretrainedConfig", other: "PretrainedConfig") -> list[tuple[str, Any, Any]]:
    """List (field, value of `one`, value of `other`) of the fields in which two architectures
    differ; a field of a section as ``section.field``.

    A field that both leave at the default of their class is not among them.
    """
    kept = dict(_flat(_shared_fields(one))) | dict(_flat(_shared_fields(other)))
    ours, theirs = (dict(_flat(config.to_dict())) for config in (one, other))
    pairs = [(key, ours.get(key), theirs.get(key)) for key in sorted(kept)]
    return [(key, a, b) for key, a, b in pairs if str(a) != str(b)]


def _shared_fields(config: "PretrainedConfig") -> Json:
    """Return the fields that two models must share to be averaged, where they are no default."""
    kept = _lasting(config.to_diff_dict())
    assert isinstance(kept, dict)
    return kept


def _lasting(value: Any) -> Any:
    """Leave the volatile fields out of `value`, in every section of it."""
    if isinstance(value, list | tuple):
        return [_lasting(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: _lasting(each) for key, each in value.items() if key not in _VOLATILE}


def _flat(values: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every field in `values` that is no section."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _over_tokens(model_type: str, values: Json, tokens: Json) -> "PretrainedConfig":
    """Make a config whose language model has the vocabulary in `tokens`.

    Models that also see or hear keep it in a section of the config.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type, **(values | tokens))
    section = _section(config)
    if section is None:
        return config
    own = {key: tokens[key] for key in _OF_TOKENIZER if key in _names(type(config))}
    given = {key: value for key, value in values.items() if key not in (section, *_OF_TOKENIZER)}
    below = (values.get(section) or {}) | tokens
    return AutoConfig.for_model(model_type, **given, **own, **{section: below})


def _section(config: "PretrainedConfig") -> str | None:
    """Name the section of a config that describes its language model; None if that is all of it."""
    text = text_config(config)
    return next((key for key, value in vars(config).items() if value is text), None)


def _names(kind: "type[PretrainedConfig]") -> set[str]:
    """List the fields of a class of configs, and the other names that it has for them."""
    return {field.name for field in fields(kind)} | set(kind.attribute_map)


def _require_known(values: Json, model_type: str) -> None:
    """Raise `UserError` for a key of model.config without effect: the type has no such field, or
    the tokenizer decides.
    """
    from transformers import AutoConfig

    for key in _OF_TOKENIZER:
        if key in values:
            raise UserError(f"model.config.{key}: the tokenizer decides that; leave it out")
    _require_fields(values, AutoConfig.for_model(model_type, **values), "model.config")


def _require_fields(values: Json, config: "PretrainedConfig", section: str) -> None:
    """Do `_require_known` for one section of model.config."""
    from transformers import PretrainedConfig

    kind = type(config)
    known = _names(kind) | {"model_type"}
    for key, value in values.items():
        if key not in known and not _is_read(key, values, config):
            own = known - _names(PretrainedConfig) - set(_OF_TOKENIZER)
            raise unknown("field", key, own, f"{section} of {kind.model_type}")
        below = getattr(config, key, None)
        if isinstance(value, dict) and isinstance(below, PretrainedConfig):
            _require_fields(value, below, f"{section}.{key}")


def _is_read(key: str, values: Json, config: "PretrainedConfig") -> bool:
    """Tell whether a key that is no field of its config has an effect: the config makes something
    else of it (`rope_theta`), or the code of the model asks for it.
    """
    from transformers import AutoModelForCausalLM

    kind = type(config)
    try:
        without = kind(**{name: value for name, value in values.items() if name != key}).to_dict()
    except Exception:  # without it there is no config
        return True
    if config.to_dict() | {key: None} != without | {key: None}:
        return True
    made = AutoModelForCausalLM._model_mapping.get(kind, None)
    source = inspect.getsource(sys.modules[made.__module__]) if made else ""
    return re.search(rf"config\.{re.escape(key)}\b|[\"']{re.escape(key)}[\"']", source) is not None
