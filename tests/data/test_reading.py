import gzip
import json

import pytest
import zstandard

from btm.data.documents import read
from btm.data.reading import DOCUMENT_CHARS, LONGEST_PARAGRAPH
from btm.errors import UserError


def write_table(path, columns):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=7)


def test_long_text_is_cut_at_blank_lines_and_loses_nothing(tmp_path, verses):
    text = "\r\n\r\n".join(verses) + "\n\n" + "endless " * 20_000
    (tmp_path / "law.txt").write_bytes(text.encode())
    documents = list(read(tmp_path / "law.txt", "text"))
    assert "".join(documents) == text
    assert len(documents) > 5
    assert all(len(d) >= DOCUMENT_CHARS for d in documents[:-1])
    assert max(map(len, documents)) <= 2 * LONGEST_PARAGRAPH
    (tmp_path / "short.txt").write_text("one\n\ntwo\n\n" * 50)
    assert len(list(read(tmp_path / "short.txt", "text"))) == 1


def test_a_character_may_stand_across_two_pieces_and_a_byte_order_mark_is_dropped(tmp_path):
    text = "a" + "日本" * 50_000
    (tmp_path / "law.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert "".join(read(tmp_path / "law.txt", "text")) == text
    (tmp_path / "law.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps({"text": "x"}).encode())
    assert list(read(tmp_path / "law.jsonl", "text")) == ["x"]


def good(n):
    return b"".join(json.dumps({"text": f"line {i}"}).encode() + b"\n" for i in range(n))


BROKEN = {
    "utf8": ("law.jsonl", good(2) + b'{"text": "\xff"}\n', r"law.jsonl:3: no UTF-8"),
    "utf8 in text": ("law.txt", b"one\ntwo\n\xe9t\xe9\n", r"law.txt:3: no UTF-8"),
    "utf8 cut off": ("law.txt", b"one\ntwo\xe6", r"law.txt:2: no UTF-8"),
    "no json": ("law.jsonl", good(1) + b"law\n", r"law.jsonl:2: no JSON"),
    "deep json": ("law.jsonl", b"[" * 100_000 + b"\n", r"law.jsonl:1: no JSON"),
    "no column": (
        "law.jsonl",
        good(1) + b'{"body": "x"}\n',
        r"law.jsonl:2: no field 'text'; has body: data\.text_column=body",
    ),
    "no object": (
        "law.jsonl",
        b'["x"]\n',
        r"law.jsonl:1: a JSON array, where an object a line is wanted",
    ),
    "no string": (
        "law.jsonl",
        good(3) + b'{"text": 7}\n',
        r"law.jsonl:4: 'text' is a number, no text",
    ),
    "null": ("law.jsonl", b'{"text": null}\n', r"law.jsonl:1: 'text' is null, no text"),
    "surrogate": (
        "law.jsonl",
        good(1) + b'{"text": "\\ud800"}\n',
        r"law.jsonl:2: .* lone surrogate",
    ),
    "gz": ("law.jsonl.gz", b"no gzip at all", r"law.jsonl.gz:\d+: cannot be read from here on"),
    "gz cut off": (
        "law.jsonl.gz",
        gzip.compress(good(900))[:-50],
        r"law.jsonl.gz:\d+: cannot be read from here on",
    ),
    "zst": ("law.jsonl.zst", b"no zstandard", r"law.jsonl.zst:1: cannot be read from here on"),
    "zst cut off": (
        "law.jsonl.zst",
        zstandard.compress(good(900))[:-50],
        r"law.jsonl.zst:\d+: .*ends in the middle",
    ),
    "parquet": ("law.parquet", b"PAR1 no parquet PAR1", r"law.parquet: cannot be read"),
    "empty": ("law.jsonl", b"", r"law.jsonl: the file is empty"),
    "utf8 in gz": ("law.jsonl.gz", gzip.compress(good(5) + b"\xff\n"), r"law.jsonl.gz:6: no UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_by_file_and_line(tmp_path, case):
    name, data, message = BROKEN[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        list(read(tmp_path / name, "text"))
    assert "\n" not in str(caught.value)


def test_broken_parquet_columns(tmp_path):
    write_table(tmp_path / "law.parquet", {"body": ["x"], "n": [1]})
    with pytest.raises(UserError, match=r"no field 'text'; has body: data\.text_column=body"):
        list(read(tmp_path / "law.parquet", "text"))
    write_table(tmp_path / "med.parquet", {"text": ["x", None]})
    with pytest.raises(UserError, match=r"med.parquet:2: 'text' is null, no text"):
        list(read(tmp_path / "med.parquet", "text"))


def test_several_zstandard_frames_are_one_file(tmp_path):
    (tmp_path / "law.jsonl.zst").write_bytes(
        zstandard.compress(good(3)) + zstandard.compress(good(4))
    )
    assert len(list(read(tmp_path / "law.jsonl.zst", "text"))) == 7
