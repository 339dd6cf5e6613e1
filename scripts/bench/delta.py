"""What a difference in 8 bits costs: bytes a parameter on disk, and nats per token.

    python scripts/bench/delta.py FOLDER

Grows a forest of the demo's 1 M parameters in FOLDER (a seed, two experts, a third that begins as
their average). Then sends each expert as `btm export format=delta8` does, with several blocks,
takes it in as `btm import` does, and compares nats per token on the test split of its domain with
the expert's own, beside the difference in float16.
"""

import argparse
import math
import shutil
from pathlib import Path

import torch

from btm import steps
from btm.cli.compose import compose
from btm.data.batches import windows
from btm.forest import ELM, EXACT, Forest
from btm.interop import formats
from btm.models import average
from btm.models.weights import parameters
from btm.train import trainee

BLOCKS = (256, 2048, 4096)
WORDS = ["experiment=demo", "run.rounds=[[bible,code_python],[speeches]]", "run.average=false"]
SIZES = ["seed.steps=200", "trainer.steps=80", "trainer.batch_size=8", "trainer.threads=1"]


def main() -> None:
    """Print a line for each expert and codec."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    root = folder / "forest"
    config = compose([*WORDS, *SIZES, f"forest={root}", f"data.out={folder / 'data'}"])
    suite = steps.prepare(config)
    steps.seed(config)
    first, second = config.run.rounds
    for domain in (*first, *second):
        steps.grow_expert(config, domain, ["seed"] if domain in first else first)
    print("expert, parents, codec: bytes a parameter, nats/token, less the expert's own")
    for domain in (*first, *second):
        elm = Forest(root)[domain]
        shard = windows(suite.shard(domain, "test"), config.trainer.seq_len)
        own = trainee.validate(elm.load(), shard)
        print(f"{domain}, {' and '.join(elm.card.parents)}, dense: 4.000 {own:.6f}")
        for block in BLOCKS:
            model, size = through(root, elm, folder, block)
            nats = trainee.validate(model, shard)
            print(f"{domain}, delta8 of {block}: {size:.3f} {nats:.6f} {nats - own:+.1e}")
        nats = trainee.validate(in_float16(root, elm, folder / "base"), shard)
        print(f"{domain}, float16: 2.000 {nats:.6f} {nats - own:+.1e}", flush=True)


def through(root: Path, elm: ELM, folder: Path, block: int) -> tuple[torch.nn.Module, float]:
    """Return an ELM after export and import into a forest of its parents, and the export's bytes a
    parameter.
    """
    out, other = folder / "out", folder / "other"
    for place in (out, other):
        shutil.rmtree(place, ignore_errors=True)
    words = [
        f"to={out}",
        "format=delta8",
        f"expert={elm.name}",
        f"export.block={block}",
        f"forest={root}",
    ]
    formats.export_model(compose(words))
    ignored = shutil.ignore_patterns("speeches", elm.name, "scores", "jobs")
    shutil.copytree(root, other, ignore=ignored)
    back = formats.import_model(
        compose([f"from={out}", "format=delta8", "name=back", f"forest={other}"])
    )
    size = sum(file.stat().st_size for file in out.iterdir())
    return back.load(), size / parameters(elm.path)


def in_float16(root: Path, elm: ELM, base: Path) -> torch.nn.Module:
    """Return an ELM whose difference from its parents was rounded to float16."""
    from safetensors.torch import load_file

    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    forest = Forest(root)
    average.average(
        {forest[p].path: v.weight for p, v in elm.card.parents.items()}, base, settings=EXACT
    )
    begun, model = load_file(base / "model.safetensors"), elm.load()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            moved = (parameter.double() - begun[name].double()).half()
            assert math.isfinite(float(moved.abs().max()))
            parameter.copy_(begun[name].double() + moved.double())
    return model


if __name__ == "__main__":
    main()
