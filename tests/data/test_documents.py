import pytest

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
