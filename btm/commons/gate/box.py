"""The reading of a contribution, in a limited process: numbers out of a stranger's files.

Whatever the format, the result is one folder of weights under the header of the forest's own: the
average of the parents with the stranger's numbers in it. All is numpy; nothing is loaded.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from btm.commons.gate.contribution import Contribution
from btm.commons.gate.policy import Policy
from btm.commons.gate.verdict import RefusedError
from btm.errors import UserError
from btm.forest import adapter, difference
from btm.forest.card import Card, Parent, read_parents
from btm.forest.paths import CARD
from btm.forest.terms import Terms
from btm.interop import delta8, peft_files
from btm.models import weights
from btm.system import sandbox
from btm.system.json_files import Json

QUESTION = f"{__name__}:restore"
_MEMORY = 1 << 30  # bytes beyond what grows with the weights
_SAME = 1e-9  # of two weights of a parent, which JSON writes exactly


def ask(
    contribution: Contribution,
    place: Path,
    base: Path,
    target: Path,
    parents: Mapping[str, Parent],
    policy: Policy,
) -> Json:
    """Restore the files in `place` onto the average of `parents` in `base`, into `target`.

    Returns {sha256, sender}, or {check, why} of what is wrong with it. `target` is an empty folder,
    all that the box may write in.
    """
    held = sum(file.stat().st_size for file in (*weights.files(base), *place.iterdir()))
    said = {name: [parent.weight, parent.sha256] for name, parent in parents.items()}
    limits = [_MEMORY + 12 * held, policy.seconds, 2 * held + (1 << 20)]
    words = (json.dumps(said), contribution.format, json.dumps(limits))
    try:
        found: Json = sandbox.ask(QUESTION, place, base, target, *words, seconds=4 * policy.seconds)
    except UserError as error:
        return {"check": "read", "why": str(error)}
    return found


def restore(place: str, base: str, target: str, parents: str, format: str, limits: str) -> Json:
    """Answer `ask` within the box."""
    memory, seconds, largest = json.loads(limits)
    sandbox.close(memory, seconds, Path(target), largest)
    claimed = {name: (share, sha256) for name, (share, sha256) in json.loads(parents).items()}
    try:
        card = _RESTORE[format](Path(place), Path(base), Path(target), claimed)
        if (name := weights.first_not_finite(Path(target))) is not None:
            raise RefusedError("finite", f"tensor {name!r} holds a NaN or an infinity")
        return {"sha256": weights.sha256(Path(target)), "sender": _sender(card)}
    except RefusedError as error:
        return {"check": error.check, "why": str(error)}


def _sender(card: Card | None) -> Json:
    """Select from the sender's card, if there is one, what it says of the training."""
    if card is None:
        return {}
    terms = Terms.of_card(card).checked()
    return {"tokens": max(0, card.tokens), "steps": max(0, card.steps), "license": terms.license}


def _card(place: Path) -> Card | None:
    return Card.read(place / CARD) if (place / CARD).is_file() else None


_Claimed = Mapping[str, tuple[float, str]]  # {ELM: (share, sha256)}


def _require_parents(said: Mapping[str, Parent], claimed: _Claimed) -> None:
    """Refuse other parents, by sha256 and share, than those of the claim; names may differ."""
    theirs = sorted((parent.sha256, parent.weight) for parent in said.values())
    ours = sorted((sha256, share) for share, sha256 in claimed.values())
    same = len(theirs) == len(ours) and all(
        one == other and abs(a - b) <= _SAME
        for (one, a), (other, b) in zip(theirs, ours, strict=True)
    )
    if not same:
        shown = ", ".join(f"{share:.4g} × {sha256[:12]}" for sha256, share in theirs)
        wanted = ", ".join(f"{share:.4g} × {sha256[:12]}" for sha256, share in ours)
        raise RefusedError("parents", f"it is a difference from {shown}; the claim says {wanted}")


def _full(place: Path, base: Path, target: Path, claimed: _Claimed) -> Card | None:
    """Copy the numbers of a whole model; its tensors must be those of the parents exactly."""
    theirs = weights.tensors(place)
    ours = weights.tensors(base)
    for name in sorted(theirs.keys() | ours.keys()):
        has, want = (_form(table.get(name)) for table in (theirs, ours))
        if has != want:
            raise RefusedError("shapes", f"tensor {name!r} is {has}; wanted {want}")
    for file in weights.files(base):
        tensors, head = weights.header(file)
        with (target / file.name).open("xb") as out:
            out.write(head)
            for tensor in tensors:
                mine = theirs[tensor.name]
                if not tensor.is_float and not np.array_equal(tensor.raw(), mine.raw()):
                    raise RefusedError("shapes", f"{tensor.name!r}: whole numbers may not change")
                for chunk in weights.chunks(mine):
                    out.write(chunk.tobytes())
    _copy_index(base, target)
    return _card(place)


def _form(tensor: weights.Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _delta8(place: Path, base: Path, target: Path, claimed: _Claimed) -> Card | None:
    """Restore a difference in 8 bits an element."""
    found = delta8.Delta.read(place)
    _require_parents(found.card.parents, claimed)
    for tensor in weights.header(found.file)[0]:
        if (
            tensor.is_float
            and not np.isfinite(weights.to_float64(tensor.raw(), tensor.dtype)).all()
        ):
            raise RefusedError("finite", f"tensor {tensor.name!r} holds a NaN or an infinity")
    try:
        delta8.check_tensors(found, base)
    except UserError as error:
        raise RefusedError("shapes", str(error)) from None
    delta8.restore(base, found.file, found.block, target, lambda: None)
    _require_sha256(target, found.sha256)
    return found.card


def _delta(place: Path, base: Path, target: Path, claimed: _Claimed) -> Card | None:
    """Restore a sparse expert, or one that has an adapter, from its parents."""
    file = difference.file_in(place)
    if file is None:
        raise RefusedError("read", "no difference")
    made = difference.read(file)
    _require_parents(made.parents, claimed)
    _copy_weights(base, target)
    difference.apply(made, target)
    return _card(place)


def _lora(place: Path, base: Path, target: Path, claimed: _Claimed) -> Card | None:
    """Add an adapter that peft saved."""
    config = (place / peft_files.CONFIG).read_bytes()[: peft_files.MOST + 1]
    found = peft_files.read(config, place / peft_files.TENSORS, place)
    if found.parents is not None:
        _require_parents(read_parents(place / peft_files.TENSORS, found.parents), claimed)
    try:
        tensors = peft_files.fitted(found.layers, base, "the claim's")
        adapter.require_fits(tensors, base, "the claim's")
    except UserError as error:
        raise RefusedError("shapes", str(error)) from None
    adapter.add(tensors, base, target)
    return _card(place)


_RESTORE: Mapping[str, Callable[[Path, Path, Path, _Claimed], Card | None]] = {
    "full": _full,
    "delta8": _delta8,
    "delta": _delta,
    "lora": _lora,
}


def _require_sha256(target: Path, said: str) -> None:
    if (made := weights.sha256(target)) != said:
        why = f"it restores weights of sha256 {made[:12]} and says {said[:12]!r}: damaged"
        raise RefusedError("read", why)


def _copy_weights(base: Path, target: Path) -> None:
    for file in weights.files(base):
        shutil.copyfile(file, target / file.name)
    _copy_index(base, target)


def _copy_index(base: Path, target: Path) -> None:
    for index in base.glob("*.index.json"):
        if not (target / index.name).exists():
            shutil.copyfile(index, target / index.name)
