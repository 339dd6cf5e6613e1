"""A git-LFS pointer in place of a file is named as one, wherever files come in from outside."""

import gzip
import json
import shutil

import pytest
from folders import tree
from interop.conftest import pristine, tokenizer  # noqa: F401

from btm.cli import main
from btm.system import lfs

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 2336927755\n"
)
REMEDY = "is a git-LFS pointer, not the file itself: run `git lfs pull`"


@pytest.mark.parametrize(
    "content",
    [
        POINTER,
        POINTER.rstrip("\n"),
        POINTER.replace("\n", "\r\n"),
        POINTER.replace("oid", "ext-0-foo sha256:" + "0" * 64 + "\noid"),
        POINTER.replace("git-lfs.github.com/spec/v1", "hawser.github.com/spec/v1"),
    ],
)
def test_forms_of_a_pointer(content):
    assert lfs.is_pointer(content.encode())


@pytest.mark.parametrize(
    "content",
    [
        "",
        POINTER + "and a text that quotes it\n",
        "As it says:\n" + POINTER,
        POINTER.partition("size")[0],
        POINTER + "\n" * 2000,
    ],
)
def test_a_text_about_one_is_a_text(content):
    assert not lfs.is_pointer(content.encode())


def refused(capsys, file, *words):
    """Run a command that must name `file` as a pointer, in one line."""
    assert main.main(list(words)) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith(f"btm: {file} {REMEDY}")
    assert "size 2336927755" not in out + err


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        "README.md",
    ],
)
def test_a_model_folder(name, pristine, tmp_path, capsys):  # noqa: F811
    folder = shutil.copytree(pristine, tmp_path / "model")
    (folder / name).write_text(POINTER)
    refused(capsys, folder / name, "import", f"from={folder}", f"forest={tmp_path / 'forest'}")
    assert not (tmp_path / "forest").exists() or not tree(tmp_path / "forest")


@pytest.mark.parametrize("legacy", ["true", "false"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-00001-of-00002.safetensors"])
def test_other_files_of_weights(name, legacy, pristine, tmp_path, capsys):  # noqa: F811
    folder = shutil.copytree(pristine, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER)
    if name.endswith(".safetensors"):
        index = {"weight_map": {"a": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif legacy == "false":
        return
    words = ["import", f"from={folder}", f"forest={tmp_path / 'forest'}"]
    refused(capsys, folder / name, *words, f"import.legacy={legacy}")


@pytest.mark.parametrize(
    "name", ["law.txt", "law/a.jsonl", "law/a.txt", "law/a.jsonl.gz", "law/a.parquet", "suite.json"]
)
def test_text(name, texts, tmp_path, capsys):
    """It parses as a document, and must not be trained on as one."""
    root = shutil.copytree(texts, tmp_path / "texts")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(POINTER)
    words = ["experiment=smoke", f"data.root={root}", f"data.out={tmp_path / 'data'}"]
    refused(capsys, root / name, "prepare", *words)
    assert not (tmp_path / "data").exists() or not tree(tmp_path / "data")


def test_what_is_packed_is_read(tmp_path):
    """A gz of a text about pointers is opened as any other."""
    from btm.data.documents import read

    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(POINTER.encode()))
    lfs.refuse(file)
    (tmp_path / "a.txt").write_text(POINTER + "is what a pointer looks like")
    assert list(read(tmp_path / "a.txt", "text"))


def test_data_tokenizer_and_model_file(texts, tokenizer, tmp_path, capsys):  # noqa: F811
    folder = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    (folder / "tokenizer.json").write_text(POINTER)
    words = ["experiment=smoke", f"data.root={texts}", f"data.out={tmp_path / 'data'}"]
    refused(capsys, folder / "tokenizer.json", "prepare", *words, f"data.tokenizer={folder}")


def test_a_forest_that_was_cloned(copy, workspace, tmp_path, capsys):
    """Weights, a card and prepared text of one's own may lie in LFS too."""
    copy()
    root = tmp_path / "forest"
    words = [*workspace, f"forest={root}"]
    weights = root / "elms/bible/model.safetensors"
    content = weights.read_bytes()
    weights.write_text(POINTER)
    refused(capsys, weights, "average", *words, "weights=uniform", "average.name=new")
    weights.write_bytes(content)
    (root / "elms/bible/card.json").write_text(POINTER)
    refused(capsys, root / "elms/bible/card.json", "show", *words, "expert=bible")


def test_what_fairseq_wrote(tmp_path, capsys):
    (tmp_path / "bin/law").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        for ending in ("bin", "idx"):
            (tmp_path / f"bin/law/{split}.{ending}").write_text(POINTER)
    (tmp_path / "bin/law/dict.txt").write_text(POINTER)
    (tmp_path / "checkpoint_best.pt").write_text(POINTER)
    (tmp_path / "dict.txt").write_text("a 1\n")
    words = [f"data.root={tmp_path / 'bin'}", f"data.out={tmp_path / 'data'}", "data.name=x"]
    assert main.main(["prepare", *words]) == 2
    assert REMEDY in capsys.readouterr().err
    file = tmp_path / "checkpoint_best.pt"
    words = ["import", "format=fairseq", f"from={file}", f"forest={tmp_path / 'forest'}"]
    refused(capsys, file, *words)
