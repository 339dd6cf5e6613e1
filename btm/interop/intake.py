"""The intake of a folder from outside: the files that a model needs, copied into our own folder.

Only known names are taken, and only regular files. So whatever reads the copy, transformers
included, never sees code, adapters, pickles or devices; and since the copy is what is checked,
later changes of the source do no harm.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from btm.errors import UserError
from btm.models import weights
from btm.models.causal_lm import read_config, refuse_code
from btm.models.files import CONFIG, INDEX, README, WEIGHTS
from btm.system import durable
from btm.system.json_files import MAX_JSON, parse_json

PICKLED = "pickled"  # where pickled weights lie in the copy until they are converted
_CHUNK = 8 << 20  # bytes
_JSON = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_TOKENIZER = ("tokenizer.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt")
_TEMPLATE = "chat_template.jinja"
_PIECES = "*.model"  # sentencepiece
_SMALL, _LARGE = 4 << 20, 512 << 20  # bytes: of a configuration, of a tokenizer file
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
    folder = _Folder(source)
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
        new = _usual(number, len(files), files[0].rpartition(".")[2])
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
    folder = _Folder(source)
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


class _Folder:
    """A folder from outside; opens each file once, and only regular files that stay inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.real = path.resolve()

    def has(self, name: str) -> bool:
        """Tell whether anything is called `name`, even a dangling link."""
        return os.path.lexists(self.path / name)

    def size(self, name: str) -> int:
        """Return the bytes of a file."""
        with self.open(name) as handle:
            return os.fstat(handle.fileno()).st_size

    def open(self, name: str) -> BinaryIO:
        """Open a regular file; a link must stay in the folder, or in the blobs of a Hub cache."""
        place = self.path / name
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError):
            raise UserError(f"{place}: a broken link; copy the folder with cp -rL") from None
        homes = [self.real]
        if self.real.parent.name == "snapshots":  # a Hub cache: its files are links to blobs
            homes.append(self.real.parent.parent / "blobs")
        if not any(real.is_relative_to(home) for home in homes):
            raise UserError(
                f"{place}: a link that leads out of the folder; copy the folder with cp -rL"
            )
        try:
            # Not blocking: opening a pipe would wait for somebody to write.
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{place}: {error.strerror}") from None
        stream = os.fdopen(handle, "rb") if stat.S_ISREG(os.fstat(handle).st_mode) else None
        if stream is None:
            os.close(handle)
            raise UserError(f"{place}: wanted a regular file")
        return stream

    def read(self, name: str, most: int) -> bytes:
        """Read the content of a small file."""
        with self.open(name) as handle:
            content = handle.read(most + 1)
        if len(content) > most:
            raise UserError(f"{self.path / name}: larger than {most:,} bytes")
        return content

    def sha256(self, name: str, alive: Callable[[], None]) -> str:
        """Compute the sha256 of a file."""
        digest = hashlib.sha256()
        with self.open(name) as handle:
            while piece := handle.read(_CHUNK):
                digest.update(piece)
                alive()
        return digest.hexdigest()

    def copy(self, name: str, target: Path, alive: Callable[[], None]) -> str:
        """Copy a file; return the sha256 of what was copied."""
        digest = hashlib.sha256()
        with self.open(name) as handle, durable.naming(target), target.open("xb") as out:
            before = os.fstat(handle.fileno())
            left = before.st_size
            while piece := handle.read(min(_CHUNK, left)):
                digest.update(piece)
                out.write(piece)
                left -= len(piece)
                alive()
            after = os.fstat(handle.fileno())
        if left or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise UserError(
                f"{self.path / name}: changed while it was read; "
                "import it when nothing writes to it"
            )
        return digest.hexdigest()


def _take_texts(folder: _Folder, target: Path) -> None:
    """Copy configurations and the tokenizer."""
    if not folder.has(CONFIG):
        hint = ""
        if folder.has("adapter_config.json"):
            hint = ": an adapter, no model: merge it into its base first (merge_and_unload of peft)"
        raise UserError(
            f"{folder.path}: no config.json{hint}; wanted the folder of a Hugging Face causal LM"
        )
    for name in _JSON:
        if folder.has(name):
            (target / name).write_bytes(_configuration(folder, name))
    read_config(target / CONFIG)
    pieces = [path.name for path in folder.path.glob(_PIECES)]
    for name in (*_TOKENIZER, *pieces, _TEMPLATE):
        if folder.has(name):
            (target / name).write_bytes(folder.read(name, _SMALL if name == _TEMPLATE else _LARGE))


def _configuration(folder: _Folder, name: str) -> bytes:
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


def _weight_files(folder: _Folder, legacy: bool) -> tuple[list[str], dict[str, str]]:
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


def _shards(folder: _Folder, name: str, ending: str) -> tuple[list[str], dict[str, str]]:
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


def _usual(number: int, count: int, ending: str) -> str:
    return f"model.{ending}" if count == 1 else f"model-{number:05d}-of-{count:05d}.{ending}"


def _license(folder: _Folder) -> str:
    """Read the licence in the first lines of the model card, or nothing."""
    if not folder.has(README):
        return ""
    text = folder.read(README, _SMALL).decode(errors="replace")
    head = text.split("---", 2)[1] if text.startswith("---\n") and text.count("---") > 1 else ""
    found = _LICENSE.search(head)
    return found[1] if found else ""


def _dumps(values: dict[str, object]) -> bytes:
    return json.dumps(values, indent=1).encode()
