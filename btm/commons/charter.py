"""The charter of a commons: read as a chain of versions, each signed by a maintainer of the one
before.

Who was once told whom to trust notices a maintainer that was not let in by an earlier one, and a
store that shows an older version than it did.
"""

from collections.abc import Mapping, Sequence

from btm.commons import layout, signed
from btm.commons.bodies import Charter
from btm.commons.keys import Key
from btm.commons.signed import RefusedError
from btm.commons.snapshot import Place, write_once
from btm.errors import UserError
from btm.interop.remote.places import Stat


def read_all(
    place: Place, known: Sequence[tuple[Charter, float]] = ()
) -> list[tuple[Charter, float]]:
    """Read all versions of the charter, and when each was written; empty if there is none.

    Those that are `known` are not read again, since a version is written once.
    Raises `RefusedError` for a version that is missing, or not signed by a maintainer before it.
    """
    stats = place.stats(f"{layout.ROOT}/charter")
    numbered = {number: name for name in stats if (number := layout.number_of(name))}
    if sorted(numbered) != list(range(1, len(numbered) + 1)):
        raise RefusedError("damaged", f"{place.url}: a version of its charter is missing")
    if len(numbered) < len(known):
        raise RefusedError("damaged", f"{place.url}: versions of its charter are gone")
    names = [layout.charter(number) for number in sorted(numbered)][len(known) :]
    contents = place.read_many(names, signed.MOST_OF_CHARTER)
    made = list(known)
    for name, content in zip(names, contents, strict=True):
        if content is None:
            raise RefusedError("damaged", f"{place.url}: {name} is gone")
        made.append((_version(made, content, name, place), _when(stats, name)))
    return made


def _when(stats: Mapping[str, Stat], name: str) -> float:
    return stats[name.rpartition("/")[2]].written


def _version(
    before: list[tuple[Charter, float]], content: bytes, name: str, place: Place
) -> Charter:
    """Read a version that follows on others."""
    where = f"{place.url}: {name}"
    body, signer, _ = signed.parts(content, where, signed.MOST_OF_CHARTER)
    found = Charter.from_json(body, where)
    # The first is signed by one of its own: whom to trust is told elsewhere (docs/commons.md).
    trusted = before[-1][0].maintainers if before else found.maintainers
    if signer not in trusted:
        raise RefusedError("unknown-key", f"{where}: signed by {signer}, no maintainer before it")
    signed.unseal(content, trusted[signer], where, signed.MOST_OF_CHARTER)
    if found.version != len(before) + 1 or (before and found.commons != before[0][0].commons):
        raise RefusedError("replay", f"{where}: of another version, or of another commons")
    return found


def require(
    place: Place, known: Sequence[tuple[Charter, float]] = ()
) -> list[tuple[Charter, float]]:
    """Read all versions, as `read_all` does; `UserError` where no commons is."""
    found = read_all(place, known)
    if not found:
        raise UserError(
            f"{place.url}: no commons there; btm commons init to={place.url.text} opens one"
        )
    return found


def publish(place: Place, made: Charter, key: Key) -> None:
    """Publish the next version; `UserError` if another maintainer was faster."""
    if not write_once(place, layout.charter(made.version), signed.seal(made.to_json(), key)):
        raise UserError(
            f"{place.url}: another maintainer published version {made.version} of the charter "
            "just now: give the command again"
        )
