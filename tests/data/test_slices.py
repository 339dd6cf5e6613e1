import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from folders import uncovered

from btm.data import encode, long_lines
from btm.data.encode import Encoder
from btm.data.long_lines import LongLine
from btm.data.minhash import signatures
from btm.data.shards import Shard
from btm.data.slices import SLICE, WORD, short_words, slices, utf8, utf8_size, without_blanks
from btm.data.tokenizer import train_tokenizer
from btm.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.traced]

RUNS = {
    "one letter": "a" * 900_000,
    "dna": "".join(random.Random(0).choices("ACGT", k=400_000)),
    "blanks": " " * 600_000 + "x",
    "digits and letters": "ab1" * 100_000,
    "no blank": "日本語、" * 70_000,
}


@pytest.fixture(scope="module")
def both(suite):
    fast = Encoder.open(suite.tokenizer)
    return fast, Encoder(fast.spec, fast.eos, fast.vocab_size, fast=False)


@pytest.fixture(scope="module")
def long_text(verses, code):
    parts = [*verses, *code]
    random.Random(0).shuffle(parts)
    text = "\n\n".join(parts * 9)
    return text[: 2 * SLICE + 1000]


def test_a_long_document_has_the_ids_that_it_has_as_a_whole(both, long_text):
    fast, slow = both
    whole = fast._encode_fast([long_text]).ids
    marked = long_text[: SLICE + 50] + "\x01" + long_text[SLICE + 50 :]
    assert np.array_equal(fast.encode([long_text]).ids, whole)
    assert np.array_equal(slow.encode([long_text]).ids, whole)
    assert np.array_equal(fast.encode([marked]).ids, slow._encode_slow([marked]).ids)
    packed = fast.encode(["short", long_text, "shorter"])
    assert packed.sizes[1].tolist() == [len(whole), utf8_size(long_text)]
    assert packed.sizes[:, 0].sum() == len(packed.ids)


