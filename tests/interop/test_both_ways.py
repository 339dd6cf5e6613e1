"""Models that read both ways are refused at every door, in one line, and nothing is left."""

import json
import shutil

import pytest
import torch
from folders import tree
from interop.models import make_folder

from btm.cli import main
from btm.forest import Forest

SAID = "no causal LM: another token moves the logits before it"


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    """A folder of BERT's kind, as its authors would publish it."""
    from transformers import BertConfig, BertLMHeadModel

    folder = tmp_path_factory.mktemp("encoder") / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = BertConfig(
        vocab_size=512, num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertLMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


def refused(words, capsys):
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main.main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("btm:")]
    assert SAID in line and "is_decoder: true" in line
    return line


def test_no_import(encoder, tmp_path, capsys):
    line = refused(["import", f"from={encoder}", f"forest={tmp_path / 'forest'}"], capsys)
    assert line.startswith(f"btm: {encoder}: ")
    assert not (tmp_path / "forest").exists()


def test_no_writer(encoder, tokenizer, tmp_path, capsys):
    forest = f"forest={tmp_path / 'forest'}"
    folder = make_folder(tmp_path / "model", tokenizer)
    assert main.main(["import", f"from={folder}", forest]) == 0
    before = tree(tmp_path / "forest")
    refused(["generate", forest, "prompt=in", f"ensemble.experts=[{encoder}]"], capsys)
    assert tree(tmp_path / "forest") == before


def test_none_is_planted_scored_or_averaged(encoder, texts, tmp_path, capsys):
    values = json.loads((encoder / "config.json").read_text())
    (tmp_path / "bert.json").write_text(json.dumps(values))
    words = ["experiment=smoke", f"data.root={texts}", f"data.out={tmp_path / 'data'}"]
    words += [f"forest={tmp_path / 'forest'}", f"model.file={tmp_path / 'bert.json'}"]
    words += ["trainer.seq_len=32", "trainer.batch_size=2", "trainer.steps=2", "seed.steps=2"]
    assert main.main(["prepare", *words]) == 0
    line = refused(["seed", *words], capsys)
    assert "bert.json" in line and not (tmp_path / "forest").exists()
    values["is_decoder"] = True
    (tmp_path / "bert.json").write_text(json.dumps(values))
    assert main.main(["seed", *words]) == 0
    # One that an older btm planted is not scored, nor does it write.
    config = Forest(tmp_path / "forest")["seed"].path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"is_decoder": False}))
    words.append("score.max_tokens=256")
    for verb in ("score", "eval"):
        refused([verb, *words], capsys)
    refused(["generate", *words, "prompt=in"], capsys)
    assert not list((tmp_path / "forest/scores").rglob("*.npy"))
    assert not (tmp_path / "forest/evals").exists()
