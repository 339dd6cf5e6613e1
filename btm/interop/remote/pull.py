"""`btm pull`: models of a remote forest come to this machine.

The files of a model are fetched into ``<forest>/pulls/<id>/`` first, and every byte of them is
hashed. A pull that was killed goes on with what lies there. Only whole and verified models are
looked at further (`entering`); what a remote lied about is deleted.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from btm.config.schema import Config
from btm.errors import UserError, unknown
from btm.forest import Forest, tombstone
from btm.forest.card import Card
from btm.forest.models import derived_of
from btm.forest.paths import CARD, ELMS, Paths, places_of
from btm.interop import pickles, probe, received
from btm.interop.remote import entering, listing, urls
from btm.interop.remote import facts as shared
from btm.interop.remote.manifest import PLACES, Content, Manifest
from btm.interop.remote.places import Bucket, Local, open_place
from btm.interop.remote.push import find
from btm.report import Reporter, quiet
from btm.system import durable, sandbox


@dataclass(frozen=True)
class Pulled:
    """The outcome of a pull of one model."""

    model: str  # elms/NAME, averages/NAME, …
    way: str  # as what it came
    state: str  # pulled, stands, or removed: here, so it did not come
    bytes: int
    fetched: int  # of them, by this pull


def pull(
    config: Config, reporter: Reporter = quiet, measure: received.Measure = received.unmeasured
) -> list[Pulled]:
    """Bring what the command names from the remote ``from=URL`` into the forest; all without names.

    Where no forest stands one is planted. `measure` finds the losses of an ELM and its parents here
    (`btm.steps.received`). Raises `UserError`, with nothing changed that shows, for a remote that
    holds another forest, fails, or says what is not so.
    """
    url = urls.read(config.imports.source, "from")
    # The box is forked before a client library starts its threads.
    sandbox.start(probe.__name__, pickles.__name__)
    place = open_place(url)
    facts = shared.require(place)
    root = Path(config.forest_root)
    if Forest.stands(root):
        shared.require_same(place, shared.Facts.of(Forest(root)), facts, root)
    done = []
    for manifest in chosen(config, place):
        if (state := standing(root, manifest, named=config.expert is not None)) is not None:
            reporter.line(f"{manifest.home}: {state}")
            done.append(Pulled(manifest.home, manifest.way, state, manifest.size, 0))
            continue
        with fetched(place, root, manifest, reporter) as (folder, size):
            source = f"{url.text}/{manifest.home}"
            door = entering.Door(config, root, facts, source, measure, reporter)
            entering.enter(door, manifest, folder)
        reporter.line(f"pulled {manifest.home}: {size:,} of {manifest.size:,} bytes fetched")
        done.append(Pulled(manifest.home, manifest.way, "pulled", manifest.size, size))
    return done


def preview(config: Config) -> list[Pulled]:
    """Say what a pull would bring, and bring nothing."""
    place, root = open_place(urls.read(config.imports.source, "from")), Path(config.forest_root)
    facts = shared.require(place)
    if Forest.stands(root):
        shared.require_same(place, shared.Facts.of(Forest(root)), facts, root)
    rows = []
    for each in chosen(config, place):
        state = standing(root, each, named=config.expert is not None)
        size = 0 if state else each.size
        rows.append(Pulled(each.home, each.way, state or "to be fetched", each.size, size))
    return rows


def chosen(config: Config, place: Local | Bucket) -> list[Manifest]:
    """Read the manifests of the models that are pulled, parents first.

    A difference from parents brings those with it that do not stand here.
    """
    derived = derived_of(config)
    if config.expert is not None and derived is not None:
        raise UserError(
            f"expert={config.expert} and {derived}: give one of them, or neither for the whole "
            "forest"
        )
    if derived is not None:
        (folder,), name = places_of(derived)
        return [_named(place, folder, name)]
    if config.expert is None:
        return sorted(listing.manifests_of(place), key=_order)
    found: dict[str, Manifest] = {}
    wanted = [config.expert]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = _named(place, ELMS, name)
            if found[name].way != "full":
                wanted += found[name].card.parents
    return sorted(found.values(), key=_order)


def _named(place: Local | Bucket, folder: str, name: str) -> Manifest:
    found = find(place, folder, name)
    if found is None:
        raise unknown(PLACES[folder], name, place.folders(folder), place.url.text)
    return found.manifest


def _order(manifest: Manifest) -> tuple[bool, int, str]:
    """Sort ELMs before what is made of them, and parents before children."""
    return manifest.place != ELMS, len(manifest.card.ancestors), manifest.name


def standing(root: Path, manifest: Manifest, *, named: bool) -> str | None:
    """Say why a model need not come: it stands, or was removed here; None if it must.

    Raises `UserError` if another model has its name, or if a removed ELM was `named`.
    """
    if manifest.place == ELMS and tombstone.stands(root, manifest.name):
        if named:
            tombstone.refuse(root, manifest.name)
        return "removed"
    card = Paths(root).root / manifest.place / manifest.name / CARD
    if not card.exists():
        return None
    found = Card.read(card).sha256
    if found == manifest.sha256:
        return "stands"
    raise UserError(
        f"{root} has another {manifest.home} ({found[:12]}, there {manifest.sha256[:12]}): give "
        "another forest=DIR, or remove it first"
    )


@contextmanager
def fetched(
    place: Local | Bucket, root: Path, manifest: Manifest, reporter: Reporter
) -> Iterator[tuple[Path, int]]:
    """Yield a folder with the verified files of a model, and the bytes that were fetched now.

    It is deleted after the block, unless that was interrupted. Raises `UserError` if the remote
    holds other bytes than the manifest says.
    """
    _require_room(root, manifest, place)
    stand = place.sizes(manifest.folder)
    for name, content in manifest.files.items():
        if stand.get(name) != content.size:
            has = "no such file" if name not in stand else f"{stand[name]:,} bytes"
            raise UserError(
                f"{place.url}: {manifest.folder}/{name}: the manifest says {content.size:,} bytes, "
                f"found {has}: push it again"
            )
    folder = durable.make_folder(Paths(root).pulls / manifest.id)
    with _alone(folder, manifest):
        try:
            size = _fetch_all(place, folder, manifest, reporter)
        except _LiedError:
            _discard(folder)
            raise
        try:
            yield folder, size
        except UserError:
            _discard(folder)  # what was refused once is refused again
            raise
        _discard(folder)


def _fetch_all(place: Local | Bucket, folder: Path, manifest: Manifest, reporter: Reporter) -> int:
    """Fetch what an earlier pull has not, and return its bytes."""
    size = 0
    with reporter.reading(f"pull {manifest.name}", manifest.size) as told:
        for name, content in manifest.files.items():
            told(_begun(folder, name))
            for more in _fetch(place, f"{manifest.folder}/{name}", folder / name, content):
                size += more
                told(more)
    return size


def _discard(folder: Path) -> None:
    """Delete what was fetched; the folder of pulls too, if this was the last."""
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()
    with suppress(OSError):
        folder.parent.parent.rmdir()  # a forest that was to be planted, and was not


class _LiedError(UserError):
    """The remote holds other bytes than its manifest says."""


def _begun(folder: Path, name: str) -> int:
    """Count the bytes of a file that an earlier pull fetched."""
    for place in (folder / name, _part(folder / name)):
        if place.is_file():
            return place.stat().st_size
    return 0


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _fetch(place: Local | Bucket, key: str, file: Path, expected: Content) -> Iterator[int]:
    """Fetch a file, going on where an earlier pull was killed; yield the bytes of each piece."""
    if file.is_file():
        return  # it got its name once it was verified
    file.parent.mkdir(exist_ok=True)
    part, digest = _part(file), hashlib.sha256()
    with part.open("a+b") as handle:
        handle.seek(0)
        at = 0
        while piece := handle.read(1 << 20):
            digest.update(piece)
            at += len(piece)
        for piece in place.fetch(key, at, expected.size) if at <= expected.size else ():
            digest.update(piece)
            handle.write(piece)
            at += len(piece)
            yield len(piece)
            if at > expected.size:
                break
    if at != expected.size or digest.hexdigest() != expected.sha256:
        raise _LiedError(
            f"{place.url}: {key}: its bytes are not those of its manifest (sha256 "
            f"{digest.hexdigest()[:12]}, wanted {expected.sha256[:12]}): nothing of it is kept; "
            "push it again"
        )
    part.rename(file)


@contextmanager
def _alone(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Keep other pulls of the same model out of its folder while the block runs."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it with the process
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{manifest.home}: another btm pull fetches it now; wait for it") from None
    try:
        yield
    finally:
        os.close(handle)


def _require_room(root: Path, manifest: Manifest, place: Local | Bucket) -> None:
    """Require the disk that a model takes: its files, the copy that is checked, and the model."""
    there = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    free, needed = shutil.disk_usage(there).free, 3 * manifest.size
    if needed > free:
        raise UserError(
            f"{place.url}: {manifest.home} needs {needed:,} bytes of disk while it comes, and "
            f"{free:,} are free in {there}"
        )
