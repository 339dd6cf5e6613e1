"""Run by the interpreter of .venv-fairseq: fairseq itself, for several jobs in one process, as its
import is slow.

Usage: oracle.py JOBS.json RESULTS.json. A job is {"name", "run": preprocess | train | eval-lm |
logits | encode, …}.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import indexed_dataset
from fairseq.data.encoders.gpt2_bpe_utils import get_encoder
from fairseq_cli import eval_lm, preprocess, train


def command(main, *words):
    sys.argv = ["fairseq", *map(str, words)]
    return main()


def evaluate(data, checkpoint, split, *words):
    """fairseq-eval-lm, whose main function returns what its log rounds."""
    results = {}
    original = eval_lm.eval_lm

    def kept(*args, **kwargs):
        results.update(original(*args, **kwargs))
        return results

    eval_lm.eval_lm = kept
    command(eval_lm.cli_main, data, "--cpu", "--path", checkpoint, "--gen-subset", split, *words)
    eval_lm.eval_lm = original
    return {key: float(value) for key, value in results.items()}


def logits(data, checkpoint, inputs, out):
    """The logits of a checkpoint, loaded as fairseq does, on the ids in a .npy file."""
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [checkpoint], arg_overrides={"data": data}
    )
    with torch.no_grad():
        found, _ = models[0].eval()(torch.from_numpy(np.load(inputs)))
    np.save(out, found.numpy())


def encode(folder, source, target):
    """A file of text as the numbers of GPT-2's byte pairs, as
    examples/roberta/multiprocessing_bpe_encoder.py does.
    """
    encoder = get_encoder(f"{folder}/encoder.json", f"{folder}/vocab.bpe")
    lines = Path(source).read_text().split("\n")[:-1]
    Path(target).write_text(
        "".join(" ".join(map(str, encoder.encode(line))) + "\n" for line in lines)
    )


def build(lines, prefix, vocab_size):
    """Lines of ids, JSON, as fairseq's own writer of the format mmap writes them for a vocabulary
    of that size.
    """
    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", int(vocab_size))
    for line in json.loads(Path(lines).read_text()):
        builder.add_item(torch.tensor(line))
    builder.finalize(f"{prefix}.idx")


JOBS = {
    "build": build,
    "preprocess": lambda *words: command(preprocess.cli_main, *words),
    "train": lambda *words: command(train.cli_main, *words),
    "eval-lm": evaluate,
    "logits": logits,
    "encode": encode,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs, out = map(Path, sys.argv[1:])
    results = {job["name"]: JOBS[job["run"]](*job["words"]) for job in json.loads(jobs.read_text())}
    out.write_text(json.dumps(results))
