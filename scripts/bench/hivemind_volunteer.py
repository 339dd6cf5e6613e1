"""One volunteer of hivemind (arXiv 2106.10207, 2207.03481), for scripts/bench/together.py --hivemind.

Run by the Python of .venv-hivemind (scripts/hivemind). Trains a copy of a model with
hivemind.Optimizer until the swarm has made so many rounds, which hivemind calls epochs. Each step
updates the copy (use_local_updates), and a round ends with an average of all copies; with
--synchronous, hivemind's default, a round is one step of all, by the average of their gradients.
Writes its address, its progress after each round, and the model at the end into --home.
"""

import argparse
import json
import time
from pathlib import Path

import hivemind
import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM


def main() -> None:
    """Train until the rounds are over."""
    given = parse()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(given.model, local_files_only=True).train()
    dht = hivemind.DHT(initial_peers=given.peers, start=True)
    optimizer = joined(model, dht, given)
    write(given.home / "address.json", [str(address) for address in dht.get_visible_maddrs()])
    while not given.go.exists():
        time.sleep(0.2)
    tokens = np.load(given.tokens, mmap_mode="r")
    rng, sequences, told = np.random.default_rng(given.seed), 0, -1
    while optimizer.local_epoch < given.rounds:
        starts = rng.integers(0, len(tokens) - given.length - 1, given.batch)
        rows = torch.from_numpy(np.stack([tokens[i : i + given.length + 1] for i in starts]))
        logits = model(input_ids=rows[:, :-1].long()).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].long().flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        sequences += given.batch
        if optimizer.local_epoch > told:
            told = optimizer.local_epoch
            write(given.home / "progress.json", {"rounds": told, "sequences": sequences})
            print(f"round {told}: {sequences} sequences, loss {loss.item():.3f}", flush=True)
    write(given.home / "progress.json", {"rounds": optimizer.local_epoch, "sequences": sequences})
    model.save_pretrained(given.home / "making")
    (given.home / "making").rename(given.home / "model")
    optimizer.shutdown()
    dht.shutdown()


def joined(
    model: torch.nn.Module, dht: hivemind.DHT, given: argparse.Namespace
) -> hivemind.Optimizer:
    """Make the optimizer of btm's defaults: AdamW, warm-up, and a cosine, by rounds."""

    def rate(done: int) -> float:
        warm = max(1.0, 0.08 * given.rounds)
        if done < warm:
            return (done + 1) / (warm + 1)
        share = min(1.0, (done - warm) / (given.rounds - warm))
        return float(0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * share)))

    def adamw(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, given.lr, betas=(0.9, 0.95), weight_decay=0.1)

    return hivemind.Optimizer(
        dht=dht,
        run_id="together",
        params=model.parameters(),
        optimizer=adamw,
        scheduler=lambda optimizer: LambdaLR(optimizer, rate),
        batch_size_per_step=given.batch,
        target_batch_size=given.round_sequences,
        use_local_updates=not given.synchronous,
        delay_state_averaging=False,
        matchmaking_time=1.0 if given.synchronous else 3.0,
        averaging_timeout=30.0,
        verbose=True,
    )


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
    parser.add_argument("--peers", nargs="*", default=[], help="addresses of those who are there")
    parser.add_argument("--go", type=Path, required=True, help="training begins once it exists")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--round-sequences", type=int, required=True, help="of all volunteers")
    parser.add_argument("--batch", type=int, required=True, help="sequences of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synchronous", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
