"""LLM.int8() (arXiv 2208.07339): the matrices of a model's layers in 8 bits, to predict with.

For one token's x (K,), W (M x K) and the outliers O = {k : |x_k| >= 6},

    c_x = max |x_k| over k not in O,  x8 = round(127 x / c_x), and 0 in O
    c_W(m) = max_k |W_mk|,            W8 = round(127 W / c_W)     for each row
    y = (W8 x8) c_x c_W / 127² + W_:O x_O + b

bitsandbytes multiplies, on CUDA and on CPUs. Two things are done otherwise than in its own
`Linear8bitLt`, which also leaves the outliers where they are on a CPU in training mode:

The paper's O is of a matrix of many tokens, so a text's numbers depend on what else is in its
batch: by 0.01 nats a token on the demo's experts, as much as int8 changes them. Here each token is
a matrix of its own, and a text has the same numbers alone and in a batch.

The library keeps W8 and c_W alone, and dequantises W_:O. Where x_k is large because W_:k is small,
8 bits of c_W(m) say little of W_mk: with outliers planted in every norm that costs 0.006 nats
(docs/int8.md). So columns that hold an outlier on a probe of 128 tokens are always in O, and keep 8
bits more, 16 in all:

    W9 = round(127 (W - c_W W8 / 127) 254 / c_W),  y += (c_W W9 / (127 · 254)) x

In large models the same few features are outliers in nearly all texts (the paper's section 4), so
tokens drawn at random find them. A column that the probe misses is dequantised.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from btm.errors import UserError
from btm.models import causal_lm, eightbit
from btm.report.progress import bytes_text
from btm.system import processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

THRESHOLD = 6.0  # of |X|, from which a column is an outlier; the paper's section 3.2
PROBE = 128  # tokens on which outliers are looked for
KEY = "load.quantization=int8"
# By name, for a subclass of Linear may compute something else; FalconLinear computes the same.
_STACKED = ("MixtralExperts", "Qwen3MoeExperts", "FlexOlmoExperts")  # all compute alike
_CONVERTED = ("Linear", "FalconLinear", "Conv1D", *_STACKED)
# RWKV divides matrices of its layers in place when it begins to predict, which here would be lost.
_RESCALED = ("rwkv",)


@dataclass(frozen=True)
class Storage:
    """The bytes that the parts of a converted model take."""

    linears: int  # matrices that were converted, with their scales
    as_float32: int  # what those take in float32
    layers_rest: int  # matrices of the layers that were not converted: of MoE experts, convolutions
    rest: int  # embeddings, norms, biases, head

    @property
    def ratio(self) -> float:
        """The share of float32's bytes that the converted matrices take."""
        return self.linears / max(self.as_float32, 1)

    def __str__(self) -> str:
        said = (
            f"int8: its linears take {bytes_text(self.linears)}, {self.ratio:.3f} of float32's "
            f"{bytes_text(self.as_float32)}; embeddings, norms and head {bytes_text(self.rest)}"
        )
        if self.layers_rest:
            said += f"; matrices of its layers that stay {bytes_text(self.layers_rest)}"
        return said


