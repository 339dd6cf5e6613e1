import json

import numpy as np
import pytest
from folders import DEMO

from btm.data.documents import read
from btm.data.encode import Encoder
from btm.data.tokenizer import ORIGIN, load_tokenizer, train_tokenizer
from btm.errors import UserError
from btm.fairseq import tokenizer
from btm.fairseq.dictionary import SPECIALS, Dictionary
from btm.fairseq.tokenizer import bytes_of, export, find_dictionary, write_tokenizer


@pytest.fixture(scope="module")
def texts():
    return [
        text[:800]
        for _, text in zip(range(20), read(DEMO / "speeches/train.jsonl.zst", "text"), strict=False)
    ]


@pytest.fixture(scope="module")
def own(texts, tmp_path_factory):
    """A byte-level BPE that btm trained."""
    folder = tmp_path_factory.mktemp("tokenizer") / "own"
    train_tokenizer(texts, folder, 400)
    return folder


@pytest.fixture
def pairs(own, tmp_path):
    """The same in fairseq's files."""
    export(own).write(tmp_path)
    return tmp_path


def encoded(folder, texts):
    encoder = Encoder((folder / "tokenizer.json").read_text(encoding="utf-8"), 2, 400, fast=False)
    return encoder.encode(texts).ids.astype(np.int64)


def test_byte_pairs_of_btm_keep_their_text_under_other_ids(own, pairs, texts, tmp_path):
    (tmp_path / "hf").mkdir()
    write_tokenizer(find_dictionary(pairs), pairs, tmp_path / "hf")
    exported = export(own)
    before = Encoder.open(own).encode(texts).ids
    assert np.array_equal(encoded(tmp_path / "hf", texts), exported.table[before])
    assert sorted(exported.table) == [2, *range(4, len(exported.dictionary))]
    again = export(tmp_path / "hf")
    assert again.same_ids and not exported.same_ids
    assert (again.dictionary, again.encoder, again.merges) == (
        exported.dictionary,
        exported.encoder,
        exported.merges,
    )


def test_one_that_is_trained_with_fairseqs_special_tokens_keeps_its_ids(texts, tmp_path):
    """And a special token that a text spells out is ordinary text."""
    folder = tmp_path / "own"
    train_tokenizer(texts, folder, 400, "fairseq")
    exported = export(folder)
    assert exported.same_ids
    assert exported.dictionary.symbols[:4] == SPECIALS
    assert [load_tokenizer(folder).convert_ids_to_tokens(i) for i in range(4)] == list(SPECIALS)
    ids = Encoder.open(folder, texts).encode(["one </s> two<pad>"]).ids
    assert ids[-1] == 2 and ids[:-1].min() > 3
    exported.write(tmp_path)
    write_tokenizer(find_dictionary(tmp_path), tmp_path, tmp_path)
    assert np.array_equal(encoded(tmp_path, texts), encoded(folder, texts))


def test_numbers_are_those_that_gpt2_would_give(pairs):
    """Bytes in the order of their characters, then each merge: so GPT-2's first tokens are '!',
    '"', '#'.
    """
    encoder = json.loads((pairs / "encoder.json").read_text())
    first = [token for token, number in encoder.items() if number < 3]
    merges = (pairs / "vocab.bpe").read_text().splitlines()
    assert first == ["!", '"', "#"]
    assert encoder[merges[1].replace(" ", "")] == 256


def test_words_are_cut_where_python_cuts_them(tmp_path):
    dictionary = Dictionary.of(["a", "b", "é"])
    write_tokenizer(dictionary, tmp_path, tmp_path, context=64)
    text = "a  b\té\x1ca\u3000zzz </s>\n\u2028b"
    wanted = [dictionary.ids.get(word, 3) for word in text.split()]
    assert encoded(tmp_path, [text]).tolist() == [*wanted, 2]
    loaded = load_tokenizer(tmp_path)
    assert (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (
        2,
        0,
        1,
        3,
    )
    assert loaded.model_max_length == 64
    assert bytes_of(dictionary, tmp_path)[4:].tolist() == [2, 2, 3]


def test_byte_pairs_that_the_dictionary_lacks_are_refused(pairs, tmp_path):
    lines = (pairs / "dict.txt").read_text().splitlines()
    (pairs / "dict.txt").write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(UserError, match=r"2 byte pairs of encoder.json are not there, .*--srcdict"):
        write_tokenizer(find_dictionary(pairs), pairs, tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("encoder.json", "[]", "encoder.json: wanted a JSON object"),
        ("encoder.json", '{"a": "b"}', r"encoder.json: wanted \{token: number\}"),
        ("vocab.bpe", "a b c\n", "vocab.bpe: wanted two tokens a line"),
    ],
)
def test_broken_files_of_byte_pairs_are_named(pairs, tmp_path, file, text, message):
    (pairs / file).write_text(text)
    with pytest.raises(UserError, match=message):
        write_tokenizer(find_dictionary(pairs), pairs, tmp_path)


def changed(own, folder, change):
    content = json.loads((own / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content["model"].update(type="Unigram"),
            "a tokenizer of the type Unigram",
        ),
        (
            lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
            "not cut as GPT-2's are",
        ),
        (lambda content: content.update(normalizer={"type": "NFC"}), "not cut as GPT-2's are"),
        (lambda content: None, "its tokenizer has no eos_token"),
    ],
)
def test_tokenizers_without_a_form_in_fairseq_are_refused(own, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        export(changed(own, tmp_path, change))


def test_counts_are_kept_where_the_dictionary_is_the_same(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source/dict.txt").write_text("a 7\nb 5\n")
    write_tokenizer(find_dictionary(tmp_path / "source"), tmp_path, tmp_path / "source")
    tokenizer.copy_dictionary(tmp_path / "source", tmp_path / "target", export(tmp_path / "source"))
    assert (tmp_path / "target/dict.txt").read_text() == "a 7\nb 5\n"
    assert not (tmp_path / "source" / ORIGIN).exists()
