import gzip
import json

import pytest
import zstandard

from btm.data.documents import DOCUMENT_CHARS, LONGEST_PARAGRAPH, read
from btm.data.domains import find
from btm.errors import UserError


def write_parquet(path, texts, column="text"):
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(
        pyarrow.table({column: texts, "n": range(len(texts))}), path, row_group_size=7
    )


def write(path, texts, jsonl):
    if path.suffix == ".parquet":
        write_parquet(path, texts)
    elif path.suffix == ".txt":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(texts).encode())
    else:
        jsonl(path, texts)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("arrangement", ["splits", "pool", "file"])
def test_every_arrangement_and_format_gives_the_same_documents(
    tmp_path, verses, jsonl, ending, arrangement
):
    parts = [verses[:20], verses[20:30], verses[30:]]
    names = {
        "splits": ["law/train", "law/valid", "law/test"],
        "pool": ["law/a", "law/b", "law/c"],
        "file": ["law"],
    }[arrangement]
    for name, texts in zip(names, parts if len(names) == 3 else [verses], strict=True):
        write(tmp_path / f"{name}{ending}", texts, jsonl)
    (source,) = find(tmp_path)
    assert source.domain == "law" and source.pooled == (arrangement != "splits")
    assert [text for _, text in source.documents("text")] == verses


def test_another_column_hidden_files_links_and_blank_documents(tmp_path, verses, jsonl):
    kept = jsonl(tmp_path / "elsewhere" / "x.jsonl", [*verses[:3], "", " \n\t"], column="body")
    (tmp_path / "root" / "law").mkdir(parents=True)
    (tmp_path / "root" / "law" / "a.jsonl").symlink_to(kept)
    (tmp_path / "root" / "law" / ".hidden.jsonl").write_text("no JSON")
    (tmp_path / "root" / "NOTES.md").write_text("no text")
    (source,) = find(tmp_path / "root")
    assert [text for _, text in source.documents("body")] == verses[:3]


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
        r"law.jsonl:2: no 'text'; found 'body'",
    ),
    "no object": ("law.jsonl", b'["x"]\n', r"law.jsonl:1: no 'text'; found list"),
    "no string": (
        "law.jsonl",
        good(3) + b'{"text": 7}\n',
        r"law.jsonl:4: 'text' is no string but int",
    ),
    "null": ("law.jsonl", b'{"text": null}\n', r"law.jsonl:1: 'text' is no string but NoneType"),
    "surrogate": (
        "law.jsonl",
        good(1) + b'{"text": "\\ud800"}\n',
        r"law.jsonl:2: .* lone surrogate",
    ),
    "gz": ("law.jsonl.gz", b"no gzip at all", r"law.jsonl.gz: cannot be read"),
    "gz cut off": ("law.jsonl.gz", gzip.compress(good(900))[:-50], r"law.jsonl.gz: cannot be read"),
    "zst": ("law.jsonl.zst", b"no zstandard", r"law.jsonl.zst: cannot be read"),
    "zst cut off": (
        "law.jsonl.zst",
        zstandard.compress(good(900))[:-50],
        r"law.jsonl.zst: .*ends in the middle",
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
    write_parquet(tmp_path / "law.parquet", ["x"], column="body")
    with pytest.raises(UserError, match="no column 'text'; found 'body', 'n'"):
        list(read(tmp_path / "law.parquet", "text"))
    write_parquet(tmp_path / "med.parquet", ["x", None])
    with pytest.raises(UserError, match=r"med.parquet:2: 'text' is no string"):
        list(read(tmp_path / "med.parquet", "text"))


def test_several_zstandard_frames_are_one_file(tmp_path):
    (tmp_path / "law.jsonl.zst").write_bytes(
        zstandard.compress(good(3)) + zstandard.compress(good(4))
    )
    assert len(list(read(tmp_path / "law.jsonl.zst", "text"))) == 7


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no domain in"),
        (["law/valid.txt", "law/test.txt"], "no train split beside test.txt, valid.txt"),
        (
            ["law/train.txt", "law/valid.txt", "law/test.txt", "law/more.txt"],
            "more.txt: is neither",
        ),
        (["law/train.txt", "law/train.jsonl"], "is the train split already"),
        (["law/a.txt", "law.txt"], "two sources for the domain 'law'"),
        (["law.jsonl", "law.txt"], "two sources for the domain 'law'"),
        (["Law.txt"], "'Law' is no valid name"),
        (["law/notes.md"], r"no document; there are \.md 1 .*; wanted files that end in"),
        (
            ["train.txt", "test.txt", "valid.txt"],
            "is one domain, .*; data.root must be the folder above",
        ),
    ],
)
def test_arrangements_that_say_nothing_clear_are_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    with pytest.raises(UserError, match=message):
        find(tmp_path)


def test_a_missing_root_is_named():
    with pytest.raises(UserError, match="no folder nowhere"):
        find(__import__("pathlib").Path("nowhere"))
