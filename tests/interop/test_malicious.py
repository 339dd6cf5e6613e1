"""Folders made to harm whoever imports them. Each is refused in one line, or comes in without doing
anything.

See `assault` for what is checked each time.
"""

import json
import os
import socket
import struct
from pathlib import Path

import pytest
from interop.assault import assault

from btm.errors import UserError
from btm.interop import intake

pytestmark = pytest.mark.timeout(120)
SECRET = "root of all secrets"


@pytest.fixture
def world(folder, tmp_path):
    """A place with a model folder that tests make malicious, and a secret beside it."""
    (tmp_path / "outside" / "secret").write_text(SECRET)
    return tmp_path


def patch(file, values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def nested(depth, inner="1"):
    return '{"a":' * depth + inner + "}" * depth


CONFIGS = {
    "remote code": {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}},
    "remote code of a part": {"text_config": {"auto_map": {"AutoConfig": "evil--evil.Config"}}},
    "remote code in a list": {"parts": [{"auto_map": {"AutoConfig": "x.Y"}}]},
    "attention from the Hub": {"_attn_implementation": "evil/kernel"},
    "attention from the Hub, by its new name": {"attn_implementation": "evil/kernel:flash"},
    "attention from the Hub, by its inner name": {"_attn_implementation_internal": "evil/kernel"},
    "experts from the Hub": {"experts_implementation": "evil/kernel"},
    "attention of parts": {"attn_implementation": {"text_config": "evil/kernel"}},
    "an architecture nobody knows": {"model_type": "evil"},
    "no causal LM": {"model_type": "vit"},
    "a type that is a list": {"model_type": ["llama"]},
    "a type that is a path": {"model_type": "../../evil"},
    "a huge vocabulary": {"vocab_size": 10**12},
    "a vocabulary of no length": {"vocab_size": 0},
    "a width beyond any number": {"hidden_size": 10**40},
    "a billion layers": {"num_hidden_layers": 10**9},
    "negative layers": {"num_hidden_layers": -3},
    "heads that divide by zero": {"num_attention_heads": 0},
    "a billion labels": {"num_labels": 10**9},
    "sizes as text": {"hidden_size": "__import__('os').system('touch canary')"},
    "sizes that are no numbers": {"intermediate_size": float("nan")},
    "a norm that is no number": {"rms_norm_eps": float("nan")},
    "positions without end": {"rope_parameters": {"rope_type": "evil", "factor": float("inf")}},
    "a dtype that is none": {"dtype": "os.system"},
    "quantised": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "an activation that is code": {"hidden_act": "os.system"},
}


@pytest.mark.slow
@pytest.mark.parametrize("values", CONFIGS.values(), ids=CONFIGS)
def test_config(values, world, capsys):
    patch(world / "outside/model/config.json", values)
    assault(world, capsys)


HARMLESS = {
    "trust_remote_code in the config": ("config.json", {"trust_remote_code": True}),
    "a URL as its name": ("config.json", {"_name_or_path": "https://evil.example/model"}),
    "another architecture as its class": ("config.json", {"architectures": ["os.system"]}),
    "a base model elsewhere": ("config.json", {"base_model_name_or_path": "evil/model"}),
    "a template that imports": (
        "tokenizer_config.json",
        {
            "chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}{% set x = __import__('os') %}"
        },
    ),
    "files of the tokenizer elsewhere": (
        "tokenizer_config.json",
        {
            "tokenizer_file": "/etc/passwd",
            "vocab_file": "../secret",
            "special_tokens_map_file": "/dev/zero",
        },
    ),
    "a class of tokenizer nobody knows": (
        "tokenizer_config.json",
        {"tokenizer_class": "os.system"},
    ),
    "a generation that contradicts itself": (
        "generation_config.json",
        {"temperature": 0.5, "do_sample": False},
    ),
}


@pytest.mark.parametrize(("name", "values"), HARMLESS.values(), ids=HARMLESS)
def test_settings_that_come_in_and_do_nothing(name, values, world, capsys):
    patch(world / "outside/model" / name, values)
    assault(world, capsys, wanted=0)


