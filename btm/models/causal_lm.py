"""Causal LMs of `transformers`: made from a config, loaded from a folder; never remote code."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.schema import Config
from btm.errors import UserError, first_line
from btm.models import files, tokenizer_files, weights
from btm.system import durable
from btm.system.json_files import Json, parse_json, read_regular

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

# transformers changes its own classes while it makes a model (no weights are tied or initialised):
# a model that another thread made meanwhile would miss its tied head. Seen in a server.
_MAKING = threading.RLock()
# Settings that choose code. Any other value than these names a repository of the Hub, and
# transformers would fetch and run its kernels.
_CODE_KEYS = ("attn_implementation", "experts_implementation", "attn_implementation_internal")
_KNOWN_CODE = (
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
    "grouped_mm",
    "batched_mm",
)
# Buffers that older versions of transformers stored and newer ones compute.
_OLD_BUFFERS = (
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".inv_freq",
)
# The names that architectures have for the longest sequence they have positions for.
_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "max_target_positions",
    "model_max_length",
    "context_length",
    "n_ctx",
)
# The name of a dtype in safetensors, and in torch.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def modeling_module(model_type: str) -> str:
    """Name the module of transformers that has the classes of an architecture."""
    return f"transformers.models.{model_type}.modeling_{model_type}"


def read_config(file: Path) -> Json:
    """Read a config.json; `UserError` if it is not one, or asks for remote code."""
    try:
        values = parse_json(read_regular(file))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise UserError(f"{file}: no model_type: not the config.json of a transformers model")
    refuse_code(values, file)
    return values


def refuse_code(values: Any, file: Path) -> None:
    """Raise `UserError` if the JSON of a model folder names code that is not in transformers.

    That is ``auto_map``, and an attention or experts implementation that would be fetched from the
    Hub.
    """
    if isinstance(values, list):
        for value in values:
            refuse_code(value, file)
    if not isinstance(values, dict):
        return
    if values.get("auto_map"):
        raise UserError(f"{file}: it asks for code of its own (auto_map), which is never run")
    for key, value in values.items():
        if key.endswith(_CODE_KEYS) and not (value is None or value in _KNOWN_CODE):
            raise UserError(
                f"{file}: it asks for code of its own ({key}={value!r}), which is never run"
            )
        refuse_code(value, file)


def load_config(folder: Path) -> "PretrainedConfig":
    """Load the `transformers` config of a model folder; `UserError` if there is none."""
    read_config(folder / files.CONFIG)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # each architecture refuses values in its own way
        raise UserError(f"{folder / files.CONFIG}: {why(error)}") from None


def new_model(config: "PretrainedConfig", seed: int) -> "PreTrainedModel":
    """Make a float32 model with random parameters, a function of `seed` alone.

    Raises `UserError` if the architecture's code cannot make a model of `config`.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _with_outputs(made_of(config))


