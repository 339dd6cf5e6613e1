"""A model that was made elsewhere trains on under the loop of all: from the very logits it came
with.
"""

import json

import pytest
import torch
from interop.models import IDS, make_folder
from transformers import AutoModelForCausalLM

from btm import steps
from btm.cli.compose import compose
from btm.models import causal_lm

MODELS = [(name, torch.float32) for name in ("llama", "gpt2", "gpt_neox", "opt", "bloom")]
MODELS += [("llama", torch.bfloat16), ("gpt2", torch.float16)]


@pytest.fixture(scope="module")
def words(texts, tmp_path_factory):
    """Overrides: a prepared suite, and a short training."""
    root = tmp_path_factory.mktemp("on")
    made = [
        "experiment=smoke",
        f"data.root={texts}",
        f"data.out={root / 'data'}",
        "data.vocab_size=512",
    ]
    made += [
        "trainer.steps=12",
        "trainer.batch_size=8",
        "trainer.seq_len=32",
        "trainer.log_every=1",
    ]
    made += ["trainer.lr=1e-2", "trainer.threads=1", "score.max_tokens=512"]
    steps.prepare(compose(made))
    return made


@pytest.mark.parametrize(
    ("model_type", "dtype"), MODELS, ids=lambda value: str(value).removeprefix("torch.")
)
def test_it_begins_where_it_was_and_goes_on(model_type, dtype, words, tmp_path):
    suite = steps.open_suite(compose(words))
    folder = make_folder(
        tmp_path / "model", suite.tokenizer, model_type, dtype=dtype, vocab_size=suite.vocab_size
    )
    config = compose([*words, f"forest={tmp_path / 'forest'}", f"seed.from={folder}"])
    steps.seed(config)
    branch = steps.branch(config, "bible", "bible")
    with torch.no_grad():
        wanted = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(IDS).logits
        )
        trainable = causal_lm.load_trainable(branch.path, "cpu")
        assert trainable.training and trainable.dtype == torch.float32
        assert torch.equal(trainable.eval()(IDS).logits, wanted)
    branch = steps.train(config, "bible")
    losses = [
        json.loads(line)["loss"]
        for line in (branch.path / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(losses) == 12
    assert max(losses[-3:]) < losses[0] - 0.3
    elm = steps.merge(config, "bible")
    assert elm.card.valid_nats < elm.card.parent_valid_nats["seed"]
    assert elm.load().dtype == dtype
