"""Checkpoints of a branch at the store: differences in 8 bits from what it began with.

Whoever takes a claim over goes on from the last one. The optimizer's moments stay behind, so
training goes on with fresh ones.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from btm.commons import layout, signed
from btm.commons.bodies import Checkpoint
from btm.commons.claims import Holding, read_checkpoint
from btm.commons.member import Member
from btm.commons.signed import RefusedError
from btm.commons.snapshot import Place, Snapshot
from btm.errors import UserError
from btm.forest.paths import step_of
from btm.interop import delta8
from btm.interop.remote.manifest import Content
from btm.models import files, weights
from btm.system import durable, sums
from btm.train import checkpoint as trained

_KEPT = 2  # the newest, should the very last one not be readable


@dataclass
class Uploads:
    """The uploads of a claim's branch, whose weights began as those in the folder `base`."""

    holding: Holding
    base: Path
    base_sha256: str
    block: int
    tokens_a_step: int
    sent: int = -1  # the step that was uploaded last

    def send(self, branch: Path, alive: Callable[[], None] = lambda: None) -> bool:
        """Upload the newest checkpoint in the folder of a branch; return False if it is there
        already, or none stands.
        """
        newest = trained.latest(branch)
        if newest is None or step_of(newest) <= self.sent:
            return False
        step = step_of(newest)
        scratch = durable.scratch_folder(self.base.parent)
        try:
            # Another name of the file: training deletes old checkpoints while this one is read.
            copied = scratch / "trained"
            copied.mkdir()
            os.link(newest / trained.PARAMETERS, copied / files.WEIGHTS)
            file = scratch / "difference.safetensors"
            delta8.write(copied, self.base, file, self.block, alive)
            self._publish(file, step)
        except FileNotFoundError:
            return False  # it was deleted just before; there is a newer one
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.sent = step
        return True

    def _publish(self, file: Path, step: int) -> None:
        member, claim, work = self.holding.member, self.holding.claim, self.holding.work
        content = Content(sums.file_sha256(file), file.stat().st_size)
        member.place.send(file, work.weights(content.sha256), content, lambda more: None)
        stand = self._standing()
        body = Checkpoint(
            commons=member.commons,
            domain=claim.domain,
            number=claim.number,
            holder=claim.holder,
            tokens=claim.begun + step * self.tokens_a_step,
            base=self.base_sha256,
            sha256=content.sha256,
            size=content.size,
            block=self.block,
        )
        member.write(work.checkpoint(max(stand, default=0) + 1), body)
        if not self.holding.keeps_all:
            self._prune([*stand, max(stand, default=0) + 1], content.sha256)

    def _standing(self) -> list[int]:
        names = self.holding.member.place.stats(f"{self.holding.work.folder}/checkpoints")
        return sorted(n for name in names if (n := layout.number_of(name)))

    def _prune(self, counts: list[int], newest: str) -> None:
        """Delete all checkpoints but the last ones: their objects first."""
        place, work = self.holding.member.place, self.holding.work
        for count in counts[:-_KEPT]:
            place.delete(work.checkpoint(count))
        kept = {newest}
        for count in counts[-_KEPT:]:
            seen = place.read(work.checkpoint(count), signed.MOST)
            kept |= {str(part) for part in _sums_in(seen.content)} if seen else set()
        for name in place.stats(f"{work.folder}/checkpoints"):
            if name.endswith(".safetensors") and name.removesuffix(".safetensors") not in kept:
                place.delete(f"{work.folder}/checkpoints/{name}")


def _sums_in(content: bytes) -> list[str]:
    """Read the sha256 of the file from a checkpoint of our own."""
    return [signed.parts(content, "checkpoint")[0]["sha256"]]


def restore(
    member: Member, snapshot: Snapshot, name: str, base: Path, base_sha256: str, into: Path
) -> None:
    """Put the weights of the checkpoint `name`, on those in `base`, into the model folder `into`.

    Raises `RefusedError`, with nothing changed, if it is gone, or not what it should be.
    """
    found = read_checkpoint(member, snapshot, name, base_sha256)
    if found is None:
        raise RefusedError("damaged", f"{member.place.url}: {name}: no checkpoint to go on from")
    work = layout.Work(found.holder, found.domain, found.number)
    scratch = durable.scratch_folder(into)
    try:
        file = scratch / "difference.safetensors"
        download(member.place, work.weights(found.sha256), file, Content(found.sha256, found.size))
        delta8.check_stored(file, found.block, base)
        made = scratch / "made"
        made.mkdir()
        delta8.restore(base, file, found.block, made, lambda: None)
        if (bad := weights.first_not_finite(made)) is not None:
            raise RefusedError("damaged", f"{name}: tensor {bad!r} is not finite")
        for each in weights.files(made):
            each.replace(into / each.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def download(place: Place, key: str, file: Path, expected: Content) -> None:
    """Fetch an object whose size and sha256 are known; `RefusedError` as soon as it is another."""
    digest, at = hashlib.sha256(), 0
    with file.open("xb") as handle:
        for piece in place.fetch(key, 0, expected.size):
            at += len(piece)
            if at > expected.size:
                raise RefusedError("oversize", f"{key}: more than {expected.size:,} bytes")
            digest.update(piece)
            handle.write(piece)
    if at != expected.size or digest.hexdigest() != expected.sha256:
        raise RefusedError("damaged", f"{key}: not the bytes that were signed")


def require_room(size: int, most: int, what: str) -> None:
    """Raise `UserError` if something is larger than the commons takes."""
    if size > most:
        raise UserError(f"{what}: {size:,} bytes, and the commons takes {most:,} at most")
