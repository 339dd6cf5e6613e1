import itertools

import numpy as np
import pytest

from suites.documents import (
    MAX_CHARS,
    SPLITS,
    Document,
    add,
    cut,
    digest,
    fill,
    mark,
    shared,
    shingles,
    union,
    without_repeats,
)


def test_cutting_loses_no_word(real):
    text = "\n\n".join(real["novels"])
    parts = list(cut(text))
    assert " ".join(parts).split() == text.split()
    assert max(map(len, parts)) <= MAX_CHARS


def test_a_text_without_any_blank_is_still_cut():
    assert [len(part) for part in cut("x" * 13_000)] == [6001, 6001, 1001]


def test_paragraphs_that_came_before_are_left_out_and_short_ones_stay(real):
    long = [text.replace("\n", " ") for text in real["speeches"][:3]]
    seen = set()
    assert without_repeats(f"Preface\n\n{long[0]}", seen) == f"Preface\n\n{long[0]}"
    again = without_repeats(f"Preface\n\n{long[0].upper()}\n\n{long[1]}", seen)
    assert again == f"Preface\n\n{long[1]}"


def test_mark_ignores_case_blanks_and_punctuation():
    assert mark("To be, or not to be:") == mark(" to be -- or not\nTo be")
    assert mark("To be") != mark("Tobe")


def test_blocks_of_a_long_text_stay_together_and_repeats_go(real):
    groups, seen = {}, set()
    text = "\n\n".join(real["novels"])
    add(groups, "book", text, seen, block=4, whole=6, credit=[])
    add(groups, "copy", text, seen, block=4, whole=6, credit=[])
    assert {len(documents) for documents in list(groups.values())[:-1]} == {4}
    assert all(key.startswith("book") for key in groups)


@pytest.fixture
def groups(real):
    return {
        f"{name}-{i}": [Document(f"{name}-{i}.0", text)]
        for name in ("speeches", "bible")
        for i, text in enumerate(real[name])
    }


def test_whole_groups_go_to_splits_by_their_hash_alone(groups):
    budget = {"train": 400_000, "valid": 20_000, "test": 20_000}
    splits = fill(groups, budget)
    assert splits == fill(dict(reversed(groups.items())), budget)
    keys = [{document.key for document in splits[split]} for split in SPLITS]
    assert all(not one & other for one, other in itertools.combinations(keys, 2))
    for split in ("valid", "test"):
        assert 20_000 <= sum(document.size for document in splits[split]) < 20_000 + 6 * MAX_CHARS


def test_a_group_too_large_to_be_held_out_is_trained_on(groups):
    large = max(groups, key=lambda key: groups[key][0].size)
    limit = groups[large][0].size - 1
    splits = fill(groups, {"train": 10**9, "valid": 10**6, "test": 10**6}, limit)
    assert [document.key for document in splits["train"]] == [
        documents[0].key
        for documents in sorted(groups.values(), key=lambda documents: digest(documents[0].key))
        if documents[0].size > limit
    ]


def words_of(text):
    import re

    return re.findall(r"\w+|[^\w\s]", text.lower())


def test_shingles_are_the_distinct_runs_of_13_words(real):
    text = real["bible"][0] + real["bible"][1]
    words = words_of(text)
    runs = {tuple(words[i : i + 13]) for i in range(len(words) - 12)}
    assert len(shingles(text)) == len(runs)
    assert len(shingles(" ".join(words[:12]))) == 0


def test_sampled_shingles_are_the_same_part_of_every_text(real):
    all_S = shingles(real["novels"][0])
    sampled_S = shingles(real["novels"][0], 8)
    assert np.isin(sampled_S, all_S).all()
    assert 0.05 < len(sampled_S) / len(all_S) < 0.25


def test_share_of_a_text_in_what_is_known(real):
    one, other = real["speeches"][:2]
    known = union([shingles(one)])
    assert shared(shingles(one), known) == 1.0
    assert shared(shingles(other), known) < 0.05
    half = one[: len(one) // 2] + other
    expected = len(shingles(one[: len(one) // 2])) / len(shingles(half))
    assert abs(shared(shingles(half), known) - expected) < 0.05
    assert shared(shingles(""), known) == shared(shingles(one), union([])) == 0.0
