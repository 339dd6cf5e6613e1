import json
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btm.data.encode import Encoder, encoding

NASTY = [
    "I'll we've 'sam don't y'S rock'n'roll '' 'tis",
    "é e\u0301 a\u0300\u0316 \u1100\u1161\u11a8 한국어 日本語 العربية हिन्दी ไทย",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 \u200d\ufe0f\ufeff",
    "a\0b\0\0c \x01 \x02 \x01\x02\x7f\x1c\x1d\x1e\x1f",
    "one\r\ntwo\r\n\r\n  three\n\n\n\tfour \t \n five   ",
    " " * 999 + "x" + "\n" * 77 + "y" + "\t" * 5,
    "x\u00a0\u00a0y \u3000 z\u2003\u2003\u2003w\u0085\u0085v\u2028\u2029u \u00a0",
    "<|endoftext|>",
    "before <|endoftext|><|endoftext|> after",
    "12½٣৪ 3.14159e-10 \u2167 x\u00b2 1a2b",
    "}}}]]);;// ---- ==== \\\\ ~~~ ''s \"quoted\"",
    "a" * 3000,
    bytes(random.Random(0).randrange(256) for _ in range(4000)).decode("latin-1"),
    " ",
    "\n",
    "x",
]


@pytest.fixture(scope="module")
def both(suite):
    fast = Encoder.open(suite.tokenizer, NASTY)
    return fast, Encoder(fast.spec, fast.eos, fast.vocab_size, fast=False)


def assert_equal(both, documents):
    (ids, sizes), (wanted, wanted_sizes) = (encoder.encode(documents) for encoder in both)
    assert np.array_equal(ids, wanted) and ids.dtype == wanted.dtype
    assert np.array_equal(sizes, wanted_sizes)


def test_the_fast_way_is_taken_and_agrees_on_nasty_text(both):
    assert both[0].fast and not both[1].fast
    assert_equal(both, NASTY)
    for text in NASTY:
        assert_equal(both, [text])


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_both_ways_agree_on_any_text(both, documents):
    assert_equal(both, documents)


@given(st.text(alphabet=" \n\t\r\u00a0\u3000\x01\x02aé'1!", min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_both_ways_agree_on_blanks(both, text):
    assert_equal(both, [text, text])


def test_both_libraries_hold_the_same_characters_for_letters_digits_and_blanks(tmp_path):
    """With merges of a letter, a digit, a mark or a blank and one byte, a word cut elsewhere has
    other ids.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    from btm.data.bytelevel import alphabet

    char_of = {byte: char for char, byte in alphabet().items()}
    vocab = {char: i for i, char in enumerate(alphabet())}
    merges = [
        (char_of[ord(a)], char_of[b])
        for a in "a1!"
        for b in (*range(0x7F, 0xF5), 9, 10, 11, 12, 13)
    ]
    vocab |= {a + b: len(vocab) + i for i, (a, b) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    both = [Encoder(tokenizer.to_str(), 0, len(vocab), fast) for fast in (True, False)]
    assert both[0].fast
    rng = random.Random(0)
    assigned = [
        c
        for c in range(3, 0x110000)
        if unicodedata.category(chr(c)) not in ("Cs", "Co", "Cn", "Lo")
    ]
    others = rng.sample(range(0x2FF, 0xD800), 6000) + rng.sample(range(0xE000, 0x110000), 4000)
    text = "".join(f"a{chr(c)}1{chr(c)}!{chr(c)}" for c in sorted({*assigned, *others}))
    for start in range(0, len(text), 60_000):
        assert_equal(both, [text[start : start + 60_000]])


def test_text_comes_back_and_special_tokens_in_it_are_text(both, suite):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(suite.tokenizer))
    for encoder in both:
        for text in NASTY:
            ids, sizes = encoder.encode([text])
            assert ids[-1] == suite.eos and suite.eos not in ids[:-1]
            assert tokenizer.decode(ids[:-1]) == text
            assert sizes.tolist() == [[len(ids), len(text.encode())]]


def test_real_text_comes_back_document_by_document(both, verses, code):
    from tokenizers import Tokenizer

    documents = verses + code
    ids, sizes = both[0].encode(documents)
    ends = np.cumsum(sizes[:, 0])
    pieces = np.split(ids, ends[:-1])
    texts = Tokenizer.from_str(both[0].spec).decode_batch([piece[:-1].tolist() for piece in pieces])
    assert texts == documents


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "NFC"}},
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
    ],
)
def test_other_tokenizers_take_the_slow_way(both, changes):
    spec = json.dumps(json.loads(both[0].spec) | changes)
    encoder = Encoder(spec, both[0].eos, both[0].vocab_size)
    assert not encoder.fast
    ids, sizes = encoder.encode(NASTY)
    assert len(ids) == sizes[:, 0].sum() and (ids == both[0].eos).sum() == len(NASTY)


def test_merges_that_tiktoken_cannot_follow_take_the_slow_way(both):
    content = json.loads(both[0].spec)
    content["model"]["merges"].reverse()
    assert not Encoder(json.dumps(content), both[0].eos, both[0].vocab_size).fast


def test_a_wide_vocabulary_takes_four_bytes(both):
    assert both[0].dtype == np.uint16
    assert Encoder(both[0].spec, both[0].eos, 70_000).dtype == np.uint32


@pytest.mark.parametrize("workers", [1, 2])
def test_chunks_come_back_in_their_order(both, verses, workers):
    chunks = [(f"split {i}", [verses[i % 40], str(i)]) for i in range(30)]
    with encoding(both[0], workers) as encode_all:
        results = list(encode_all(iter(chunks)))
    assert [split for split, _ in results] == [split for split, _ in chunks]
    for (_, texts), (_, packed) in zip(chunks, results, strict=True):
        assert np.array_equal(packed.ids, both[0].encode(texts).ids)
