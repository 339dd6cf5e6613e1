"""`btm ls forest=URL`: what a remote forest holds, by its manifests alone."""

from btm.config.checks import is_name
from btm.config.schema import LsConfig
from btm.errors import UserError
from btm.forest import listing
from btm.forest.index import Entry
from btm.interop.remote import facts as shared
from btm.interop.remote import manifest as manifests
from btm.interop.remote import urls
from btm.interop.remote.manifest import PLACES, Manifest
from btm.interop.remote.places import Bucket, Local, open_place
from btm.report.tables import TableRow


def rows(text: str, chosen: LsConfig) -> list[TableRow]:
    """List the models of the remote forest at a URL, as `btm ls` lists those of a forest here.

    Raises `UserError` if there is none, or if `chosen` asks for what a remote does not have.
    """
    if chosen.removed or chosen.state in ("removed", "branch", "trained"):
        raise UserError(
            "ls.removed and ls.state: a remote has ELMs and averages alone; leave them out"
        )
    place = open_place(urls.read(text, "forest"))
    shared.require(place)
    found, damaged = _all(place)
    pairs = [
        (PLACES[each.place], Entry.of(each.name, each.card, PLACES[each.place])) for each in found
    ]
    pairs += [("damaged", Entry.unreadable(name, why)) for name, why in damaged]
    below = {
        (PLACES[each.place], each.name)
        for each in found
        if chosen.ancestor in {*each.card.parents, *(spent.name for spent in each.card.ancestors)}
    }
    return listing.shown(pairs, chosen, lambda ancestor: below)


def manifests_of(place: Local | Bucket) -> list[Manifest]:
    """Read the manifest of every model at a remote; `UserError` for the first that is damaged."""
    found, damaged = _all(place)
    for _, why in damaged:
        raise UserError(why)
    return found


def _all(place: Local | Bucket) -> tuple[list[Manifest], list[tuple[str, str]]]:
    """Read every manifest, and say of each that is damaged (name, why)."""
    found, damaged = [], []
    for folder in PLACES:
        names = [name for name in place.folders(folder) if is_name(name)]
        keys = [f"{folder}/{name}/{manifests.NAME}" for name in names]
        contents = place.read_many(keys, manifests.MOST)
        for name, key, content in zip(names, keys, contents, strict=True):
            if content is None:
                continue  # its push is under way, or was killed: it is not there yet
            try:
                found.append(manifests.parse(content, folder, name, f"{place.url}: {key}"))
            except UserError as error:
                damaged.append((name, str(error)))
    return found, damaged
