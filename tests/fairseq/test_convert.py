"""Models of fairseq computed by transformers, and written back for fairseq."""

import json

import numpy as np
import pytest
import torch
from fairseq_models import MODELS, PYTHON

from btm import steps
from btm.cli.compose import compose
from btm.config.data import DataConfig
from btm.data.prepare import prepare
from btm.ensemble.score import Scores, mean_nats, score
from btm.errors import UserError
from btm.fairseq import checkpoint, from_hugging_face, to_hugging_face
from btm.models.causal_lm import load_config, load_model
from btm.models.weights import sha256

pytestmark = [pytest.mark.slow, pytest.mark.traced]


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_fairseq(place, converted, name):
    model = load_model(converted[name])
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(np.load(place / "inputs.npy"))).logits.numpy()
    wanted = np.load(place / "models" / name / "logits.npy")
    assert wanted.std() > 0.1
    assert np.abs(found - wanted).max() <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_back_is_worth_as_much_to_fairseq(place, returned, name):
    wanted = json.loads((place / "perplexities.json").read_text())[name]["loss"]
    found = returned[1][f"eval {name}"]["loss"]
    assert 3 < wanted < 10
    assert abs(found - wanted) <= 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_back_has_the_same_logits(place, returned, name):
    wanted = np.load(place / "models" / name / "logits.npy")
    assert np.abs(np.load(returned[0][name] / "logits.npy") - wanted).max() <= 1e-5


def test_a_model_grown_on_a_data_bin_has_its_logits_in_fairseq(place, returned):
    """btm pads with the end of text, and XGLM then has no first position: fairseq is given the same
    table.
    """
    with torch.no_grad():
        inputs = torch.from_numpy(np.load(place / "inputs.npy"))
        wanted = load_model(place / "grown")(input_ids=inputs).logits.numpy()
    assert np.abs(np.load(returned[0]["own"] / "logits.npy") - wanted).max() <= 1e-5


def test_fairseq_trains_on_from_what_is_written(place, returned):
    """`fairseq-train --finetune-from-model` took it, on data that btm wrote: what came out is near,
    not the same.
    """
    start, end = (
        torch.load(path, weights_only=True)["model"] for path in _start_and_end(place, returned)
    )
    moved = (end["decoder.layers.0.fc1.weight"] - start["decoder.layers.0.fc1.weight"]).abs().max()
    assert 0 < moved < 0.2


def _start_and_end(place, returned):
    return returned[0]["gpt"] / "checkpoint_best.pt", place / "finetuned/checkpoint_last.pt"


@pytest.mark.parametrize("name", ["gpt", "post"])
def test_an_imported_model_is_trained_on_by_fairseq(place, converted, tmp_path, name):
    """On a suite of data-bins: an XGLM keeps its sinusoids, a post-norm OPT what stands for
    them.
    """
    words = [
        "data=folder",
        f"data.root={place / 'words'}",
        "data.name=words",
        f"data.out={tmp_path / 'data'}",
    ]
    words += ["trainer=fairseq", f"fairseq.python={PYTHON}", f"seed.from={converted[name]}"]
    words += ["trainer.steps=6", "trainer.batch_size=8", "trainer.seq_len=32", "trainer.lr=1e-2"]
    config = compose(
        [*words, f"forest={tmp_path / 'forest'}", "trainer.warmup=0", "trainer.decay=constant"]
    )
    steps.prepare(config)
    steps.seed(config)
    steps.branch(config, "bible", "bible")
    steps.train(config, "bible")
    elm = steps.merge(config, "bible")
    assert elm.card.valid_nats < elm.card.parent_valid_nats["seed"] - 0.1
    config, before = (load_config(path).to_dict() for path in (elm.path, converted[name]))
    assert {key for key, value in config.items() if before[key] != value} == {"_name_or_path"}


@pytest.mark.parametrize("name", MODELS)
def test_reading_what_was_written_gives_the_same_weights(returned, converted, tmp_path, name):
    to_hugging_face(returned[0][name], tmp_path)
    assert sha256(tmp_path) == sha256(converted[name])
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "dict.txt"):
        assert (tmp_path / file).read_bytes() == (converted[name] / file).read_bytes(), file


def test_scores_on_a_data_bin_are_those_of_eval_lm(place, converted, tmp_path):
    """btm begins its text with the end of text, as fairseq does, and cuts the same windows."""
    suite = prepare(
        DataConfig(name="words", root=str(place / "words"), out=str(tmp_path), workers=1)
    )
    shard = suite.shard("speeches", "valid")
    path = score(load_model(converted["gpt3"]), shard, Scores(tmp_path / "scores", 32), "x")
    nats = mean_nats(np.load(path), shard.n_tokens)
    wanted = json.loads((place / "perplexities.json").read_text())["gpt3"]["loss"]
    assert nats / np.log(2) == pytest.approx(wanted, abs=1e-5)


@pytest.fixture
def state(place):
    return torch.load(place / "models/gpt/checkpoint_last.pt", weights_only=True)


