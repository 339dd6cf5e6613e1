import json
import shutil
from pathlib import Path

import pytest

from btm.data.domains import find
from btm.data.sampling import training_texts
from btm.data.splits import survey
from btm.data.tokenizer import (
    EOS,
    copy_tokenizer,
    read_origin,
    tokenizer_sha256,
    train_tokenizer,
)
from btm.errors import UserError


def load(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def edited(folder, target, name, **changes):
    shutil.copytree(folder, target)
    path = target / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}))
    return target


def test_a_trained_tokenizer_loads_anywhere_and_gives_text_back(tmp_path, suite, verses, code):
    tokenizer = load(suite.tokenizer)
    assert len(tokenizer) == suite.vocab_size == 400
    assert tokenizer.eos_token == tokenizer.bos_token == tokenizer.pad_token == EOS
    assert tokenizer.eos_token_id == suite.eos
    for text in [*verses, *code, "e\u0301 \0 😀\r\n\t  x"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_sha256(tmp_path) == suite.tokenizer_sha256


def test_training_is_deterministic_and_small_text_makes_a_small_vocabulary(tmp_path, verses):
    for name in "ab":
        train_tokenizer(verses, tmp_path / name, 500)
    assert tokenizer_sha256(tmp_path / "a") == tokenizer_sha256(tmp_path / "b")
    train_tokenizer(["ab ab"], tmp_path / "c", 500)
    assert 257 <= read_origin(tmp_path / "c")["vocab_size"] < 300
    assert tokenizer_sha256(tmp_path / "a") != tokenizer_sha256(tmp_path / "c")


def test_training_text_is_balanced_over_domains_and_leaves_held_out_text_alone(config):
    surveys = [survey(source, config) for source in find(Path(config.root))]
    train = {
        seen.source.domain: {t for s, t in seen.documents("text") if s == "train"}
        for seen in surveys
    }
    texts = list(training_texts(surveys, "text", 24_000))
    share = {
        name: sum(len(text.encode()) for text in texts if text in train[name]) for name in train
    }
    assert sum(share.values()) == sum(len(text.encode()) for text in texts)
    assert all(12_000 <= size < 14_000 for size in share.values())
    everything = list(training_texts(surveys, "text", 10**9))
    assert set(everything) == train["verses"] | train["code"]


def test_what_a_small_domain_leaves_goes_to_the_others(tmp_path, verses, code, config, jsonl):
    jsonl(tmp_path / "few" / "small.jsonl", verses[:6])
    jsonl(tmp_path / "few" / "large.jsonl", code)
    surveys = [survey(source, config) for source in find(tmp_path / "few")]
    small = next(seen for seen in surveys if seen.source.domain == "small")
    texts = list(training_texts(surveys, "text", 30_000))
    assert {t for s, t in small.documents("text") if s == "train"} <= set(texts)
    assert 30_000 <= sum(len(text.encode()) for text in texts) < 34_000


def test_words_of_bloom_are_not_split_at_vowel_signs(tmp_path, verses):
    hindi = "नमस्ते दुनिया, मैं 2024 में आया। " * 50
    for words in ("gpt2", "bloom"):
        train_tokenizer([hindi, *verses[:5]], tmp_path / words, 800, words=words)
    gpt2, bloom = load(tmp_path / "gpt2"), load(tmp_path / "bloom")
    assert "words" not in read_origin(tmp_path / "gpt2")["trained"]
    assert read_origin(tmp_path / "bloom")["trained"]["words"] == "bloom"
    word = " दुनिया"  # three consonants with vowel signs
    assert len(bloom(word)["input_ids"]) == 1 < len(gpt2(word)["input_ids"])
    for text in (hindi, *verses[5:9], "a (b|c)\n\n [d], 'e' 12345\t。你好 ۔", " \u3000\x00é😀"):
        assert bloom.decode(bloom(text)["input_ids"]) == text
    # GPT-2 splits a long number from letters, BLOOM at punctuation alone.
    split = bloom.backend_tokenizer.pre_tokenizer.pre_tokenize_str("it's 12345ab,no")
    assert [text for _, (begin, end) in split if (text := "it's 12345ab,no"[begin:end])] == [
        "it's",
        " 12345ab",
        ",",
        "no",
    ]


def test_a_copy_gives_the_same_tokens(tmp_path, suite, verses):
    copy_tokenizer(suite.tokenizer, tmp_path / "copy")
    assert tokenizer_sha256(tmp_path / "copy") == suite.tokenizer_sha256
    origin = read_origin(tmp_path / "copy")
    assert (origin["eos"], origin["vocab_size"]) == (suite.eos, 400)
    assert origin["copied"]["sha256"] == suite.tokenizer_sha256
    assert load(tmp_path / "copy")(verses[0]) == load(suite.tokenizer)(verses[0])


def test_a_class_that_builds_a_tokenizer_of_its_own_is_packed_as_it_loads(tmp_path, suite):
    source = edited(
        suite.tokenizer,
        tmp_path / "neox",
        "tokenizer_config.json",
        tokenizer_class="GPTNeoXTokenizer",
    )
    copy_tokenizer(source, tmp_path / "copy")
    text = "e\u0301"  # that class normalizes, which the tokenizer.json does not say
    from tokenizers import Tokenizer

    packed = Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json")).encode(text).ids
    assert load(tmp_path / "copy")(text)["input_ids"] == packed


def test_only_tokenizer_files_are_copied(tmp_path, suite):
    source = edited(suite.tokenizer, tmp_path / "model", "config.json", model_type="gpt2")
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "code.py").write_text("raise SystemExit")
    copy_tokenizer(source, tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "origin.json"}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tokenizer_config.json", {"eos_token": None}, "has no eos_token"),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["x.X", None]}},
            "asks for code of its own",
        ),
        ("config.json", {"auto_map": {"AutoTokenizer": ["x.X", None]}}, "asks for code of its own"),
        ("tokenizer.json", {"model": None}, "does not load"),
    ],
)
def test_tokenizers_that_cannot_serve_are_refused(tmp_path, suite, name, changes, message):
    source = edited(suite.tokenizer, tmp_path / "bad", name, **changes)
    with pytest.raises(UserError, match=message) as caught:
        copy_tokenizer(source, tmp_path / "copy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy").exists()


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no file of a tokenizer; looked for"):
        tokenizer_sha256(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        copy_tokenizer(tmp_path / "none", tmp_path / "copy")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    before = tokenizer_sha256(tmp_path)
    (tmp_path / "vocab.txt").write_text("b\na\n")
    assert tokenizer_sha256(tmp_path) != before


def test_older_files_write_merges_otherwise_and_are_the_same(tmp_path, suite):
    content = json.loads((suite.tokenizer / "tokenizer.json").read_text())
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    older = edited(
        suite.tokenizer,
        tmp_path / "old",
        "tokenizer.json",
        model=content["model"] | {"merges": merges},
    )
    assert tokenizer_sha256(older) == suite.tokenizer_sha256


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ((), "holds no file of a tokenizer; looked for tokenizer.json, vocab.json with merges.txt"),
        (("tokenizer_config.json",), r"holds tokenizer_config\.json; looked for tokenizer\.json"),
        (
            ("vocab.json", "tokenizer_config.json"),
            r"no tokenizer can .* it holds tokenizer_config\.json, vocab\.json; looked for",
        ),
    ],
)
def test_what_is_missing_is_named(left, said, suite, tmp_path):
    """Not 'couldn't instantiate the backend tokenizer': which files, where, and the remedy."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in left:
        source = suite.tokenizer / name
        content = source.read_text() if source.exists() else "{}"
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=f"data.tokenizer={folder}: .*{said}") as caught:
        copy_tokenizer(folder, tmp_path / "copy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy").exists()
