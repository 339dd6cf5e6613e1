"""Claims: taken by a conditional write, kept by signs of life, and taken over once they stop."""

from dataclasses import dataclass, field

from btm.commons import layout, signed
from btm.commons.bodies import Checkpoint, Claim, Left, Sign, Wanted
from btm.commons.member import Member
from btm.commons.snapshot import Snapshot, open_object
from btm.commons.standing import SUBMITTED, Standing, current, standing
from btm.config.schema import Config
from btm.errors import UserError, unknown
from btm.report.progress import duration


class LostClaimError(UserError):
    """The claim is another's now, or has ended; what is trained goes on for nobody."""


def domain_of(config: Config) -> str:
    """Return the domain that is meant; `UserError` if none is."""
    if config.domain is None:
        raise UserError("which domain? give domain=NAME (btm commons status lists them)")
    return config.domain


def wanted_of(member: Member, domain: str) -> Wanted:
    """Find a domain, or that of a seat, among those that the charter wants; `UserError` if it is
    not one.
    """
    wanted, domain = member.charter.wanted, layout.domain_of(domain)
    if domain not in wanted:
        raise unknown("wanted domain", domain, wanted, member.place.url.text)
    return wanted[domain]


def own(member: Member, snapshot: Snapshot, domain: str) -> Claim | None:
    """Return our valid claim of a domain that has not ended; None if there is none."""
    found = standing(snapshot, domain)
    mine = found.claim is not None and found.claim.holder == member.key.fingerprint
    return found.claim if mine and not found.why.startswith(_ENDED) else None


_ENDED = ("rejected", "given back", "its key", "its branch")


def take(member: Member, domain: str, tokens: int, speed: float) -> Claim:
    """Claim a domain that is free, from its last checkpoint on where somebody trained it.

    Raises `UserError` while it is held, once it is admitted, or if another was faster.
    """
    wanted, snapshot = wanted_of(member, domain), member.look()
    member.require_trusted(snapshot)
    now, found = member.now(), standing(snapshot, domain)
    if not found.is_free(now):
        raise UserError(f"{member.place.url}: {domain!r} is {_taken(snapshot, found, now)}")
    source = checkpoint_to_go_on_from(member, snapshot, found)
    begun = 0
    if source is not None and found.claim is not None:
        checkpoint = read_checkpoint(member, snapshot, source, wanted.base)
        begun = checkpoint.tokens if checkpoint else 0
        tokens = max(begun + 1, found.claim.tokens)  # a budget is of the expert, not of a holder
    claim = Claim(
        commons=member.commons,
        domain=domain,
        number=snapshot.taken.get(domain, 0) + 1,
        holder=member.key.fingerprint,
        tokens=tokens,
        begun=begun,
        speed=round(speed, 1),
        parents=wanted.parents,
        base=wanted.base,
        taken_over=source,
    )
    if not member.write(layout.claim(domain, claim.number), claim):
        raise UserError(f"{member.place.url}: another claimed {domain!r} just now")
    valid = current(member.look(), domain)
    if valid is None or valid[0] != claim:
        raise UserError(
            f"{member.place.url}: the claim of {domain!r} does not hold: its holder showed a sign "
            "of life just then"
        )
    return claim


def _taken(snapshot: Snapshot, found: Standing, now: float) -> str:
    """Say who has a domain."""
    assert found.claim is not None
    who = name_of(snapshot, found.claim.holder)
    if found.state not in ("held", "wanted"):
        return f"{found.state}, by {who}"
    return f"held by {who}; free in {duration(found.free_from - now)} without a sign of life"


def name_of(snapshot: Snapshot, key: str) -> str:
    """Name the owner of a key for people: the name that they chose, and the key's beginning."""
    person = snapshot.people.get(key)
    return f"{person.name if person else '?'} ({key[:8]})"


