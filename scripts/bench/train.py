"""How fast one expert is trained, beside the loops people would otherwise use.

    python scripts/bench/train.py --size tiny --nanogpt DIR --peers .venv-peers/bin/python
    python scripts/bench/train.py --size 125m --batch-size 4 --seq-len 512 --rounds 3 …
    python scripts/bench/train.py --quick            # losses alone, on a model of some thousand parameters
    python scripts/bench/train.py --size 125m --device cuda --batch-size 16 --seq-len 1024 --json rows.json …

Same parameters, tokens, batches, precision and threads for all; each loop is a process of its own,
by turns, and a turn is some steps. Against nanoGPT btm trains a GPT-2, against transformers.Trainer
and litgpt a Llama, of the same size. DIR is a clone of github.com/karpathy/nanoGPT; scripts/peers
makes .venv-peers. What is not given does not take part.

Losses have to agree first: no step more than 0.02 nats off btm's without any of its kernels, their
mean 0.005. MFU counts 6 N + 12 · layers · width · T FLOPs a token (btm/forest/ledger.py), over the
largest rate at which this machine was seen to multiply matrices of that precision during the run,
with as many threads, or on the GPU. `--json` keeps the rows of the tables.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from btm import steps
from btm.cli.compose import compose
from btm.config.training import ModelConfig
from btm.data.batches import Batches
from btm.models import causal_lm, configs, flops

HERE = Path(__file__).parent
SIZES = {
    "tiny": (256, 688, 6, 4, 8192),
    "125m": (768, 2048, 12, 12, 50304),
    "quick": (32, 64, 2, 2, 8192),
}
PEERS = {
    "gpt2": ("btm", "btm, not compiled", "btm, plain", "nanoGPT", "nanoGPT, compiled"),
    "llama": ("btm", "btm, not compiled", "btm, plain", "transformers.Trainer", "litgpt"),
}
SHARED = ("seq_len", "batch_size", "precision", "threads", "device")  # settings of every loop
STEP, MEAN = 0.02, 0.005  # nats that losses may differ by


def architecture(kind: str, size: str) -> ModelConfig:
    """Return a GPT-2 or a Llama of a size; their layers have about as many parameters."""
    width, inner, layers, heads, _ = SIZES[size]
    if kind == "gpt2":
        shape: dict[str, Any] = {
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "n_positions": 1024,
        }
        # nanoGPT has the exact GELU
        rest = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0) | {
            "activation_function": "gelu"
        }
    else:
        shape = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
        shape |= {"num_attention_heads": heads, "num_key_value_heads": heads}
        rest = {"tie_word_embeddings": True, "max_position_embeddings": 1024}
    return ModelConfig(name=kind, config={"model_type": kind, **shape, **rest})


class Contender:
    """A loop in a process of its own."""

    def __init__(self, name: str, folder: Path, python: str) -> None:
        self.name = name
        command = [python, str(HERE / "contenders.py"), name, str(folder)]
        self.log = (folder / "log.txt").open("w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.seconds: list[float] = []
        self.losses: list[float] = self._answer()["losses"]

    def turn(self, n: int) -> None:
        """Train `n` steps."""
        assert self.process.stdin
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.seconds.append(answer["seconds"] / n)
        self.memory = answer["memory"]
        self.losses += answer["losses"]

    def end(self) -> None:
        """Let it go."""
        self.process.communicate("\n")

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died:\n{Path(self.log.name).read_text()[-2000:]}")
        return json.loads(line)


def peak(precision: str, threads: int, device: str, quick: bool) -> float:
    """Return the FLOP/s of the fastest of some products of matrices; small ones if `quick`."""
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for n in (128,) if quick else (1024, 2048) if device == "cpu" else (4096, 8192):
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        for _ in range(8):
            wait(device)  # a GPU's products return before they are done
            begun = time.perf_counter()
            a @ b
            wait(device)
            best = max(best, 2 * n**3 / (time.perf_counter() - begun))
    return best


def wait(device: str) -> None:
    """Return when the device has done all that it was given."""
    if device != "cpu":
        torch.accelerator.synchronize(device)


def prepare(folder: Path, kind: str, args: argparse.Namespace) -> tuple[Path, float]:
    """Write what the contenders of an architecture read; return where, and the FLOPs of a step."""
    size = "quick" if args.quick else args.size
    config = compose([f"data.out={args.data}"])
    suite = steps.prepare(config)
    domains = suite.training_domains()
    batches = Batches(
        [suite.shard(d, "train") for d in domains], args.seq_len, args.batch_size, seed=0
    )
    n = args.warm_up + args.rounds * args.steps
    target = folder / kind
    model = causal_lm.new_model(configs.make_config(architecture(kind, size), SIZES[size][4], 0), 0)
    model.save_pretrained(target)
    np.save(
        target / "batches.npy",
        np.stack([batches.batch(step) for step in range(n)]).astype(np.uint16),
    )
    settings = {
        "steps": n,
        "warm_up": args.warm_up,
        "shards": [str(suite.shard(d, "train").folder) for d in domains],
        "nanogpt": args.nanogpt,
        "lr": 6e-4,
        "compile": not args.quick,  # litgpt's model; that takes longer than all the rest
        **{key: getattr(args, key) for key in SHARED},
    }
    (target / "settings.json").write_text(json.dumps(settings))
    tokens = args.batch_size * args.seq_len
    print(
        f"{kind}: {model.num_parameters():,} parameters, {tokens:,} tokens a step, {n} steps",
        flush=True,
    )
    return target, flops.Shape.of(model).training_flops(args.seq_len) * tokens


def taking_part(kind: str, args: argparse.Namespace) -> dict[str, str]:
    """Return each contender's interpreter."""
    names = [name for name in PEERS[kind] if not name.startswith("nanoGPT") or args.nanogpt]
    if args.only:
        names = [name for name in names if name in args.only.split("; ")]
    found = {name: sys.executable for name in names if name.startswith(("btm", "nanoGPT"))}
    return found | {name: args.peers for name in names if name not in found and args.peers}


