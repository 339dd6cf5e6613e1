"""How texts begin: the policy `data.bos`, what it makes of a tokenizer, and of a suite."""

import json
import shutil

import numpy as np
import pytest
import transformers

from btm.cli import main
from btm.data.batches import Batches, windows
from btm.data.bos import own_bos
from btm.data.shards import Suite
from btm.data.tokenizer import (
    begins_with_bos,
    bos_of_copy,
    copy_tokenizer,
    load_tokenizer,
    other_beginning,
    read_origin,
    recorded_policy,
    tokenizer_sha256,
    train_tokenizer,
)
from btm.errors import UserError

_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
_ROBERTA = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
_ROBERTA |= {"trim_offsets": True, "add_prefix_space": False}


def template(token, number):
    first, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"id": "A", "type_id": 0}
    single = [first, {"Sequence": text}]
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    made = {"type": "TemplateProcessing", "single": single, "special_tokens": special}
    return made | {"pair": [*single, {"Sequence": text | {"id": "B"}}]}


# Post-processors: over fairseq's special tokens (<s> is 0, </s> ends), or over <|endoftext|> alone.
_MADE = {
    "nothing": ("fairseq", None),
    "bytes": ("fairseq", _BYTES),
    "template": ("fairseq", template("<s>", 0)),
    "both": ("fairseq", {"type": "Sequence", "processors": [_BYTES, template("<s>", 0)]}),
    "roberta": ("fairseq", _ROBERTA),
    "eos": ("fairseq", template("</s>", 2)),  # as XGLM's
    "one": ("endoftext", None),
    "one begins": ("endoftext", template("<|endoftext|>", 0)),  # as OPT's
}
_BOS = {  # by themselves, and where they must
    "nothing": (None, 0),
    "bytes": (None, 0),
    "template": (0, 0),
    "both": (0, 0),
    "roberta": (0, 0),
    "eos": (2, 2),
    "one": (None, 0),
    "one begins": (0, 0),
    "llama": (1, 1),
    "llama without": (None, 1),
    "gpt2": (None, 0),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root, text = tmp_path_factory.mktemp("tokenizers"), ["in the beginning was the word"] * 8
    for name, (special, processor) in _MADE.items():
        train_tokenizer(text, root / name, 300, special)
        content = json.loads((root / name / "tokenizer.json").read_text())
        (root / name / "tokenizer.json").write_text(
            json.dumps(content | {"post_processor": processor})
        )
        (root / name / "origin.json").unlink()
    ids = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "\u2581", "a", "b"])}
    for name, begins in (("llama", True), ("llama without", False)):
        transformers.LlamaTokenizer(vocab=ids, merges=[], add_bos_token=begins).save_pretrained(
            root / name
        )
    plain = {"<|endoftext|>": 0, "a": 1, "b": 2}
    transformers.GPT2Tokenizer(vocab=plain, merges=[]).save_pretrained(root / "gpt2")
    return root


@pytest.mark.parametrize("policy", ["auto", "always", "never"])
@pytest.mark.parametrize("name", _BOS)
def test_a_copy_does_what_the_policy_says_wherever_it_is_loaded(name, policy, tokenizers, tmp_path):
    own, must = _BOS[name]
    wanted = {"auto": own, "always": must, "never": None}[policy]
    copy_tokenizer(tokenizers / name, tmp_path / "copy", policy)
    origin, loaded = (
        read_origin(tmp_path / "copy"),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "copy"),
    )
    assert origin.get("bos") == own_bos(loaded) == bos_of_copy(tmp_path / "copy") == wanted
    text = loaded("a b", add_special_tokens=False).input_ids
    whole = loaded("a b").input_ids
    assert (
        whole[: 1 + len(text)]
        == ([] if wanted is None else [wanted])
        + text
        + whole[len(text) + (wanted is not None) :][: 1 - (wanted is not None)]
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizers / name)
    assert text == theirs("a b", add_special_tokens=False).input_ids
    assert begins_with_bos(tmp_path / "copy") == (wanted not in (None, origin["eos"]))
    assert recorded_policy(tmp_path / "copy") == policy
    if wanted == own:  # byte for byte
        files = [folder / "tokenizer.json" for folder in (tmp_path / "copy", tokenizers / name)]
        assert files[0].read_bytes() == files[1].read_bytes()
    # What is published of it is taken for the same elsewhere, without a word on the policy.
    copy_tokenizer(tmp_path / "copy", tmp_path / "again")
    assert read_origin(tmp_path / "again").get("bos") == wanted
    assert tokenizer_sha256(tmp_path / "again") == tokenizer_sha256(tmp_path / "copy")


