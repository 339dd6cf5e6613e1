"""The one door by which models are loaded to predict with, as the section `load` of the settings
asks.

float32 is what ELMs are trained and measured in; `load.dtype` and `load.quantization` trade its
last digits for memory. Training, averages and what stands on cards never come through here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.config.load import LoadConfig
from btm.errors import UserError
from btm.models import causal_lm
from btm.report.progress import bytes_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load(folder: Path, device: "str | torch.device", how: LoadConfig) -> "PreTrainedModel":
    """Load the model in `folder` on `device`, in evaluation mode.

    Its matrices are quantised from the numbers on disk, not from those rounded to `load.dtype`.
    Raises `UserError` for a device or a model that cannot be quantised.
    """
    if how.quantization == "none":
        return causal_lm.load_model(folder, device, dtype=_torch_dtype(how))
    import torch

    require_device(how, str(device))
    dtype = getattr(torch, causal_lm.widest(folder))
    return prepared(causal_lm.load_model(folder, dtype=dtype), device, how)


def prepared(
    model: "PreTrainedModel", device: "str | torch.device", how: LoadConfig
) -> "PreTrainedModel":
    """Turn a model that is loaded in the dtype of its folder into what `load` would have loaded.

    The model itself is changed and returned.
    """
    if how.word == "":
        return model.float().to(device).eval()
    require_device(how, str(device))
    if how.quantization == "int8":
        from btm.models import int8

        int8.quantise(model)
    _cast(model, _torch_dtype(how), copy=how.quantization == "int8")
    return model.to(device).eval()


def memory(model: "PreTrainedModel", how: LoadConfig) -> str:
    """Say what a loaded model takes in memory."""
    if how.quantization == "int8":
        from btm.models import int8

        return str(int8.storage(model))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return f"{how.dtype}: {bytes_text(size)}"


def require_device(how: LoadConfig, device: str) -> None:
    """Raise `UserError` for a device on which bitsandbytes does not multiply int8."""
    if how.quantization == "int8" and device.partition(":")[0] not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"load.quantization=int8: trainer.device={device} does not multiply int8; use "
            "trainer.device=cpu or cuda, or load.dtype=bf16"
        )


def _cast(model: "PreTrainedModel", dtype: "torch.dtype", *, copy: bool) -> None:
    """Cast all float parameters but what an architecture wants in float32, as `from_pretrained`
    does; buffers, as the frequencies of rotary positions, stay as they are.

    A `copy` lets go of the file that they were mapped from, which counts as memory of the process.
    """
    wanted = (getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype.itemsize == 2 else ()
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(part in name.split(".") for part in wanted):
            parameter.data = parameter.data.to(dtype, copy=copy)
    for part in model.modules():
        if hasattr(part, "cast"):
            part.cast(dtype)


def _torch_dtype(how: LoadConfig) -> Any:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[how.dtype]
