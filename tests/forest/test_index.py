"""The index is never wrong, whatever is the matter with it, and whatever happened to the forest
meanwhile.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from btm.cli import main
from btm.config.schema import LsConfig
from btm.forest import Forest, index, listing, publish, removal
from btm.forest.card import Card


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(grown, tmp_path):
    return shutil.copytree(grown[0].forest_root, tmp_path / "forest")


def add(root, name, **changes):
    """A folder with a card alone, as far as the index looks."""
    card = json.loads((root / "elms/bible/card.json").read_text())
    folder = root / "elms" / name
    folder.mkdir(exist_ok=True)
    (folder / "new").write_text(json.dumps(card | {"name": name} | changes))
    (folder / "new").replace(folder / "card.json")


def read(root):
    """What the index says, after it was checked against the cards themselves."""
    found = index.entries(root)
    assert found == index.entries(root, cache=False)
    assert index.descents(root) == index.descents(root, cache=False)
    return {entry.name: entry for entry in found}


def test_it_is_beside_no_forest_and_holds_what_the_cards_say(root):
    assert set(read(root)) == {"bible", "code_python", "seed", "speeches", "uniform"}
    assert index.location(root).is_file()
    assert root not in index.location(root).parents
    entry, card = read(root)["speeches"], Forest(root)["speeches"].card
    assert entry == index.Entry.of("speeches", card)
    assert not list(index.folder().glob(".tmp-*"))


def test_added_removed_and_added_again(root):
    read(root)
    add(root, "law", tokens=1)
    assert read(root)["law"].tokens == 1
    shutil.rmtree(root / "elms/law")
    assert "law" not in read(root)
    add(root, "law", tokens=2)
    assert read(root)["law"].tokens == 2
    stat = os.stat(root / "elms/law/card.json")  # noqa: PTH116
    add(root, "law", tokens=3)
    os.utime(root / "elms/law/card.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read(root)["law"].tokens == 3
    removal.remove(Forest(root), "bible")
    assert "bible" not in read(root)


def damaged(file):
    whole = file.read_bytes()
    yield "gone", lambda: file.unlink()
    yield "empty", lambda: file.write_bytes(b"")
    yield "no database", lambda: file.write_bytes(b"x" * 5000)
    yield "a folder", lambda: (file.unlink(), file.mkdir())
    for size in range(1, len(whole), max(1, len(whole) // 12)):
        yield f"cut at {size}", lambda size=size: file.write_bytes(whole[:size])
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        yield (
            f"byte {at}",
            lambda at=at: file.write_bytes(
                whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :]
            ),
        )


def test_a_damaged_index_is_never_believed(root):
    expected = read(root)
    file = index.location(root)
    for name, act in damaged(file):
        act()
        assert read(root) == expected, name
        if file.is_dir():
            file.rmdir()
        read(root)


def test_one_of_another_version_or_schema_is_made_again(root):
    expected = read(root)
    file = index.location(root)
    for statement in (
        "PRAGMA user_version=99",
        "DROP TABLE models",
        "UPDATE models SET shown='[1]'",
    ):
        with sqlite3.connect(file) as connection:
            connection.execute(statement)
        connection.close()
        assert read(root) == expected


def test_where_nothing_can_be_written_it_does_without(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(read(root)) == {"bible", "code_python", "seed", "speeches", "uniform"}


def test_two_forests_in_one_place_one_after_another(root, tmp_path):
    read(root)
    root.rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", root)
    shutil.rmtree(root / "elms/bible")
    assert "bible" not in read(root)


def test_many_at_once(root):
    for number in range(50):
        add(root, f"law{number}")
    code = "import sys, pathlib; from btm.forest import index; print(len(index.entries(pathlib.Path(sys.argv[1]))))"

    def look(number):
        if number % 2:
            add(root, f"extra{number}")
        return subprocess.run(
            [sys.executable, "-c", code, root], capture_output=True, text=True, check=True
        ).stdout

    with ThreadPoolExecutor(4) as pool:
        counts = [int(text) for text in pool.map(look, range(8))]
    assert min(counts) >= 55
    assert len(read(root)) == 59


def test_a_few_changes_among_many_are_seen_without_a_new_index(root):
    for number in range(300):
        add(root, f"law{number}")
    read(root)
    file = index.location(root)
    written = file.stat().st_ino
    add(root, "law7", tokens=7)
    shutil.rmtree(root / "elms/law8")
    found = read(root)
    assert found["law7"].tokens == 7
    assert "law8" not in found
    assert file.stat().st_ino == written
    for number in range(10, 20):
        shutil.rmtree(root / f"elms/law{number}")
    assert len(read(root)) == 294
    assert file.stat().st_ino != written


def names(root, **chosen):
    return [row["name"] for row in listing.rows(root, LsConfig(**chosen))]


def test_filters_and_orders(root):
    add(
        root,
        "law1",
        domains=["law"],
        valid_nats=1.0,
        created="2020-01-02T00:00:00+00:00",
        parents={},
    )
    add(root, "law2", domains=["law"], valid_nats=None, created="2021-01-02T00:00:00+00:00")
    add(root, "odd", domains=["law"], tokens="many")
    assert names(root, domain="law") == ["law1", "law2"]
    assert names(root, name="law?", parent="seed") == ["law2"]
    assert names(root, ancestor="seed", name="sp*") == ["speeches"]
    assert names(root, ancestor="bible", state="ELM") == ["speeches"]
    assert names(root, state="damaged") == ["odd"]
    assert names(root, since="2020-06-01", before="2022-01-01") == ["law2"]
    assert names(root, before="2020-01-02T01:00:00+01:00", name="law*") == []
    best = names(root, sort="valid_nats", state="ELM")
    assert best[0] == "law1"
    assert set(best[-2:]) == {"law2", "seed"}  # what was not measured stands last
    worst = names(root, sort="valid_nats", reverse=True, state="ELM")
    assert worst[-3] == "law1"
    assert names(root, sort="created", limit=2) == ["law1", "law2"]
    assert names(root, reverse=True, limit=1) == ["uniform"]


def test_branches_in_the_making_and_what_was_removed(root):
    forest = Forest(root)
    forest.branch("tales", "novels", {"bible": 1.0})
    removal.remove(forest, "speeches")
    shutil.rmtree(root / "averages")
    rows = {row["name"]: row["state"] for row in listing.rows(root, LsConfig())}
    assert rows == {"bible": "ELM", "code_python": "ELM", "seed": "ELM", "tales": "branch"}
    assert names(root, state="branch", parent="bible") == ["tales"]
    assert (
        names(root, state="removed") == names(root, removed=True, name="speeches") == ["speeches"]
    )


def test_averages_are_listed_beside_elms_of_the_same_name(root):
    forest = Forest(root)
    publish.average(forest, "bible", {"bible": 3.0, "seed": 1.0})
    of = {(entry.name, entry.kind): entry for entry in index.entries(root)}
    assert index.entries(root) == index.entries(root, cache=False)
    assert of["bible", "average"].parents == {"bible": 0.75, "seed": 0.25}
    assert of["bible", "ELM"].sha256 == forest["bible"].card.sha256
    rows = {(row["name"], row["state"]): row for row in listing.rows(root, LsConfig(name="bible"))}
    assert set(rows) == {("bible", "ELM"), ("bible", "average")}
    assert rows["bible", "average"]["parents"] == {"bible": 0.75, "seed": 0.25}
    assert names(root, state="average") == ["bible", "uniform"]
    assert names(root, state="average", parent="seed") == ["bible"]
    assert names(root, ancestor="speeches") == ["uniform"]
    assert names(root, ancestor="bible") == ["bible", "speeches", "uniform"]
    removal.remove(
        forest, "bible"
    )  # the name of an ELM: its average stays, and so does what it says
    assert names(root, name="bible") == ["bible"]
    assert names(root, name="bible", state="average") == ["bible"]


def test_an_average_that_is_made_anew_damaged_or_unfinished(root):
    forest, card = Forest(root), root / "averages/uniform/card.json"
    before = read(root)["uniform"]
    publish.average(forest, "uniform", {"bible": 1.0, "speeches": 1.0})
    assert read(root)["uniform"].sha256 != before.sha256
    assert set(read(root)["uniform"].parents) == {"bible", "speeches"}
    card.write_text("{")
    assert names(root, state="damaged") == ["uniform"]
    assert "averages/uniform/card.json" in read(root)["uniform"].damaged
    card.unlink()
    assert "uniform" not in read(root)
    shutil.rmtree(root / "averages")
    (root / "averages").write_text("no folder")
    assert set(read(root)) == {"bible", "code_python", "seed", "speeches"}


def test_a_damaged_card_is_listed_and_told(root, workspace, capsys):
    (root / "elms/bible/card.json").write_text("{")
    assert main.main(["ls", *workspace, f"forest={root}"]) == 0
    captured = capsys.readouterr()
    assert "damaged" in captured.out
    assert "elms/bible/card.json" in captured.err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ls.sort=size", "choose one of"),
        ("ls.since=yesterday", "2026-11-25"),
        ("ls.limit=-1", "ls.limit"),
        ("ls.domain='../x'", "no valid name"),
        ("ls.state=old", "choose one of"),
    ],
)
def test_words_that_make_no_sense(word, said, root, workspace, capsys):
    assert main.main(["ls", *workspace, f"forest={root}", word]) == 2
    assert said in capsys.readouterr().err


def test_a_card_reads_as_it_was_written(root):
    for name in Forest(root).names():
        card = Forest(root)[name].card
        assert Card.from_json(json.loads(json.dumps(card.to_json())), root) == card
