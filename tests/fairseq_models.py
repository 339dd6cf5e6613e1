"""What tests train and evaluate with fairseq itself, in the environment that scripts/fairseq
makes.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from folders import DEMO

from btm.config.data import DataConfig
from btm.config.training import ModelConfig
from btm.data import binarised
from btm.data.documents import read
from btm.data.prepare import prepare
from btm.data.shards import Suite
from btm.data.tokenizer import train_tokenizer
from btm.fairseq import from_hugging_face, to_hugging_face
from btm.fairseq.tokenizer import export
from btm.models import tokenizer_files
from btm.models.causal_lm import new_model
from btm.models.configs import make_config

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-fairseq/bin/python"
SIZE = ["--decoder-embed-dim", 32, "--decoder-ffn-embed-dim", 48, "--decoder-layers", 2]
SIZE += ["--decoder-attention-heads", 4]
BASE = [*SIZE, "--decoder-input-dim", 32, "--decoder-output-dim", 32]
MODELS = {
    "gpt": ["transformer_lm_gpt", *SIZE, "--share-decoder-input-output-embed"],
    "untied": ["transformer_lm_gpt", *SIZE, "--activation-fn", "gelu_accurate"],
    "gpt3": ["transformer_lm_gpt3_small", *SIZE],
    "unscaled": ["transformer_lm_gpt3_small", *SIZE, "--no-scale-embedding"],
    "post": ["transformer_lm", *BASE, "--share-decoder-input-output-embed"],
    "post_untied": ["transformer_lm", *BASE, "--decoder-learned-pos", "--no-scale-embedding"],
}
TRAINING = ["--cpu", "--task", "language_modeling", "--tokens-per-sample", 32, "--max-tokens", 256]
TRAINING += [
    "--optimizer",
    "adam",
    "--lr",
    0.01,
    "--max-update",
    8,
    "--seed",
    1,
    "--disable-validation",
]
TRAINING += [
    "--no-epoch-checkpoints",
    "--no-progress-bar",
    "--log-format",
    "none",
    "--num-workers",
    0,
]
EVALUATION = [
    "--tokens-per-sample",
    32,
    "--max-tokens",
    512,
    "--no-progress-bar",
    "--num-workers",
    0,
]

LINES = [[5, 6, 7, 2], [2], [499, 4, 2]]
VOCABULARIES = (500, 65_499, 65_500, 1 << 32)  # on either side of where fairseq takes a wider type


def fairseq(folder, jobs):
    """Run (name, job, *words) in fairseq's own environment and return {name: result}."""
    assert PYTHON.exists(), "no fairseq here; run: scripts/fairseq"
    listed = [
        {"name": name, "run": job, "words": [str(w) for w in words]} for name, job, *words in jobs
    ]
    (folder / "jobs.json").write_text(json.dumps(listed))
    command = [
        PYTHON,
        "-W",
        "ignore",
        Path(__file__).parent / "fairseq/oracle.py",
        "jobs.json",
        "results.json",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text())


def preprocess(text, target, *words):
    """The job that binarises the three splits of a folder of text."""
    prefixes = [
        word for s in ("train", "valid", "test") for word in (f"--{s}pref", text / f"{s}.txt")
    ]
    return (
        str(target),
        "preprocess",
        "--only-source",
        *prefixes,
        "--destdir",
        target,
        "--workers",
        1,
        *words,
    )


