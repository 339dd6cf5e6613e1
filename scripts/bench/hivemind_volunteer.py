"""One volunteer of hivemind (arXiv 2106.10207, 2207.03481), for scripts/bench/together.py --hivemind.

Run by the Python of .venv-hivemind (scripts/hivemind). Trains a copy of a model with
hivemind.Optimizer until the swarm has made so many rounds, which hivemind calls epochs: each step
updates the copy (use_local_updates), and a round ends with an average of all copies. Writes its
address, its progress after each round, and the model at the end into --home.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hivemind
import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM


def main() -> None:
    """Train until the rounds are over."""
    given, parent = parse(), os.getppid()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(given.model, local_files_only=True).train()
    (given.home / "ready").touch()
    wait(given.enter, parent)
    dht = hivemind.DHT(initial_peers=addresses(given.peers), start=True)
    optimizer = joined(model, dht, given)
    write(given.home / "address.json", [str(address) for address in dht.get_visible_maddrs()])
    wait(given.go, parent)
    sequences, told = 0, -1
    for rows in batches(np.load(given.tokens, mmap_mode="r"), given):
        logits = model(input_ids=rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        sequences += given.batch
        if optimizer.local_epoch > told:
            told = optimizer.local_epoch
            write(given.home / "progress.json", {"rounds": told, "sequences": sequences})
            print(f"round {told}: {sequences} sequences, loss {loss.item():.3f}", flush=True)
        if told >= given.rounds or os.getppid() != parent:
            break
    model.save_pretrained(given.home / "making")
    (given.home / "making").rename(given.home / "model")
    optimizer.shutdown()
    dht.shutdown()


def batches(tokens: np.ndarray, given: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Cut the text into windows, those of a pass in random order, as btm's batches do."""
    rng = np.random.default_rng(given.seed)
    while True:
        offset = int(rng.integers(given.length))
        order = rng.permutation((len(tokens) - offset - 1) // given.length)
        for begin in range(0, len(order) - given.batch + 1, given.batch):
            starts = offset + given.length * order[begin : begin + given.batch]
            rows = np.stack([tokens[i : i + given.length + 1] for i in starts])
            yield torch.from_numpy(rows.astype(np.int64))


def joined(
    model: torch.nn.Module, dht: hivemind.DHT, given: argparse.Namespace
) -> hivemind.Optimizer:
    """Make the optimizer: btm's AdamW, and its warm-up and cosine in steps of a round."""

    def rate(done: int) -> float:
        warm = max(1.0, 0.08 * given.rounds)
        if done < warm:
            return (done + 1) / (warm + 1)
        share = min(1.0, (done - warm) / (given.rounds - warm))
        return float(0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * share)))

    def adamw(groups: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, given.lr, betas=(0.9, 0.95))

    return hivemind.Optimizer(
        dht=dht,
        run_id="together",
        params=[
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ],
        optimizer=adamw,
        scheduler=lambda optimizer: LambdaLR(optimizer, rate),
        batch_size_per_step=given.batch,
        target_batch_size=given.round_sequences,
        use_local_updates=True,
        delay_state_averaging=False,
        matchmaking_time=3.0,
        averaging_timeout=30.0,
        verbose=True,
    )


def addresses(file: Path | None) -> list[str]:
    """Read the addresses of the one that all others join."""
    return list(json.loads(file.read_text())) if file else []


def wait(file: Path, parent: int) -> None:
    """Wait until a file exists; end with the bench."""
    while not file.exists():
        if os.getppid() != parent:
            sys.exit("the bench has ended")
        time.sleep(0.2)


def write(file: Path, value: object) -> None:
    """Write a file whole or not at all."""
    making = file.with_suffix(".making")
    making.write_text(json.dumps(value))
    making.replace(file)


def parse() -> argparse.Namespace:
    """Read the settings of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a folder of transformers")
    parser.add_argument("--tokens", type=Path, required=True, help=".npy of the volunteer's text")
    parser.add_argument("--peers", type=Path, help="JSON: addresses of one who is there")
    parser.add_argument("--enter", type=Path, required=True, help="joins once this file exists")
    parser.add_argument("--go", type=Path, required=True, help="trains once this file exists")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--round-sequences", type=int, required=True, help="of all volunteers")
    parser.add_argument("--batch", type=int, required=True, help="sequences of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
