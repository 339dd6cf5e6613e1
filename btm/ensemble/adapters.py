"""ELMs that are one base and adapters, loaded so that the base is in memory once.

An ELM whose folder has an adapter, and whose parents stand in its forest, becomes a model that
shares their tensors (`btm.models.adapted`); so does the parent itself. Any other is loaded whole.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from btm.config.load import LoadConfig
from btm.data import ends
from btm.forest import EXACT, Forest, adapter
from btm.forest.adapter import Adapter
from btm.forest.card import Card
from btm.forest.paths import CARD, ELMS
from btm.models import average as averaging
from btm.models import causal_lm, inference
from btm.system import durable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# What a base is: its parents' weights and shares, the device, what it is loaded as.
_Key = tuple[tuple[tuple[str, float], ...], str, str]
_LOADED: "WeakValueDictionary[_Key, PreTrainedModel]" = WeakValueDictionary()
_KEPT: "list[PreTrainedModel]" = []  # the base in use within `resident`
_RESIDENT: list[None] = []
_LOADING = threading.RLock()


def load(folder: Path, device: "str | torch.device", how: LoadConfig) -> "PreTrainedModel":
    """Load the model in `folder` as `inference.load` does, sharing the tensors of its base with
    others where it is that and an adapter.

    Models in int8 are loaded whole: a quantised matrix is of the sum.
    """
    if how.quantization != "none" or folder.parent.name != ELMS:
        return inference.load(folder, device, how)
    card, elms = Card.read(folder / CARD), list(Forest(folder.parents[1]).elms())
    here = {elm.card.sha256: elm.path for elm in elms}
    with _LOADING:
        found = _adapter_of(folder, card.sha256, here)
        if found is None:
            _KEPT.clear()
            changing = [elm.card for elm in elms if (elm.path / adapter.FILE).is_file()]
            bases = {parent.sha256 for each in changing for parent in each.parents.values()}
            if card.sha256 not in bases:
                return inference.load(folder, device, how)
            return _shared(_key({card.sha256: 1.0}, device, how), folder, device, how)
        base = _base(found, here, device, how)
        if _RESIDENT:
            _KEPT[:] = [base]
        from btm.models import adapted

        return adapted.sharing(base, found.tensors)


@contextmanager
def resident() -> Iterator[None]:
    """Keep the base of the adapter that was loaded last until another is, or a whole model, or the
    block ends: for models that are loaded one after the other.
    """
    _RESIDENT.append(None)
    try:
        yield
    finally:
        _RESIDENT.pop()
        if not _RESIDENT:
            _KEPT.clear()


def _adapter_of(folder: Path, sha256: str, here: Mapping[str, Path]) -> Adapter | None:
    """Read the adapter in an ELM's folder; None if it has none, or its base cannot be made here."""
    if not (folder / adapter.FILE).is_file():
        return None
    found = adapter.read(folder / adapter.FILE)
    known = all(parent.sha256 in here for parent in found.parents.values())
    return found if known and found.sha256 == sha256 else None


def _base(
    found: Adapter, here: Mapping[str, Path], device: "str | torch.device", how: LoadConfig
) -> "PreTrainedModel":
    """Return the model that an adapter changes: its parent, or the average of its parents."""
    shares = {parent.sha256: parent.weight for parent in found.parents.values()}
    key = _key(shares, device, how)
    if len(shares) == 1:
        return _shared(key, here[next(iter(shares))], device, how)
    if (standing := _LOADED.get(key)) is not None:
        return standing
    folders = {here[sha256]: share for sha256, share in shares.items()}
    with durable.scratch_in(next(iter(folders)).parents[1]) as scratch:
        averaging.average(folders, scratch, settings=EXACT)
        causal_lm.copy_files(next(iter(folders)), scratch)
        ends.declare(scratch, list(folders))
        made = _LOADED[key] = inference.load(scratch, device, how)
    return made


def _shared(
    key: _Key, folder: Path, device: "str | torch.device", how: LoadConfig
) -> "PreTrainedModel":
    """Load a model that may be a base; one that is loaded already lends its tensors."""
    from btm.models import adapted

    if (standing := _LOADED.get(key)) is not None:
        return adapted.sharing(standing, {})
    made = _LOADED[key] = inference.load(folder, device, how)
    return made


def _key(shares: dict[str, float], device: "str | torch.device", how: LoadConfig) -> _Key:
    return tuple(sorted(shares.items())), str(device), how.word
