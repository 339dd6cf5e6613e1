"""Points: the weights after each round, which everybody computes from what was contributed.

No weights of a point are uploaded. Who joins late computes all rounds from the first on.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from btm.commons.bodies import Contribution, Round
from btm.commons.checkpoints import download
from btm.commons.layout import Work
from btm.commons.signed import RefusedError
from btm.commons.snapshot import Place
from btm.errors import UserError
from btm.interop import delta8
from btm.interop.remote.manifest import Content
from btm.models import causal_lm, outer, weights
from btm.models.outer import Outer
from btm.system import durable, sums

_MOMENTUM = "momentum.safetensors"
_LARGEST = 1e6  # scale of a block; beyond it the sum might not be finite
Alive = Callable[[], None]


@dataclass(frozen=True)
class Point:
    """Weights that a round begins with, and the outer momentum; None before the first round."""

    folder: Path
    sha256: str
    momentum: Path | None


@dataclass(frozen=True)
class Moved:
    """The file of a contribution, and its share of the tokens of the round."""

    file: Path
    block: int
    share: float


@dataclass(frozen=True)
class Points:
    """The points of one expert in a folder `root`, each in one named by its sha256."""

    root: Path
    base: Point

    def get(self, sha256: str) -> Point | None:
        """Find a point; None if it was not computed yet, or is no longer kept."""
        if sha256 == self.base.sha256:
            return self.base
        folder = self.root / sha256
        return Point(folder, sha256, folder / _MOMENTUM) if folder.is_dir() else None

    def after(self, point: Point, moved: Sequence[Moved], step: Outer, alive: Alive) -> Point:
        """Compute the point after a round, and keep it.

        Raises `RefusedError` if a number in it is not finite.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = durable.scratch_folder(self.root)
        try:
            made = scratch / "made"
            made.mkdir()
            advance(point, moved, made, step, alive)
            if (bad := weights.first_not_finite(made)) is not None:
                raise RefusedError("damaged", f"after the round tensor {bad!r} is not finite")
            sha256 = weights.sha256(made)
            with durable.publish_folder(self.root / sha256, replace=True) as folder:
                for file in made.iterdir():
                    file.replace(folder / file.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return Point(self.root / sha256, sha256, self.root / sha256 / _MOMENTUM)

    def keep(self, wanted: set[str]) -> None:
        """Delete all points but those with these sha256."""
        for folder in self.root.glob("[!.]*") if self.root.is_dir() else []:
            if folder.name not in wanted:
                durable.remove_folder(folder)


def advance(
    point: Point, moved: Sequence[Moved], target: Path, step: Outer, alive: Alive = lambda: None
) -> None:
    """Write the weights and the outer momentum that follow from a round into a folder."""
    stored = [{t.name: t for t in weights.header(each.file)[0]} for each in moved]
    floats = [tensor for tensor in weights.tensors(point.folder).values() if tensor.is_float]
    with (target / _MOMENTUM).open("xb") as momenta:
        momenta.write(delta8.single_head(floats))
        for source in weights.files(point.folder):
            tensors, head = weights.header(source)
            with (target / source.name).open("xb") as handle:
                handle.write(head)
                for tensor in tensors:
                    if not tensor.is_float:
                        handle.writelines(raw.tobytes() for raw in weights.chunks(tensor))
                        continue
                    differences = [
                        delta8.moved(tensor.name, each, part.block)
                        for each, part in zip(stored, moved, strict=True)
                    ]
                    for raw, before, *pieces in zip(
                        weights.chunks(tensor),
                        delta8.singles(point.momentum, tensor),
                        *differences,
                        strict=True,
                    ):
                        shares = [part.share for part in moved]
                        found = outer.gradient(zip(shares, pieces, strict=True))
                        old = weights.to_float64(raw, tensor.dtype)
                        fresh, momentum = outer.step(old, before, found, step)
                        handle.write(weights.narrow(fresh, tensor.dtype).tobytes())
                        momenta.write(momentum.astype("<f4").tobytes())
                        alive()
    for index in point.folder.glob("*.index.json"):
        shutil.copyfile(index, target / index.name)
    causal_lm.copy_files(point.folder, target)


def fetch(place: Place, found: Contribution, base: Path, file: Path) -> None:
    """Fetch the difference of a contribution; `RefusedError` if it is not what it should be."""
    work = Work(found.holder, found.domain, found.number)
    name = work.moved(found.course, found.sha256)
    folder, _, own = name.rpartition("/")
    if own not in place.stats(folder):
        raise RefusedError("damaged", f"{place.url}: {name} is gone")
    download(place, name, file, Content(found.sha256, found.size))
    try:
        delta8.check_stored(file, found.block, base)
    except UserError as error:
        raise UnfitError("damaged", f"{name}: {error}") from None
    for tensor in weights.header(file)[0]:
        is_scale = tensor.name.startswith("absmax.")
        if is_scale and any(part.max(initial=0) > _LARGEST for part in weights.chunks(tensor)):
            raise UnfitError("damaged", f"{name}: {tensor.name!r} is larger than {_LARGEST:g}")


class UnfitError(RefusedError):
    """The signed bytes of a contribution are no difference that can be counted."""


def momentum_sha256(point: Point) -> str:
    """Return the sha256 of the file of the outer momentum."""
    assert point.momentum is not None
    return sums.file_sha256(point.momentum)


def is_of(point: Point, end: Round) -> bool:
    """Tell whether a point is the one that the end of a round says."""
    return (point.sha256, momentum_sha256(point)) == (end.sha256, end.momentum)
