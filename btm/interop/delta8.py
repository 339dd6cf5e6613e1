"""An ELM as its difference from its parents, in 8 bits an element: ``format=delta8``.

The difference is θ - Σ w_p θ_p, from the average of the parents that the branch began as
(`Forest.branch`), quantised by ``btm/models/blockwise.py``. A forest with the same parents restores
the ELM. A folder holds

    delta.json          the ELM's card, the block, and the sha256 of the restored weights
    delta.safetensors   absmax.<tensor> (F32, one a block), codes.<tensor> (U8, the tensor's shape)
    <sha256>.docs       digests of the documents that it was trained on (btm/forest/trained_on.py)

It comes from outside: every value read from it is checked, and only weights of that sha256 enter a
forest.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.config.checks import check_name
from btm.config.schema import Config
from btm.errors import UserError, reword
from btm.forest import ELM, EXACT, Forest, ledger, seal, trained_on
from btm.forest.card import Card
from btm.interop import received
from btm.interop.export import publish
from btm.models import average as averaging
from btm.models import blockwise, causal_lm, outer, weights
from btm.models.files import README
from btm.system import durable, sums
from btm.system.json_files import Json, read_object

SCHEMA = 1
HEADER, TENSORS = "delta.json", "delta.safetensors"
_README = """# {name}, as a difference

The ELM {name} of a Branch-Train-Merge forest as its difference from {parents},
in 8 bits an element.
A forest with the same parents restores it with

    btm import from=DIR format=delta8 name={name} forest=FOREST