CONTENTS = {
    "config: nested deep": ("config.json", nested(100_000)),
    "config: not JSON": ("config.json", "import os; os.system('touch canary')"),
    "config: no text": ("config.json", b"\xff\xfe\x00"),
    "config: a list": ("config.json", "[" * 50_000),
    "config: a number without end": ("config.json", '{"model_type": ' + "9" * 10_000 + "}"),
    "config: larger than any": ("config.json", b" " * (5 << 20)),
    "tokenizer: code of its own": (
        "tokenizer_config.json",
        '{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}',
    ),
    "tokenizer: settings nested deep": ("tokenizer_config.json", nested(100_000)),
    "tokenizer: nested deep": ("tokenizer.json", nested(100_000)),
    "tokenizer: a list": ("tokenizer.json", "[1, 2]"),
    "tokenizer: another type": ("tokenizer.json", '{"model": {"type": "Evil", "vocab": []}}'),
    "tokenizer: a merge of nothing": (
        "tokenizer.json",
        '{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]}}',
    ),
    "tokenizer: an id beyond any": (
        "tokenizer.json",
        '{"added_tokens":[{"id":4294967295,"content":"<|endoftext|>","special":true}],'
        '"model":{"type":"BPE","vocab":{"a":4294967294},"merges":[]}}',
    ),
    "generation: code of its own": ("generation_config.json", '{"auto_map": {"x": "y.Z"}}'),
    "generation: nested deep": ("generation_config.json", nested(100_000)),
    "weights: nothing": ("model.safetensors", b""),
    "weights: a pickle by another name": (
        "model.safetensors",
        b"\x80\x04cposix\nsystem\n(S'touch canary'\ntR.",
    ),
    "weights: a header of 2^63 bytes": ("model.safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "weights: a header longer than the file": (
        "model.safetensors",
        struct.pack("<Q", 90_000_000) + b"{}",
    ),
    "weights: a header nested deep": (
        "model.safetensors",
        struct.pack("<Q", len(nested(50_000))) + nested(50_000).encode(),
    ),
    "weights: a header that is a list": ("model.safetensors", struct.pack("<Q", 2) + b"[]"),
}


@pytest.mark.parametrize(("name", "content"), CONTENTS.values(), ids=CONTENTS)
def test_content(name, content, world, capsys):
    content = content.encode() if isinstance(content, str) else content
    (world / "outside/model" / name).write_bytes(content)
    assault(world, capsys)


A = "model.embed_tokens.weight"
HEADERS = {
    "a name that leads out": lambda h: {**h, "../../../evil": h.pop(A)},
    "a name that commands a terminal": lambda h: {**h, "\x1b[2J\nevil": h.pop(A)},
    "tensors that overlap": lambda h: (
        h | {A: h[A] | {"data_offsets": [4, h[A]["data_offsets"][1] + 4]}}
    ),
    "a tensor beyond the end": lambda h: h | {A: h[A] | {"data_offsets": [2**40, 2**40 + 65_536]}},
    "offsets that run backwards": lambda h: h | {A: h[A] | {"data_offsets": [65_536, 0]}},
    "a negative size": lambda h: h | {A: h[A] | {"shape": [-1, -1]}},
    "a size beyond any": lambda h: h | {A: h[A] | {"shape": [2**62, 2**62]}},
    "sizes without end": lambda h: h | {A: h[A] | {"shape": [10**300] * 10_000}},
    "a size that is a fraction": lambda h: h | {A: h[A] | {"shape": [512.0, 32]}},
    "a size that is a truth value": lambda h: h | {A: h[A] | {"shape": [True, 16_384]}},
    "a type nobody knows": lambda h: h | {A: h[A] | {"dtype": "PICKLE"}},
    "a type that is a list": lambda h: h | {A: h[A] | {"dtype": ["F32"]}},
    "no offsets": lambda h: h | {A: {"dtype": "F32", "shape": [512, 32]}},
    "a tensor that is a number": lambda h: h | {A: 7},
}