def checkpoint_to_go_on_from(member: Member, snapshot: Snapshot, found: Standing) -> str | None:
    """Return the name of the last good checkpoint of a claim that ended, or of what it took over.

    None if it has none, or was rejected: what it trained is not wanted then.
    """
    claim = found.claim
    if claim is None or found.state == SUBMITTED or not found.why.startswith("no "):
        return None
    newest = sorted(snapshot.work(claim).checkpoints, reverse=True)
    work = layout.Work(claim.holder, claim.domain, claim.number)
    for name in map(work.checkpoint, newest):
        if read_checkpoint(member, snapshot, name, claim.base) is not None:
            return name
    return claim.taken_over


def read_checkpoint(member: Member, snapshot: Snapshot, name: str, base: str) -> Checkpoint | None:
    """Read a checkpoint's object; None if it is gone, not signed by who holds its folder, too large
    or of another branch.
    """
    seen = member.place.read(name, signed.MOST)
    if seen is None:
        return None
    try:
        found = open_object(seen.content, Checkpoint, member.commons, snapshot.public_of, name)
    except UserError:
        return None
    work = layout.Work(found.holder, found.domain, found.number)
    fits = found.base == base and found.size <= member.charter.policy.most_bytes
    return found if fits and name.startswith(f"{work.folder}/checkpoints/") else None


def give_back(member: Member, claim: Claim, reason: str = "") -> None:
    """End a claim that was not submitted, so that others may have the domain at once."""
    work = layout.Work(claim.holder, claim.domain, claim.number)
    left = Left(member.commons, claim.domain, claim.number, claim.holder, False, reason, [])
    member.write(work.left, left)


@dataclass
class Holding:
    """A claim that is kept: each `beat` shows a sign of life, unless the claim was lost.

    Of what shows that it lives only the newest two are kept, but all once a later claim came too
    early: they are the evidence of it.
    """

    member: Member
    claim: Claim
    counts: list[int] = field(default_factory=list)  # of the signs that stand
    keeps_all: bool = False
    _seen: set[int] = field(default_factory=set)  # later claims that do not hold

    def __post_init__(self) -> None:
        names = self.member.place.stats(f"{self.work.folder}/signs")
        self.counts = sorted(n for name in names if (n := layout.number_of(name)))
        self.keeps_all = bool(self._later())

    @property
    def work(self) -> layout.Work:
        """The folder of the claim."""
        return layout.Work(self.claim.holder, self.claim.domain, self.claim.number)

    def beat(self) -> None:
        """Show a sign of life; `LostClaimError`, and none is shown, if the claim has ended."""
        self.require_held()
        claim, count = self.claim, max(self.counts, default=0) + 1
        body = Sign(self.member.commons, claim.domain, claim.number, claim.holder, count)
        self.member.write(self.work.sign(count), body)
        self.counts.append(count)
        for old in [] if self.keeps_all else self.counts[:-2]:
            self.member.place.delete(self.work.sign(old))
            self.counts.remove(old)

    def require_held(self) -> None:
        """Raise `LostClaimError` if a later claim holds, or this claim or its key has ended."""
        member, domain = self.member, self.claim.domain
        later = self._later() - self._seen
        revoked = member.place.read(layout.revoked(self.claim.holder), signed.MOST)
        if not later and revoked is None:
            return
        snapshot = member.look()
        if end := snapshot.ended.get(self.claim.holder):
            raise LostClaimError(f"the key {self.claim.holder} was {end.reason}")
        valid = current(snapshot, domain)
        if valid is None or valid[0] != self.claim:
            who = "nobody" if valid is None else name_of(snapshot, valid[0].holder)
            raise LostClaimError(f"{domain!r} was taken over: {who} holds it now")
        self._seen |= later
        self.keeps_all = True

    def _later(self) -> set[int]:
        """List the numbers of later claims, valid or not."""
        names = self.member.place.stats(layout.claims(self.claim.domain))
        numbers = {n for name in names if (n := layout.number_of(name))}
        return {n for n in numbers if n > self.claim.number}
