"""What tests train and evaluate with fairseq itself, in the environment that scripts/fairseq makes."""

import json
import os
import subprocess
from pathlib import Path

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
TRAINING += ["--optimizer", "adam", "--lr", 0.01, "--max-update", 8, "--seed", 1, "--disable-validation"]
TRAINING += ["--no-epoch-checkpoints", "--no-progress-bar", "--log-format", "none", "--num-workers", 0]
EVALUATION = ["--tokens-per-sample", 32, "--max-tokens", 512, "--no-progress-bar", "--num-workers", 0]


def fairseq(folder, jobs):
    """Run (name, job, *words) in fairseq's own environment and return {name: result}."""
    assert PYTHON.exists(), "no fairseq here; run: scripts/fairseq"
    listed = [{"name": name, "run": job, "words": [str(w) for w in words]} for name, job, *words in jobs]
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
    prefixes = [word for s in ("train", "valid", "test") for word in (f"--{s}pref", text / f"{s}.txt")]
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