def split_header(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(file, text, body):
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_header(change, world, capsys):
    file = world / "outside/model/model.safetensors"
    header, body = split_header(file)
    write_header(file, json.dumps(change(header)).encode(), body)
    assault(world, capsys)


def test_a_header_with_a_tensor_twice(world, capsys):
    """Readers that take the first one would load other weights than those that were checked."""
    file = world / "outside/model/model.safetensors"
    header, body = split_header(file)
    text = json.dumps(header).encode()
    write_header(file, text[:-1] + f', "{A}": {json.dumps(header[A])}}}'.encode(), body)
    assert "twice" in assault(world, capsys)


INDICES = {
    "above the folder": {A: "../secret.safetensors"},
    "far above": {A: "../../../../../../etc/passwd.safetensors"},
    "an absolute path": {A: "/etc/passwd.safetensors"},
    "a folder below": {A: "sub/model.safetensors"},
    "the folder itself": {A: "."},
    "nothing": {A: ""},
    "a name that is a number": {A: 7},
    "a name that is a list": {A: ["model.safetensors"]},
    "a name with a line break": {A: "model\n.safetensors"},
    "a name with a zero byte": {A: "model\0.safetensors"},
    "a file that is not there": {A: "model-00001-of-00002.safetensors"},
    "a file that is no weights": {A: "config.json"},
    "no tensors": {},
    "fewer tensors than there are": {A: "weights.safetensors"},
    "a list": [A],
}


@pytest.mark.parametrize("weight_map", INDICES.values(), ids=INDICES)
def test_index(weight_map, world, capsys):
    folder = world / "outside/model"
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assault(world, capsys)


def link_to(target):
    def make(file):
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    return make


def pipe(file):
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def listening(file):
    file.unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(file.parent)  # a socket's path has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(file.name)
    finally:
        os.chdir(here)


def device(file):
    file.unlink(missing_ok=True)
    try:
        os.mknod(file, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:  # not root
        file.symlink_to("/dev/zero")


def directory(file):
    file.unlink(missing_ok=True)
    file.mkdir()


def hollow(file):
    """A file of 700 MB that takes no space."""
    file.unlink(missing_ok=True)
    with file.open("wb") as handle:
        handle.truncate(700 << 20)


FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
    "evil.model",
)
SPECIAL = {
    "a link to a secret": link_to("../secret"),
    "a link to /etc/passwd": link_to("/etc/passwd"),
    "a link to /dev/zero": link_to("/dev/zero"),
    "a link to itself": lambda file: link_to(file.name)(file),
    "a link to nowhere": link_to("nowhere"),
    "a pipe": pipe,
    "a device": device,
}
SOME = {
    "a socket": (listening, "model.safetensors"),
    "a folder": (directory, "tokenizer.json"),
    "a hollow config": (hollow, "config.json"),
    "a hollow tokenizer": (hollow, "tokenizer.json"),
    "hollow weights": (hollow, "model.safetensors"),
    "a pipe as a template": (pipe, "chat_template.jinja"),
    "a pipe as an index": (pipe, "model.safetensors.index.json"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_no_regular_file(make, name, world, capsys):
    make(world / "outside/model" / name)
    assault(world, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name"), SOME.values(), ids=SOME)
def test_some_other_file(make, name, world, capsys):
    if name.endswith("index.json"):
        (world / "outside/model/model.safetensors").unlink()
    make(world / "outside/model" / name)
    assault(world, capsys)


def test_links_of_a_hub_cache_are_followed(world, capsys):
    """snapshots/<commit>/config.json -> ../../blobs/<hash>, as huggingface_hub lays it out."""
    model = world / "outside/model"
    blobs, snapshot = world / "outside/models--x/blobs", world / "outside/models--x/snapshots/0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    model.rmdir()
    model.symlink_to(snapshot)
    assault(world, capsys, wanted=0)
    assert not any(path.is_symlink() for path in (world / "forest").rglob("*"))


CODE = "import pathlib; pathlib.Path({canary!r}).touch()\n"
BYSTANDERS = [
    "modeling_evil.py",
    "tokenization_evil.py",
    "configuration_evil.py",
    "custom_generate/generate.py",
    "torch.py",
    "json.py",
    "transformers/__init__.py",
    "sitecustomize.py",
    "btm/__init__.py",
    "conftest.py",
    "setup.py",
]


def test_code_beside_the_model_is_never_run(world, capsys, monkeypatch):
    """Not even when the command is given in that very folder."""
    for name in BYSTANDERS:
        file = world / "outside/model" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(CODE.format(canary=str(world / "canary")))
    monkeypatch.chdir(world / "outside/model")
    assault(world, capsys, wanted=0)


def test_an_adapter_beside_the_model_is_not_loaded(world, capsys):
    values = {
        "peft_type": "LORA",
        "base_model_name_or_path": "evil/model",
        "auto_mapping": {"x": "y"},
    }
    (world / "outside/model/adapter_config.json").write_text(json.dumps(values))
    assault(world, capsys, wanted=0)
    (world / "forest").rename(world / "outside/forest")
    (world / "outside/model/config.json").unlink()
    assert "adapter" in assault(world, capsys)


README = {
    "a billion laughs": "---\na: &a [x, x, x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}]\n" for i in range(20)),
    "a tag that calls": "---\nlicense: !!python/object/apply:os.system ['touch canary']\n---\n",
    "a licence with more": "---\nlicense: mit\\n\\nauto_map: x\n---\n",
    "no end": "---\n" * 100_000,
}


@pytest.mark.parametrize("text", README.values(), ids=README)
def test_model_card(text, world, capsys):
    (world / "outside/model/README.md").write_text(text)
    assault(world, capsys, wanted=0)


def test_a_folder_whose_name_holds_a_line_break(world, capsys):
    other = world / "outside/mo\x1b[2J\ndel"
    (world / "outside/model").rename(other)
    (world / "outside/model").symlink_to(other.name)
    (other / "evil\n.model").write_bytes(b"evil")
    assault(world, capsys, wanted=0)


def test_weights_that_change_while_they_are_read(folder, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()

    def grow():
        with (folder / "model.safetensors").open("ab") as handle:
            handle.write(b"evil")

    with pytest.raises(UserError, match="changed while it was read"):
        intake.take(folder, target, alive=grow)
