"""The formats of files: each gives the same documents; broken ones are refused by place."""

import bz2
import gzip
import json
import lzma

import pytest
import zstandard

from btm.data import json_stream
from btm.data.domains import find
from btm.data.formats import format_of, is_text, stem_of
from btm.data.reading import read
from btm.data.rows import Policy
from btm.errors import UserError

PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


def as_lines(documents):
    return "".join(json.dumps({"text": text}) + "\n" for text in documents)


def as_array(documents):
    return json.dumps([{"n": i, "text": text} for i, text in enumerate(documents)], indent=2)


def as_objects(documents):
    return "\n".join(json.dumps({"text": text}, indent=1) for text in documents)


def as_table(divider):
    def write(documents):
        rows = [
            f'{i}{divider}"{text.replace(chr(34), chr(34) * 2)}"'
            for i, text in enumerate(documents)
        ]
        return "\n".join([f"id{divider}text", *rows])

    return write


WRITE = {
    "a.json": as_array,
    "B.JSON": as_objects,
    "c.json.gz": as_lines,
    "d.Json.Xz": as_array,
    "e.ndjson": as_lines,
    "f.JSONL": as_lines,
    "g.jsonlines.bz2": as_lines,
    "h.jsonl.ZST": as_lines,
    "i.csv": as_table(","),
    "j.csv.gz": as_table(";"),
    "k.tsv": as_table("\t"),
}


@pytest.mark.parametrize("name", WRITE)
def test_every_format_gives_the_same_documents(tmp_path, verses, name):
    data = b"\xef\xbb\xbf" * (name == "a.json") + WRITE[name](verses).encode()
    data = PACK.get(name.rpartition(".")[2].lower(), bytes)(data)
    (tmp_path / "law").mkdir()
    (tmp_path / "law" / name).write_bytes(data)
    (source,) = find(tmp_path)
    assert [text for _, text in source.documents("text")] == verses


@pytest.mark.parametrize("as_file", [False, True])
def test_arrow_files_and_streams_and_fields_within(tmp_path, verses, as_file):
    import pyarrow
    from pyarrow import ipc

    table = pyarrow.table({"n": range(len(verses)), "doc": [{"text": text} for text in verses]})
    make = ipc.new_file if as_file else ipc.new_stream
    path = tmp_path / ("law.feather" if as_file else "law.arrow")
    with pyarrow.OSFile(str(path), "wb") as handle, make(handle, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    assert list(read(path, "doc.text")) == verses
    with pytest.raises(UserError, match=r"no field 'text'; has doc\.text"):
        list(read(path, "text"))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cannot be read"):
        list(read(path, "doc.text"))


def save_to_disk(folder, documents, files=2):
    """Write a folder as `datasets.save_to_disk` does."""
    import pyarrow
    from pyarrow import ipc

    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        table = pyarrow.table({"text": documents[i::files]})
        with (
            pyarrow.OSFile(str(folder / name), "wb") as handle,
            ipc.new_stream(handle, table.schema) as writer,
        ):
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {"text": {"dtype": "string"}}}')
    return folder


def test_a_saved_data_set_is_read_by_its_splits_and_without_its_caches(tmp_path, verses):
    law = tmp_path / "law"
    save_to_disk(law / "train", verses[:20])
    save_to_disk(law / "validation", verses[20:30])
    save_to_disk(law / "test", verses[30:])
    (law / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    (law / "train/cache-0123456789abcdef.arrow").write_bytes(b"rows that were mapped")
    (source,) = find(tmp_path)
    assert source.drawn == ()
    found = list(source.documents("text"))
    for split, part in {"train": verses[:20], "valid": verses[20:30], "test": verses[30:]}.items():
        assert sorted(text for each, text in found if each == split) == sorted(part)


def test_a_saved_data_set_that_is_not_whole_is_refused(tmp_path, verses):
    folder = save_to_disk(tmp_path / "law", verses)
    (folder / "data-00001-of-00002.arrow").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no data-00001-of-00002.arrow, which state.json lists"):
        find(tmp_path)
    (tmp_path / "gone").rename(folder / "data-00001-of-00002.arrow")
    state = json.loads((folder / "state.json").read_text())
    # Rows that others left out of a split lie in the data files of an old version too.
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="rows are chosen by indices"):
        find(tmp_path)


