"""AdamW with moments of 32 or of 8 bits (arXiv 2110.02861), its moments on the device or in the
host's memory.

The moments of 8 bits are quantised block by block (256 elements) with the codebooks of
``btm/models/blockwise.py``. bitsandbytes does that; what it leaves in 32 bits, tensors under 4,096
elements and on request embeddings, is counted here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from btm.config.training import TrainerConfig
from btm.models import eightbit
from btm.train.losses import exact

if TYPE_CHECKING:
    import torch

SMALLEST = 4096  # elements of a tensor whose moments are quantised
BLOCK = 256  # elements that share a scale; bitsandbytes has no other for its optimizers

CODEBOOKS = ("qmap1", "qmap2")  # of quantised moments: the same for every parameter


@dataclass(frozen=True)
class StateSize:
    """What an optimizer's state takes."""

    bytes: int
    parameters: int  # that have moments
    in_32_bit: int  # of them, those whose moments have 32 bits

    @property
    def per_parameter(self) -> float:
        """Bytes of state for each parameter."""
        return self.bytes / max(self.parameters, 1)

    def __str__(self) -> str:
        return (
            f"{self.per_parameter:.2f} bytes of optimizer state per parameter; "
            f"{self.in_32_bit:,} of {self.parameters:,} parameters in 32 bits"
        )


def make_optimizer(model: "torch.nn.Module", trainer: TrainerConfig) -> "torch.optim.Optimizer":
    """Return the optimizer that `trainer` names; biases and gains of norms are not decayed.

    Raises `UserError` if ``adamw8bit`` is asked for and bitsandbytes is not installed.
    """
    groups = [
        {
            "params": [p for p in model.parameters() if p.ndim >= 2],
            "weight_decay": trainer.weight_decay,
        },
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    if trainer.optimizer == "adamw8bit":
        optimizer = _adamw8bit(model, groups, trainer)
    else:
        import torch

        beta1, beta2 = trainer.betas
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), fused=True)
    if trainer.offload:
        _offload(optimizer)
    return optimizer


def gradient_norm(model: "torch.nn.Module") -> "torch.Tensor":
    """Compute the norm of all gradients together; it stays on the device, unread."""
    import torch

    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def shrink(norm: "torch.Tensor", bound: float) -> "torch.Tensor | None":
    """Compute, on the device, what gradients of this norm are divided by so that it is at most
    `bound`; None where that is 0: no bound.
    """
    # In float64 as Python would: the division decides the last bits of every parameter.
    return (exact(norm) / bound).clamp(min=1.0).float() if bound else None


def step(optimizer: "torch.optim.Optimizer", divisor: "torch.Tensor | None" = None) -> None:
    """Do a step with the gradients divided by `divisor`; torch's fused AdamW divides as it goes."""
    if divisor is None:
        optimizer.step()
        return
    import torch

    shared_out = any(hasattr(parameter, "full_tensor") for parameter in _parameters(optimizer))
    if shared_out or not optimizer.defaults.get("fused"):
        gradients: list[Any] = [p.grad for p in _parameters(optimizer) if p.grad is not None]
        # Of a tensor that is shared out, our own part: DTensors are not divided by plain tensors.
        own = [getattr(gradient, "_local_tensor", gradient) for gradient in gradients]
        torch._foreach_div_(own, divisor.to(own[0].device))
        optimizer.step()
        return
    try:
        # as torch.amp.GradScaler does
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        optimizer.step()
    finally:
        del optimizer.grad_scale  # type: ignore[attr-defined]


def _adamw8bit(
    model: "torch.nn.Module", groups: list[dict[str, Any]], trainer: TrainerConfig
) -> "torch.optim.Optimizer":
    import torch

    bnb = _bitsandbytes()
    beta1, beta2 = trainer.betas
    made = bnb.optim.AdamW8bit(
        groups,
        lr=0.0,  # each step sets its own (train.apply)
        betas=(beta1, beta2),
        min_8bit_size=SMALLEST,
    )
    # Its manager of exceptions is one for the process and knows parameters by their address, which
    # another model's may take later: so this optimizer gets one of its own.
    made.mng = object.__new__(bnb.optim.GlobalOptimManager)
    made.mng.initialize()
    if trainer.embedding_bits == 32:
        embeddings = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        made.mng.override_config(embeddings, "optim_bits", 32)
    return made


