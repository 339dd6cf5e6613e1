"""`btm commons leave` and `remove`: claims are given back, experts are withdrawn.

Nobody but its owner asks for an expert back, and nobody but a maintainer deletes it from the
forest. Between the two the board shows it as withdrawn.
"""

from dataclasses import dataclass

from btm.commons import claims, layout
from btm.commons.bodies import SUBMITTED, Left
from btm.commons.layout import Work
from btm.commons.member import Member, enter
from btm.commons.opening import require_maintainer
from btm.commons.snapshot import Snapshot
from btm.commons.standing import current
from btm.commons.together import seats
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest, removal
from btm.forest.paths import ELMS
from btm.interop.remote import listing
from btm.interop.remote import manifest as manifests
from btm.interop.remote.places import Bucket, Local


@dataclass(frozen=True)
class Gone:
    """The claim or expert that ended, and the models that inherited parameters from it."""

    domain: str
    what: str  # claim | expert
    heirs: list[str]


def leave(config: Config, *, withdraw: bool = False) -> Gone:
    """Give back the claim of ``domain=NAME``, or with `withdraw` take back the expert.

    Its files in our folder are deleted; a maintainer removes it from the forest. Raises `UserError`
    if there is nothing of ours to give back.
    """
    domain = claims.domain_of(config)
    member = enter(config)
    snapshot = member.look()
    if not withdraw:
        claim = seats.own(member, snapshot, domain)
        if claim is None or snapshot.verdicts.get(Work(claim.holder, claim.domain, claim.number)):
            raise UserError(
                f"{member.place.url}: no claim of {domain!r} to give back; --withdraw takes back "
                "an expert that was admitted"
            )
        claims.give_back(member, claim, config.commons.reason)
        return Gone(domain, "claim", [])
    return _withdraw(config, member, snapshot, domain)


def _withdraw(config: Config, member: Member, snapshot: Snapshot, domain: str) -> Gone:
    work = _admitted(member, snapshot, domain)
    if snapshot.owner(work.key) != member.key.fingerprint:
        raise UserError(f"{member.place.url}: {domain!r} is not yours to withdraw")
    heirs = heirs_of(member, domain)
    left = Left(member.commons, domain, work.number, work.key, True, config.commons.reason, heirs)
    member.write(work.left, left)
    for name in SUBMITTED:
        member.place.delete(work.submitted(name))
    for part in ("checkpoints", "rounds"):
        for name in member.place.stats(f"{work.folder}/{part}"):
            member.place.delete(f"{work.folder}/{part}/{name}")
    return Gone(domain, "expert", heirs)


def remove(config: Config) -> Gone:
    """Remove the expert of ``domain=NAME`` that its owner withdrew, here and at the store.

    In the forest a tombstone stays, as `btm remove` leaves it, and one at the store. Its heirs are
    named and stay. Raises `UserError` unless this user is a maintainer and its owner asked.
    """
    domain = claims.domain_of(config)
    member = enter(config)
    require_maintainer(member)
    snapshot = member.look()
    work = _admitted(member, snapshot, domain)
    left = snapshot.works[work].left if work in snapshot.works else None
    if left is None or not left[0].withdrawn:
        raise UserError(f"{member.place.url}: the owner of {domain!r} did not withdraw it")
    heirs = heirs_of(member, domain)
    forest = Forest(config.forest_root)
    if domain in forest:
        removal.remove(forest, domain, reason=left[0].reason or "its owner withdrew it")
    home = f"{ELMS}/{domain}"
    member.place.delete(f"{home}/{manifests.NAME}")  # first: without it no model is there
    for name in member.place.stats(home):
        member.place.delete(f"{home}/{name}")
    stone = Left(member.commons, domain, work.number, work.key, True, left[0].reason, heirs)
    member.write(layout.removed(domain, work.number), stone)
    member.log(forest.root, "removed", submission=work.submission, heirs=heirs)
    return Gone(domain, "expert", heirs)


def heirs_of(member: Member, name: str) -> list[str]:
    """List the models at the store that inherited parameters from an ELM, by their cards."""
    place = member.place
    if not isinstance(place, Local | Bucket):
        return []
    found = [
        each.home
        for each in listing.manifests_of(place)
        if name in {*each.card.parents, *(spent.name for spent in each.card.ancestors)}
    ]
    return sorted(found)


def _admitted(member: Member, snapshot: Snapshot, domain: str) -> Work:
    """Return the work whose expert stands in the forest; `UserError` if none does."""
    found = current(snapshot, domain)
    if found is not None:
        work = Work(found[0].holder, domain, found[0].number)
        verdict = snapshot.verdicts.get(work)
        if verdict and verdict[0].admitted and (domain, work.number) not in snapshot.removed:
            return work
    raise UserError(f"{member.place.url}: no expert of {domain!r} was admitted, or it is gone")
