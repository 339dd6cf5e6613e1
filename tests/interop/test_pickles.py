"""Pickles made to run code, to fill memory or to fool the reader: refused, or never looked at."""

import importlib
import io
import json
import pickle
import tarfile
import zipfile

import pytest
import torch
from interop.assault import assault
from safetensors.torch import load_file

from btm.cli import main

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def world(folder, tmp_path):
    """A place with a model folder whose weights are gone; a test puts pickles there."""
    (folder / "model.safetensors").unlink()
    return tmp_path


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, name, *words):
        module, _, self.name = name.rpartition(".")
        self.function, self.words = getattr(importlib.import_module(module), self.name), words

    def __reduce__(self):
        return self.function, self.words


TOUCH = "import pathlib; pathlib.Path('{canary}').touch()"
CALLS = {
    "os.system": ("touch {canary}",),
    "posix.system": ("touch {canary}",),
    "os.execvp": ("touch", ["touch", "{canary}"]),
    "builtins.exec": (TOUCH,),
    "builtins.eval": ("__import__('os').system('touch {canary}')",),
    "builtins.open": ("{canary}", "w"),
    "builtins.__import__": ("antigravity",),
    "subprocess.Popen": (["touch", "{canary}"],),
    "subprocess.check_output": (["touch", "{canary}"],),
    "pty.spawn": (["touch", "{canary}"],),
    "runpy.run_path": ("{canary}.py",),
    "shutil.rmtree": ("{outside}",),
    "os.mkdir": ("{canary}",),
    "pathlib.Path.touch": None,
    "codecs.decode": (b"x", "rot13"),
    "torch.load": ("{outside}/model/evil.pt",),
    "torch.hub.load": ("evil/evil", "evil"),
    "socket.create_connection": (("127.0.0.1", 9),),
    "importlib.import_module": ("this",),
}


def evil(name, world):
    """An object that calls `name` when it is unpickled."""
    canary, outside = str(world / "canary"), str(world / "outside")
    if name == "pathlib.Path.touch":
        return Call("builtins.eval", f"__import__('pathlib').Path({canary!r}).touch()")

    def fill(word):
        if isinstance(word, list | tuple):
            return type(word)(fill(w) for w in word)
        return word.format(canary=canary, outside=outside) if isinstance(word, str) else word

    return Call(name, *fill(CALLS[name]))


def as_archive(value):
    """The bytes that torch.save writes today: a zip with a pickle in it."""
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def as_old_file(value):
    """The bytes that torch.save wrote before 1.6: pickles in a row."""
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


FORMS = {"archive": as_archive, "old file": as_old_file, "bare": pickle.dumps}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_pickle_that_calls(name, world, capsys):
    for number, form in enumerate(FORMS.values()):
        hidden = {"model.norm.weight": torch.ones(32), "evil": evil(name, world)}
        (world / "outside/model/pytorch_model.bin").write_bytes(
            form([hidden, evil(name, world)][number % 2])
        )
        assert "import.legacy=true" in assault(world, capsys)
        assert "pickled tensors" in assault(world, capsys, "import.legacy=true")


@pytest.mark.parametrize("name", ["os.system", "builtins.exec"])
def test_pickles_beside_the_weights_are_never_opened(name, folder, tmp_path, capsys):
    """Optimizers, trainers' arguments, tokenizers of old; pickled weights too, where there are
    others.
    """
    beside = (
        "optimizer.pt",
        "scheduler.pt",
        "training_args.bin",
        "rng_state.pth",
        "pytorch_model.bin",
        "vocab.pkl",
    )
    for file in (*beside, "tokenizer.bin", "spiece.pickle", "model.pt", "added_tokens.pkl"):
        (folder / file).write_bytes(as_archive(evil(name, tmp_path)))
    assault(tmp_path, capsys, "import.legacy=true", wanted=0)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "evil.model"]
)
def test_a_pickle_in_place_of_a_tokenizer_file(name, folder, tmp_path, capsys):
    (folder / name).write_bytes(pickle.dumps(evil("os.system", tmp_path)))
    assault(tmp_path, capsys, "import.legacy=true", wanted=0 if name == "evil.model" else 2)


def bomb():
    """1.5 GB of zeros as a tensor, packed into some megabytes."""
    plain, out = io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.zeros(4)}, plain)
    with (
        zipfile.ZipFile(plain) as small,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for name in small.namelist():
            with packed.open(name, "w", force_zip64=True) as entry:
                if not name.endswith("data.pkl"):
                    entry.write(small.read(name))
                    continue
                for _ in range(1500):
                    entry.write(bytes(1 << 20))
    return out.getvalue()


def forged():
    """An archive whose directory says that a tensor has 2^40 bytes."""
    content = as_archive({"x": torch.zeros(64)})
    place = content.rindex(b"PK\x01\x02")
    return content[: place + 20] + b"\xff\xff\xff\x7f" * 2 + content[place + 28 :]


def stretched():
    """One number, seen as 10^14 by a stride of nothing."""
    return as_archive({"x": torch.ones(1).as_strided((10**7, 10**7), (0, 0))})


def scripted():
    out = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), out)
    return out.getvalue()


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"evil"))
    return out.getvalue()


