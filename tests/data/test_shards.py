import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from btm.config.choices import SPLITS
from btm.data.shards import Shard, Suite
from btm.errors import UserError


def test_a_suite_says_what_it_holds(suite):
    again = Suite.open(suite.path)
    assert (
        again.name == "mine" and again.domains() == ["code", "verses"] == again.training_domains()
    )
    assert not again.novel("code")
    assert again.tokenizer == suite.path / "tokenizer"
    assert (again.vocab_size, again.tokenizer_sha256) == (400, suite.tokenizer_sha256)


def test_a_shard_maps_tokens_and_documents(suite):
    shard = suite.shard("verses", "train")
    assert (shard.domain, shard.split, shard.eos) == ("verses", "train", suite.eos)
    assert shard.tokens.dtype == np.uint16 and len(shard.tokens) == shard.n_tokens
    assert shard.documents.shape == (shard.n_documents, 2)
    assert shard.documents.sum(axis=0).tolist() == [shard.n_tokens, shard.n_bytes]
    ends = np.cumsum(shard.documents[:, 0]) - 1
    assert np.flatnonzero(shard.tokens == shard.eos).tolist() == ends.tolist()
    assert not shard.tokens.flags.writeable


def test_the_head_is_whole_documents(suite):
    shard = suite.shard("verses", "train")
    sizes = shard.documents.astype(int)
    assert shard.head(0) == shard.head(10**9) == (shard.n_tokens, shard.n_bytes)
    assert shard.head(1) == tuple(sizes[0])
    three = sizes[:3].sum(axis=0)
    assert shard.head(int(three[0])) == tuple(three)
    assert shard.head(int(three[0]) + 1) == tuple(three)
    assert shard.head(int(three[0]) - 1) == tuple(sizes[:2].sum(axis=0))


def test_what_is_not_there_is_named(tmp_path, suite):
    with pytest.raises(
        UserError, match=r"no prepared suite in .*law; run: btm prepare data=folder"
    ):
        Suite.open(tmp_path / "law")
    with pytest.raises(
        UserError, match=r"no domain 'vrses' in .* \(did you mean 'verses'\?\); have: code, verses"
    ):
        suite.shard("vrses", "train")
    with pytest.raises(UserError, match="split='tset': choose one of train, valid, test"):
        suite.shard("verses", "tset")
    with pytest.raises(UserError, match="no prepared domain"):
        Shard.open(tmp_path, "train")


def test_a_shard_has_the_digest_of_each_document(suite, verses):
    digests = np.concatenate([suite.shard("verses", split).digests for split in SPLITS])
    wanted = [
        int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "little")
        for text in verses
    ]
    assert sorted(digests.tolist()) == sorted(wanted)
    for split in SPLITS:
        shard = suite.shard("verses", split)
        path = shard.folder / f"{split}.docs"
        assert shard.digests.tolist() == np.fromfile(path, "<u8").tolist()
        assert shard.digests.shape == (shard.n_documents,) and not shard.digests.flags.writeable


def test_a_suite_of_before_digests_opens(tmp_path, suite):
    shutil.copytree(suite.path / "verses", tmp_path / "verses")
    (tmp_path / "verses" / "train.docs").unlink()
    assert Shard.open(tmp_path / "verses", "train").digests is None
    assert Shard.open(tmp_path / "verses", "test").digests is not None


@pytest.mark.parametrize("name", ["train.bin", "train.idx", "train.docs"])
def test_a_truncated_file_is_refused(tmp_path, suite, name):
    folder = tmp_path / "verses"
    shutil.copytree(suite.path / "verses", folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-2])
    with pytest.raises(
        UserError,
        match=f"{name}: this shard has .* bytes, but meta.json says .*run btm prepare again",
    ):
        Shard.open(folder, "train")
    Shard.open(folder, "valid")
    if name == "train.docs":
        return
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: this shard is missing; run btm prepare again"):
        Shard.open(folder, "train")


def test_a_broken_meta_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(UserError, match="no JSON; remove"):
        Shard.open(tmp_path, "train")


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = ["torch", "transformers", "tokenizers", "tiktoken", "zstandard", "pyarrow"]
    program = "import sys, btm.data.shards, btm.data.batches, btm.data.prepare; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(heavy) & set(loaded)


def test_the_head_of_a_shard_takes_no_more_than_a_part_of_a_very_long_document(
    suite, tmp_path, monkeypatch
):
    shard = Shard.open(suite.path / "verses", "train")
    tokens, size = shard.documents[0].tolist()
    assert shard.head(5) == (tokens, size)
    monkeypatch.setattr("btm.data.shards.WHOLE", 10)
    assert shard.head(5) == (10, size * 10 // tokens)
    assert shard.head(tokens) == (tokens, size)
