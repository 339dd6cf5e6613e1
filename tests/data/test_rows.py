"""One bad row: refused by place, cause and remedy, or left out and counted, through the command."""

import gzip
import json
import os

import pytest

from btm.cli.main import main
from btm.data.shards import Shard


def row(i, **more):
    return json.dumps(
        {"text": f"Section {i} of the law: {'and so on ' * (i % 7)}", **more}
    ).encode()


def rows(*middle):
    """Forty good rows, of lines 1 to 20 and those after the bad ones."""
    good = [row(i) for i in range(40)]
    return b"\n".join([*good[:20], *middle, *good[20:]]) + b"\n"


def prepared(tmp_path, capsys, *words):
    """Run btm prepare; return its exit code, what it printed, and meta.json of law, if it stands."""
    words = ["data=folder", f"data.root={tmp_path / 'texts'}", "data.name=x", *words]
    code = main(["prepare", *words, f"data.out={tmp_path / 'out'}", "data.vocab_size=300"])
    meta = tmp_path / "out" / "x" / "law" / "meta.json"
    return code, capsys.readouterr(), json.loads(meta.read_bytes()) if meta.is_file() else None


def put(tmp_path, name, data):
    path = tmp_path / "texts" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def documents(meta):
    return sum(split["documents"] for split in meta["splits"].values())