def climbing():
    """An archive whose entries lead out of it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../../canary", "evil")
        archive.writestr("archive/data.pkl", pickle.dumps({"x": 1}))
    return out.getvalue()


def recursive():
    values = {}
    values["x"] = values
    return as_archive(values)


CONTENTS = {
    "a zip bomb": bomb,
    "a forged directory": forged,
    "one number seen as many": stretched,
    "a script": scripted,
    "a tar": tarred,
    "entries that lead out": climbing,
    "a dict of itself": recursive,
    "nothing": lambda: b"",
    "half an archive": lambda: as_archive({"x": torch.zeros(64)})[:-200],
    "no tensors": lambda: as_archive({"x": 1}),
    "names that are numbers": lambda: as_archive({1: torch.ones(2)}),
    "a tensor alone": lambda: as_archive(torch.ones(2)),
    "a sparse tensor": lambda: as_archive({"x": torch.eye(3).to_sparse()}),
    "complex numbers": lambda: as_archive({"x": torch.ones(2, dtype=torch.complex64)}),
    "deep": lambda: b"\x80\x02" + b"(" * 1_000_000 + b".",
    "a name that leads out": lambda: as_archive({"../../canary": torch.ones(2)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_content(make, world, capsys):
    (world / "outside/model/pytorch_model.bin").write_bytes(make())
    assault(world, capsys, "import.legacy=true")


def test_a_refusal_names_the_file_as_it_is_called(world, capsys):
    """The copy that is looked at has another name, and is gone when the message is read."""
    file = world / "outside/model/pytorch_model.bin"
    file.write_bytes(as_archive({"x": torch.ones(2, dtype=torch.complex64)}))
    words = [f"from={file.parent}", f"forest={world / 'forest'}", "import.legacy=true"]
    assert main.main(["import", *words]) == 2
    assert capsys.readouterr().err.startswith(f"btm: {file}: 'x' is no dense tensor")


@pytest.mark.parametrize(
    "name", ["../evil.bin", "/etc/passwd.bin", "sub/evil.bin", "config.json", "evil.pt"]
)
def test_an_index_that_leads_elsewhere(name, world, capsys):
    (world / "outside/evil.bin").write_bytes(as_archive(evil("os.system", world)))
    index = {"weight_map": {"model.norm.weight": name}}
    (world / "outside/model/pytorch_model.bin.index.json").write_text(json.dumps(index))
    assault(world, capsys, "import.legacy=true")


def test_shards_of_which_one_is_evil(pristine, world, capsys):
    tensors = load_file(pristine / "model.safetensors")
    folder = world / "outside/model"
    (folder / "a.bin").write_bytes(as_archive(tensors))
    (folder / "b.bin").write_bytes(as_archive(evil("os.system", world)))
    names = dict.fromkeys(tensors, "a.bin") | {"evil": "b.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    assault(world, capsys, "import.legacy=true")


def boxed(tmp_path, question):
    """What a function says when it is asked in a box that may write below `tmp_path` alone."""
    import subprocess
    import sys

    code = f"""
import os, socket, subprocess, sys
from pathlib import Path
from btm.system import sandbox as box
box.close(1 << 30, 2, Path({str(tmp_path / "home")!r}))
try:
    {question}
except (PermissionError, MemoryError, OSError) as error:
    print(type(error).__name__)
else:
    print("done")
"""
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.strip(), done.returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("os.system('touch {place}/canary')", "PermissionError"),
        ("subprocess.run(['true'])", "PermissionError"),
        ("os.fork()", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("socket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("open('{place}/canary', 'w')", "PermissionError"),
        ("os.mkdir('{place}/canary')", "PermissionError"),
        ("os.symlink('{place}', '{place}/canary')", "PermissionError"),
        ("os.rename('{place}/home', '{place}/canary')", "PermissionError"),
        ("open('{place}/home/../canary', 'w')", "PermissionError"),
        ("open('{place}/home/made', 'w')", "done"),
        ("open('{place}/home/large', 'wb').truncate(2 << 30)", "OSError"),
        ("bytearray(3 << 30)", "MemoryError"),
        ("while True: pass", None),
    ],
)
def test_the_box_is_closed(question, answer, tmp_path):
    """Even for code that does run: by what torch's unpickler lets through some day."""
    said, code = boxed(tmp_path, question.format(place=tmp_path))
    assert not (tmp_path / "canary").exists()
    assert said == answer if answer else code < 0
