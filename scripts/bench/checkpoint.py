"""How long a checkpoint stops the training: copied and written behind, or written at once.

    python scripts/bench/checkpoint.py --parameters 30 --rounds 5

A model of so many million parameters with AdamW's moments, saved by turns in both ways on the disk
under --folder. The floor is a copy of the same bytes in memory, into arrays that are there.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from btm.config.training import TrainerConfig
from btm.train import checkpoint, optimizers
from btm.train.kernels import memory

STATE = {"settings": {}, "environment": {}, "notes": []}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=30, help="millions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="on the disk to write to; default: a temporary one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    memory.keep_freed()
    width = 1024
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(args.parameters)))
    optimizer = optimizers.make_optimizer(model, TrainerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(optimizer)
    tensors = [
        *checkpoint.parameters(model).values(),
        *checkpoint.moments(model, optimizer).values(),
    ]
    copies = [tensor.clone() for tensor in tensors]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    found: dict[str, list[float]] = {"copy": [], "behind": [], "until written": [], "at once": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        behind, at_once = checkpoint.Writer(), checkpoint.Writer(behind=False)
        for turn in range(args.rounds + 1):  # the first makes the buffers
            begun = time.perf_counter()
            for copy, tensor in zip(copies, tensors, strict=True):
                copy.copy_(tensor)
            copied = time.perf_counter()
            behind.save(Path(folder) / "behind", model, optimizer, STATE | {"step": turn})
            stopped = time.perf_counter()
            behind.wait()
            written = time.perf_counter()
            at_once.save(Path(folder) / "at-once", model, optimizer, STATE | {"step": turn})
            ended = time.perf_counter()
            times = (copied - begun, stopped - copied, written - copied, ended - written)
            for seconds, value in zip(found.values(), times, strict=True):
                seconds.append(value)
    print(f"{size / 1e9:.2f} GB, {args.rounds} rounds")
    for name, seconds in found.items():
        ratios = [a / b for a, b in zip(seconds[1:], found["copy"][1:], strict=True)]
        usual, ratio = statistics.median(seconds[1:]), statistics.median(ratios)
        print(
            f"{name:14} {usual:7.3f} s, {ratio:6.2f} of a copy ({min(ratios):.2f} to "
            f"{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
