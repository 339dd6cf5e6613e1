"""How much each parameter of an ELM matters to what it predicts: the diagonal of its Fisher
information.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from btm.data.batches import windows
from btm.data.shards import Shard, require_text
from btm.errors import UserError
from btm.models import causal_lm
from btm.models import weights as wt
from btm.models.files import WEIGHTS

if TYPE_CHECKING:
    import torch

Alive = Callable[[], None]


def fisher(
    model: Path, shard: Shard, window: int, sequences: int, target: Path, device: str, alive: Alive
) -> None:
    """Write the Fisher information of the model in `model` into the unpublished folder `target`,
    float32.

    F = E_x E_{y ~ p(y|x)} (∂ log p(y|x) / ∂θ)² (arXiv 2111.09832, equation 2), x the prefixes in
    the first `sequences` windows of `shard`, one y drawn for each; per token. The gradients of a
    window are summed before they are squared: they are independent given the text and zero on
    average, so nothing is added but noise. Squares are summed in float64. A tensor that is no
    parameter gets zeros, and so the plain average. Raises `UserError` if the shard is empty, or the
    information is too large for float32.
    """
    import torch

    require_text([shard], "average.method=fisher")
    chosen = windows(shard, window, 0)
    count = min(sequences, chosen.n_windows)
    if not count:
        raise UserError(
            f"{shard.domain}/{shard.split} is empty: no Fisher information can be estimated on it"
        )
    net = causal_lm.load_model(model, device, dtype=torch.float32)
    parameters = dict(net.named_parameters())
    total = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in parameters.items()}
    draws = torch.Generator(device="cpu").manual_seed(0)
    seen = 0
    for i in range(count):
        tokens = min(window, chosen.n_tokens - i * window)
        inputs = torch.from_numpy(chosen.inputs(i, i + 1)[:, :tokens]).to(device)
        logp = torch.log_softmax(net(input_ids=inputs, use_cache=False).logits[0].float(), -1)
        drawn = torch.multinomial(logp.detach().exp().cpu(), 1, generator=draws).to(device)
        gradients = torch.autograd.grad(
            logp.gather(1, drawn).sum(), list(parameters.values()), allow_unused=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.double().square()
        seen += tokens
        alive()
    found = {name: (value / seen).float() for name, value in total.items()}
    for name, value in found.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{model}: the Fisher information of {name!r} is no finite float32: the model "
                "diverged; leave it out (average.experts=[…])"
            )
    _write(model, found, target)


def _write(model: Path, found: "dict[str, torch.Tensor]", target: Path) -> None:
    """Write one file with a tensor for every one of the model's."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    whole = {}
    for name, tensor in wt.tensors(model).items():
        if name in found:
            whole[name] = found[name].cpu().contiguous()
            continue
        with safe_open(tensor.file, "pt") as stored:
            like = stored.get_tensor(name)
        whole[name] = like.float() * 0 if tensor.is_float else like
    save_file(whole, target / WEIGHTS, {"format": "pt"})