def compare(folder: Path, kind: str, args: argparse.Namespace, rows: list[dict[str, Any]]) -> bool:
    """Print the table of an architecture and add it to `rows`; return whether all losses agree."""
    source, flops = prepare(folder, kind, args)
    contenders: list[Contender] = []
    for number, (name, python) in enumerate(taking_part(kind, args).items()):
        own = folder / f"{kind}-{number}"
        own.mkdir()
        for file in source.iterdir():
            (own / file.name).symlink_to(file) if file.suffix == ".npy" else (
                own / file.name
            ).write_bytes(file.read_bytes())
        contenders.append(Contender(name, own, python))
    best = peak(args.precision, args.threads, args.device, args.quick)
    for _ in range(args.rounds):
        for contender in contenders:
            contender.turn(args.steps)
        best = max(best, peak(args.precision, args.threads, args.device, args.quick))
    for contender in contenders:
        contender.end()
    plain = next(c for c in contenders if c.name == "btm, plain")
    agree = True
    print(
        f"{best / 1e9:.0f} GFLOP/s in products of matrices, {args.precision}, {args.threads} "
        f"thread(s), {args.device}"
    )
    print(
        f"{'':22}{'s/step':>8}{'tokens/s':>10}{'MFU':>7}{'of btm':>8}{'least':>7}{'most':>7}{'loss off':>10}{'GB':>6}"
    )
    for c in contenders:
        off = [abs(a - b) for a, b in zip(c.losses, plain.losses, strict=True)]
        agree &= max(off) <= STEP and statistics.mean(off) <= MEAN
        ratios = [a / b for a, b in zip(c.seconds, contenders[0].seconds, strict=True)]
        usual = statistics.median(c.seconds)
        row = f"{c.name:22}{usual:8.3f}{args.batch_size * args.seq_len / usual:10,.0f}{flops / usual / best:7.3f}"
        row += f"{statistics.median(ratios):8.2f}{min(ratios):7.2f}{max(ratios):7.2f}"
        row += f"{max(off):10.4f}{c.memory / 1e9:6.2f}"
        rows.append(
            {
                "architecture": kind,
                "loop": c.name,
                "seconds a step": usual,
                "tokens/s": args.batch_size * args.seq_len / usual,
                "MFU": flops / usual / best,
                "time over btm's": statistics.median(ratios),
                "largest difference of losses": max(off),
                "GB": c.memory / 1e9,
            }
        )
        print(row if not args.quick else f"{c.name:22}losses within {max(off):.5f}", flush=True)
    return agree


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["tiny", "125m"], default="tiny")
    parser.add_argument("--architecture", choices=sorted(PEERS), help="only this one")
    parser.add_argument("--only", help="only these contenders: 'btm; btm, plain; litgpt'")
    parser.add_argument("--nanogpt", help="a clone of nanoGPT")
    parser.add_argument("--peers", help="a Python that has accelerate and litgpt")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--data", default="data", help="where the demo suite is, or is prepared")
    parser.add_argument("--quick", action="store_true", help="equality of losses only, in seconds")
    args = parser.parse_args()
    if args.quick:
        args.batch_size, args.seq_len, args.steps, args.rounds, args.warm_up = 4, 64, 4, 1, 4
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        kinds = [args.architecture] if args.architecture else list(PEERS)
        agreed = [compare(Path(folder), kind, args, rows) for kind in kinds]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))
    if not all(agreed):
        raise SystemExit("losses do not agree")


if __name__ == "__main__":
    main()
