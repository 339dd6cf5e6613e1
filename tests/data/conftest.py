import gzip
import json
from pathlib import Path

import pytest

import btm.data
from btm.config.data import DataConfig
from btm.data.documents import read
from btm.data.prepare import prepare

DEMO = Path(btm.data.__file__).parent / "demo"


def demo_texts(domain, n):
    texts = []
    for text in read(DEMO / domain / "train.jsonl.zst", "text"):
        texts.append(text[:1500])
        if len(texts) == n:
            return texts
    raise AssertionError(f"{domain} has only {len(texts)} documents")


def write_jsonl(path, texts, column="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps({"id": 1, column: text}) + "\n" for text in texts).encode()
    if path.name.endswith(".gz"):
        data = gzip.compress(data)
    if path.name.endswith(".zst"):
        import zstandard

        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


@pytest.fixture(scope="session")
def verses():
    return demo_texts("bible", 40)


@pytest.fixture(scope="session")
def code():
    return demo_texts("code_python", 40)


@pytest.fixture
def jsonl():
    return write_jsonl


@pytest.fixture
def root(tmp_path, verses, code):
    """Two domains of real text: one to be split, one with splits of its own."""
    write_jsonl(tmp_path / "root" / "verses.jsonl", verses)
    for split, texts in {"train": code[:30], "valid": code[30:35], "test": code[35:]}.items():
        write_jsonl(tmp_path / "root" / "code" / f"{split}.jsonl.gz", texts)
    return tmp_path / "root"


@pytest.fixture
def config(tmp_path, root):
    return DataConfig(
        name="mine", root=str(root), out=str(tmp_path / "out"), vocab_size=400, workers=1
    )


@pytest.fixture(scope="session")
def suite(tmp_path_factory, verses, code):
    """A prepared suite that no test may change."""
    folder = tmp_path_factory.mktemp("suite")
    write_jsonl(folder / "root" / "verses.jsonl", verses)
    write_jsonl(folder / "root" / "code.jsonl", code)
    return prepare(
        DataConfig(
            name="mine",
            root=str(folder / "root"),
            out=str(folder / "out"),
            vocab_size=400,
            workers=1,
        )
    )
