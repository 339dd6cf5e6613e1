"""Int8 and 16 bits beside float32: loss under planted outliers, bytes, time.

    python scripts/bench/int8.py [experiment=demo …] [--scale=60] [--csv=FOLDER]

The words are those of `btm eval`. A copy of the forest gets outliers in every norm of its ELMs
(outliers.py), which changes nothing in float32. Then each expert is measured on its own domain's
test split, with its matrices quantised in several ways; the whole ensemble by `btm eval` itself,
loaded in each way that there is; the time of forward passes by turns, over widths; and by how much
a process grows that loads a model of 163 M parameters.
"""

import argparse
import copy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from btm import steps
from btm.cli.compose import compose
from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.data.batches import windows
from btm.forest import Forest
from btm.forest.suites import open_suite
from btm.models import causal_lm, inference, int8
from btm.report.tables import table
from btm.train.trainee import validate

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.outliers import SCALE, plant_in_forest

WAYS = {
    "fp32": LoadConfig(),
    "int8": LoadConfig("int8"),
    "bf16": LoadConfig(dtype="bf16"),
    "int8, rest bf16": LoadConfig("int8", "bf16"),
}
WIDTHS = (64, 128, 512, 1024)
SHAPES = {"512 tokens": (4, 128), "one token": (1, 1)}


def main() -> None:
    """Print four tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=SCALE)
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    torch.set_num_threads(1)
    config = compose(words or ["experiment=demo"], "eval")
    with planted(config, arguments.scale) as forest:
        tables = {
            "experts": experts(config, forest),
            "ensemble": ensembles(replace(config, forest=str(forest.root))),
            "time": times(),
            "memory": memory(),
        }
    for title, rows in tables.items():
        print(table(rows, title))
        if arguments.csv:
            arguments.csv.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(arguments.csv / f"{title}.csv", index=False)


@contextmanager
def planted(config: Config, scale: float) -> Iterator[Forest]:
    """Make a copy of the forest whose ELMs have outliers, for as long as the block takes."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "planted"
        derived = ("scores", "averages", "students", "moes", "targets", "evals", "fisher", "jobs")
        shutil.copytree(config.forest_root, root, ignore=shutil.ignore_patterns(*derived))
        plant_in_forest(root, scale)
        yield Forest(root)


def experts(config: Config, forest: Forest) -> list[dict]:
    """Measure each expert of the planted forest on its own domain; a row a way to quantise it."""
    suite, found, bytes_of = open_suite(config), {}, {}
    for elm in forest.experts():
        text = windows(suite.shard(elm.card.domains[0], "test"), config.window, 8192)
        plain = causal_lm.load_model(elm.path, dtype=torch.float32)
        exact = validate(plain, text)
        for way, change in QUANTISED.items():
            model = change(copy.deepcopy(plain))
            found.setdefault(way, []).append(validate(model, text) - exact)
            bytes_of[way] = None if way in IMITATED else stored(model)
    return [
        {
            "matrices": way,
            "mean |Δ| nats": statistics.mean(map(abs, deltas)),
            "largest |Δ|": max(map(abs, deltas)),
            "bytes / fp32": bytes_of[way],
        }
        for way, deltas in found.items()
    ]


def ensembles(config: Config) -> list[dict]:
    """Evaluate the planted forest, loaded in each way; a row a way."""
    rows, plain = [], {}
    for way, load in WAYS.items():
        shards = steps.eval_forest(replace(config, load=load))["shards"]
        nats = {name: entry["ensemble"]["nats_per_token"] for name, entry in shards.items()}
        plain = plain or nats
        deltas = [abs(nats[name] - plain[name]) for name in nats]
        rows.append(
            {
                "loaded": way,
                "domains": len(deltas),
                "ensemble, mean nats": statistics.mean(nats.values()),
                "mean |Δ|": statistics.mean(deltas),
                "largest |Δ|": max(deltas),
            }
        )
    return rows