"""
_Alive = Callable[[], None]


@dataclass(frozen=True)
class Delta:
    """A difference on disk, with a checked header."""

    file: Path
    card: Card
    block: int
    sha256: str  # of the restored weights

    @classmethod
    def read(cls, folder: Path) -> "Delta":
        """Read the difference in `folder`; `UserError` if there is none or it is damaged."""
        file = folder / HEADER
        for wanted in (HEADER, TENSORS):
            if not (folder / wanted).exists():
                raise UserError(
                    f"from={folder}: no {wanted}; wanted what btm export format=delta8 wrote"
                )
        values = read_object(file, schema=int, format=str, block=int, sha256=str, card=dict)
        if values["format"] != "delta8" or values["schema"] > SCHEMA:
            raise UserError(
                f"{file}: format {values['format']!r}, schema {values['schema']}; "
                f"wanted delta8, {SCHEMA}"
            )
        if sums.checked(values) != values:
            raise UserError(f"{file}: damaged: its values are not those of its check sum")
        if values["block"] not in blockwise.BLOCKS:
            raise UserError(
                f"{file}: block {values['block']}; wanted one of "
                f"{', '.join(map(str, blockwise.BLOCKS))}"
            )
        card = Card.from_json(values["card"], file)
        if not card.parents:
            raise UserError(f"{file}: its card names no parents that it could be a difference from")
        for name in (*card.parents, *card.domains):
            check_name(name, str(file))
        averaging.normalise({name: parent.weight for name, parent in card.parents.items()})
        return cls(folder / TENSORS, card, values["block"], values["sha256"])


def export(
    forest: Forest, name: str, target: Path, block: int, alive: _Alive = lambda: None
) -> Path:
    """Publish the difference of an ELM from its parents at `target` and return `target`.

    Raises `UserError` if it has no parents, one is no longer the ELM it was, or something else
    stands at `target`.
    """
    elm = forest[name]
    if not elm.card.parents:
        raise UserError(
            f"{name!r} has no parents that it could be a difference from: give format=hf"
        )
    if weights.sha256(elm.path) != elm.card.sha256:
        raise UserError(
            f"{elm.path}: its weights are not those of its card (sha256): damaged, "
            "restore it from a copy"
        )
    if target.resolve().is_relative_to(elm.path.resolve()):
        raise UserError(f"to={target} lies in the folder that is exported; give another to=DIR")
    with publish(target) as made, _begun(forest, elm.card, made.parent, f"{name!r}", alive) as base:
        write(elm.path, base, made / TENSORS, block, alive)
        restored = made.parent / "restored"
        restored.mkdir()
        restore(base, made / TENSORS, block, restored, alive)
        values: Json = {"schema": SCHEMA, "format": "delta8", "block": block}
        values |= {"sha256": weights.sha256(restored), "card": elm.card.to_json()}
        durable.write_json(made / HEADER, sums.checked(values))
        trained_on.copy(forest.paths.digests, made, elm.card)
        parents = " and ".join(elm.card.parents)
        (made / README).write_text(_README.format(name=name, parents=parents))
        sums.write(made)
    return target


def enter(
    forest: Forest,
    source: Path,
    name: str,
    config: Config,
    measure: received.Measure = received.unmeasured,
    alive: _Alive = lambda: None,
) -> ELM:
    """Restore an ELM from the difference in `source` and add it to a forest with its parents.

    An ELM of that name with the same weights is returned as it is. It passes the gate with the
    losses that `measure` finds here, never the sender's. Raises `UserError`, and changes nothing,
    if the folder holds no intact difference, the forest has not the same parents, or it is worse
    than a parent.
    """
    delta = Delta.read(source)
    if name in forest and forest[name].card.sha256 == delta.sha256:
        return forest[name]
    if forest.has_branch(name) and forest.get_branch(name).origin.get("source") == str(source):
        with forest.hold(name) as (left, _):
            durable.remove_folder(left.path)  # left by an import that was killed
    forest.require_free(name)
    scratch = durable.scratch_folder(forest.root)
    try:
        with _begun(forest, delta.card, scratch, f"from={source}", alive) as base:
            check_tensors(delta, base)
            with forest.new_branch(name, _origin(forest, delta, source, config.domain)) as folder:
                restore(base, delta.file, delta.block, folder, alive)
                if weights.sha256(folder) != delta.sha256:
                    raise UserError(
                        f"{source}: gives other weights than it says (sha256): damaged, "
                        "export it again"
                    )
                causal_lm.copy_files(forest[next(iter(delta.card.parents))].path, folder)
    finally:
        durable.remove_folder(scratch)
    trained_on.copy(source, forest.paths.digests, delta.card)
    return received.merge(forest, name, delta.card, _result(delta), measure, config)


def _origin(forest: Forest, delta: Delta, source: Path, domain: str | None) -> Json:
    """Write the origin of the branch as `Forest.branch` does."""
    card = delta.card
    return {
        "domains": [domain] if domain is not None else card.domains,
        "method": card.branch_method,
        "estimator": card.estimator,
        "parents": {name: asdict(parent) for name, parent in card.parents.items()},
        "ancestors": [
            asdict(spent) for spent in ledger.lineage(forest[name].card for name in card.parents)
        ],
        "source": str(source),
    }


def _result(delta: Delta) -> Json:
    """Reconstruct the result of training from the ELM's card."""
    card = delta.card
    how = f"delta8, block {delta.block}"
    note = f"restored from a difference in 8 bits ({how}) of sha256 {card.sha256}"
    # The facts of a delta or an adapter are dropped: the weights no longer match them exactly.
    return seal.result(card) | {"delta": {}, "adapter": {}, "notes": [*card.notes, note]}


@contextmanager
def _begun(forest: Forest, card: Card, place: Path, what: str, alive: _Alive) -> Iterator[Path]:
    """Yield a folder in `place` with the weights that a branch of these parents begins with."""
    for name, parent in card.parents.items():
        found = forest[name].card.sha256 if name in forest else "none"
        if found != parent.sha256:
            raise UserError(
                f"{what} is a difference from {name!r} with sha256 {parent.sha256[:12]}, "
                f"and the forest {forest.root} has {found[:12]}: wanted the forest of its parents"
            )
    folder = place / "base"
    folder.mkdir()
    shares = {forest[name].path: parent.weight for name, parent in card.parents.items()}
    size = sum(file.stat().st_size for file in weights.files(next(iter(shares))))
    durable.require_space(place, 3 * size)  # the base, the restored weights, and the difference
    averaging.average(shares, folder, alive, EXACT)
    try:
        yield folder
    except UserError as error:
        reword(error, str(folder), "the average of its parents")  # it is deleted by then
        raise
    shutil.rmtree(folder)


