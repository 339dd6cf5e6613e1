"""Seats of a domain: each is claimed as a domain of one volunteer is, and kept by signs of life.

The first seat is the domain's own claim, and whoever holds it submits the expert; if they are gone,
anybody with a seat takes it over.
"""

from btm.commons import claims, layout
from btm.commons.bodies import Claim
from btm.commons.member import Member
from btm.commons.snapshot import Snapshot
from btm.commons.standing import HELD, WANTED, standing
from btm.errors import UserError


def own(member: Member, snapshot: Snapshot, domain: str) -> Claim | None:
    """Return our claim of a seat that has not ended; None if there is none."""
    for seat in seats_of(member, domain):
        if (found := claims.own(member, snapshot, seat)) is not None:
            return found
    return None


def seats_of(member: Member, domain: str) -> list[str]:
    """Name the seats that the charter gives a domain; one where no volunteers share it."""
    together = claims.wanted_of(member, domain).together
    return layout.seats(domain, together.volunteers if together else 1)


def take(member: Member, domain: str, speed: float) -> Claim:
    """Claim the first seat that is free.

    Raises `UserError` if none is, or the expert was submitted.
    """
    tokens, snapshot, now = claims.wanted_of(member, domain).tokens, member.look(), member.now()
    first = standing(snapshot, domain, now)
    if first.state not in (HELD, WANTED):
        raise UserError(f"{member.place.url}: {domain!r} is {first.state} already")
    seats = seats_of(member, domain)
    refused: UserError | None = None
    for seat in seats:
        if not standing(snapshot, seat, now).is_free(now):
            continue
        try:
            return claims.take(member, seat, tokens, speed)
        except UserError as error:  # another was faster, or our key may not claim
            refused = error
    raise refused or UserError(
        f"{member.place.url}: all {len(seats)} seats of {domain!r} are held; btm commons status "
        "shows by whom"
    )


def to_submit(member: Member, snapshot: Snapshot, domain: str) -> Claim | None:
    """Return our claim of the first seat, taken over now if its holder is gone and another seat is
    ours; None if none is. `UserError` while another holds it.
    """
    if (found := claims.own(member, snapshot, domain)) is not None:
        return found
    if (mine := own(member, snapshot, domain)) is None:
        return None
    return claims.take(member, domain, mine.tokens, mine.speed)