def test_a_split_that_a_saved_data_set_lists_is_never_drawn_from_another(tmp_path, verses):
    law = tmp_path / "law"
    save_to_disk(law / "train", verses[:20])
    test = save_to_disk(law / "test", verses[20:], files=1)
    (law / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (test / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"law/test: no data-00000-of-00001.arrow"):
        find(tmp_path)
    test.rename(tmp_path / "law" / ".gone")
    with pytest.raises(UserError, match=r"law: no test/, which dataset_dict.json lists"):
        find(tmp_path)


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 16])
def test_records_are_the_same_however_the_file_is_cut(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_stream, "_PIECE", size)
    records = [
        {"text": 'a "quoted\\" [{,}] 日本 \u2028' * n, "n": [n, {"x": None}]} for n in range(9)
    ]
    path = tmp_path / "a.json"
    for text in (
        json.dumps(records),
        json.dumps(records, indent=3, ensure_ascii=False),
        "\n\n".join(json.dumps(each, indent=1) for each in records),
        json.dumps(records[:4]) + "\n" + json.dumps(records[4:]),
    ):
        path.write_text(text)
        assert [record for _, record in json_stream.records(path, Policy())] == records


BROKEN = {
    "cut off": ('[\n{"text": "x"},\n{"text": "y"', "law.json:3: no JSON"),
    "no comma": ('[\n{"text": "x"}\n{"text": "y"}]', "law.json:3: no JSON: expecting ','"),
    "behind": ('[{"text": "x"}]\nlaw', "law.json:2: no JSON"),
    "no objects": ('["x",\n "y"]', "law.json:1: is a text, where an object"),
    "no field": ('[\n{"text": "x"},\n{"body": "y"}]', "law.json:3: no field 'text'; has body"),
    "no UTF-8": (b'[\n{"text": "x"},\n{"text": "\xe9t\xe9"}]', "law.json:3: no UTF-8"),
    "half a pair": ('[\n{"text": "\\ud800"}]', "law.json:2: 'text' holds a lone surrogate"),
    "UTF-16": ('[{"text": "x"}]'.encode("utf-16"), "law.json: the file is UTF-16"),
    "deep": ("[" * 2 + '{"text": ' + "[" * 100_000, "law.json:1: no JSON"),
    "short row": ("n,text\n1,x\n2\n", "law.csv:3: 'text' is null"),
    "no UTF-8 in a table": (b"n,text\n1,x\n2,\xe9t\xe9\n", "law.csv:3: no UTF-8"),
    "open quote": ('n\ttext\n1\tx\n2\t"so\n3\ty\n', "law.tsv:4: no table from here on"),
    "no column": ("n,body\n1,x\n", "law.csv: no field 'text'; has n, body"),
    "bz2 cut off": (bz2.compress(b'{"text": "x"}\n' * 9)[:-9], "law.jsonl.bz2:10: cannot be read"),
    "no bz2": (b"plain", "law.jsonl.bz2:1: cannot be read"),
    "xz cut off": (lzma.compress(b'{"text": "x"}\n' * 9)[:-9], "law.jsonl.xz:10: cannot be read"),
    "no xz": (b"plain", "law.jsonl.xz:1: cannot be read"),
    "no arrow": (b"plain", "law.arrow:1: cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_by_its_place_or_left_out(tmp_path, case):
    data, message = BROKEN[case]
    path = tmp_path / message.partition(":")[0]
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=message) as caught:
        list(read(path, "text"))
    assert "\n" not in str(caught.value)
    policy = Policy("skip")
    assert set(read(path, "text", policy)) <= {"x"} and policy.skipped.rows


def test_a_record_longer_than_the_limit_is_refused_in_bounded_memory(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 500_000}, {"text": "y"}], indent=0))
    with pytest.raises(UserError, match=r"a.json:2: longer than 100,000 bytes.*data\.row_bytes"):
        list(read(tmp_path / "a.json", "text", Policy(row_bytes=100_000)))


def test_endings(tmp_path):
    names = ["a.b.JSONL.GZ", "x.txt", "x.md", "x.md.zst", "x.parquet.gz", "gz", ".gz", "x."]
    paths = [tmp_path / name for name in names]
    assert [format_of(path) for path in paths] == ["lines", "text", *[None] * 6]
    assert [stem_of(path) for path in paths[:4]] == ["a.b", "x", "x", "x"]
    assert format_of(tmp_path / "x.MD.zst", [".md"]) == "text"
    assert is_text(tmp_path / "x.md") and not is_text(tmp_path / "x.CSV")
