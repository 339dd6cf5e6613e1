"""A trained reader as a folder: modules.json, learnt.json, model.safetensors, card.json,
SHA256SUMS. Nothing in it is code.
"""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from btm.errors import UserError, unknown
from btm.forest import Forest
from btm.forest.paths import ReaderFolder
from btm.forest.readers import ReaderCard
from btm.readers.ground import Ground
from btm.readers.reader import Reader
from btm.readers.registry import Spec, resolve
from btm.system import durable, sums
from btm.system.json_files import read_object


def save(reader: Reader, card: ReaderCard, target: ReaderFolder) -> ReaderCard:
    """Publish a reader with its card, in place of one of that name; return the card, with the
    sha256 of its weights.
    """
    with durable.publish_folder(target.path, replace=True) as scratch:
        folder = ReaderFolder(scratch)
        tensors = {name: t.contiguous() for name, t in reader.model.state_dict().items()}
        save_file(tensors, folder.weights)
        card = replace(card, sha256=sums.file_sha256(folder.weights))
        folder.modules.write_text(json.dumps(reader.spec.to_json(), indent=1))
        folder.learnt.write_text(json.dumps(reader.input.state(), ensure_ascii=False))
        folder.card.write_text(json.dumps(card.to_json(), indent=1))
        sums.write(scratch)
    return card


def load(
    forest: Forest, name: str, named: Collection[str] = (), device: str = "cpu"
) -> tuple[Reader, ReaderCard]:
    """Load a trained reader of a forest; `named` is the foreign code that the command names.

    Raises `UserError` if there is none, its bytes have changed, it wants code that the command does
    not name, or what it stands on is gone.
    """
    folder = forest.paths.reader(name)
    if not folder.card.is_file():
        have = [each.path.name for each in forest.paths.readers()]
        raise unknown("reader", name, have, str(forest.root))
    for file, problem in sums.differences(folder.path).items():
        raise UserError(f"{folder.path / file}: {problem}: train the reader again")
    card = ReaderCard.read(folder.card)
    ground = Ground.again(forest, card.on, card.models, device) if card.on is not None else None
    spec = spec_of(folder)
    parts = resolve(spec, named)
    try:
        reader = Reader.restored(spec, parts, ground, read_object(folder.learnt))
        load_weights(reader.model, folder.weights)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder.path}: not readable by the modules of this btm ({error}): train it again"
        ) from None
    return reader, card


def spec_of(folder: ReaderFolder) -> Spec:
    """Read the modules of a saved reader; `UserError` if the file is damaged."""
    values = read_object(
        folder.modules, questions=str, input=str, model=str, output=str, options=dict
    )
    return Spec(*(values[key] for key in ("questions", "input", "model", "output", "options")))


def load_weights(model: torch.nn.Module, file: Path) -> None:
    """Put the tensors of a safetensors file into a model, all of them and no others."""
    model.load_state_dict(load_file(file))
