"""A model that was made elsewhere trains on under the loop of all: from the very logits it came
with.
"""

import json
import shutil

import pytest
import torch
from interop.models import IDS, make_folder
from transformers import AutoModelForCausalLM

from btm import steps
from btm.cli.compose import compose
from btm.forest import Forest, publish
from btm.interop import formats
from btm.models import causal_lm

MODELS = [(name, torch.float32) for name in ("llama", "gpt2", "gpt_neox", "opt")]
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


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def plain(folder):
    """The model that transformers alone loads."""
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def misread(model):
    """Reorder the joined queries, keys and values of a BLOOM from (H, 3, D) to (3, H, D)."""
    for name, tensor in model.named_parameters():
        if "query_key_value" in name:
            heads = tensor.data.view(model.config.n_head, 3, -1, *tensor.shape[1:])
            tensor.data = heads.transpose(0, 1).reshape(tensor.shape).contiguous()
    return model


@pytest.mark.slow
def test_joined_queries_keys_and_values_keep_their_layout(words, tmp_path):
    """Through import, training, sparse delta, 8-bit delta, average and export of a BLOOM."""
    suite, root = steps.open_suite(compose(words)), tmp_path / "forest"
    loud = {"initializer_range": 0.2, "vocab_size": suite.vocab_size}
    folder = make_folder(tmp_path / "bloom", suite.tokenizer, "bloom", **loud)
    given = [*words, f"forest={root}", f"seed.from={folder}", "branch=copy", "merge.force=true"]
    config = compose([*given, "trainer.steps=3", "trainer.delta_density=0.2"])
    seed = steps.seed(config)
    others = [shutil.copytree(root, tmp_path / format) for format in ("delta", "delta8")]
    begun = causal_lm.load_trainable(steps.branch(config, "bible", "bible").path, "cpu")
    for each in (plain(seed.path), begun):
        assert torch.equal(logits(each), logits(plain(folder)))
    steps.train(config, "bible")
    elm = steps.merge(config, "bible")
    wanted = logits(plain(elm.path))

    publish.average(Forest(root), "half", {"seed": 0.5, "bible": 0.5})
    mean, trained = plain(folder), plain(elm.path).state_dict()
    mean.load_state_dict({n: (t + trained[n]) / 2 for n, t in mean.state_dict().items()})
    for what, model in (("expert=bible", plain(elm.path)), ("average=half", mean)):
        to = tmp_path / "hf" / what
        formats.export_model(compose([f"forest={root}", what, f"to={to}"]))
        torch.testing.assert_close(logits(plain(to)), logits(model), rtol=0, atol=1e-5)

    for other in others:
        sent = [f"from={tmp_path / 'sent' / other.name}", f"format={other.name}"]
        ours = [f"forest={root}", "expert=bible", *sent[1:], f"to={sent[0][5:]}"]
        formats.export_model(compose(ours))
        formats.import_model(compose([f"forest={other}", *sent, "name=bible"]))
    exact, near = (logits(plain(other / "elms/bible")) for other in others)
    assert torch.equal(exact, wanted)
    off = (near - wanted).abs().max()
    assert 0 < off < 0.1
    assert (logits(misread(plain(elm.path))) - wanted).abs().max() > 10 * off