BAD = {
    "null": (b'{"text": null}', "'text' is null, no text"),
    "number": (b'{"text": 7.5}', "'text' is a number, no text"),
    "list": (b'{"text": ["a", "b"]}', "'text' is a list, no text"),
    "latin 1": ('{"text": "été"}'.encode("latin-1"), "no UTF-8: invalid continuation byte (0xe9"),
    "surrogate": (b'{"text": "a \\udc00"}', "'text' holds a lone surrogate"),
    "no field": (b'{"content": "c", "title": "t"}', "no field 'text'; has content, title"),
    "no object": (b'"text"', "is a text, where an object with the field 'text' belongs"),
    "array": (b'[{"text": "a"}]', "a JSON array, where an object a line is wanted"),
    "two objects": (b'{"text": "a"}{"text": "b"}', "no JSON: Extra data (character 14)"),
    "cut off": (b'{"text": "a', "no JSON: Unterminated string"),
    "control": (b'{"text": "a\x01b"}', "no JSON: Invalid control character"),
    "zeros": (b"\0" * 64, "no JSON but NUL bytes"),
    "twice": (b'{"text": "a", "text": "b"}', "'text' stands there twice"),
    "NaN": (b'{"text": NaN}', "'text' is a number, no text"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_refused_by_place_cause_and_remedy_or_left_out(tmp_path, capsys, case):
    bad, why = BAD[case]
    path = put(tmp_path, "law.jsonl", rows(bad))
    code, out, meta = prepared(tmp_path, capsys)
    assert code == 2 and meta is None
    (line,) = [each for each in out.err.splitlines() if each.startswith("btm: ")]
    assert f"{path}:21: {why}" in line and line.endswith("with data.on_error=skip")
    code, out, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 0 and documents(meta) == 40
    assert "law: 1 row left out (data.on_error=skip)" in out.err
    assert f"  texts/law.jsonl:21: {why}" in out.err
    assert meta["skipped"]["rows"] == 1 and why in meta["skipped"]["places"][0]


def test_what_only_looks_bad_is_read(tmp_path, capsys):
    fine = [b"", b"  \t", row(50, score=1).replace(b"1}", b"NaN}"), row(51, n=int("9" * 4000))]
    fine += [row(52).replace(b"}", b', "meta": {"text": "inner"}}')]
    data = b"\xef\xbb\xbf" + rows(*fine).replace(b"\n", b"\r\n")
    put(tmp_path, "law.jsonl", data)
    code, _, meta = prepared(tmp_path, capsys)
    assert code == 0 and documents(meta) == 43 and "skipped" not in meta


def test_ten_places_are_kept_and_all_are_counted(tmp_path, capsys):
    put(tmp_path, "law.jsonl", rows(*[b'{"text": null}'] * 25))
    code, out, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 0 and meta["skipped"]["rows"] == 25 and len(meta["skipped"]["places"]) == 10
    assert "law: 25 rows left out" in out.err and "  15 more" in out.err
    code, out, meta = prepared(tmp_path, capsys, "data.on_error=skip", "--json")
    (table,) = json.loads(out.out)
    assert table["rows_skipped"] == 25 and len(table["skipped_places"]) == 10
    assert "reading" not in out.err  # it stands, and the policy is the same


def test_the_policy_is_part_of_what_is_prepared(tmp_path, capsys):
    put(tmp_path, "law.jsonl", rows(b'{"text": "a longer row of law"}', b'{"text": null}'))
    assert prepared(tmp_path, capsys, "data.on_error=skip")[0] == 0
    code, out, meta = prepared(tmp_path, capsys)
    assert code == 2 and "law.jsonl:22" in out.err and documents(meta) == 41
    code, out, meta = prepared(tmp_path, capsys, "data.on_error=skip", "data.row_bytes=80")
    assert code == 0 and "changed: row_bytes" in out.err
    assert documents(meta) < 41 and "longer than 80 bytes" in meta["skipped"]["places"][0]


def test_a_long_line_is_got_over_and_the_limit_can_be_raised(tmp_path, capsys):
    put(tmp_path, "law.jsonl", rows(b'{"text": "' + b"word " * 40_000 + b'"}'))
    words = ["data.row_bytes=100000"]
    code, out, _ = prepared(tmp_path, capsys, *words)
    assert code == 2 and ":21: longer than 100,000 bytes: raise the limit" in out.err
    code, _, meta = prepared(tmp_path, capsys, *words, "data.on_error=skip")
    assert code == 0 and documents(meta) == 40 and meta["skipped"]["rows"] == 1
    code, _, meta = prepared(tmp_path, capsys, "data.row_bytes=300000")
    assert code == 0 and documents(meta) == 41


def test_a_file_that_ends_early_keeps_what_stands_before(tmp_path, capsys):
    noisy = b"".join(
        json.dumps({"text": f"{i} {os.urandom(200).hex()}"}).encode() + b"\n" for i in range(300)
    )
    path = put(tmp_path, "law/a.jsonl.gz", gzip.compress(noisy)[:-20_000])
    put(tmp_path, "law/b.jsonl", rows())
    code, out, _ = prepared(tmp_path, capsys)
    assert code == 2 and str(path) in out.err and "cannot be read from here on" in out.err
    code, _, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 0 and 40 < documents(meta) < 340
    assert "law/a.jsonl.gz:" in meta["skipped"]["places"][0]


@pytest.mark.parametrize(
    ("encoding", "named"), [("utf-16", "UTF-16"), ("utf-16-le", "NUL bytes"), ("utf-32", "UTF-32")]
)
def test_another_encoding_is_named(tmp_path, capsys, encoding, named):
    put(tmp_path, "law/a.jsonl", rows().decode().encode(encoding))
    put(tmp_path, "law/b.txt", ("words\n\n" * 50).encode(encoding))
    put(tmp_path, "law/c.jsonl", rows())
    code, out, _ = prepared(tmp_path, capsys)
    assert code == 2 and named in out.err
    code, _, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 0 and documents(meta) == 40 and meta["skipped"]["rows"] >= 2


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_a_table_in_another_encoding_or_with_other_ends_of_lines(tmp_path, capsys, end):
    lines = ["id,text", *(f"{i},Section {i} of the law" for i in range(40))]
    path = put(tmp_path, "law/a.csv", end.join(lines).encode("utf-16"))
    code, out, meta = prepared(tmp_path, capsys)
    assert code == 2 and meta is None and f"{path}: the file is UTF-16" in out.err
    put(tmp_path, "law/a.csv", end.join(lines).encode())
    code, _, meta = prepared(tmp_path, capsys)
    assert code == 0 and documents(meta) == 40


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_of_two_columns_of_one_name_none_is_taken(tmp_path, capsys, ending):
    path = put(tmp_path, f"law/a.{ending}", b"text,text\n1,one\n2,two\n")
    if ending == "parquet":
        import pyarrow
        from pyarrow import parquet

        columns = [pyarrow.array(["1", "2"]), pyarrow.array(["one", "two"])]
        parquet.write_table(pyarrow.Table.from_arrays(columns, ["text", "text"]), path)
    code, out, meta = prepared(tmp_path, capsys)
    assert code == 2 and meta is None
    assert f"btm: {path}: two columns 'text': keep one" in out.err


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.json"])
def test_a_compressed_file_without_its_ending_is_named_as_one(tmp_path, capsys, name):
    put(tmp_path, f"law/{name}", gzip.compress(rows()))
    put(tmp_path, "law/b.jsonl", rows())
    code, out, _ = prepared(tmp_path, capsys)
    assert code == 2 and "the file is compressed by gzip, where text is wanted" in out.err
    assert "give it the ending .gz" in out.err
    code, _, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 0 and documents(meta) == 40 and meta["skipped"]["rows"] == 1


def test_a_text_with_bad_bytes_loses_that_document_alone(tmp_path, capsys):
    parts = ["".join(f"Line {i} of part {n}.\n" for i in range(300)) + "\n" for n in range(40)]
    data = "".join(parts).encode()
    bad = data.replace(b"Line 5 of part 7.", b"Line \xe9 of part 7.")
    path = put(tmp_path, "law.txt", bad)
    code, out, _ = prepared(tmp_path, capsys)
    assert code == 2 and f"{path}:{7 * 301 + 6}: no UTF-8" in out.err
    code, _, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 0 and documents(meta) == 39
    assert sum(split["bytes"] for split in meta["splits"].values()) == len(data) - len(parts[7])


def test_no_usable_row_at_all_is_an_error_with_a_proposal(tmp_path, capsys):
    put(tmp_path, "law.jsonl", b'{"id": 1, "content": "c", "title": "a longer title"}\n' * 3)
    code, out, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 2 and meta is None
    assert "law: no usable text, 3 rows left out" in out.err
    assert "has content, title: data.text_column=content" in out.err


NESTED = [{"doc": {"text": f"Section {i}"}, "doc.kind": f"kind {i}"} for i in range(40)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_fields_of_fields_are_named_by_dots_and_a_name_with_a_dot_wins(tmp_path, capsys, ending):
    import pyarrow
    from pyarrow import parquet

    def write(records):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        path = put(tmp_path, f"law.{ending}", lines.encode())
        if ending == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(records), path)

    write(NESTED)
    code, out, _ = prepared(tmp_path, capsys)
    assert code == 2 and "has doc.text, doc.kind: data.text_column=doc.text" in out.err
    code, _, meta = prepared(tmp_path, capsys, "data.text_column=doc.text")
    assert code == 0 and documents(meta) == 40
    nested = [split["sha256"] for split in meta["splits"].values()]
    write([{"doc.text": each["doc"]["text"], "doc": {"text": "wrong"}} for each in NESTED])
    code, _, meta = prepared(tmp_path, capsys, "data.text_column=doc.text")
    assert code == 0 and [split["sha256"] for split in meta["splits"].values()] == nested
    write([*NESTED, {"doc": None, "doc.kind": "none"}])
    words = ["data.text_column=doc.text", "data.on_error=skip"]
    code, _, meta = prepared(tmp_path, capsys, *words)
    assert code == 0 and documents(meta) == 40 and meta["skipped"]["rows"] == 1


def test_parquet_loses_a_broken_row_group_and_no_more(tmp_path, capsys):
    import pyarrow
    from pyarrow import parquet

    texts = [f"{i} {os.urandom(60).hex()}" for i in range(60)]
    path = put(tmp_path, "law.parquet", b"")
    table = pyarrow.table({"text": texts})
    parquet.write_table(table, path, row_group_size=10, use_dictionary=False)
    facts = parquet.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    start = facts.data_page_offset
    data[start : start + facts.total_compressed_size] = b"\xff" * facts.total_compressed_size
    path.write_bytes(data)
    code, out, _ = prepared(tmp_path, capsys)
    assert code == 2 and f"{path}:21: row group 3 cannot be read" in out.err
    code, _, meta = prepared(tmp_path, capsys, "data.on_error=skip")
    assert code == 0 and documents(meta) == 50 and meta["skipped"]["rows"] == 10


def test_discovery_takes_the_same_policy(tmp_path, capsys):
    pytest.importorskip("sklearn")
    words = ["apple pear plum fruit tree", "engine wheel brake motor road"]
    good = [json.dumps({"text": f"{words[i % 2]} {i}"}).encode() for i in range(120)]
    put(tmp_path, "all.jsonl", b"\n".join([*good, b'{"text": null}']) + b"\n")
    asked = ["discover", "data=folder", f"data.root={tmp_path / 'texts'}", "discover.k=2"]
    asked += [f"discover.out={tmp_path / 'found'}"]
    assert main(asked) == 2
    assert "all.jsonl:121: 'text' is null" in capsys.readouterr().err
    assert main([*asked, "data.on_error=skip"]) == 0
    assert "all: 1 row left out" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "cut off", "a link to nowhere"])
def test_a_shard_that_is_not_whole_is_named_and_prepared_again(tmp_path, capsys, damage):
    put(tmp_path, "law.jsonl", rows())
    _, _, meta = prepared(tmp_path, capsys)
    path = tmp_path / "out" / "x" / "law" / "valid.bin"
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(whole[:-4])
    if damage == "a link to nowhere":
        path.symlink_to(tmp_path / "gone")
    out = f"data.out={tmp_path / 'out'}"
    words = ["data=folder", f"data.root={tmp_path / 'texts'}", "data.name=x", out]
    forest = [f"forest={tmp_path / 'forest'}", "model=pico", "data.vocab_size=300"]
    assert main(["seed", *words, *forest, "trainer.steps=1", "trainer.seq_len=8"]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "btm: " in each]
    assert f"{path}: this shard" in line and line.endswith("run btm prepare again")
    code, said, again = prepared(tmp_path, capsys)
    assert code == 0 and "valid.bin: this shard" in said.err
    assert path.read_bytes() == whole and again["splits"] == meta["splits"]
    Shard.open(path.parent, "valid")
