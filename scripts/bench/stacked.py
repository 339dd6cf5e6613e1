"""Small experts trained as one batched model (torch.func.stack_module_state, vmap) against one
after the other.

    python scripts/bench/stacked.py --experts 8 --width 64 --layers 2 --batch-size 4 --seq-len 128

Both do the same steps on the same batches, by turns, in one thread: btm's own step for each expert,
and one step of all experts stacked. Losses have to agree first. The stacked one has eager attention
and the plain loss: neither flash attention nor btm's kernels can be batched over experts.
"""

import argparse
import copy
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from btm.config.training import ModelConfig, TrainerConfig
from btm.models import causal_lm, configs
from btm.train import kernels, optimizers, trainee


class Loss(torch.nn.Module):
    """A model whose forward pass is its mean loss."""

    def __init__(self, model: torch.nn.Module, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.model(input_ids=rows[:, :-1], use_cache=False).logits.float()
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


class Stacked:
    """All experts as one batched model."""

    def __init__(self, experts: list[Any], trainer: TrainerConfig, precision: str) -> None:
        wrapped = [Loss(expert, precision == "bf16") for expert in experts]
        for expert in experts:
            expert.set_attn_implementation("eager")
        self.parameters, self.buffers = stack_module_state(wrapped)
        self.base = copy.deepcopy(wrapped[0]).to("meta")
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=trainer.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.step_of = vmap(grad_and_value(self._loss), randomness="different")

    def _loss(self, parameters: Any, buffers: Any, rows: torch.Tensor) -> torch.Tensor:
        return functional_call(self.base, (parameters, buffers), (rows,))

    def step(self, rows: torch.Tensor) -> list[float]:
        """Train on rows (experts, batch, L + 1); return the losses."""
        gradients, losses = self.step_of(self.parameters, self.buffers, rows)
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
        for name, parameter in self.parameters.items():
            shrunk = norms.clamp(min=1.0).view(-1, *[1] * (parameter.ndim - 1))
            parameter.grad = gradients[name] / shrunk
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses.tolist()


class Apart:
    """One expert after the other, as btm's loop trains each."""

    def __init__(self, experts: list[Any], trainer: TrainerConfig, precision: str) -> None:
        self.trainer, self.precision = trainer, precision
        self.experts = [(expert, optimizers.make_optimizer(expert, trainer)) for expert in experts]
        for expert in experts:
            kernels.prepare(expert)

    def step(self, rows: torch.Tensor) -> list[float]:
        """Train on rows (experts, batch, L + 1); return the losses."""
        losses = []
        for (expert, optimizer), own in zip(self.experts, rows, strict=True):
            loss = trainee.backward(expert, own.numpy(), self.trainer, self.precision)
            losses.append(float(loss))
            divisor = optimizers.shrink(optimizers.gradient_norm(expert), 1.0)
            trainee.apply(optimizer, self.trainer.lr, divisor)
        return losses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = {
        "hidden_size": args.width,
        "intermediate_size": args.width * 8 // 3,
        "num_attention_heads": 4,
    }
    shape |= {
        "num_key_value_heads": 4,
        "num_hidden_layers": args.layers,
        "tie_word_embeddings": False,
    }
    config = configs.make_config(
        ModelConfig(config={"model_type": "llama", **shape}), args.vocabulary, 0
    )
    trainer = TrainerConfig(lr=1e-3)
    ways: dict[str, Any] = {}
    for name, kind in {"apart": Apart, "stacked": Stacked}.items():
        experts = [causal_lm.new_model(config, seed).train() for seed in range(args.experts)]
        ways[name] = kind(experts, trainer, args.precision)
    chance = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    off = 0.0
    for _ in range(args.rounds + 2):
        rows = torch.randint(
            args.vocabulary, (args.experts, args.batch_size, args.seq_len + 1), generator=chance
        )
        losses = {}
        for name, way in ways.items():
            begun = time.perf_counter()
            losses[name] = way.step(rows)
            seconds[name].append(time.perf_counter() - begun)
        off = max(
            off, *(abs(a - b) for a, b in zip(losses["apart"], losses["stacked"], strict=True))
        )
    if off > 0.02:
        raise SystemExit(f"losses differ by {off:.4f} nats")
    ratios = [a / b for a, b in zip(seconds["apart"][2:], seconds["stacked"][2:], strict=True)]
    parameters = causal_lm.count_parameters(config)
    tokens = args.experts * args.batch_size * args.seq_len
    print(
        f"{args.experts} experts of {parameters:,} parameters, {tokens:,} tokens a step, "
        f"{args.precision}"
    )
    print(
        f"losses within {off:.4f} nats; apart over stacked {statistics.median(ratios):.2f}", end=" "
    )
    print(f"({min(ratios):.2f} to {max(ratios):.2f}); ", end="")
    print(
        {name: f"{tokens / statistics.median(s[2:]):,.0f} tokens/s" for name, s in seconds.items()}
    )


if __name__ == "__main__":
    main()