@pytest.fixture
def folder(place, tmp_path):
    """A function that saves a checkpoint beside a dict.txt; and a target."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source/dict.txt").write_bytes((place / "models/gpt/dict.txt").read_bytes())

    def save(state, name="checkpoint_best.pt"):
        torch.save(state, tmp_path / "source" / name)
        return tmp_path / "source", tmp_path / "target"

    return save


def refused(save, state, message, **more):
    source, target = save(state)
    with pytest.raises(UserError, match=message) as caught:
        to_hugging_face(source, target, **more)
    assert "\n" not in str(caught.value)
    assert not (target / "config.json").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "adaptive_softmax_cutoff",
            "100,200",
            r"adaptive_softmax_cutoff=100,200: an adaptive softmax",
        ),
        ("adaptive_input", True, "adaptive inputs"),
        ("base_layers", 1, "BASE layers, a mixture of experts"),
        ("moe_freq", 2, "a mixture of experts"),
        ("character_embeddings", True, "characters as input"),
        ("layernorm_embedding", True, "a layer norm of the embeddings"),
        ("no_decoder_final_norm", True, "no layer norm at the end"),
        ("no_token_positional_embeddings", True, "no positions"),
        ("decoder_input_dim", 16, r"decoder_input_dim=16 is not decoder_embed_dim=32"),
        ("decoder_layers", 3, r"decoder.layers.2.\S+: nothing; its settings want"),
        ("decoder_layers", -1, r"decoder_layers=-1; wanted a whole number above 0"),
        ("decoder_ffn_embed_dim", 40, r"fc1.weight: \(48, 32\); its settings want \(40, 32\)"),
        ("dropout", "much", r"dropout='much'; wanted a number"),
        ("activation_fn", "swish", r"activation_fn=swish; have: relu, gelu"),
        ("_name", "transformer_wmt_en_de", r"transformer_wmt_en_de; wanted a transformer_lm"),
    ],
)
def test_what_transformers_cannot_compute_is_refused(folder, state, key, value, message):
    state["cfg"]["model"][key] = value
    refused(folder, state, message)


def test_a_mixture_of_experts_is_refused_by_its_parameters(folder, state):
    state["model"]["decoder.layers.0.moe_layer.experts.0.fc1.weight"] = torch.zeros(2, 2)
    refused(folder, state, "moe_layer.experts.0.fc1.weight: a mixture of experts")


@pytest.mark.parametrize(
    "name", ["checkpoint_last-rank-3.pt", "checkpoint_last-shared.pt", "a-shard0.pt"]
)
def test_a_part_of_a_model_is_refused(folder, state, name):
    """DEMix's checkpoints are one file a rank, and one of what they share."""
    source, target = folder(state, name)
    with pytest.raises(UserError, match=r"is one part of a model \(DEMix"):
        to_hugging_face(source, target)


def test_a_dictionary_of_other_data_is_refused(folder, state):
    source, target = folder(state)
    with (source / "dict.txt").open("a") as out:
        out.write("another-word 1\n")
    with pytest.raises(UserError, match=r"embeddings of 600 symbols, but .*dict.txt has 601"):
        to_hugging_face(source, target)
    (source / "dict.txt").unlink()
    with pytest.raises(
        UserError, match=r"no .*dict.txt; put the dict.txt of the model's data there"
    ):
        to_hugging_face(source, target)


@pytest.mark.parametrize("cut", [0, 100, 10_000])
def test_a_damaged_file_is_named(folder, state, cut):
    source, target = folder(state)
    path = source / "checkpoint_best.pt"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        UserError, match=r"checkpoint_best.pt: no checkpoint that torch reads"
    ) as caught:
        to_hugging_face(source, target)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_refused(folder, tmp_path):
    refused(folder, {"weights": 1}, "no model in it")
    refused(folder, {"model": {}}, "neither args nor cfg.model")
    with pytest.raises(
        UserError, match=r"wanted a checkpoint_best.pt, or one .pt alone; have: none"
    ):
        checkpoint.find(tmp_path / "target")
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.find(tmp_path / "none.pt")


def test_half_precision_becomes_single(folder, state, converted):
    state["model"] = {name: tensor.half() for name, tensor in state["model"].items()}
    source, target = folder(state)
    to_hugging_face(source, target)
    assert load_model(target).dtype == torch.float32


def test_models_that_fairseq_has_not_are_refused(converted, suite_model, tmp_path):
    with pytest.raises(
        UserError, match=r"model_type 'llama'; fairseq has equivalents of xglm, biogpt, opt only"
    ):
        from_hugging_face(suite_model("llama"), tmp_path)
    with pytest.raises(UserError, match=r"no <s>, <pad>, </s>, <unk> as ids 0 to 3"):
        from_hugging_face(suite_model("opt"), tmp_path)
    assert not list(tmp_path.glob("*.pt"))


@pytest.fixture
def suite_model(tmp_path_factory):
    """A function that makes a folder of a model type with a tokenizer that btm trained."""
    from btm.data.tokenizer import train_tokenizer

    def make(model_type):
        folder = tmp_path_factory.mktemp("own") / model_type
        train_tokenizer(["some text of one's own"], folder, 300)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        return folder

    return make
