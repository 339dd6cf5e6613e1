"""ALiBi beside learned positions: trained on 128 tokens, evaluated with up to 512.

    python scripts/bench/alibi.py --steps 600 --seeds 3

Both models are a BLOOM of the demo's size with the same parameters to begin with, the same batches
and the same optimizer. In one of them the biases of its attention are zero, and a table of
learned positions is added to the embeddings, before their LayerNorm.

What is measured: nats per token on the same 64 tokens, the last of each window of 512 tokens that
lies in one document of a test split, when a model sees 128, 256 or 512 tokens that end with them.
"""

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from btm import steps
from btm.cli.compose import compose
from btm.config.training import ModelConfig, TrainerConfig
from btm.data.batches import Batches
from btm.data.shards import Shard, Suite
from btm.models import causal_lm, configs
from btm.train import optimizers, trainee
from btm.train.schedule import Schedule, default_lr

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXTS = (128, 256, 512)
SUFFIX, LONGEST = 64, max(CONTEXTS)
TOKENS = 2048  # of a training step
SIZE = {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 2}


def main() -> None:
    """Train the models, evaluate them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=24, help="of each domain, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the suite lives")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    suite = steps.prepare(compose([f"data.out={words.data}"]))
    held = _windows(suite, words.windows)
    print(f"{len(held)} windows, the last {SUFFIX} tokens of each", flush=True)
    found: dict[str, list[list[float]]] = {"ALiBi": [], "learned": []}
    for seed in range(words.seeds):
        for positions, rows in found.items():
            model = _trained(suite, positions, seed, words.steps)
            rows.append([_nats(model, held[:, -context:]) for context in CONTEXTS])
            print(f"seed {seed}, {positions}: {[round(nats, 3) for nats in rows[-1]]}", flush=True)
    print(f"| positions | {' | '.join(f'{context} tokens' for context in CONTEXTS)} |")
    print(f"|---|{'---|' * len(CONTEXTS)}")
    for positions, rows in found.items():
        cells = (_cell(each) for each in zip(*rows, strict=True))
        print(f"| {positions} | {' | '.join(cells)} |")


def _cell(values: tuple[float, ...]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _trained(suite: Suite, positions: str, seed: int, n_steps: int) -> nn.Module:
    """Train a model on windows of 128 tokens of the suite's training domains in turn."""
    config = configs.make_config(ModelConfig(config=SIZE), suite.vocab_size, suite.eos)
    model = causal_lm.new_model(config, seed).train()
    trainer = TrainerConfig(lr=default_lr(model.num_parameters()))
    if positions == "learned":
        _learn_positions(model, seed)
    shards = [suite.shard(domain, "train") for domain in suite.training_domains()]
    batches = Batches(shards, CONTEXTS[0], TOKENS // CONTEXTS[0], seed)
    optimizer = optimizers.make_optimizer(model, trainer)
    schedule = Schedule.of(trainer, horizon=n_steps)
    for step in range(n_steps):
        trainee.backward(model, batches.batch(step), trainer, "fp32")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainee.apply(optimizer, schedule.lr(step))
    return model.eval()


def _learn_positions(model: "PreTrainedModel", seed: int) -> None:
    """Give a BLOOM learned positions in place of its biases."""
    body = model.get_submodule("transformer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        table = nn.Embedding(LONGEST, model.config.hidden_size)
        nn.init.normal_(table.weight, std=model.config.initializer_range)
    model.add_module("positions", table)

    def add(module: nn.Module, inputs: Any, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings + table.weight[: embeddings.shape[1]]

    def without_biases(
        module: nn.Module, args: tuple[Any, ...], words: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, words | {"alibi": torch.zeros_like(words["alibi"])}

    body.get_submodule("word_embeddings").register_forward_hook(add)
    for block in body.get_submodule("h").children():
        block.register_forward_pre_hook(without_biases, with_kwargs=True)


def _windows(suite: Suite, most: int) -> np.ndarray:
    """Take windows of 512 tokens from test text, at most `most` of a domain, (N, 512)."""
    found = [_of_shard(suite.shard(domain, "test"), most) for domain in suite.training_domains()]
    return np.concatenate([windows for windows in found if len(windows)])


def _of_shard(shard: Shard, most: int) -> np.ndarray:
    """Take one window of each document that has one, in the order of the text."""
    ends = np.cumsum(shard.documents[:, 0], dtype=np.int64)
    begins = [end - n for end, n in zip(ends, shard.documents[:, 0], strict=True) if n >= LONGEST]
    rows = [np.asarray(shard.tokens[at : at + LONGEST], np.int64) for at in begins[:most]]
    return np.stack(rows) if rows else np.empty((0, LONGEST), np.int64)


def _nats(model: nn.Module, tokens: np.ndarray) -> float:
    """Measure nats per token of the last tokens of each row."""
    total = 0.0
    with torch.inference_mode():
        for row in torch.from_numpy(tokens).split(8):
            logp = causal_lm.token_logp(model, row[:, :-1], row[:, 1:])
            total -= float(logp[:, -SUFFIX:].double().sum())
    return total / (len(tokens) * SUFFIX)


if __name__ == "__main__":
    main()
