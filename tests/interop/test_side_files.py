"""All that belongs to a tokenizer goes with it, into every copy of a model; nothing else does."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from folders import tree
from interop.models import make_folder
from transformers import AutoTokenizer, GenerationConfig

from btm.cli import main
from btm.data.tokenizer import copy_tokenizer
from btm.errors import UserError
from btm.system import sums

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
SIDE = {
    "chat_template.jinja": TEMPLATE,
    "additional_chat_templates/tool_use.jinja": "tools: " + TEMPLATE,
    "special_tokens_map.json": '{"eos_token": "<|endoftext|>"}',
    "added_tokens.json": '{"<|endoftext|>": 0}',
    "vocab.json": "{}",
    "merges.txt": "#version: 0.2\n",
    "encoder.json": "{}",
    "spiece.vocab": "a\t0\n",
    "tokenizer.model": "IQ== 0\nIg== 1\n",
    "source.spm": "\nspm",
    "qwen.tiktoken": "IQ== 0\n",
    "preprocessor_config.json": '{"do_resize": false}',
    "processor_config.json": '{"image_seq_length": 1}',
    "chat_template.json": '{"chat_template": "old"}',
}
CODE = {
    "tokenization_own.py": b"raise SystemExit",
    "setup.sh": b"#!/bin/sh\n",
    "vocab.pkl": pickle.dumps({}),
    "pickled.model": pickle.dumps({"a": 1}),
    "archive.model": b"PK\x03\x04rest",
    "video_preprocessor_config.json": b'{"auto_map": {"AutoVideoProcessor": "own.Processor"}}',
    "tekken.json": b"{}",
    ".hidden.jinja": b"x",
    "notes.md": b"x",
}


def furnish(folder):
    """Put all kinds of files beside a tokenizer, some of which belong to it."""
    for name, content in SIDE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    for name, content in CODE.items():
        (folder / name).write_bytes(content)
    return folder


def btm(capsys, *words):
    """Run a command; return its exit code and what it said on stderr."""
    code = main.main(list(words))
    return code, capsys.readouterr().err


def require_side_files(folder):
    for name, content in SIDE.items():
        assert (folder / name).read_text() == content, f"{name} in {folder}"
    assert not CODE.keys() & set(sums.names(folder))
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    talk = [{"role": "user", "content": "hi"}]
    assert loaded.apply_chat_template(talk, tokenize=False) == "<user>hi"
    named = loaded.apply_chat_template(talk, tokenize=False, chat_template="tool_use")
    assert named == "tools: <user>hi"


@pytest.fixture
def outside(pristine, tmp_path):
    """A model folder as an instruction-tuned one is published."""
    folder = furnish(shutil.copytree(pristine, tmp_path / "outside"))
    GenerationConfig(eos_token_id=[0, 5], temperature=0.6, do_sample=True).save_pretrained(folder)
    return folder


def test_an_imported_model_keeps_them_to_its_export(outside, tmp_path, capsys):
    root, sent = tmp_path / "forest", tmp_path / "sent"
    here = f"forest={root}"
    assert btm(capsys, "import", f"from={outside}", here)[0] == 0
    assert btm(capsys, "average", here, "weights={seed: 1}", "average.measure=false")[0] == 0
    assert btm(capsys, "export", here, "expert=seed", f"to={sent}") == (0, "")
    assert btm(capsys, "export", here, "expert=seed", f"to={sent}") == (0, "")  # the same again
    (average,) = (root / "averages").iterdir()
    for folder in (root / "tokenizer", root / "elms/seed", average, sent):
        require_side_files(folder)
        assert not sums.differences(folder)
    for folder in (root / "elms/seed", average, sent):
        assert GenerationConfig.from_pretrained(folder).eos_token_id == [0, 5]
    (root / "elms/seed/additional_chat_templates/tool_use.jinja").write_text("changed")
    code = main.main(["verify", here, "--full"])
    assert code != 0
    said = "".join(capsys.readouterr())
    assert "tool_use.jinja" in said


def test_an_imported_expert_keeps_its_own(pristine, tokenizer, tmp_path, capsys):
    """The forest was planted with a base model; its instruction-tuned sister has a template."""
    here = f"forest={tmp_path / 'forest'}"
    law = make_folder(tmp_path / "law", tokenizer, seed=1)
    (law / "chat_template.jinja").write_text(TEMPLATE)
    assert btm(capsys, "import", f"from={pristine}", here)[0] == 0
    assert btm(capsys, "import", f"from={law}", here, "name=law")[0] == 0
    assert (tmp_path / "forest/elms/law/chat_template.jinja").read_text() == TEMPLATE
    assert not (tmp_path / "forest/elms/seed/chat_template.jinja").exists()


def test_a_suite_and_the_forest_grown_on_it_have_them(texts, tokenizer, tmp_path, capsys):
    """From data.tokenizer=DIR to the expert of a cycle."""
    source = furnish(shutil.copytree(tokenizer, tmp_path / "tokenizer"))
    words = [
        "experiment=smoke",
        f"data.root={texts}",
        f"data.out={tmp_path / 'data'}",
        f"data.tokenizer={source}",
        f"forest={tmp_path / 'forest'}",
        "trainer.steps=2",
        "seed.steps=2",
        "trainer.seq_len=32",
        "score.max_tokens=256",
        "merge.force=true",
    ]
    for verb in (["prepare"], ["seed"], ["branch", "expert=bible"], ["train", "expert=bible"]):
        assert btm(capsys, *verb, *words)[0] == 0, verb
    assert btm(capsys, "merge", "expert=bible", *words)[0] == 0
    elms = [tmp_path / "forest/elms/seed", tmp_path / "forest/elms/bible"]
    for folder in (tmp_path / "data/smoke/tokenizer", tmp_path / "forest/tokenizer", *elms):
        require_side_files(folder)
    for elm in elms:
        assert not sums.differences(elm)
    assert main.main(["verify", f"forest={tmp_path / 'forest'}", "--full"]) == 0


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "vocab.txt"])
def test_links_are_not_followed_out_of_the_folder(name, tokenizer, tmp_path, capsys):
    source = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    secret = tmp_path / "secret"
    secret.write_text("{}")
    if (source / name).exists():
        (source / name).replace(secret)
    (source / name).symlink_to(secret)
    with pytest.raises(UserError, match=f"{source / name}: a link that leads out of the folder"):
        copy_tokenizer(source, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    secret.replace(source / "inside")
    (source / name).unlink()
    (source / name).symlink_to("inside")
    if name != "vocab.txt":
        copy_tokenizer(source, tmp_path / "copy")
        assert (tmp_path / "copy" / name).is_file()
        assert not (tmp_path / "copy" / name).is_symlink()


def test_a_folder_of_templates_elsewhere_is_refused(tokenizer, tmp_path):
    source = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.jinja").write_text("x")
    (source / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link that leads out of the folder"):
        copy_tokenizer(source, tmp_path / "copy")


def test_a_cache_of_the_hub_is_no_link_elsewhere(tokenizer, tmp_path):
    """There the files of a snapshot are links to blobs."""
    blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(tokenizer.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (blobs / "t").write_text(TEMPLATE)
    (snapshot / "chat_template.jinja").symlink_to("../../blobs/t")
    copy_tokenizer(snapshot, tmp_path / "copy")
    assert (tmp_path / "copy/chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: (f / "chat_template.jinja").write_bytes(b" " * (5 << 20)), "larger than"),
        (lambda f: os.mkfifo(f / "chat_template.jinja"), "wanted a regular file"),
        (lambda f: [(f / f"{n}.jinja").write_text("x") for n in range(101)], r"101 files are"),
    ],
)
def test_what_is_no_side_file_is_refused(make, said, folder, tmp_path, capsys):
    make(folder)
    code, err = btm(capsys, "import", f"from={folder}", f"forest={tmp_path / 'forest'}")
    assert code == 2 and err.count("\n") == 1
    assert str(folder) in err and said.strip("r") in err
    assert not Path(tmp_path / "forest").exists() or not tree(tmp_path / "forest")


def test_the_tokens_do_not_depend_on_them(tokenizer, tmp_path):
    from btm.data.tokenizer import tokenizer_sha256

    source = furnish(shutil.copytree(tokenizer, tmp_path / "tokenizer"))
    copy_tokenizer(source, tmp_path / "copy")
    assert tokenizer_sha256(tmp_path / "copy") == tokenizer_sha256(tokenizer)
    settings = json.loads((tmp_path / "copy/tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|endoftext|>"
