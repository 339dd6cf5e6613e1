import random

import pytest

from btm.config.data import DataConfig
from btm.data.domains import find
from btm.data.splits import fingerprint, survey
from btm.errors import UserError

CONFIG = DataConfig(valid_fraction=0.1, test_fraction=0.2)


def by_split(source):
    seen = survey(source, CONFIG)
    splits = {split: [] for split in ("train", "valid", "test")}
    for split, text in seen.documents("text"):
        splits[split].append(text)
    return splits, seen


def test_pooled_documents_are_split_by_content_alone(tmp_path, verses, jsonl):
    shuffled = random.Random(0).sample(verses, len(verses))
    jsonl(tmp_path / "a" / "law.jsonl", verses)
    jsonl(tmp_path / "b" / "law" / "x.jsonl", shuffled[:25])
    jsonl(tmp_path / "b" / "law" / "y.jsonl.gz", shuffled[25:])
    (one, seen), (other, _) = (by_split(find(tmp_path / name)[0]) for name in "ab")
    assert {split: sorted(texts) for split, texts in one.items()} == {
        k: sorted(v) for k, v in other.items()
    }
    assert [len(one[split]) for split in ("train", "valid", "test")] == [28, 4, 8]
    assert sorted(text for texts in one.values() for text in texts) == sorted(verses)
    assert seen.splits["test"].bytes == sum(len(text.encode()) for text in one["test"])


def test_duplicates_are_dropped_and_counted(tmp_path, verses, jsonl):
    jsonl(tmp_path / "law.jsonl", [*verses, verses[0], f"  {verses[1]}\n", verses[0]])
    splits, seen = by_split(find(tmp_path)[0])
    assert sorted(text for texts in splits.values() for text in texts) == sorted(verses)
    assert sum(count.duplicates_dropped for count in seen.splits.values()) == 3


def test_a_held_out_document_is_in_no_other_split(tmp_path, verses, jsonl):
    jsonl(tmp_path / "law" / "train.jsonl", verses[:20])
    jsonl(tmp_path / "law" / "valid.jsonl", [verses[0], verses[20], verses[21]])
    jsonl(tmp_path / "law" / "test.jsonl", [verses[1], verses[20], verses[22]])
    splits, seen = by_split(find(tmp_path)[0])
    assert splits["test"] == [verses[1], verses[20], verses[22]]
    assert splits["valid"] == [verses[0], verses[21]]
    assert splits["train"] == verses[2:20]
    assert [seen.splits[split].duplicates_dropped for split in ("train", "valid", "test")] == [
        2,
        1,
        0,
    ]


def test_domains_that_leave_a_split_empty_are_refused(tmp_path, verses, jsonl):
    jsonl(tmp_path / "two.jsonl", [verses[0], verses[1], verses[0]])
    with pytest.raises(UserError, match="two: 2 distinct documents are too few"):
        survey(find(tmp_path)[0], CONFIG)
    jsonl(tmp_path / "blank.jsonl", [" ", ""])
    with pytest.raises(UserError, match="blank: no document"):
        survey(find(tmp_path)[0], CONFIG)
    for split in ("train", "valid", "test"):
        jsonl(tmp_path / "again" / f"{split}.jsonl", verses[:2])
    with pytest.raises(
        UserError, match="again: each of the 2 documents of its train split stands in another"
    ):
        survey(find(tmp_path)[0], CONFIG)
    jsonl(tmp_path / "again" / "train.jsonl", verses[2:])
    jsonl(tmp_path / "again" / "valid.jsonl", [" "])
    with pytest.raises(UserError, match="again: no document in its valid split"):
        survey(find(tmp_path)[0], CONFIG)


@pytest.mark.parametrize("after", [0, 39, 41])
def test_a_file_that_changes_between_the_passes_is_noticed(tmp_path, verses, jsonl, after):
    path = jsonl(tmp_path / "law.jsonl", verses)
    seen = survey(find(tmp_path)[0], CONFIG)
    jsonl(path, [*verses, "more"][:after] or [" "])
    with pytest.raises(UserError, match="law: its files changed"):
        list(seen.documents("text"))


def test_fingerprints_follow_the_bytes_of_the_files(tmp_path, verses, jsonl):
    path = jsonl(tmp_path / "law.jsonl", verses)
    before, files = fingerprint(find(tmp_path)[0])
    assert files[0]["file"] == "law.jsonl" and files[0]["bytes"] == path.stat().st_size
    path.touch()
    assert fingerprint(find(tmp_path)[0])[0] == before
    jsonl(path, verses[1:])
    assert fingerprint(find(tmp_path)[0])[0] != before
