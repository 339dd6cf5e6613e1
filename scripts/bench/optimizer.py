"""AdamW with moments of 8 bits against 32: time and memory of a step, and the loss it ends at.

    python scripts/bench/optimizer.py step           # ms per step and bytes of state, by turns
    python scripts/bench/optimizer.py loss --steps 1000 --seeds 3
    python scripts/bench/optimizer.py unseen         # what becomes of embeddings of tokens that never occur

`loss` trains the seed of a small forest as `btm seed experiment=smoke` does, in which every matrix
is quantised, and gives the mean over the training domains of nats per token on their test splits.
torchao's AdamW8bit takes part in `step` where it is installed.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from btm import steps
from btm.cli.compose import compose
from btm.config.training import ModelConfig, TrainerConfig
from btm.data.batches import windows
from btm.models import causal_lm, configs
from btm.system.json_files import read_object
from btm.train import optimizers, trainee

VARIANTS = {
    "adamw": TrainerConfig(lr=1e-3),
    "adamw8bit": TrainerConfig(lr=1e-3, optimizer="adamw8bit"),
    "adamw8bit, embeddings in 32 bits": TrainerConfig(
        lr=1e-3, optimizer="adamw8bit", embedding_bits=32
    ),
}
PICO = compose(["experiment=demo"]).model


def step(rounds: int, config: ModelConfig = PICO) -> None:
    """Print the median time of a step of each optimizer on the same gradients, by turns, and its
    state.
    """
    made: dict[str, tuple[torch.nn.Module, torch.optim.Optimizer]] = {}
    for name, trainer in VARIANTS.items():
        model = causal_lm.new_model(configs.make_config(config, 2048, 0), 0)
        made[name] = (model, optimizers.make_optimizer(model, trainer))
    if (other := _torchao()) is not None:
        model = causal_lm.new_model(configs.make_config(config, 2048, 0), 0)
        made["torchao"] = (model, other(model.parameters(), lr=5e-4, block_size=256))
    count = sum(p.numel() for p in next(iter(made.values()))[0].parameters())
    times: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(rounds):
        for name, (model, optimizer) in made.items():
            chance = torch.Generator().manual_seed(turn)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=chance) * 1e-3
            begun = time.perf_counter()
            optimizer.step()
            times[name].append(1e3 * (time.perf_counter() - begun))
    print(f"{count:,} parameters, {rounds} steps each, median ms a step")
    for name, (_, optimizer) in made.items():
        size = f"; {optimizers.state_size(optimizer)}" if name in VARIANTS else ""
        print(f"{name:34} {statistics.median(times[name][3:]):7.1f} ms{size}")


def _torchao() -> Any:
    try:
        from torchao.optim import AdamW8bit  # type: ignore[import-not-found]
    except ImportError:
        return None
    return AdamW8bit


def loss(n_steps: int, seeds: int, data: Path) -> None:
    """Print where training of the demo's seed ends with each optimizer, for some seeds."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        for name, trainer in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                nats, size = _train(trainer, n_steps, seed, data, Path(folder) / "forest")
            found[name].append(nats)
            print(
                f"seed {seed}, {name:34} {nats:.4f} nats/token; {size:.2f} bytes a parameter",
                flush=True,
            )
    for name, values in found.items():
        off = [abs(ours - theirs) for ours, theirs in zip(values, found["adamw"], strict=True)]
        print(f"{name:34} mean {statistics.mean(values):.4f}, furthest from adamw {max(off):.4f}")


def _train(
    trainer: TrainerConfig, n_steps: int, seed: int, data: Path, root: Path
) -> tuple[float, float]:
    words = [
        f"trainer.optimizer={trainer.optimizer}",
        f"trainer.embedding_bits={trainer.embedding_bits}",
    ]
    words += ["experiment=smoke", f"forest={root}", f"data.out={data}", f"trainer.seed={seed}"]
    words += [
        f"seed.steps={n_steps}",
        "trainer.batch_size=8",
        "trainer.carry=fresh",
        "trainer.precision=fp32",
    ]
    config = compose(words)
    suite = steps.prepare(config)
    elm = steps.seed(config)
    model = elm.load()
    domains = suite.training_domains()
    shards = [
        windows(suite.shard(domain, "test"), config.trainer.seq_len, 16_384) for domain in domains
    ]
    nats = statistics.mean(trainee.validate(model, shard) for shard in shards)
    state = read_object(elm.path / "trained.json", optimizer=dict)["optimizer"]
    return nats, state["bytes"] / state["parameters"]


def unseen(n_steps: int) -> None:
    """Print how far embeddings go whose gradient is always 0, beside those of tokens that occur.

    Each row of the one kind lies in a block of 256 elements with one of the other.
    """
    untied = replace(PICO, config=PICO.config | {"tie_word_embeddings": False})
    for name, trainer in VARIANTS.items():
        model = causal_lm.new_model(configs.make_config(untied, 2048, 0), 0).train()
        table = model.get_input_embeddings().weight
        begin, trainer = table.detach().clone(), replace(trainer, weight_decay=0.0)
        optimizer = optimizers.make_optimizer(model, trainer)
        chance = torch.Generator().manual_seed(0)
        for _ in range(n_steps):
            tokens = 2 * torch.randint(0, 1024, (4, 65), generator=chance).numpy()
            trainee.backward(model, tokens, trainer, "fp32")
            trainee.apply(optimizer, trainer.lr)
        moved = (table.detach() - begin).abs().mean(dim=1)
        print(
            f"{name:34} seen {moved[::2].mean():.2e}, unseen {moved[1::2].mean():.2e} (mean "
            "|change|)"
        )


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["step", "loss", "unseen"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where the prepared suite lives"
    )
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    if words.what == "step":
        step(words.rounds)
    elif words.what == "loss":
        loss(words.steps, words.seeds, words.data)
    else:
        unseen(words.steps)


if __name__ == "__main__":
    main()