class Int8Linear(nn.Module):
    """A linear layer whose matrix is int8; it takes the place of a Linear or a Conv1D."""

    codes: torch.Tensor  # W8, (out, in)
    scales: torch.Tensor  # c_W, (out,), float32
    columns: torch.Tensor  # of outliers that the probe found
    fine: torch.Tensor  # W9 of those columns, (out, columns)

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        columns: torch.Tensor | None = None,
    ) -> None:
        """Quantise `weight`, (out, in), row by row, and its `columns` in 16 bits; `bias` stays.

        Raises `UserError` for a weight that is not finite.
        """
        super().__init__()
        _require_bitsandbytes()
        with torch.no_grad():
            exact = weight.detach().float().contiguous()
            codes, scales, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(exact)
        if not torch.isfinite(scales).all():
            raise UserError(f"{KEY}: a weight is NaN or infinite")
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.threshold = THRESHOLD
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        columns = torch.empty(0) if columns is None else columns
        self.register_buffer("columns", columns.int())
        rest = exact[:, self.columns] - codes[:, self.columns] * (scales / 127)[:, None]
        # A row of zeros has the scale 0, and nothing left to code.
        steps = rest / self._step().clamp_min(torch.finfo(torch.float32).tiny)
        self.register_buffer("fine", steps.round().clamp(-127, 127).to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply `x`, (…, in), in its own dtype; returns (…, out)."""
        if not x.numel():
            return x.new_zeros(*x.shape[:-1], self.out_features)
        x_TK = x.reshape(-1, self.in_features).contiguous()  # the library reads row after row
        is_outlier_TK = x_TK.abs() >= self.threshold
        is_outlier_TK[:, self.columns] = True
        x8_TK, scales_T, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(
            x_TK.masked_fill(is_outlier_TK, 0).to(torch.float16)
        )
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y_TM = torch.ops.bitsandbytes.int8_scaled_mm(
            x8_TK, self.codes, scales_T, self.scales, bias=bias, dtype=x.dtype
        )
        outliers = is_outlier_TK.any(dim=0).nonzero()[:, 0]
        if len(outliers):
            large_TO = (x_TK * is_outlier_TK)[:, outliers]
            w_MO = torch.ops.bitsandbytes.int8_vectorwise_dequant(
                self.codes[:, outliers].contiguous(), self.scales
            )
            y_TM = y_TM.addmm(large_TO, w_MO.to(x.dtype).T)
        if len(self.columns):
            fine = (self.fine * self._step()).to(x.dtype)
            y_TM = y_TM.addmm(x_TK[:, self.columns], fine.T)
        return y_TM.reshape(*x.shape[:-1], self.out_features)

    def _step(self) -> torch.Tensor:
        """Compute the size of one unit of `fine` in each row, (out, 1)."""
        return (self.scales / (127 * 254))[:, None]

    @property
    def weight(self) -> torch.Tensor:
        """The matrix, dequantised, (out, in): some architectures multiply with it themselves."""
        matrix = self.codes * (self.scales / 127)[:, None]
        matrix[:, self.columns] += self.fine * self._step()
        return matrix.to(self.dtype)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the matrix: codes, scales, and the finer digits of columns with outliers."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def cast(self, dtype: torch.dtype) -> None:
        """Let the bias and `weight` be of `dtype`; the scales stay float32."""
        self.dtype = dtype
        if self.bias is not None:
            self.bias.data = self.bias.data.to(dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "Int8Linear":
        """Move with the model; where it is cast, the scales stay float32, as the library's
        operators want them.
        """
        scales = self.scales
        super()._apply(fn, recurse)
        self.scales = scales.to(self.scales.device)
        return self

    def extra_repr(self) -> str:
        """Show the sizes, as a Linear does."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Int8Experts(nn.Module):
    """The feed-forward networks of a layer of what `btm moe` makes, in int8."""

    def __init__(self, experts: Any, columns: torch.Tensor | None = None) -> None:
        """Quantise the stacked matrices of `experts`; `columns` are outliers of what they read."""
        super().__init__()
        self.gate_up = nn.ModuleList(Int8Linear(w, None, columns) for w in experts.gate_up_proj)
        self.down = nn.ModuleList(Int8Linear(w, None) for w in experts.down_proj)
        self.act_fn = experts.act_fn

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Sum what its top-k experts make of each token, as transformers does."""
        summed = torch.zeros_like(hidden_states)
        for expert, (gate_up, down) in enumerate(zip(self.gate_up, self.down, strict=True)):
            tokens, places = torch.where(top_k_index == expert)
            if len(tokens):
                gate, up = gate_up(hidden_states[tokens]).chunk(2, dim=-1)
                own = down(self.act_fn(gate) * up) * top_k_weights[tokens, places, None]
                summed.index_add_(0, tokens, own.to(summed.dtype))
        return summed


def quantise(model: "PreTrainedModel") -> Storage:
    """Convert every Linear, every Conv1D and a mixture's experts in the layers of `model`, one at
    a time, in place.

    What stays: all outside the layers (embeddings, head, the last norm), norms, convolutions, and
    matrices that are no Linear, as the routers of an MoE and the stacked experts of other MoEs.
    Raises `UserError` where bitsandbytes is missing, or there is nothing to convert.
    """
    _require_bitsandbytes()
    if (kind := getattr(model.config, "model_type", "")) in _RESCALED:
        raise UserError(f"{KEY}: {kind} changes its own matrices as it runs; use load.dtype=bf16")
    layers = causal_lm.decoder_layers(model)
    outliers = outlier_columns(model)
    made: dict[nn.Module, nn.Module] = {}  # a module that layers share is converted once
    for layer in layers:
        for parent in list(layer.modules()):
            _convert_children(parent, outliers, made)
        processes.give_back_freed()
    if not made:
        raise UserError(f"{KEY}: a {type(model).__name__} has no linear layers to convert")
    return storage(model)


def _convert_children(
    parent: nn.Module,
    outliers: dict[nn.Module, torch.Tensor],
    made: dict[nn.Module, nn.Module],
) -> None:
    """Convert what is `_CONVERTED` right below `parent`; `made` has what was converted before."""
    for name, module in list(parent.named_children()):
        if type(module).__name__ not in _CONVERTED:
            continue
        if module not in made:
            made[module] = _converted(module, outliers.get(module))
            # Freed at once: else the whole of the model lies in memory twice.
            for own in [key for key, _ in module.named_parameters(recurse=False)]:
                module.register_parameter(own, None)
        setattr(parent, name, made[module])


def outlier_columns(model: "PreTrainedModel") -> dict[nn.Module, torch.Tensor]:
    """Find the inputs of each linear that are outliers on the probe: {linear: their numbers}.

    Of more than a sixty-fourth of all (two at least) the largest are taken, so that storage stays
    what it is claimed to be.
    """
    largest: dict[nn.Module, torch.Tensor] = {}

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        top_K = inputs[0].detach().flatten(0, -2).abs().amax(dim=0).float()
        largest[module] = torch.maximum(top_K, largest.get(module, top_K))

    parts = {part for layer in causal_lm.decoder_layers(model) for part in layer.modules()}
    parts = {part for part in parts if type(part).__name__ in _CONVERTED}
    hooks = [part.register_forward_pre_hook(watch) for part in parts]
    try:
        with torch.inference_mode():
            model.eval()(input_ids=_probe(model), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for module, top_K in largest.items():
        most = max(2, len(top_K) // 64)
        order = top_K.argsort(descending=True, stable=True)[:most]
        found[module] = order[top_K[order] >= THRESHOLD].sort().values.clone()
    return found


def _probe(model: "PreTrainedModel") -> torch.Tensor:
    """Draw the tokens of the probe, the same for every model of a vocabulary; shape (1, T)."""
    limit = causal_lm.context_limit(model.config.to_dict())
    size = min(PROBE, limit or PROBE)
    tokens = torch.randint(
        max(causal_lm.vocabulary(model), 1), (1, size), generator=torch.Generator().manual_seed(0)
    )
    return tokens.to(model.device)


def storage(model: nn.Module) -> Storage:
    """Count the bytes that the parameters and the codes of a converted model take."""
    linears = [part for part in model.modules() if isinstance(part, Int8Linear)]
    layers = {id(p): p for layer in causal_lm.decoder_layers(model) for p in layer.parameters()}
    matrices = sum(p.numel() * p.element_size() for p in layers.values() if p.ndim > 1)
    every = sum(p.numel() * p.element_size() for p in model.parameters())
    return Storage(
        sum(part.stored_bytes for part in linears),
        sum(4 * part.codes.numel() for part in linears),
        matrices,
        every - matrices,
    )


def _converted(module: Any, columns: torch.Tensor | None) -> nn.Module:
    """Make the int8 module that takes the place of one of the `_CONVERTED`."""
    kind = type(module).__name__
    if kind in _STACKED:
        return Int8Experts(module, columns)
    # Conv1D is GPT-2's: y = x W + b, so its W is (in, out).
    weight = module.weight.T if kind == "Conv1D" else module.weight
    return Int8Linear(weight, module.bias, columns)


def _require_bitsandbytes() -> None:
    """Import bitsandbytes, which registers its operators with torch."""
    eightbit.bitsandbytes(KEY, "load.dtype=bf16")
