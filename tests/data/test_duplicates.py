"""Documents that stand in several domains, splits or suites are kept once, and held out first."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data.domains import find
from btm.data.duplicates import require_documents, settle
from btm.data.prepare import prepare
from btm.data.shards import Suite
from btm.data.splits import survey
from btm.data.table import table
from btm.errors import UserError

CONFIG = DataConfig(valid_fraction=0.1, test_fraction=0.2)


def write(root, domain, jsonl, **splits):
    for split, texts in splits.items():
        jsonl(root / domain / f"{split}.jsonl", texts)


def kept(surveys):
    """The texts that each split of each domain keeps, as {"a/test": [...]}."""
    found = {f"{each.source.domain}/{split}": [] for each in surveys for split in SPLITS}
    for each in surveys:
        for split, text in each.documents("text"):
            found[f"{each.source.domain}/{split}"].append(text)
    return found


def surveys_of(root):
    return settle([survey(source, CONFIG) for source in find(root)])


def digests(suite):
    """The digests of all splits of a suite, by <domain>/<split>."""
    return {
        f"{domain}/{split}": suite.shard(domain, split).digests.tolist()
        for domain in suite.domains()
        for split in SPLITS
    }


def test_a_test_document_is_in_no_train_split_of_another_domain(tmp_path, verses, code, jsonl):
    """The whole test split of `a` stood in the train split of `b`, and nothing was said."""
    write(tmp_path / "root", "a", jsonl, train=verses[:15], valid=verses[15:20], test=verses[20:])
    write(
        tmp_path / "root",
        "b",
        jsonl,
        train=[*code[:30], *verses[20:]],
        valid=code[30:35],
        test=code[35:],
    )
    config = DataConfig(
        name="mine", root=str(tmp_path / "root"), out=str(tmp_path), vocab_size=400, workers=1
    )
    suite = prepare(config)
    assert suite.shard("a", "test").n_documents == 20
    assert suite.shard("b", "train").n_documents == 30
    found = digests(suite)
    assert not set(found["a/test"]) & set(found["b/train"])
    meta = json.loads((suite.path / "b" / "meta.json").read_text())
    assert meta["splits"]["train"]["duplicates_dropped"] == 20
    assert meta["splits"]["train"]["found_in"] == {"a/test": 20}
    rows = table(suite)
    assert [row["duplicates_dropped"] for row in rows] == [0, 20]
    assert [row["found_in"] for row in rows] == ["", "a/test 20"]


def test_which_copy_is_kept_follows_from_the_texts(tmp_path, verses, jsonl):
    write(tmp_path, "a", jsonl, train=verses[:9], valid=verses[9:12], test=verses[12:15])
    write(
        tmp_path,
        "b",
        jsonl,
        train=[*verses[15:20], verses[0], f" {verses[9]} ", verses[12]],
        valid=[*verses[20:22], verses[1], verses[10], verses[13]],
        test=[*verses[22:24], verses[2], verses[11], verses[14]],
    )
    found = kept(surveys_of(tmp_path))
    assert found["a/train"] == [verses[0], *verses[3:9]]
    assert found["a/valid"] == verses[9:11]
    assert found["a/test"] == verses[12:15]
    assert found["b/train"] == verses[15:20]
    assert found["b/valid"] == [*verses[20:22], verses[1]]
    assert found["b/test"] == [*verses[22:24], verses[2], verses[11]]


def test_a_split_of_which_nothing_is_left_is_named(tmp_path, verses, jsonl):
    write(tmp_path, "a", jsonl, train=verses[:9], valid=verses[9:12], test=verses[12:15])
    write(tmp_path, "b", jsonl, train=verses[15:20], valid=verses[20:22], test=verses[13:15])
    with pytest.raises(
        UserError, match=r"b: each of the 2 documents of its test split stands elsewhere too "
    ) as caught:
        require_documents(surveys_of(tmp_path))
    assert "(a/test 2)" in str(caught.value)


@st.composite
def suites(draw):
    """Domains of few texts, so that many stand in several splits; split, or to be split."""
    text = st.integers(0, 30).map(lambda i: f"text number {i}")
    texts = st.lists(text, min_size=1, max_size=12)
    domain = st.one_of(
        st.fixed_dictionaries(dict.fromkeys(SPLITS, texts)),
        st.fixed_dictionaries({"pool": texts}),
    )
    return draw(st.lists(domain, min_size=2, max_size=4))


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(domains=suites())
def test_no_digest_is_in_two_splits_of_any_domains(tmp_path_factory, jsonl, domains):
    root = tmp_path_factory.mktemp("root")
    for i, splits in enumerate(domains):
        write(root, f"d{i}", jsonl, **splits)
    read = []
    for source in find(root):
        try:
            read.append(survey(source, CONFIG))
        except UserError as error:  # too few documents for three splits
            assert source.domain in str(error)
    settled = settle(read)
    found = [
        digest for each in settled for split in SPLITS for digest in each.digests(split).tolist()
    ]
    assert len(found) == len(set(found))
    before = {digest for each in read for split in SPLITS for digest in each.digests(split)}
    assert set(found) == before
    # Whatever was held out somewhere is held out still.
    held_out = {digest for each in read for s in ("valid", "test") for digest in each.digests(s)}
    train = {digest for each in settled for digest in each.digests("train")}
    assert not held_out & train
    for each in settled:
        for split, count in each.splits.items():
            mine = each.split_of == SPLITS.index(split)
            assert count.documents == mine.sum() and count.bytes == each.size_of[mine].sum()
    again = settle(settled)
    for one, other in zip(settled, again, strict=True):
        assert np.array_equal(one.split_of, other.split_of)


def test_a_kill_between_two_domains_changes_nothing(config, root, verses, code, jsonl):
    """Each of the two gives documents to the other; the second is settled again after the kill."""

    class Stop(BaseException):
        pass

    def stop(line):
        if line.startswith("verses: packing"):
            raise Stop

    jsonl(root / "verses.jsonl", [*verses, *code[:3], *code[30:32], *code[36:]])
    (root / "code" / "train.jsonl.gz").unlink()
    jsonl(root / "code" / "train.jsonl", [*code[:30], *verses[:30]])
    files = ("*.bin", "*.idx", "*.docs")
    whole = prepare(replace(config, out=f"{config.out}-2"))
    with pytest.raises(Stop):
        prepare(config, stop)
    suite = prepare(config)
    for path in [path for pattern in files for path in whole.path.rglob(pattern)]:
        assert (suite.path / path.relative_to(whole.path)).read_bytes() == path.read_bytes(), path
    assert [meta["splits"] for meta in suite.metas.values()] == [
        meta["splits"] for meta in whole.metas.values()
    ]
    assert all(row["found_in"] for row in table(suite))


def test_what_is_added_to_a_suite_gives_way_to_what_stands(config, root, verses, code, jsonl):
    before = digests(prepare(config))
    new = [f"entirely new text, number {i}" for i in range(9)]
    write(
        root,
        "more",
        jsonl,
        train=[*new[:3], *verses, code[36]],
        valid=[*new[3:6], code[0]],
        test=[*new[6:], code[1], code[37]],
    )
    suite = prepare(config)
    after = digests(suite)
    assert {place: after[place] for place in before} == before
    sizes = [suite.shard("more", split).n_documents for split in SPLITS]
    assert sizes == [3, 3, 3]
    flat = [digest for each in after.values() for digest in each]
    assert len(flat) == len(set(flat))


def test_what_other_suites_hold_out_or_train_on_is_respected(config, tmp_path, verses, code, jsonl):
    standing = prepare(config)
    new = [f"entirely new text, number {i}" for i in range(9)]
    write(
        tmp_path / "other",
        "more",
        jsonl,
        train=[*new[:3], code[0], code[31], code[36]],
        valid=[*new[3:6], code[1]],
        test=[*new[6:], code[2], code[37]],
    )
    other = replace(
        config,
        name="other",
        root=str(tmp_path / "other"),
        tokenizer=str(standing.tokenizer),
    )
    suite = prepare(other, beside=[standing])
    # What both train on stays; what one of them holds out is trained on by neither.
    assert [suite.shard("more", split).n_documents for split in SPLITS] == [4, 3, 3]
    splits = suite.metas["more"]["splits"]
    assert splits["train"]["found_in"] == {"mine/code/test": 1, "mine/code/valid": 1}
    assert splits["valid"]["found_in"] == {"mine/code/train": 1}
    assert splits["test"]["found_in"] == {"mine/code/test": 1, "mine/code/train": 1}


def test_a_suite_of_before_with_a_leak_is_packed_again(config, root, tmp_path, verses, code, jsonl):
    """Two domains without digests: what one holds out, the other has in its train split."""
    write(root, "code", jsonl, train=[*code[:30], *verses[:30]])
    (root / "code" / "train.jsonl.gz").unlink()
    verses_file = (root / "verses.jsonl").rename(tmp_path / "verses.jsonl")
    suite = prepare(config)
    alone = replace(
        config, name="alone", root=str(verses_file), domain="verses", tokenizer=str(suite.tokenizer)
    )
    prepare(alone)
    (tmp_path / "out" / "alone" / "verses").rename(suite.path / "verses")
    verses_file.rename(root / "verses.jsonl")
    leaking = digests(Suite.open(suite.path))
    held_out = {*leaking["verses/valid"], *leaking["verses/test"]}
    assert held_out & set(leaking["code/train"])
    for path in suite.path.rglob("*.docs"):
        path.unlink()
    found = digests(prepare(config))
    assert {*found["verses/valid"], *found["verses/test"]} == held_out
    assert set(found["code/train"]) == set(leaking["code/train"]) - held_out
    # Of what both train on, the first domain keeps all.
    assert set(found["verses/train"]) == set(leaking["verses/train"]) - set(leaking["code/train"])
