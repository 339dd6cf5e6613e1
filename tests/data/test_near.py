"""Near-duplicates of held-out documents: found by MinHash, counted, and dropped if asked for."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data import near
from btm.data.minhash import LIKENESS, SHINGLE, Index, signatures
from btm.data.prepare import prepare
from btm.data.shards import NEAR
from btm.data.table import readable, table
from btm.errors import UserError


def edited(text, changes, seed=0):
    """A text with some of its words changed."""
    drawn, words = random.Random(seed), text.split(" ")
    for place in drawn.sample(range(len(words)), changes):
        words[place] = f"{words[place]}{drawn.randrange(100)}"
    return " ".join(words)


def metas(suite):
    return {
        domain: json.loads((suite.path / domain / "meta.json").read_text())
        for domain in suite.domains()
    }


def near_of(suite, domain):
    """What a domain shares, by split: (documents, where)."""
    splits = metas(suite)[domain][NEAR]["splits"]
    return {
        split: (splits[split]["documents"], splits[split]["found_in"])
        for split in SPLITS
        if splits[split]["documents"]
    }


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def leaking(tmp_path, verses, code, jsonl):
    """Two domains; `code` trains on two documents that are nearly of verses' test and valid split,
    and on one that is nearly of its own test split.
    """
    root = tmp_path / "root"
    parts = {"train": verses[:30], "valid": verses[30:35], "test": verses[35:]}
    for split, texts in parts.items():
        jsonl(root / "verses" / f"{split}.jsonl", texts)
    alike = [edited(verses[36], 2), edited(verses[31], 1), edited(code[37], 1)]
    parts = {"train": [*code[:30], *alike], "valid": code[30:35], "test": code[35:]}
    for split, texts in parts.items():
        jsonl(root / "code" / f"{split}.jsonl", texts)
    return DataConfig(
        name="mine", root=str(root), out=str(tmp_path / "out"), vocab_size=400, workers=1
    )


def test_the_index_finds_what_sets_of_shingles_say(tmp_path, verses, jsonl):
    """All of one kind against their edited copies, of which some are hardly alike any more."""
    copies = [edited(text, i // 2, seed=i) for i, text in enumerate(verses)]
    for split, texts in {"train": copies, "valid": ["nothing"], "test": verses}.items():
        jsonl(tmp_path / "root" / "law" / f"{split}.jsonl", texts)
    config = DataConfig(
        name="mine",
        root=str(tmp_path / "root"),
        out=str(tmp_path / "out"),
        vocab_size=400,
        workers=1,
        near_duplicates="off",
    )
    suite = prepare(config)
    held_out, train = suite.shard("law", "test"), suite.shard("law", "train")
    numbers, rows = next(iter(signatures(held_out)))
    assert numbers.tolist() == list(range(held_out.n_documents))
    known = np.zeros(held_out.n_documents, bool)
    found = Index(rows).near(next(iter(signatures(train)))[1], known)
    likeness = {
        (i, j): jaccard(shingles(train, i), shingles(held_out, j))
        for i in range(train.n_documents)
        for j in range(held_out.n_documents)
    }
    surely = [pair for pair, true in likeness.items() if true > LIKENESS + 0.1]
    perhaps = [pair for pair, true in likeness.items() if true > LIKENESS - 0.15]
    for side, marked in enumerate((found, known)):
        numbers = set(np.flatnonzero(marked).tolist())
        assert {pair[side] for pair in surely} <= numbers <= {pair[side] for pair in perhaps}
        assert 5 < len(numbers) < len(marked)


def test_many_copies_are_all_found_and_compared_with_few():
    """A template that is held out 300 times and trained on 3,000 times, each with a slot of its own."""
    drawn = np.random.default_rng(0)
    template = drawn.integers(0, 2**32, 128, dtype=np.uint32)

    def copies(n):
        made = np.tile(template, (n, 1))
        made[np.arange(n), drawn.integers(0, 128, n)] = drawn.integers(0, 2**32, n, dtype=np.uint32)
        return made

    others = drawn.integers(0, 2**32, (50, 128), dtype=np.uint32)
    known = np.zeros(350, bool)
    found = Index(np.concatenate([copies(300), others])).near(
        np.concatenate([copies(3000), others + np.uint32(1)]), known
    )
    assert found.tolist() == [True] * 3000 + [False] * 50
    assert known.tolist() == [True] * 300 + [False] * 50


def shingles(shard, document):
    ends = np.cumsum(shard.documents[:, 0])
    end = int(ends[document]) - 1
    ids = shard.tokens[end + 1 - int(shard.documents[document, 0]) : end].tolist()
    return {tuple(ids[i : i + SHINGLE]) for i in range(len(ids) - SHINGLE + 1)}


def jaccard(one, other):
    return len(one & other) / len(one | other) if one | other else 0.0


def test_a_report_counts_them_on_both_sides(leaking):
    suite = prepare(leaking)
    assert near_of(suite, "code") == {
        "train": (3, {"code/test": 1, "verses/test": 1, "verses/valid": 1}),
        "test": (1, {"code/train": 1}),
    }
    assert near_of(suite, "verses") == {
        "valid": (1, {"code/train": 1}),
        "test": (1, {"code/train": 1}),
    }
    rows = table(suite)
    assert [row["near_held_out"] for row in rows] == [1, 2]
    assert rows[1]["near_in"] == "code/train 2" and rows[1]["near_dropped"] is None
    assert "near_held_out" in readable(rows)[0] and "found_in" not in readable(rows)[0]
    assert suite.shard("code", "train").n_documents == 33
    again = prepare(replace(leaking, out=f"{leaking.out}-2"))
    assert contents(again.path) == contents(suite.path)


def test_dropping_takes_them_from_what_is_trained_on(leaking, code):
    reported = prepare(leaking)
    suite = prepare(replace(leaking, out=f"{leaking.out}-2", near_duplicates="drop"))
    one, other = reported.shard("code", "train"), suite.shard("code", "train")
    assert (one.n_documents, other.n_documents) == (33, 30)
    tokens = int(one.documents[:30, 0].sum())
    assert np.array_equal(other.tokens, one.tokens[:tokens])
    assert np.array_equal(other.documents, one.documents[:30])
    assert other.digests.tolist() == one.digests[:30].tolist()
    assert other.n_bytes == sum(len(text.encode()) for text in code[:30])
    assert not near_of(suite, "code") and not near_of(suite, "verses")
    assert [row["near_dropped"] for row in table(suite)] == [3, None]
    for domain in suite.domains():
        for split in ("valid", "test"):
            assert suite.shard(domain, split).sha256 == reported.shard(domain, split).sha256
    before = contents(suite.path)
    prepare(replace(leaking, out=f"{leaking.out}-2", near_duplicates="drop"))
    assert contents(suite.path) == before


def test_other_words_prepare_it_anew(leaking):
    """off says nothing, report adds what was found to what stands, drop packs again."""
    suite = prepare(replace(leaking, near_duplicates="off"))
    assert not any(NEAR in meta for meta in metas(suite).values())
    assert table(suite)[0]["near_held_out"] is None
    packed = (suite.path / "code" / "train.bin").stat().st_ino
    suite = prepare(leaking)
    assert (suite.path / "code" / "train.bin").stat().st_ino == packed
    assert table(suite)[0]["near_held_out"] == 1
    assert (
        prepare(replace(leaking, near_duplicates="drop")).shard("code", "train").n_documents == 30
    )
    assert prepare(leaking).shard("code", "train").n_documents == 33


def test_a_kill_before_they_are_dropped_is_made_good(leaking, monkeypatch):
    class Stop(BaseException):
        pass

    def stop(line):
        if "near-duplicates" in line:
            raise Stop

    config = replace(leaking, near_duplicates="drop")
    whole = contents(prepare(replace(config, out=f"{config.out}-2")).path)
    with pytest.raises(Stop):
        prepare(config, stop)
    assert contents(prepare(config).path) == whole


@pytest.mark.parametrize("when", ["before the search", "after the search"])
def test_two_processes_that_drop_at_once_write_the_same(leaking, monkeypatch, when):
    """The other one drops everything while this one is at it."""
    config = replace(leaking, near_duplicates="drop")
    whole = contents(prepare(replace(config, out=f"{config.out}-2")).path)
    look, search = near.look, near._search

    def the_other(folders):
        with monkeypatch.context() as patch:
            patch.setattr(near, "_search", search)
            look(folders, [], lambda line: None)

    def searching(folders):
        if when == "before the search":
            the_other(folders)
            return search(folders)
        found = search(folders)
        the_other(folders)
        return found

    monkeypatch.setattr(near, "_search", searching)
    assert contents(prepare(config).path) == whole


def test_what_is_added_is_compared_with_what_stands(leaking, tmp_path, code, jsonl):
    prepare(leaking)
    root = tmp_path / "root" / "more"
    new = [f"entirely new text of number {i} that is like nothing at all {i * i}" for i in range(9)]
    alike = edited(code[39], 1)
    jsonl(root / "train.jsonl", [*new[:3], alike])
    jsonl(root / "valid.jsonl", new[3:6])
    jsonl(root / "test.jsonl", [*new[6:], edited(code[3], 1)])
    suite = prepare(leaking)
    assert near_of(suite, "more") == {
        "train": (1, {"code/test": 1}),
        "test": (1, {"code/train": 1}),
    }
    assert near_of(suite, "code")["test"] == (1, {"code/train": 1})  # as it was


def test_a_train_split_of_which_nothing_is_left_is_named(leaking, tmp_path, verses, jsonl):
    jsonl(
        tmp_path / "root" / "code" / "train.jsonl", [edited(verses[36], 2), edited(verses[31], 1)]
    )
    with pytest.raises(UserError, match="code: each of the 2 documents of its train split is near"):
        prepare(replace(leaking, near_duplicates="drop"))