def write(
    expert: Path,
    base: Path,
    target: Path,
    block: int,
    alive: _Alive,
    feedback: tuple[Path | None, Path] | None = None,
) -> None:
    """Write the quantised difference of the model `expert` from `base`.

    `feedback` names two files of residuals: what rounding took from the difference before, which is
    added to this one (None: nothing), and where to write what it takes from this one.
    """
    averaging.require_same_tensors(base, expert)
    theirs = weights.tensors(base)
    ours = weights.tensors(expert)
    for name, tensor in theirs.items():
        same = tensor.dtype == ours[name].dtype
        if not same or not (tensor.is_float or np.array_equal(tensor.raw(), ours[name].raw())):
            raise UserError(
                f"{expert}: tensor {name!r} cannot be stored as a difference from its parents': "
                "give format=hf"
            )
    floats = [tensor for tensor in theirs.values() if tensor.is_float]
    head = _head(floats, block)
    scales_begin = len(head)
    with target.open("xb") as handle:
        handle.write(head)
        # The codes are streamed behind the room for the scales, which are known at the end.
        blocks = sum(blockwise.blocks(math.prod(tensor.shape), block) for tensor in floats)
        handle.seek(scales_begin + 4 * blocks)
        scales = []
        with _Residuals(floats, feedback) as residuals:
            for tensor in floats:
                for own, parents, before in zip(
                    weights.chunks(ours[tensor.name]),
                    weights.chunks(tensor),
                    residuals.chunks(tensor),
                    strict=True,
                ):
                    moved = weights.to_float64(own, tensor.dtype)
                    moved -= weights.to_float64(parents, tensor.dtype)
                    codes, absmax, left = outer.compensated(moved, before, block)
                    handle.write(codes.tobytes())
                    scales.append(absmax.astype("<f4"))
                    residuals.write(left)
                    alive()
        handle.seek(scales_begin)
        handle.writelines(part.tobytes() for part in scales)


class _Residuals:
    """Reads the residuals of one difference and writes those of the next, piece by piece."""

    def __init__(
        self, floats: list[weights.Tensor], feedback: tuple[Path | None, Path] | None
    ) -> None:
        self.before: Path | None = feedback[0] if feedback else None
        self._handle = feedback[1].open("xb") if feedback else None
        if self._handle:
            self._handle.write(single_head(floats))

    def __enter__(self) -> "_Residuals":
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle:
            self._handle.close()

    def chunks(self, tensor: weights.Tensor) -> Iterator[NDArray[np.float64]]:
        """Yield what was left of a tensor, in the pieces of `weights.chunks`."""
        yield from singles(self.before, tensor)

    def write(self, left: NDArray[np.float64]) -> None:
        """Write what is left now."""
        if self._handle:
            self._handle.write(left.astype("<f4").tobytes())


def single_head(floats: list[weights.Tensor]) -> bytes:
    """Write the header of a file that holds a float32 for each element of these tensors."""
    header: Json = {}
    begin = 0
    for tensor in floats:
        size = 4 * math.prod(tensor.shape)
        header[tensor.name] = _entry("F32", list(tensor.shape), begin, size)
        begin += size
    return weights.head(header)


def singles(file: Path | None, tensor: weights.Tensor) -> Iterator[NDArray[np.float64]]:
    """Yield the elements that such a file holds of a tensor; zeros without a file."""
    if file is None:
        for raw in weights.chunks(tensor):
            yield np.zeros(len(raw))
        return
    stored = {each.name: each for each in weights.header(file)[0]}.get(tensor.name)
    if stored is None or (stored.dtype, stored.shape) != ("F32", tensor.shape):
        raise UserError(f"{file}: no float32 of tensor {tensor.name!r}: damaged, delete it")
    for raw in weights.chunks(stored):
        yield weights.to_float64(raw, "F32")


