"""fairseq's data-bins as a source of `btm prepare`, and suites written as data-bins; fairseq itself
is the judge.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from btm.config.data import DataConfig
from btm.data import binarised
from btm.data.domains import find
from btm.data.encode import Encoder
from btm.data.prepare import plan, prepare
from btm.data.splits import survey
from btm.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.traced]

FILES = [
    "dict.txt",
    *(f"{split}.{ending}" for split in ("train", "valid", "test") for ending in ("bin", "idx")),
]


@pytest.fixture(scope="module", params=["words", "pairs"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def source(place, kind):
    return DataConfig(name=kind, root=str(place / kind), out=str(place / "suites"), workers=1)


@pytest.fixture(scope="module")
def taken(source):
    return prepare(source)


def test_the_ids_are_those_of_fairseq(place, kind, taken):
    for split in ("train", "valid", "test"):
        shard = taken.shard("speeches", split)
        assert np.array_equal(
            shard.tokens, np.fromfile(place / kind / f"speeches/{split}.bin", np.uint16)
        )
        assert shard.eos == 2
        assert shard.n_bytes == shard.documents[:, 1].sum()


def test_tokens_are_counted_before_they_are_taken_over(source, taken):
    wanted = {domain: taken.shard(domain, "train").n_tokens for domain in taken.domains()}
    elsewhere = replace(source, out=f"{source.out}-none")
    assert {each.domain: each.train_tokens for each in plan(elsewhere)} == wanted


def test_documents_end_at_blank_lines(place, kind, taken):
    shard = taken.shard("speeches", "valid")
    assert shard.n_documents == 5
    ends = np.cumsum(shard.documents[:, 0])
    assert ends[-1] == shard.n_tokens
    assert all(shard.tokens[end - 2 : end].tolist() == [2, 2] for end in ends)


def test_bytes_are_those_of_the_text(place, kind, taken):
    text = (place / "text/speeches/valid.txt").read_text()
    if kind == "words":  # blanks are one each, and a rare word is '<unk>'
        known = taken_words(place)
        lines = [
            [w if w in known else "<unk>" for w in line.split()] for line in text.split("\n")[:-1]
        ]
        text = "".join(" ".join(line) + "\n" for line in lines)
    assert taken.shard("speeches", "valid").n_bytes == len(text.encode())


def taken_words(place):
    return {
        line.split(" ")[0] for line in (place / "words/speeches/dict.txt").read_text().splitlines()
    }


def test_the_tokenizer_gives_the_ids_that_fairseq_gave(place, taken):
    encoder = Encoder.open(taken.tokenizer)
    lines = (place / "text/speeches/test.txt").read_text().split("\n")[:-1]
    assert np.array_equal(encoder.encode(lines).ids, taken.shard("speeches", "test").tokens)


def test_what_is_written_is_what_was_read_bit_for_bit(place, kind, taken, tmp_path):
    binarised.write(taken, "speeches", tmp_path / "bin")
    for name in [name for name in FILES if name != "dict.txt"]:
        assert (tmp_path / "bin" / name).read_bytes() == (
            place / kind / "speeches" / name
        ).read_bytes(), name
    found = (tmp_path / "bin/dict.txt").read_text().splitlines()
    wanted = (place / kind / "speeches/dict.txt").read_text().splitlines()
    assert len(found) == len(wanted)
    if kind == "words":
        assert [line.split(" ")[0] for line in found] == [line.split(" ")[0] for line in wanted]
    again = replace_root(place, kind, tmp_path)
    assert (again.shard("bin", "train").sha256, again.tokenizer_sha256) == (
        taken.shard("speeches", "train").sha256,
        taken.tokenizer_sha256,
    )


def replace_root(place, kind, folder):
    (folder / "root").mkdir()
    shutil.move(folder / "bin", folder / "root/bin")
    return prepare(
        DataConfig(name="again", root=str(folder / "root"), out=str(folder / "out"), workers=1)
    )


def test_a_second_run_packs_nothing(source, taken):
    assert all(domain.stands for domain in plan(source))
    before = {path: path.stat().st_mtime_ns for path in taken.path.rglob("*.bin")}
    prepare(source)
    assert {path: path.stat().st_mtime_ns for path in taken.path.rglob("*.bin")} == before


def test_a_suite_of_btm_is_a_data_bin_that_is_read_again(suite, tmp_path):
    """The end of text moves to fairseq's id, and every other token keeps its text."""
    binarised.write(suite, "verses", tmp_path / "root/verses")
    again = prepare(
        DataConfig(name="again", root=str(tmp_path / "root"), out=str(tmp_path / "out"), workers=1)
    )
    old, new = suite.shard("verses", "valid"), again.shard("verses", "valid")
    assert (old.n_tokens, old.n_documents, old.n_bytes + old.n_documents) == (
        new.n_tokens,
        new.n_documents,
        new.n_bytes,
    )
    assert decoded(suite, old) == decoded(again, new)