def test_there_must_be_a_bos_where_one_is_wanted(tokenizers, tmp_path):
    shutil.copytree(tokenizers / "one", tmp_path / "none")
    file = tmp_path / "none" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token": None}))
    with pytest.raises(UserError, match=r"data\.bos=always: .*none has no bos_token: set one in"):
        copy_tokenizer(tmp_path / "none", tmp_path / "copy", "always")
    assert not (tmp_path / "copy").exists()


def test_several_tokens_before_a_text_are_refused_or_all_taken_away(
    folder, tokenizers, tmp_path, capsys
):
    shutil.copytree(tokenizers / "bytes", tmp_path / "two")
    file = tmp_path / "two" / "tokenizer.json"
    one, both = template("<s>", 0), template("<pad>", 1)
    both["single"] = [one["single"][0], *both["single"]]
    both["special_tokens"] |= one["special_tokens"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": both}))
    for policy in ("auto", "always"):
        words = (f"data.tokenizer={tmp_path / 'two'}", f"data.bos={policy}")
        assert prepare(folder, tmp_path / policy, *words) == 2
        assert "puts 2 tokens before a text (<s> <pad>)" in capsys.readouterr().err
    copy_tokenizer(tmp_path / "two", tmp_path / "copy", "never")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert loaded("word").input_ids == loaded("word", add_special_tokens=False).input_ids


def test_two_fingerprints_that_differ_in_bos_are_told(tokenizers, tmp_path):
    copy_tokenizer(tokenizers / "template", tmp_path / "with")
    copy_tokenizer(tokenizers / "template", tmp_path / "without", "never")
    found = [tokenizer_sha256(tmp_path / name) for name in ("with", "without")]
    assert "with a BOS" in other_beginning(*found)
    assert "with no BOS" in other_beginning(*reversed(found))
    assert other_beginning(found[0], found[0]) == other_beginning(found[0], "0" * 64) == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts") / "texts"
    for number, domain in enumerate(("red", "blue")):
        (root / domain).mkdir(parents=True)
        rows = [{"text": f"in the {domain} {i * 7 + number} beginning " * 4} for i in range(60)]
        (root / domain / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def prepare(folder, out, *words):
    made = ["prepare", "data=folder", f"data.root={folder}", f"data.out={out}", "data.name=mine"]
    return main.main([*made, f"forest={out / 'forest'}", *words])


@pytest.mark.parametrize(
    ("special", "policy", "bos"),
    [
        ("endoftext", "auto", None),
        ("endoftext", "always", 0),
        ("fairseq", "auto", None),
        ("fairseq", "always", 0),
        ("fairseq", "never", None),
    ],
)
def test_a_trained_tokenizer_begins_texts_where_it_is_told_to(
    special, policy, bos, folder, tmp_path
):
    words = ["data.vocab_size=300", f"data.special_tokens={special}", f"data.bos={policy}"]
    assert prepare(folder, tmp_path, *words) == 0
    suite = Suite.open(tmp_path / "mine")
    shard = suite.shard("red", "train")
    assert suite.bos == shard.bos == own_bos(load_tokenizer(suite.tokenizer)) == bos
    begins = np.cumsum([0, *shard.documents[:-1, 0]], dtype=int)
    own = bos is not None and bos != suite.eos
    assert (shard.tokens[begins] == bos).all() == own
    assert shard.n_given(shard.n_tokens) == (shard.n_documents if own else 0)
    assert shard.n_given(int(shard.documents[0, 0]) + 1) == (2 if own else 0)

    cut, plain = windows(shard, 16), shard.tokens[: 16 * 4].reshape(4, 16)
    inputs, targets = cut.inputs(0, 4), cut.targets(0, 4)
    assert (targets == plain).all() and (inputs[:, 1:] == plain[:, :-1]).all()
    assert inputs[:, 0].tolist() == [bos] * 4 if bos is not None else inputs[1, 0] == plain[0, -1]
    assert (cut.given(0, 4) == (plain == bos)).all() if own else cut.given(0, 4) is None
    batch = Batches([shard], 16, 4, 0).batch(0)
    text = shard.tokens.tobytes()
    for row in batch:
        assert (row[0] == bos) or bos is None
        assert row[int(bos is not None) :].astype(shard.dtype).tobytes() in text


def test_a_suite_keeps_its_beginning_and_says_so(folder, tokenizers, tmp_path, capsys):
    words = [f"data.tokenizer={tokenizers / 'template'}"]
    assert prepare(folder, tmp_path, *words) == 0
    assert prepare(folder, tmp_path, *words, "data.bos=always") == 0
    capsys.readouterr()
    assert prepare(folder, tmp_path, *words, "data.bos=never") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "texts of" in line and "begin with a BOS" in line and "another data.name" in line
    assert prepare(folder, tmp_path, *words, "data.bos=sometimes") == 2
    assert "auto, always, never" in capsys.readouterr().err.replace(" or", "")
