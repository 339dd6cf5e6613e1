"""The intake of a folder from outside: the files that a model needs, copied into our own folder.

Only known names are taken, and only regular files. So whatever reads the copy, transformers
included, never sees code, adapters, pickles or devices; and since the copy is what is checked,
later changes of the source do no harm.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from btm.errors import UserError
from btm.models import tokenizer_files, weights
from btm.models.causal_lm import read_config, refuse_code
from btm.models.files import CONFIG, INDEX, README, WEIGHTS
from btm.system import durable
from btm.system.json_files import MAX_JSON, parse_json
from btm.system.outside import Folder

PICKLED = "pickled"  # where pickled weights lie in the copy until they are converted
_JSON = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_SMALL = 4 << 20  # bytes of a configuration
_LICENSE = re.compile(
    r"^license:[ \t]*(?:\n[ \t]*-)?[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9.+_-]{0,63})", re.MULTILINE
)
# Endings of keys that hold paths of the machine a tokenizer was saved on. They must not be read.
_PATHS = ("_file", "_path")


@dataclass
class Taken:
    """The result of an intake: the sha256 of each weight file by its name, and the licence."""

    weights: dict[str, str] = field(default_factory=dict)
    license: str = ""
    pickled: bool = False


def take(
    source: Path, target: Path, *, legacy: bool = False, alive: Callable[[], None] = lambda: None
) -> Taken:
    """Copy the files that a causal LM needs from `source` into the empty folder `target`.

    Weights get the usual names, ``model.safetensors`` or shards with an index; pickled ones, taken
    only if `legacy`, lie in ``target/pickled`` until they are converted. Raises `UserError` if the
    folder holds no such model, asks for remote code, has files that are no regular ones or links
    that lead out of it, or changes while it is read.
    """
    folder = Folder(source)
    _take_texts(folder, target)
    files, index = _weight_files(folder, legacy)
    opened = {name: folder.size(name) for name in files}
    # Twice: the copy, and the branch that is made from it.
    durable.require_space(target, 2 * sum(opened.values()))
    taken = Taken(license=_license(folder), pickled=not files[0].endswith(".safetensors"))
    home = target / PICKLED if taken.pickled else target
    home.mkdir(exist_ok=True)
    for number, name in enumerate(files, 1):
        if not taken.pickled:
            weights.header(folder.path / name)  # before a long copy, and again after it
        new = usual(number, len(files), files[0].rpartition(".")[2])
        taken.weights[name] = folder.copy(name, home / new, alive)
        if not taken.pickled:
            _check_shard(home / new, name, index, source)
    if len(files) > 1 and not taken.pickled:
        write_index(target)
    return taken


def source_sha256(
    source: Path, *, legacy: bool = False, alive: Callable[[], None] = lambda: None
) -> str:
    """Compute the identity of the weight files in `source`, as `identity` gives it of a copy.

    Raises `UserError` as `take` does, if the folder holds no weights that it would take.
    """
    folder = Folder(source)
    files, _ = _weight_files(folder, legacy)
    return identity({name: folder.sha256(name, alive) for name in files})


def identity(digests: dict[str, str]) -> str:
    """Identify weights from outside by the sha256 of their files, whatever order these come in."""
    return weights.identity(dict(sorted(digests.items())))


def write_index(folder: Path) -> None:
    """Write the index of the shards in an unpublished folder."""
    found = weights.tensors(folder)
    total = sum(tensor.size for tensor in found.values())
    where = {name: tensor.file.name for name, tensor in found.items()}
    durable.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _take_texts(folder: Folder, target: Path) -> None:
    """Copy configurations and the tokenizer."""
    if not folder.has(CONFIG):
        hint = ""
        if folder.has("adapter_config.json"):
            hint = ": an adapter, no model: give format=lora, into a forest that has its base"
        raise UserError(
            f"{folder.path}: no config.json{hint}; wanted the folder of a Hugging Face causal LM"
        )
    for name in _JSON:
        if folder.has(name):
            (target / name).write_bytes(_configuration(folder, name))
    read_config(target / CONFIG)
    for name, content in tokenizer_files.contents(folder):
        if name not in _JSON:
            tokenizer_files.put(target, name, content)


def _configuration(folder: Folder, name: str) -> bytes:
    """Read a JSON file of settings; `UserError` if it asks for code. Paths in it are removed."""
    place = folder.path / name
    content = folder.read(name, _SMALL)
    try:
        values = parse_json(content)
    except ValueError as error:
        raise UserError(f"{place}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{place}: wanted a JSON object")
    refuse_code(values, place)
    if name == CONFIG and values.get("quantization_config"):
        raise UserError(f"{place}: a quantised model; wanted its weights as floats")
    if name != "tokenizer_config.json":
        return content
    return _dumps({key: value for key, value in values.items() if not key.endswith(_PATHS)})


def _weight_files(folder: Folder, legacy: bool) -> tuple[list[str], dict[str, str]]:
    """List the names of the weight files, and the index {tensor: file} if there is one."""
    if folder.has(WEIGHTS):
        return [WEIGHTS], {}
    if folder.has(INDEX):
        return _shards(folder, INDEX, ".safetensors")
    usual = ("pytorch_model.bin", "pytorch_model.bin.index.json")
    pickled = [name for name in usual if folder.has(name)]
    if not pickled:
        raise UserError(
            f"{folder.path}: no model.safetensors; wanted the folder of a Hugging Face causal LM"
        )
    if not legacy:
        raise UserError(
            f"{folder.path}: its weights are pickled ({pickled[0]}), and a pickle can run "
            "anything: have them converted to safetensors, or give import.legacy=true to read "
            "them as tensors alone, in a box"
        )
    if pickled[0].endswith(".bin"):
        return [pickled[0]], {}
    return _shards(folder, pickled[0], ".bin")


def _shards(folder: Folder, name: str, ending: str) -> tuple[list[str], dict[str, str]]:
    index = weights.parse_index(folder.read(name, MAX_JSON), folder.path / name)
    for file in sorted(set(index.values())):
        if not file.endswith(ending):
            raise UserError(f"{folder.path / name}: {file!r} is no {ending} file")
        if not folder.has(file):
            raise UserError(
                f"{folder.path / file}: this shard is missing, and {name} names it; "
                "copy the whole model again"
            )
    return sorted(set(index.values())), index


def _check_shard(file: Path, name: str, index: dict[str, str], source: Path) -> None:
    """Raise `UserError` unless a copied file holds the tensors that the index lists."""
    held = {tensor.name for tensor in weights.header(file)[0]}
    said = {tensor for tensor, place in index.items() if place == name} if index else held
    for tensor in sorted(held ^ said):
        where = "does not hold it, the index says so"
        if tensor in held:
            where = "holds it, the index does not say so"
        raise UserError(f"{source}: tensor {tensor!r}: {name} {where}")


def usual(number: int, count: int, ending: str) -> str:
    """Name the file `number` (from 1) of `count` weight files as transformers does."""
    return f"model.{ending}" if count == 1 else f"model-{number:05d}-of-{count:05d}.{ending}"


def _license(folder: Folder) -> str:
    """Read the licence in the first lines of the model card, or nothing."""
    if not folder.has(README):
        return ""
    text = folder.read(README, _SMALL).decode(errors="replace")
    head = text.split("---", 2)[1] if text.startswith("---\n") and text.count("---") > 1 else ""
    found = _LICENSE.search(head)
    return found[1] if found else ""


def _dumps(values: dict[str, object]) -> bytes:
    return json.dumps(values, indent=1).encode()