def made_of(config: "PretrainedConfig") -> "PreTrainedModel":
    """Make a float32 model of `config` on torch's present device, from its present generator.

    Raises `UserError` if the architecture's code cannot.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with _MAKING:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except MemoryError:
        raise
    except Exception as error:  # sizes that do not fit show as whatever the arithmetic raises
        raise UserError(
            f"no {config.model_type} model can be made of this config: {why(error)}"
        ) from None
    return model


def why(error: BaseException) -> str:
    """Return the cause of an error of transformers in one line."""
    return first_line(error.__cause__ or error)


def load_model(
    folder: Path, device: "str | torch.device" = "cpu", *, dtype: Any = None
) -> "PreTrainedModel":
    """Load the model in `folder` for evaluation; `UserError` on missing or unexpected tensors."""
    read_config(folder / files.CONFIG)
    weights.tensors(folder)
    if (index := folder / files.INDEX).exists():
        weights.read_index(index)
    from transformers import AutoModelForCausalLM

    try:
        with _MAKING, quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype or "auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder}: does not load: {why(error)}") from None
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith(_OLD_BUFFERS)]
    info["unexpected_keys"] = unexpected
    faults = {kind.removesuffix("_keys"): sorted(map(str, keys)) for kind, keys in info.items()}
    wrong = {kind: names[:3] for kind, names in faults.items() if names}
    if wrong:
        raise UserError(f"{folder}: does not load: {wrong}")
    return _with_outputs(model).to(device).eval()


def _with_outputs(model: "PreTrainedModel") -> "PreTrainedModel":
    """Have all parts of a model give outputs with names.

    A config may ask for tuples, which the code of newer architectures does not understand itself.
    """
    for part in model.modules():
        if hasattr(part, "config"):
            part.config.return_dict = True
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers within the block: its long reports are replaced by one line of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_trainable(folder: Path, device: str) -> "PreTrainedModel":
    """Load the model in `folder` for training: float32, on the device that trainer.device names."""
    import torch

    return load_model(folder, pick_device(device), dtype=torch.float32).train()


def decoder_layers(model: "torch.nn.Module") -> "list[torch.nn.Module]":
    """Find the layers of a model: the modules it says not to split, or its longest uniform list."""
    from torch import nn

    whole = set(getattr(model, "_no_split_modules", None) or ())
    named = [module for module in model.modules() if type(module).__name__ in whole]
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    alike = [layers for layers in lists if len({type(layer) for layer in layers}) == 1]
    return named or max(alike, key=len, default=[])


def checkpoint_gradients(model: "PreTrainedModel") -> None:
    """Turn on gradient checkpointing: keep the inputs of the layers, recompute the rest.

    The gradients are the same, at the price of another forward pass. Raises `UserError` if the
    architecture does not support it.
    """
    try:
        # Newer versions of transformers deprecate the older name.
        older = model.gradient_checkpointing_enable
        enable = getattr(model, "activation_checkpointing_enable", older)
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"trainer.gradient_checkpointing=true: {why(error)}") from None


def stored_dtype(folder: Path) -> str:
    """Return torch's name of the float dtype that most parameters in `folder` have."""
    sizes = dict.fromkeys(DTYPES, 0)
    for tensor in weights.tensors(folder).values():
        if tensor.is_float:
            sizes[tensor.dtype] += tensor.size
    return DTYPES[max(sizes, key=lambda dtype: sizes[dtype])]


def widest(folder: Path, said: object = None) -> str:
    """Return torch's name of the smallest float dtype that holds all tensors in `folder`.

    The dtype that the config `said` counts too. bfloat16 and float16 do not hold each other;
    float32 holds both.
    """
    floats = [tensor for tensor in weights.tensors(folder).values() if tensor.is_float]
    kinds = {DTYPES[tensor.dtype] for tensor in floats}
    kinds |= {str(said)} & set(DTYPES.values())
    for dtype in ("float64", "float32"):
        if dtype in kinds:
            return dtype
    return "float32" if len(kinds) != 1 else kinds.pop()


def declare_dtype(file: Path, dtype: str) -> None:
    """Write the `dtype` (safetensors' name) into the config.json of an unpublished folder."""
    values = {key: value for key, value in read_config(file).items() if key != "torch_dtype"}
    file.write_text(json.dumps(values | {"dtype": DTYPES[dtype]}, indent=2) + "\n")


def logits_of(output: Any) -> "torch.Tensor":
    """Take the logits out of a model's output; a config with ``return_dict: false`` gives a tuple,
    of which they are the first part.
    """
    return output[0] if isinstance(output, tuple) else output.logits


def vocabulary(model: "PreTrainedModel") -> int:
    """Count the tokens that a model has embeddings for; 0 if it does not tell."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError):
        return 0


def token_logp(
    model: "PreTrainedModel",
    inputs: "torch.Tensor",
    targets: "torch.Tensor",
    positions: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Compute log p(target | inputs so far) in nats, float32, (rows, tokens) like `targets`.

    `positions` of the inputs, where a row is several texts, each of which begins at 0.
    """
    import torch.nn.functional as F  # noqa: N812

    logits = logits_of(model(input_ids=inputs, use_cache=False, **placed(positions))).float()
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return -loss.view_as(targets)