def test_documents_of_data_bins_have_digests_of_their_ids(suite, tmp_path):
    for domain in ("one", "other"):
        binarised.write(suite, "verses", tmp_path / "root" / domain)
    config = DataConfig(
        name="again", root=str(tmp_path / "root"), out=str(tmp_path / "out"), workers=1
    )
    again = prepare(config)
    one, other = again.shard("one", "train"), again.shard("other", "train")
    assert one.digests.tolist() == other.digests.tolist()
    assert len(set(one.digests.tolist())) == one.n_documents
    assert not set(one.digests.tolist()) & set(again.shard("other", "test").digests.tolist())
    blank = np.array([5, 6, 2, 7, 2, 2, 5, 6, 2, 7, 2, 2, 2], np.uint16)  # with and without lines
    assert len(set(binarised.digests(blank, np.array([6, 7])).tolist())) == 1
    before = one.digests.tolist()
    for path in again.path.rglob("*.docs"):
        path.unlink()
    assert prepare(config).shard("one", "train").digests.tolist() == before


def decoded(suite, shard):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(suite.tokenizer / "tokenizer.json"))
    texts = np.split(shard.tokens, np.cumsum(shard.documents[:, 0])[:-1])
    return [tokenizer.decode(text[:-1].tolist()) for text in texts]


@pytest.fixture
def root(place, tmp_path):
    shutil.copytree(place / "words", tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def config(root, tmp_path):
    return DataConfig(name="mine", root=str(root), out=str(tmp_path / "out"), workers=1)


def test_split_names_of_the_authors_and_parts_of_train(root, config):
    bible = root / "bible"
    for ending in ("bin", "idx"):
        (bible / f"valid.{ending}").rename(bible / f"valid_bible.{ending}")
        (bible / f"test.{ending}").rename(bible / f"test_bible.{ending}")
        shutil.copy(bible / f"train.{ending}", bible / f"train1.{ending}")
    suite = prepare(config)
    train = suite.shard("bible", "train").tokens
    assert np.array_equal(train[: len(train) // 2], train[len(train) // 2 :])


def test_novel_domains_are_kept_from_training(root, config):
    (root / "suite.json").write_text('{"domains": {"bible": {"novel": true}}}')
    assert prepare(config).training_domains() == ["speeches"]


def break_index(folder):
    data = (folder / "train.idx").read_bytes()
    (folder / "train.idx").write_bytes(data[:-4])


def break_magic(folder):
    data = (folder / "train.idx").read_bytes()
    (folder / "train.idx").write_bytes(b"MMIDIDY" + data[7:])


def break_bin(folder):
    data = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(data[:-2])


def break_ids(folder):
    data = np.fromfile(folder / "train.bin", np.uint16)
    data[5] = 60_000
    data.tofile(folder / "train.bin")


def break_ends(folder):
    data = np.fromfile(folder / "train.bin", np.uint16)
    data[data == 2] = 5
    data.tofile(folder / "train.bin")


def break_dictionary(folder):
    lines = (folder / "dict.txt").read_text().splitlines()
    (folder / "dict.txt").write_text("\n".join(["another-word 1", *lines[1:]]) + "\n")


def twice(folder):
    for ending in ("bin", "idx"):
        (folder / f"valid.{ending}").rename(folder / f"valid_a.{ending}")
        shutil.copy(folder / f"valid_a.{ending}", folder / f"valid_b.{ending}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_index, r"train.idx: .*bytes, but .* lines need .*: truncated"),
        (break_magic, r"train.idx: no index of fairseq's format mmap"),
        (break_bin, r"train.bin: .* bytes, but train.idx says"),
        (break_ids, r"train.bin: a token id outside 0 to 599"),
        (break_ends, r"train.bin: lines that </s> does not end"),
        (break_dictionary, r"speeches/dict.txt is not .*bible/dict.txt; a suite has one tokenizer"),
        (twice, r"wanted one valid or valid_<name>.*have: .*valid_a, valid_b"),
        (lambda folder: (folder / "test.bin").unlink(), r"wanted one test"),
        (
            lambda folder: (folder.parent / "more.txt").write_text("x"),
            r"speeches is a data-bin .* more is text",
        ),
    ],
)
def test_what_is_not_whole_is_refused_and_nothing_is_written(root, config, damage, message):
    damage(root / "speeches")
    with pytest.raises(UserError, match=message) as caught:
        prepare(config)
    assert "\n" not in str(caught.value)
    assert not Path(config.out).exists()


def test_one_data_bin_is_no_suite(root, config):
    with pytest.raises(UserError, match="is one data-bin, and so one domain"):
        prepare(replace(config, root=str(root / "bible")))


def test_a_tokenizer_of_ones_own_is_refused(root, config, suite):
    with pytest.raises(UserError, match=r"data-bins have theirs in dict.txt"):
        prepare(replace(config, tokenizer=str(suite.tokenizer)))


def test_where_text_is_wanted_ids_are_none(root, config):
    with pytest.raises(UserError, match="token ids of fairseq, where text is wanted"):
        survey(find(root)[0], config)


def test_byte_pairs_need_their_files(place, tmp_path):
    shutil.copytree(place / "pairs", tmp_path / "root")
    (tmp_path / "root/speeches/vocab.bpe").unlink()
    with pytest.raises(
        UserError, match=r"numbers byte pairs, whose text is in vocab.bpe; put them into"
    ):
        prepare(DataConfig(name="mine", root=str(tmp_path / "root"), out=str(tmp_path / "out")))
