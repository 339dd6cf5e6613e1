"""Rounds: what volunteers contributed, and the ends of rounds that everybody believes.

A round ends by an object that names what was counted and the sha256 of the weights that follow.
Attempts are numbered and written once; of those that are as they should be the first counts. Which
that is follows from signed objects and the times of the store alone, and the weights by computation
(points.py), so everybody comes to the same end, and nobody need be trusted.
"""

from dataclasses import dataclass, field

from btm.commons import layout
from btm.commons.bodies import Claim, Contribution, Counted, Round, Together, Wanted
from btm.commons.layout import Work
from btm.commons.snapshot import SLACK, Snapshot
from btm.commons.standing import HELD, standing, valid_claims
from btm.models import blockwise


@dataclass
class Progress:
    """How far an expert is that several volunteers train: its rounds that ended, in order."""

    domain: str
    wanted: Wanted
    course: int
    opened: float  # by the store's clock, when the round that goes on began
    ends: list[Round] = field(default_factory=list)

    @property
    def together(self) -> Together:
        """The rules of its rounds."""
        assert self.wanted.together is not None
        return self.wanted.together

    @property
    def number(self) -> int:
        """The round that goes on."""
        return len(self.ends) + 1

    @property
    def tokens(self) -> int:
        """The tokens that were counted."""
        return sum(part.tokens for end in self.ends for part in end.counted.values())

    @property
    def is_over(self) -> bool:
        """Whether all tokens were trained on."""
        return self.tokens >= self.wanted.tokens

    @property
    def budget(self) -> int:
        """The tokens of the round that goes on, of all volunteers together."""
        return max(1, min(self.together.tokens, self.wanted.tokens - self.tokens))

    def point(self, number: int | None = None) -> str:
        """Return the sha256 of the weights that a round begins with, by default the newest."""
        ends = self.ends if number is None else self.ends[: number - 1]
        return ends[-1].sha256 if ends else self.wanted.base

    def takes(self, number: int) -> bool:
        """Tell whether a contribution to a round may still be counted: in it or in the next."""
        return self.number - 1 <= number <= self.number


def progress(
    snapshot: Snapshot, domain: str, wrong: frozenset[tuple[int, int, int]] = frozenset()
) -> Progress:
    """Follow the ends of rounds that are valid; `wrong` are attempts (course, round, attempt)
    that give other weights than they say.
    """
    known = contributions(snapshot, domain)
    begun = [when for _, when in _seated(snapshot, domain)]
    wanted = snapshot.charter.wanted[domain]
    made = Progress(domain, wanted, course_of(snapshot, domain), min(begun, default=0.0))
    for end, when in snapshot.rounds.get(domain, []):
        if (end.course, end.round) != (made.course, made.number) or made.is_over:
            continue
        if (end.course, end.round, end.attempt) in wrong or not _is_valid(
            snapshot, made, known, end, when
        ):
            continue
        made.ends.append(end)
        made.opened = when
    return made


def course_of(snapshot: Snapshot, domain: str) -> int:
    """Return the number of the course: 1 more for each submission that was rejected."""
    works = [Work(c.holder, domain, c.number) for c, _ in valid_claims(snapshot, domain)]
    verdicts = [snapshot.verdicts.get(work) for work in works]
    return 1 + sum(found is not None and not found[0].admitted for found in verdicts)


def contributions(snapshot: Snapshot, domain: str) -> dict[str, Contribution]:
    """Return all contributions by holders of seats, by their names."""
    return {
        name: found
        for claim, _ in _seated(snapshot, domain)
        for name, (found, when) in snapshot.work(claim).rounds.items()
        if snapshot.is_trusted(found.holder, when)
    }


def waiting(snapshot: Snapshot, at: Progress) -> dict[str, Contribution]:
    """Return the contributions that the round that goes on may count, sorted by name."""
    known = contributions(snapshot, at.domain)
    most = snapshot.charter.policy.most_bytes
    return {name: known[name] for name in sorted(known) if _fits(at, name, known[name], most)}


def live(snapshot: Snapshot, domain: str, now: float) -> list[Claim]:
    """List the claims of seats whose holders show signs of life; `now` is the store's time."""
    together = snapshot.charter.wanted[domain].together
    seats = layout.seats(domain, together.volunteers if together else 1)
    found = [standing(snapshot, seat, now) for seat in seats]
    return [each.claim for each in found if each.claim is not None and each.state == HELD]


def handed_in(snapshot: Snapshot, claim: Claim, at: Progress) -> bool:
    """Tell whether the holder of a seat contributed to the round that goes on."""
    name = Work(claim.holder, claim.domain, claim.number).contribution(at.course, at.number)
    return name in snapshot.work(claim).rounds


def is_due(snapshot: Snapshot, at: Progress, now: float) -> bool:
    """Tell whether the round that goes on may be closed: all who live have handed in, or its time
    is over and somebody has.
    """
    if not waiting(snapshot, at):
        return False
    over = now >= at.opened + at.together.seconds
    return over or all(handed_in(snapshot, each, at) for each in live(snapshot, at.domain, now))


def speeds(snapshot: Snapshot, at: Progress, now: float) -> dict[str, float]:
    """Return tokens per second by seat of those who live, as measured in their last round."""
    found: dict[str, float] = {}
    for claim in live(snapshot, at.domain, now):
        mine = [made for made, _ in snapshot.work(claim).rounds.values()]
        newest = max(mine, key=lambda made: (made.course, made.round), default=None)
        found[claim.domain] = max(1e-3, newest.speed if newest else claim.speed)
    return found


def tokens_by_key(at: Progress) -> dict[str, int]:
    """Return the tokens that were counted of each volunteer, the most first."""
    found: dict[str, int] = {}
    for end in at.ends:
        for name, part in end.counted.items():
            key = name.split("/")[2]  # in whose folder the contribution stands
            found[key] = found.get(key, 0) + part.tokens
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _seated(snapshot: Snapshot, domain: str) -> list[tuple[Claim, float]]:
    """List the claims of seats that ever held; also of seats that there are no more."""
    seats = [seat for seat in snapshot.claims if layout.domain_of(seat) == domain]
    return [pair for seat in seats for pair in valid_claims(snapshot, seat)]


def _is_valid(
    snapshot: Snapshot, at: Progress, known: dict[str, Contribution], end: Round, when: float
) -> bool:
    closers = {c.holder for c, since in _seated(snapshot, at.domain) if since <= when + SLACK}
    if end.closer not in closers or not snapshot.is_trusted(end.closer, when):
        return False
    most = snapshot.charter.policy.most_bytes
    return (
        end.before == at.point()
        and bool(end.counted)
        and all(
            name in known
            and _fits(at, name, known[name], most)
            and part == Counted(known[name].sha256, known[name].tokens)
            for name, part in end.counted.items()
        )
    )


def _fits(at: Progress, name: str, found: Contribution, most: int) -> bool:
    """Tell whether a contribution may be counted in the round that goes on: it is of this round, or
    of the one before and came too late for that.
    """
    if found.course != at.course or not at.takes(found.round) or found.round < 1:
        return False
    counted = at.ends[-1].counted if at.ends else {}
    small = found.size <= most and found.tokens <= at.together.tokens
    small = small and found.block in blockwise.BLOCKS
    return small and name not in counted and found.base == at.point(found.round)