def _bitsandbytes() -> Any:
    """Import bitsandbytes; `UserError` where it is not installed."""
    return eightbit.bitsandbytes("trainer.optimizer=adamw8bit", "trainer.optimizer=adamw")


def _offload(optimizer: "torch.optim.Optimizer") -> None:
    """Let the moments lie in the host's memory, and each step be done there, on a copy of
    parameters and gradients.

    The device then holds the parameters and their gradients alone, at the price of moving both ways
    at each step.
    """
    at_home: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def move(optimizer: Any, words: Any, named: Any) -> None:
        for parameter in _parameters(optimizer):
            if (gradient := parameter.grad) is None:
                continue
            at_home.append((parameter, parameter.data))
            parameter.grad = None  # a gradient must lie where its parameter does
            parameter.data = parameter.data.to("cpu", copy=True)
            parameter.grad = gradient.to("cpu")

    def back(optimizer: Any, words: Any, named: Any) -> None:
        for parameter, home in at_home:
            home.copy_(parameter.data)
            parameter.grad = None
            parameter.data = home
        at_home.clear()

    optimizer.defaults["offload"] = True
    optimizer.register_step_pre_hook(move)
    optimizer.register_step_post_hook(back)


def state_device(
    optimizer: "torch.optim.Optimizer", parameter: "torch.Tensor"
) -> "torch.device | str":
    """Return where the moments of a parameter lie."""
    return "cpu" if optimizer.defaults.get("offload") else parameter.device


def quantises(optimizer: "torch.optim.Optimizer", parameter: "torch.Tensor") -> bool | None:
    """Tell whether the moments of a parameter have 8 bits; None where the optimizer has none of
    that kind.
    """
    if not hasattr(optimizer, "mng"):
        return None
    bits = optimizer.mng.pid2config.get(id(parameter), {}).get("optim_bits", 8)
    return bits == 8 and parameter.numel() >= SMALLEST


def layout(
    optimizer: "torch.optim.Optimizer", parameter: "torch.Tensor"
) -> dict[str, tuple[str, int]]:
    """Return {entry of a parameter's state: (its dtype, its number of elements)}."""
    quantised, size = quantises(optimizer, parameter), parameter.numel()
    if quantised is None:
        return {
            "step": ("float32", 1),
            "exp_avg": ("float32", size),
            "exp_avg_sq": ("float32", size),
        }
    if not quantised:
        return {"step": ("int64", 1), "state1": ("float32", size), "state2": ("float32", size)}
    blocks = -(-size // BLOCK)
    return {
        "step": ("int64", 1),
        "state1": ("uint8", size),
        "state2": ("uint8", size),
        "absmax1": ("float32", blocks),
        "absmax2": ("float32", blocks),
        **dict.fromkeys(CODEBOOKS, ("float32", 256)),
    }


def blank_state(
    optimizer: "torch.optim.Optimizer", parameter: "torch.Tensor"
) -> "dict[str, torch.Tensor]":
    """Return a parameter's state of zeros, each entry a tensor: distributed where the
    parameter is.
    """
    import torch

    made, place = {}, state_device(optimizer, parameter)
    for key, (name, size) in layout(optimizer, parameter).items():
        dtype = getattr(torch, name)
        if size == parameter.numel() and key != "step":
            made[key] = torch.zeros_like(parameter.data, dtype=dtype, device=place)
        else:
            made[key] = torch.zeros(() if key == "step" else (size,), dtype=dtype, device=place)
    return made


def state_size(optimizer: "torch.optim.Optimizer") -> StateSize:
    """Measure the memory of the state of an optimizer that has done a step; shared storage counts
    once.
    """
    import torch

    sizes: dict[tuple[torch.device, int], int] = {}
    parameters, in_32_bit = 0, 0
    for parameter in _parameters(optimizer):
        entries = [
            v for v in optimizer.state.get(parameter, {}).values() if isinstance(v, torch.Tensor)
        ]
        here = [getattr(t, "_local_tensor", t) for t in entries]  # a DTensor has no address
        sizes |= {
            (own.device, own.data_ptr()): t.numel() * t.element_size()
            for own, t in zip(here, entries, strict=True)
        }
        if entries:
            parameters += parameter.numel()
            in_32_bit += 0 if any(t.dtype == torch.uint8 for t in entries) else parameter.numel()
    return StateSize(sum(sizes.values()), parameters, in_32_bit)


def _parameters(optimizer: "torch.optim.Optimizer") -> "Iterator[torch.nn.Parameter]":
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
