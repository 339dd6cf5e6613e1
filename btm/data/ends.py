"""The tokens that end a text: the tokenizer's EOS, and those that a model's settings add.

Documents are packed with the tokenizer's EOS alone. A model may have been taught others as well, as
those that chat models end a turn with: its config.json and generation_config.json name one, a list,
or none. Every one of them ends what is generated, and stands in the settings of what is published.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from btm.data.tokenizer import load_tokenizer, size_of
from btm.errors import UserError
from btm.models.files import CONFIG
from btm.system import durable
from btm.system.json_files import Json, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KEY = "eos_token_id"
_GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Ends:
    """The ids that end a text, the tokenizer's first, and what was named beside them in vain."""

    ids: tuple[int, ...]
    left_out: tuple[str, ...] = ()  # no tokens of the tokenizer

    @property
    def setting(self) -> int | list[int]:
        """The value of ``eos_token_id`` in a model's settings: a number, or a list of several."""
        return self.ids[0] if len(self.ids) == 1 else list(self.ids)

    @property
    def note(self) -> str:
        """Say in a line what was left out; empty where nothing was."""
        if not self.left_out:
            return ""
        named = ", ".join(self.left_out)
        return f"{_KEY} {named} of its settings is no token of its tokenizer and was left out"


def ends_of(eos: int, vocab_size: int, *named: object) -> Ends:
    """Collect the ids that end a text under a tokenizer with this `eos` and size.

    `named` are values of ``eos_token_id``: of a config, of a generation config. Ids that are no
    token of the tokenizer, as the default of a config's class may be, are left out.
    """
    asked = [token for value in named for token in _listed(value)]
    known: dict[int, None] = {eos: None}  # in their order
    strange: dict[str, None] = {}
    for token in asked:
        if isinstance(token, int) and _is_id(token, vocab_size):
            known[token] = None
        else:
            strange[str(token)] = None
    return Ends(tuple(known), tuple(strange))


def ends_of_model(model: "PreTrainedModel", eos: int, vocab_size: int) -> Ends:
    """Collect the ids that end a text by a model's settings under a tokenizer."""
    found = [getattr(model.config, _KEY, None), getattr(model.generation_config, _KEY, None)]
    return ends_of(eos, vocab_size, *found)


def ends_of_folders(tokenizer: Path, folders: Iterable[Path]) -> Ends:
    """Collect the ids that end a text by the settings in model folders, under a tokenizer's."""
    try:
        loaded = load_tokenizer(tokenizer)
    except UserError as error:  # it is not the one that a user named
        raise UserError(str(error).removeprefix("data.tokenizer=")) from None
    named = [_read(folder / name).get(_KEY) for folder in folders for name in (CONFIG, _GENERATION)]
    return ends_of(int(loaded.eos_token_id), size_of(loaded), *named)


def settle(model: "PreTrainedModel", eos: int, vocab_size: int, bos: int | None) -> list[str]:
    """Give the settings of a model all ids that end a text, and a BOS that its tokenizer has.

    `bos` is what begins a text. Returns a note for the card, if an id was left out.
    """
    ends = ends_of_model(model, eos, vocab_size)
    for settings in (model.config, model.generation_config):
        if settings is None:
            continue
        setattr(settings, _KEY, ends.setting)
        if bos is not None or not _is_id(getattr(settings, "bos_token_id", None) or 0, vocab_size):
            settings.bos_token_id = eos if bos is None else bos
    return [ends.note] if ends.note else []


def declare(folder: Path, sources: Iterable[Path]) -> None:
    """Write the ids that end a text by any of the model folders `sources` into an unpublished one.

    That is an average, whose files are those of one of its parents, or a copy for others. Files
    that say so already stay as they are.
    """
    ends = ends_of_folders(folder, sources)
    for name in (CONFIG, _GENERATION):
        values = _read(folder / name)
        if values and values.get(_KEY) != ends.setting:
            durable.write_json(folder / name, values | {_KEY: ends.setting})


def _read(file: Path) -> Json:
    return read_object(file) if file.is_file() else {}


def _listed(value: object) -> list[object]:
    """List the ids of a setting, which is an id, a list of ids, or None."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_id(token: int, vocab_size: int) -> bool:
    return not isinstance(token, bool) and 0 <= token < vocab_size