def test_a_tokenizer_of_another_kind_is_joined_where_windows_agree(suite, long_text):
    content = json.loads((suite.tokenizer / "tokenizer.json").read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    encoder = Encoder(json.dumps(content), 0, 400)
    assert not encoder.fast
    whole = encoder._encode_slow([long_text]).ids
    assert np.array_equal(encoder.encode([long_text]).ids, whole)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_encoded_both_ways_and_comes_back_whole(both, name):
    run = RUNS[name]
    fast, slow = (encoder.encode([run]) for encoder in both)
    assert np.array_equal(fast.ids, slow.ids) and fast.sizes[0, 1] == len(run.encode())
    assert both[1]._slow.decode(fast.ids[:-1].tolist()) == run


def test_slices_and_parts_lose_nothing(long_text):
    for text in [*RUNS.values(), long_text, "", "x", "x" * SLICE, "x" * (SLICE + 1)]:
        parts = list(slices(text))
        assert "".join(parts) == text and max(map(len, parts)) <= SLICE
        words = list(short_words(text))
        assert "".join(part for part, _ in words) == text
        assert all(len(part) <= WORD for part, long in words if long)
        assert b"".join(utf8(text)) == text.encode()
        begin, end = without_blanks(f" \n{text}\t")
        assert f" \n{text}\t"[begin:end] == text.strip() or text == ""


def test_text_without_long_words_is_handed_on_as_it_is(verses, code):
    for text in [*verses, *code, "-" * WORD + " x", " " * (WORD - 1) + "x"]:
        assert list(short_words(text)) == [(text, False)]
    assert any(long for _, long in short_words("ordinary words and " + "x" * (WORD + 1)))


def test_a_tokenizer_is_trained_on_runs_in_seconds(tmp_path, verses):
    begun = time.monotonic()
    train_tokenizer([*verses, "a" * 3_000_000, *RUNS.values()], tmp_path / "t", 600)
    assert time.monotonic() - begun < 60  # the first run alone had no end
    train_tokenizer(["\n".join(verses)], tmp_path / "joined", 500)
    train_tokenizer([each + "\n" for each in verses[:-1]] + verses[-1:], tmp_path / "apart", 500)
    joined, apart = (
        (tmp_path / name / "tokenizer.json").read_bytes() for name in ("joined", "apart")
    )
    assert joined == apart


def test_training_says_how_far_it_is(tmp_path, verses, monkeypatch):
    monkeypatch.setattr("btm.data.tokenizer._EVERY", 0.02)
    said = []

    def slowly():
        for text in verses:
            time.sleep(0.005)
            yield text

    train_tokenizer(slowly(), tmp_path / "t", 500, say=said.append)
    assert any("tokenizer: reading: " in line and " documents, " in line for line in said)


def test_long_strings_of_a_line_are_unescaped_in_pieces(monkeypatch):
    monkeypatch.setattr(long_lines, "_LITERAL", 40)
    monkeypatch.setattr(long_lines, "_PIECE", 37)
    monkeypatch.setattr(long_lines, "_REACH", 30)
    rng = random.Random(0)
    letters = ["a", "\\", '"', "\n", "é", "日", "😀", " ", "\0", "\\u", "/"]
    for _ in range(3000):
        text = "".join(rng.choices(letters, k=rng.randrange(200)))
        record = {"a": "x" * rng.randrange(60), "text": text, "n": [1, text[:50]]}
        line = LongLine(json.dumps(record, ensure_ascii=rng.random() < 0.5).encode())
        assert line.text(json.loads(line.short)["text"]) == text


LONG = {
    "good": (b'{"text": "%s"}' % (b"\\u00e9 words " * 900_000), None),
    "bytes": (b'{"text": "%s \xff"}' % (b"words " * 1_500_000), "no UTF-8"),
    "escape": (b'{"text": "%s \\x"}' % (b"words " * 1_500_000), "no JSON"),
    "cut off": (b'{"text": "%s' % (b"words " * 1_500_000), "no JSON"),
    "surrogate": (b'{"text": "%s \\ud800"}' % (b"words " * 1_500_000), "lone surrogate"),
    "field": (b'{"body": "%s"}' % (b"words " * 1_500_000), "has body: data.text_column=body"),
}


@pytest.mark.parametrize("case", LONG)
def test_a_long_line_is_judged_like_a_short_one(tmp_path, case):
    from btm.data.reading import read

    line, why = LONG[case]
    path = tmp_path / "law.jsonl"
    path.write_bytes(b'{"text": "first"}\n' + line + b"\n")
    if why is None:
        assert list(read(path, "text")) == ["first", json.loads(line)["text"]]
        return
    with pytest.raises(UserError, match=r"law\.jsonl:2: ") as caught:
        list(read(path, "text"))
    assert why in str(caught.value)


def test_the_signature_of_a_long_document_is_that_of_its_shingles(suite, monkeypatch):
    shard = Shard.open(suite.path / "verses", "train")
    found = np.concatenate([rows for _, rows in signatures(shard)])
    monkeypatch.setattr("btm.data.minhash._CHUNK", 50)  # less than a document
    assert np.array_equal(np.concatenate([rows for _, rows in signatures(shard)]), found)


PEAK = """
import sys
from pathlib import Path
from btm.cli.main import main
code = main(sys.argv[1:])
# Of this program alone: rusage counts what started it, too.
status = Path("/proc/self/status").read_text().split()
print(code, int(status[status.index("VmHWM:") + 1]) // 1000)
"""


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_memory_is_bounded_for_a_long_document(tmp_path, verses, ending):
    text = "\n".join(f"{i} {verses[i % len(verses)]}" for i in range(6_000))[:8_000_000]
    small = [f"Section {i} of the law." for i in range(60)]
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / f"law.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps({"text": each}) + "\n" for each in [text, *small]))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": [text, *small]}), path)
    words = ["prepare", "data=folder", f"data.root={tmp_path / 'texts'}", "data.name=x"]
    words += [f"data.out={tmp_path / 'out'}", "data.vocab_size=400", "data.tokenizer_bytes=500000"]
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, *words],
        env=uncovered(),
        capture_output=True,
        text=True,
        cwd=Path(encode.__file__).parents[2],
        check=True,
    )
    code, peak = map(int, ran.stdout.split()[-2:])
    assert code == 0 and peak < 350  # it took 800 MB
