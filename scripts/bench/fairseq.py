"""An expert trained by fairseq and by btm's own loop: the same verb, model, text, settings,
precision and threads.

    scripts/fairseq
    python scripts/bench/fairseq.py --python .venv-fairseq/bin/python --steps 60 --rounds 2

A BioGPT of 5 M parameters (fairseq's transformer_lm_gpt3), float32, as fairseq has no bfloat16 on
CPUs; by turns. Time is that between the first lines of metrics.jsonl and the last, so neither's
start counts. The two cut the text at other places, so their losses agree as those of two data
orders do: validation ends within 0.1 nats.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from btm import steps
from btm.cli.compose import compose

FIRST = 4  # step from which time counts


def words(folder: Path, args: argparse.Namespace) -> list[str]:
    """Return the settings that both share."""
    shape = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
    }
    said = [f"model.config.{key}={value}" for key, value in shape.items()]
    said += [
        "experiment=fairseq",
        f"data.out={args.data}",
        f"forest={folder}",
        "seed.steps=0",
        "branch=copy",
    ]
    said += [
        f"trainer.steps={args.steps}",
        "trainer.batch_size=8",
        "trainer.seq_len=256",
        "trainer.log_every=1",
    ]
    said += [
        "trainer.precision=fp32",
        f"trainer.threads={args.threads}",
        "trainer.checkpoint_every=100000",
    ]
    return [
        *said,
        "parent=seed",
        "model.config.hidden_dropout_prob=0.0",
        "merge.force=true",
        f"fairseq.python={args.python}",
    ]


def train(name: str, backend: str, folder: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Train a branch; return tokens per second and the nats per token it ends at on its valid
    split.
    """
    config = compose([*words(folder, args), f"trainer.backend={backend}"])
    steps.branch(config, name, args.domain, among=["seed"])
    branch = steps.train(config, name)
    lines = [json.loads(line) for line in (branch.path / "metrics.jsonl").read_text().splitlines()]
    moments = {
        line["step"]: (line["tokens"], line["tokens"] / line["tokens_per_second"]) for line in lines
    }
    (tokens, begun), (all_tokens, ended) = moments[FIRST], moments[args.steps]
    assert branch.result is not None
    return (all_tokens - tokens) / (ended - begun), branch.result["valid_nats"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", required=True, help="the interpreter that has fairseq")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--domain", default="bible")
    parser.add_argument("--data", default="data", help="where the suite is, or is prepared")
    args = parser.parse_args()
    found: dict[str, list[float]] = {"btm": [], "fairseq": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "forest"
        config = compose(words(folder, args))
        steps.prepare(config)
        count = steps.seed(config).card.parameters
        print(
            f"{count:,} parameters, {args.steps} steps of 2,048 tokens, float32, {args.threads} "
            "thread(s)"
        )
        for turn in range(args.rounds):
            ends = {}
            for backend, rates in found.items():
                rate, ends[backend] = train(f"{backend}-{turn}", backend, folder, args)
                rates.append(rate)
                print(
                    f"{backend:8} {rate:8,.0f} tokens/s, valid {ends[backend]:.3f} nats/token",
                    flush=True,
                )
            if abs(ends["btm"] - ends["fairseq"]) > 0.1:
                raise SystemExit("they do not come to the same")
    ratios = [a / b for a, b in zip(found["btm"], found["fairseq"], strict=True)]
    print(
        f"btm over fairseq {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