def mean_nll(
    model: "PreTrainedModel",
    inputs: "torch.Tensor",
    targets: "torch.Tensor",
    weights: "torch.Tensor | None" = None,
    positions: "torch.Tensor | None" = None,
) -> "torch.Tensor":
    """Compute the mean of −log p(target | inputs so far), in nats, or the sum that `weights` weigh.

    `positions` are those of `token_logp`.
    """
    logp = token_logp(model, inputs, targets, positions)
    return -logp.mean() if weights is None else -(logp * weights).sum()


def placed(positions: "torch.Tensor | None") -> "dict[str, torch.Tensor]":
    """Name the positions for a model, which is asked without them where there are none."""
    return {} if positions is None else {"position_ids": positions}


def text_config(config: "PretrainedConfig") -> "PretrainedConfig":
    """Return the part of a config that describes its language model: all of it, or a section of the
    config of a model that also sees or hears.
    """
    return config.get_text_config(decoder=True)


def context_limit(config: Json) -> int | None:
    """Return the longest sequence that the model has positions for; None without a limit.

    `config` is a config.json. What it leaves out has the default of its class.
    """
    given = _limit(config)
    if given is not None or "model_type" not in config:
        return given
    from transformers import CONFIG_MAPPING

    kind, values = config["model_type"], {k: v for k, v in config.items() if k != "model_type"}
    try:
        return _limit(text_config(CONFIG_MAPPING[kind](**values)).to_dict())
    except Exception:  # no valid config: whoever makes a model of it says why
        return None


def _limit(config: Json) -> int | None:
    """Read the limit of positions in a config.json, or in the section of its language model."""
    sections = (config, config.get("text_config"), config.get("decoder"))
    for section in (each for each in sections if isinstance(each, dict)):
        for key in _LIMITS:
            if type(section.get(key)) is int and section[key] > 0:
                return int(section[key])
    return None


def pick_device(name: str) -> str:
    """Resolve the torch device `name`; `auto` is the first GPU or the CPU."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.device={name}: no GPU is visible here; use trainer.device=cpu")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise UserError(
            f"trainer.device={name}: GPUs here are cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("trainer.device=mps: this is no Mac with a GPU; use trainer.device=cpu")
    return name


def pick_precision(name: str, device: str) -> str:
    """Resolve the precision `name` to fp32 or bf16; `auto` is bf16 where it runs natively.

    Without such instructions bf16 autocast is emulated: ten times slower than fp32 on an AVX2 CPU,
    and GPUs before Ampere emulate it too.
    """
    import torch

    if name != "auto":
        return name
    if device.startswith("cuda"):
        with torch.cuda.device(device):  # of several GPUs, the one that is meant
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device == "cpu" and native else "fp32"


def count_parameters(config: "PretrainedConfig") -> int:
    """Count the parameters of an architecture without allocating any."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def write(folder: Path, model: "PreTrainedModel", dtype: str) -> None:
    """Replace the weights in `folder`, file by file, each durably, in the branch's own dtype."""
    import torch

    scratch = durable.scratch_folder(folder)
    with durable.naming(folder):
        model.to(getattr(torch, dtype)).save_pretrained(scratch, max_shard_size="5GB")
    durable.sync_tree(scratch)
    for file in sorted(scratch.iterdir()):
        file.replace(folder / file.name)
    scratch.rmdir()
    durable.sync_folder(folder)


def copy_files(source: Path, target: Path) -> None:
    """Copy the files that make weights a loadable model: configs, and all of the tokenizer."""
    for name in (files.CONFIG, "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    tokenizer_files.copy(source, target)


def check_context(config: Config, model: Json, called: str = "the model") -> None:
    """Raise `UserError` if a model (its config.json) has too few positions for the settings."""
    limit = context_limit(model)
    lengths = {"trainer.seq_len": config.trainer.seq_len, "score.window": config.window}
    for key, length in lengths.items():
        if limit is not None and length > limit:
            raise UserError(f"{key}={length}: {called} has positions for {limit} tokens")