def times() -> list[dict]:
    """Time a forward pass by turns in each way, over widths; medians, as parts of float32's."""
    rows = []
    for width in WIDTHS:
        shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 2}
        plain = LlamaForCausalLM(LlamaConfig(vocab_size=512, num_attention_heads=4, **shape))
        models = {
            way: inference.prepared(copy.deepcopy(plain), "cpu", load) for way, load in WAYS.items()
        }
        for called, size in SHAPES.items():
            seconds: dict[str, list[float]] = {way: [] for way in models}
            for _ in range(12):
                for way, model in models.items():
                    seconds[way].append(seconds_of(model, size))
            medians = {way: statistics.median(each[2:]) for way, each in seconds.items()}
            row = {"width": width, "at once": called, "fp32, ms": 1000 * medians["fp32"]}
            rows.append(row | {w: medians[w] / medians["fp32"] for w in list(WAYS)[1:]})
    return rows


def seconds_of(model: PreTrainedModel, size: tuple[int, int]) -> float:
    """Time one forward pass over tokens of this shape."""
    ids = torch.zeros(size, dtype=torch.long)
    start = time.perf_counter()
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    return time.perf_counter() - start


def memory() -> list[dict]:
    """Load a model in each way in a process of its own; return by how many MB that grows."""
    rows = []
    shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12}
    config = LlamaConfig(vocab_size=8192, num_attention_heads=16, tie_word_embeddings=True, **shape)
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        for way, load in WAYS.items():
            words = [sys.executable, "-c", GROWN, folder, load.quantization, load.dtype]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append({"loaded": way, "MB": float(done.stdout)})
    return rows


GROWN = """
import sys
from pathlib import Path
import bitsandbytes, torch, transformers.models.llama.modeling_llama
from btm.config.load import LoadConfig
from btm.models import inference, int8

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1e3

before = resident()
model = inference.load(Path(sys.argv[1]), "cpu", LoadConfig(*sys.argv[2:]))
with torch.inference_mode():
    model(input_ids=torch.zeros((1, 64), dtype=torch.long))
print(resident() - before)
"""


class Absmax(nn.Module):
    """A linear whose matrix and inputs have one scale each: the naive way."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.detach().abs().max() / 127
        self.codes = torch.round(linear.weight.detach() / self.scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply in whole numbers, held as floats."""
        scale = x.abs().max() / 127
        y = nn.functional.linear(torch.round(x / scale), self.codes) * (scale * self.scale)
        return y if self.bias is None else y + self.bias


class ByColumns(nn.Module):
    """bitsandbytes' own module: outliers are columns of the whole batch, W has 8 bits there."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        import bitsandbytes

        size, bias = linear.weight.shape, linear.bias is not None
        made = bitsandbytes.nn.Linear8bitLt(
            size[1], size[0], bias=bias, has_fp16_weights=False, threshold=int8.THRESHOLD
        )
        made.load_state_dict(linear.state_dict())
        self.inner = made.to("cpu").eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply as the library does in evaluation mode."""
        return self.inner(x)


def replaced(model: PreTrainedModel, kind: Callable[[nn.Linear], nn.Module]) -> PreTrainedModel:
    """Put another module in the place of each Linear of the layers."""
    for layer in causal_lm.decoder_layers(model):
        for part in list(layer.modules()):
            for name, child in list(part.named_children()):
                if type(child) is nn.Linear:
                    setattr(part, name, kind(child))
    return model


def without_outliers(model: PreTrainedModel) -> PreTrainedModel:
    """Quantise by rows, and leave outliers among the rest."""
    for part in inference.prepared(model, "cpu", WAYS["int8"]).modules():
        if isinstance(part, int8.Int8Linear):
            part.threshold = float("inf")
            part.columns, part.fine = part.columns[:0], part.fine[:, :0]
    return model


def stored(model: PreTrainedModel) -> float | None:
    """Divide the bytes of a model's matrices by float32's; None for a way that is only imitated."""
    if (found := int8.storage(model)).as_float32:
        return found.ratio
    kinds = {p.dtype for p in model.parameters()}
    return 0.5 if kinds == {torch.bfloat16} else None


IMITATED = ("absmax of the whole tensor", "by rows, no outliers apart")
QUANTISED: dict[str, Callable[[PreTrainedModel], PreTrainedModel]] = {
    "absmax of the whole tensor": lambda model: replaced(model, Absmax),
    "by rows, no outliers apart": without_outliers,
    "bitsandbytes' Linear8bitLt": lambda model: replaced(model, ByColumns),
    "load.quantization=int8": lambda model: inference.prepared(model, "cpu", WAYS["int8"]),
    "load.dtype=bf16": lambda model: inference.prepared(model, "cpu", WAYS["bf16"]),
}


if __name__ == "__main__":
    main()
