"""Tiny models trained by fairseq itself on real text, once; scripts/fairseq makes the environment it runs in."""

import json
import os

import numpy as np
import pytest
from fairseq_models import EVALUATION, MODELS, PYTHON, TRAINING, fairseq, preprocess
from folders import DEMO

from btm.data.documents import read
from btm.data.tokenizer import train_tokenizer
from btm.fairseq import from_hugging_face, to_hugging_face
from btm.fairseq.tokenizer import export


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
    """Text of two domains as fairseq takes it, in words and in byte pairs, binarised; models trained on the words."""
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
    jobs.append(preprocess(root / "encoded", pairs / "speeches", "--srcdict", root / "gpt2_dict.txt"))
    for name, (arch, *settings) in MODELS.items():
        out, data = root / "models" / name, words / "speeches"
        jobs.append((name, "train", data, "--arch", arch, *settings, *TRAINING, "--save-dir", out))
        checkpoint = out / "checkpoint_last.pt"
        jobs.append((f"eval {name}", "eval-lm", data, checkpoint, "valid", *EVALUATION))
        jobs.append((f"logits {name}", "logits", data, checkpoint, root / "inputs.npy", out / "logits.npy"))
    results = fairseq(root, jobs)
    (root / "perplexities.json").write_text(json.dumps({n: results[f"eval {n}"] for n in MODELS}))
    for name in MODELS:
        (root / "models" / name / "dict.txt").write_bytes((words / "speeches/dict.txt").read_bytes())
    return root


def _byte_pairs(root):
    """Write encoder.json and vocab.bpe of byte pairs learned here, and a dict.txt of all of them."""
    folder, texts = root / "pairs/speeches", (root / "text/speeches/train.txt").read_text()
    train_tokenizer([texts], root / "tokenizer", 500)
    exported = export(root / "tokenizer")
    folder.mkdir(parents=True)
    (root / "encoded").mkdir()
    exported.write(folder)
    # fairseq's own dictionary of GPT-2 is in the order of frequency and filled up: so is this one, reversed
    lines = (folder / "dict.txt").read_text().splitlines()[::-1]
    (root / "gpt2_dict.txt").write_text("".join(f"{line}\n" for line in [*lines, "madeupword0000 0"]))
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
        jobs.append((f"logits {name}", "logits", data, checkpoint, place / "inputs.npy", out / "logits.npy"))
    data, start = place / "words/bible", folders["gpt"] / "checkpoint_best.pt"
    words = ["--finetune-from-model", start, "--save-dir", place / "finetuned", "--arch", *MODELS["gpt"]]
    jobs.append(("finetune", "train", data, *words, *TRAINING))
    return folders, fairseq(place, jobs)