def lines_of(domain, split, documents):
    """The lines of the first documents of a demo domain, an empty line after each document."""
    lines = []
    for i, text in enumerate(read(DEMO / domain / f"{split}.jsonl.zst", "text")):
        if i == documents:
            return lines
        lines += [*text[:1200].split("\n"), ""]
    raise AssertionError("too few documents")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Text of two domains as fairseq takes it, in words and in byte pairs, binarised; models
    trained on the words.
    """
    if not PYTHON.exists() and not os.environ.get("CI"):
        pytest.skip("no fairseq here: scripts/fairseq")
    root = tmp_path_factory.mktemp("fairseq")
    for domain in ("speeches", "bible"):
        for split, documents in (("train", 20), ("valid", 5), ("test", 5)):
            path = root / "text" / domain / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines_of(domain, split, documents)) + "\n")
    _byte_pairs(root)
    rng = np.random.default_rng(0)
    inputs = rng.integers(4, 500, (3, 32))
    inputs[:, 0] = 2
    np.save(root / "inputs.npy", inputs)
    words, pairs = root / "words", root / "pairs"
    dictionary = ["--srcdict", words / "speeches/dict.txt"]
    jobs = [
        preprocess(root / "text/speeches", words / "speeches", "--nwordssrc", 600),
        preprocess(root / "text/bible", words / "bible", *dictionary),
    ]
    for split in ("train", "valid", "test"):
        source, target = root / f"text/speeches/{split}.txt", root / f"encoded/{split}.txt"
        jobs.append((f"encode {split}", "encode", pairs / "speeches", source, target))
    jobs.append(
        preprocess(root / "encoded", pairs / "speeches", "--srcdict", root / "gpt2_dict.txt")
    )
    (root / "lines.json").write_text(json.dumps(LINES))
    for size in VOCABULARIES:
        jobs.append((f"build {size}", "build", root / "lines.json", root / f"built-{size}", size))
    for name, (arch, *settings) in MODELS.items():
        out, data = root / "models" / name, words / "speeches"
        jobs.append((name, "train", data, "--arch", arch, *settings, *TRAINING, "--save-dir", out))
        checkpoint = out / "checkpoint_last.pt"
        jobs.append((f"eval {name}", "eval-lm", data, checkpoint, "valid", *EVALUATION))
        jobs.append(
            (f"logits {name}", "logits", data, checkpoint, root / "inputs.npy", out / "logits.npy")
        )
    results = fairseq(root, jobs)
    (root / "perplexities.json").write_text(json.dumps({n: results[f"eval {n}"] for n in MODELS}))
    for name in MODELS:
        (root / "models" / name / "dict.txt").write_bytes(
            (words / "speeches/dict.txt").read_bytes()
        )
    return root


def _byte_pairs(root):
    """Write encoder.json and vocab.bpe of byte pairs learned here, and a dict.txt of all of
    them.
    """
    folder, texts = root / "pairs/speeches", (root / "text/speeches/train.txt").read_text()
    train_tokenizer([texts], root / "tokenizer", 500)
    exported = export(root / "tokenizer")
    folder.mkdir(parents=True)
    (root / "encoded").mkdir()
    exported.write(folder)
    # fairseq's own dictionary of GPT-2 is in the order of frequency and filled up: so is this one,
    # reversed
    lines = (folder / "dict.txt").read_text().splitlines()[::-1]
    (root / "gpt2_dict.txt").write_text(
        "".join(f"{line}\n" for line in [*lines, "madeupword0000 0"])
    )
    (folder / "dict.txt").unlink()


@pytest.fixture(scope="session")
def converted(place):
    """{model: its folder as transformers has it}."""
    folders = {}
    for name in MODELS:
        folders[name] = place / "converted" / name
        folders[name].mkdir(parents=True)
        to_hugging_face(place / "models" / name, folders[name])
    return folders


@pytest.fixture(scope="session")
def returned(place, converted):
    """{model: written back for fairseq}, and what fairseq makes of each, {job: result}."""
    folders = {}
    jobs = []
    for name, folder in converted.items():
        out = folders[name] = place / "returned" / name
        out.mkdir(parents=True)
        from_hugging_face(folder, out)
        checkpoint, data = out / "checkpoint_best.pt", place / "words/speeches"
        jobs.append((f"eval {name}", "eval-lm", data, checkpoint, "valid", *EVALUATION))
        jobs.append(
            (f"logits {name}", "logits", data, checkpoint, place / "inputs.npy", out / "logits.npy")
        )
    own = folders["own"] = place / "returned/own"
    own.mkdir()
    from_hugging_face(_grown(place), own)
    words = (
        place / "words/speeches",
        own / "checkpoint_best.pt",
        place / "inputs.npy",
        own / "logits.npy",
    )
    jobs.append(("logits own", "logits", *words))
    data, start = place / "written", folders["gpt"] / "checkpoint_best.pt"
    binarised.write(Suite.open(place / "suites/grown"), "bible", data)
    words = [
        "--finetune-from-model",
        start,
        "--save-dir",
        place / "finetuned",
        "--arch",
        *MODELS["gpt"],
    ]
    jobs.append(("finetune", "train", data, *words, *TRAINING))
    return folders, fairseq(place, jobs)


def _grown(place):
    """An XGLM as btm would begin one on these data-bins, its padding the end of text."""
    suite = prepare(DataConfig(name="grown", root=str(place / "words"), out=str(place / "suites")))
    size = {
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 2,
        "attention_heads": 4,
        "max_position_embeddings": 64,
    }
    config = make_config(
        ModelConfig(config={"model_type": "xglm", **size}), suite.vocab_size, suite.eos
    )
    folder = place / "grown"
    new_model(config, seed=1).save_pretrained(folder)
    tokenizer_files.copy(suite.tokenizer, folder)
    return folder