def _head(floats: list[weights.Tensor], block: int) -> bytes:
    """Write the header of the file that holds the scales, then the codes, of these tensors."""
    header: Json = {"__metadata__": {"format": "delta8"}}
    begin = 0
    for tensor in floats:
        count = blockwise.blocks(math.prod(tensor.shape), block)
        header[f"absmax.{tensor.name}"] = _entry("F32", [count], begin, 4 * count)
        begin += 4 * count
    for tensor in floats:
        size = math.prod(tensor.shape)
        header[f"codes.{tensor.name}"] = _entry("U8", list(tensor.shape), begin, size)
        begin += size
    return weights.head(header)


def _entry(dtype: str, shape: list[int], begin: int, size: int) -> Json:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}


def check_tensors(delta: Delta, base: Path) -> None:
    """Raise `UserError` unless a difference has exactly the tensors that `base` requires."""
    check_stored(delta.file, delta.block, base)


def check_stored(file: Path, block: int, base: Path) -> None:
    """Do as `check_tensors` for the tensors alone."""
    found = {tensor.name: tensor for tensor in weights.header(file)[0]}
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in weights.tensors(base).items():
        if tensor.is_float:
            wanted[f"codes.{name}"] = ("U8", tensor.shape)
            blocks = blockwise.blocks(math.prod(tensor.shape), block)
            wanted[f"absmax.{name}"] = ("F32", (blocks,))
    for name in sorted(wanted.keys() | found.keys()):
        has = (found[name].dtype, found[name].shape) if name in found else None
        if has != wanted.get(name):
            raise UserError(f"{file}: tensor {name!r} is {has}; wanted {wanted.get(name)}")
    for name, tensor in found.items():
        if name.startswith("absmax.") and not all(
            np.isfinite(part).all() and (part >= 0).all() for part in weights.chunks(tensor)
        ):
            raise UserError(f"{file}: tensor {name!r} has a scale that is negative or not finite")


def restore(base: Path, file: Path, block: int, target: Path, alive: _Alive) -> None:
    """Restore a model from `base` and a difference into `target`, in the files of `base`."""
    stored = {tensor.name: tensor for tensor in weights.header(file)[0]}
    for source in weights.files(base):
        tensors, head = weights.header(source)
        with (target / source.name).open("xb") as handle:
            handle.write(head)
            for tensor in tensors:
                for piece in _restored(tensor, stored, block):
                    handle.write(piece.tobytes())
                    alive()
    for index in base.glob("*.index.json"):
        shutil.copyfile(index, target / index.name)


def _restored(
    tensor: weights.Tensor, stored: dict[str, weights.Tensor], block: int
) -> Iterator[NDArray[Any]]:
    """Yield a tensor's restored elements as stored, rounded once."""
    if not tensor.is_float:
        yield from weights.chunks(tensor)
        return
    pairs = zip(weights.chunks(tensor), moved(tensor.name, stored, block), strict=True)
    for raw, difference in pairs:
        yield weights.narrow(weights.to_float64(raw, tensor.dtype) + difference, tensor.dtype)


def moved(
    name: str, stored: dict[str, weights.Tensor], block: int
) -> Iterator[NDArray[np.float32]]:
    """Yield a tensor's difference from the `stored` tensors, in the pieces of `weights.chunks`."""
    scales = stored[f"absmax.{name}"].raw()
    for number, codes in enumerate(weights.chunks(stored[f"codes.{name}"])):
        first = number * (weights.CHUNK // block)  # a chunk is a whole number of blocks
        last = first + blockwise.blocks(len(codes), block)
        yield blockwise.dequantise(codes, scales[first:last], block)
