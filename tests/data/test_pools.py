"""Pools of text files are split by file, a single one within, and records one by one."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data.documents import Source
from btm.data.domains import find
from btm.data.pools import assign
from btm.data.prepare import plan, prepare
from btm.data.reading import DOCUMENT_CHARS
from btm.data.splits import survey
from btm.data.table import table
from btm.errors import UserError

CONFIG = DataConfig(valid_fraction=0.1, test_fraction=0.2)


def book(number, chars):
    """A text of paragraphs that stand in no other book."""
    drawn = random.Random(number)
    paragraphs = []
    while sum(map(len, paragraphs)) < chars:
        words = [f"w{drawn.randrange(10_000)}" for _ in range(60)]
        paragraphs.append(" ".join(words) + "\n\n")
    return "".join(paragraphs)


@pytest.fixture
def books(tmp_path):
    """Twelve text files of two to six documents each."""
    folder = tmp_path / "root" / "books"
    folder.mkdir(parents=True)
    for i in range(12):
        (folder / f"{i:02}.txt").write_text(book(i, (2 + i % 5) * DOCUMENT_CHARS))
    return folder


def by_split(root):
    (source,) = find(root)
    seen = survey(source, CONFIG)
    splits = {split: [] for split in SPLITS}
    for split, text in seen.documents("text"):
        splits[split].append(text)
    return splits, seen


def test_pieces_of_a_file_are_in_one_split(books):
    splits, seen = by_split(books.parent)
    homes = {}
    for path in sorted(books.iterdir()):
        text = path.read_text()
        homes[path.name] = {split for split in SPLITS if any(d in text for d in splits[split])}
    assert all(len(home) == 1 for home in homes.values())
    assert {home for each in homes.values() for home in each} == set(SPLITS)
    documents = sum(count.documents for count in seen.splits.values())
    assert documents > 2 * len(homes)
    assert 0 < seen.splits["test"].documents <= 0.2 * documents
    assert 0 < seen.splits["valid"].documents <= 0.1 * documents


def test_the_names_of_files_do_not_matter(books):
    before, _ = by_split(books.parent)
    paths = sorted(books.iterdir())
    random.Random(1).shuffle(paths)
    for i, path in enumerate(paths):
        path.rename(books / f"x{i}.txt")
    after, _ = by_split(books.parent)
    assert {split: set(texts) for split, texts in before.items()} == {
        split: set(texts) for split, texts in after.items()
    }


def test_a_copy_of_a_file_changes_nothing(books):
    before, _ = by_split(books.parent)
    (books / "copy.txt").write_text((books / "03.txt").read_text())
    after, seen = by_split(books.parent)
    assert {split: set(texts) for split, texts in before.items()} == {
        split: set(texts) for split, texts in after.items()
    }
    assert sum(count.duplicates_dropped for count in seen.splits.values()) > 0


def test_a_piece_that_several_files_share_is_held_out_if_one_of_them_is(books):
    shared = book(99, DOCUMENT_CHARS)
    for path in books.iterdir():
        path.write_text(shared + path.read_text())
    splits, _ = by_split(books.parent)
    assert [text for split in SPLITS for text in splits[split]].count(shared) == 1
    assert shared in splits["test"]


def test_a_single_text_file_is_split_within_at_its_end(tmp_path):
    text = book(0, 40 * DOCUMENT_CHARS)
    (tmp_path / "novel.txt").write_text(text)
    splits, seen = by_split(tmp_path)
    assert "".join("".join(splits[split]) for split in SPLITS) == text
    n = sum(count.documents for count in seen.splits.values())
    assert [seen.splits[split].documents for split in ("valid", "test")] == [
        round(0.1 * n),
        round(0.2 * n),
    ]


def test_two_text_files_cannot_be_split(tmp_path):
    (tmp_path / "books").mkdir()
    for i in range(2):
        (tmp_path / "books" / f"{i}.txt").write_text(book(i, 9 * DOCUMENT_CHARS))
    with pytest.raises(UserError, match="books: 2 different text files are too few") as caught:
        by_split(tmp_path)
    assert "\n" not in str(caught.value)


def test_records_beside_a_text_file_are_units_of_their_own(tmp_path, verses, jsonl):
    jsonl(tmp_path / "law" / "a.jsonl", verses)
    (tmp_path / "law" / "b.txt").write_text(book(0, 5 * DOCUMENT_CHARS))
    splits, _ = by_split(tmp_path)
    pieces = [split for split in SPLITS for text in splits[split] if text not in verses]
    assert len(pieces) > 3 and len(set(pieces)) == 1
    assert all(set(texts) & set(verses) for texts in splits.values())


@settings(deadline=None, max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=3, max_size=30),
    held_out=st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)),
)
def test_units_of_any_sizes_give_three_splits(sizes, held_out):
    config = DataConfig(valid_fraction=held_out[0], test_fraction=held_out[1])
    unit_D = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    digest_D = np.arange(len(unit_D), dtype=np.uint64)
    try:
        split_D = assign(Source("law", {"": ()}), digest_D, unit_D, config)
    except UserError:
        n = len(unit_D)
        assert max(1, round(held_out[0] * n)) + max(1, round(held_out[1] * n)) >= n
        return
    assert set(split_D.tolist()) == {0, 1, 2}
    for unit in range(len(sizes)):
        assert len(set(split_D[unit_D == unit].tolist())) == 1


def test_the_table_says_how_each_domain_was_split(books, tmp_path, verses, code, jsonl):
    root = books.parent
    (root / "novel.txt").write_text(book(50, 12 * DOCUMENT_CHARS))
    jsonl(root / "verses.jsonl", verses)
    for split, texts in zip(SPLITS, (code[:30], code[30:35], code[35:]), strict=True):
        jsonl(root / "code" / f"{split}.jsonl", texts)
    config = DataConfig(
        name="mine", root=str(root), out=str(tmp_path / "out"), vocab_size=400, workers=1
    )
    rows = {row["domain"]: row["split"] for row in table(prepare(config))}
    assert rows == {
        "books": "by file, 12 files",
        "code": "its own",
        "novel": "1 file: split within it",
        "verses": "by document",
    }
    assert all(each.stands for each in plan(config))


def dealt(before, config=CONFIG, units=40, pieces=1):
    """The splits of documents 0 to units · pieces - 1, hashed."""
    digest_D = np.random.default_rng(0).integers(0, 1 << 62, units * pieces).astype(np.uint64)
    key_D = np.repeat(digest_D[::pieces], pieces)
    source = Source("law", {"": ()})
    return digest_D, assign(source, digest_D, key_D, config, before)


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_has_a_split_keeps_it_and_new_documents_are_dealt(pieces):
    old_D, splits_D = dealt({}, units=40, pieces=pieces)
    before = {split: old_D[splits_D == i] for i, split in enumerate(SPLITS)}
    digest_D, grown_D = dealt(before, units=100, pieces=pieces)
    np.testing.assert_array_equal(digest_D[: len(old_D)], old_D)
    np.testing.assert_array_equal(grown_D[: len(old_D)], splits_D)
    counts = np.bincount(grown_D, minlength=3)
    np.testing.assert_allclose(counts / len(grown_D), [0.7, 0.1, 0.2], atol=0.02)
    assert len(set(grown_D[len(old_D) :].tolist())) == 3  # all splits have got new ones


def test_added_documents_that_are_few_leave_the_held_out_as_they_are():
    old_D, splits_D = dealt({}, units=40)
    before = {split: old_D[splits_D == i] for i, split in enumerate(SPLITS)}
    _, grown_D = dealt(before, units=41)
    np.testing.assert_array_equal(grown_D[:40], splits_D)


def test_text_of_which_a_split_is_gone_is_dealt_anew():
    old_D, splits_D = dealt({}, units=40)
    before = {split: old_D[splits_D == i] for i, split in enumerate(SPLITS)}
    everything_trains = {"train": np.concatenate(list(before.values()))}
    _, again_D = dealt(everything_trains, units=40)
    np.testing.assert_array_equal(again_D, splits_D)
