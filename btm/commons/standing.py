"""Who may train the expert of a domain: rules on a snapshot, all by the times of the store.

A claim is valid if, when it was written, its signer was trusted and the claim before it was free.
Claims are numbered and written once, so of two that want the same number one wins; and since a
holder leaves the signs of life that it gave before any later claim, everybody can tell afterwards
whether one came too early. No clock of a volunteer has a part in it.
"""

import math
from dataclasses import dataclass

from btm.commons.bodies import Charter, Claim
from btm.commons.layout import Work, domain_of
from btm.commons.snapshot import SLACK, Snapshot

WANTED, HELD, SUBMITTED, ADMITTED = "wanted", "held", "submitted", "admitted"
WITHDRAWN, REMOVED = "withdrawn", "removed"  # its owner asked for it; a maintainer did it


@dataclass(frozen=True)
class Standing:
    """The state of a domain, its last valid claim, and when that was or will be free."""

    domain: str
    state: str  # one of the words above
    claim: Claim | None
    since: float  # when that claim was written
    free_from: float  # infinity: never
    why: str  # it is free, or will be

    def is_free(self, now: float) -> bool:
        """Tell whether somebody may claim the domain now."""
        return self.claim is None or now >= self.free_from + SLACK


def standing(snapshot: Snapshot, domain: str, now: float = math.inf) -> Standing:
    """Return the standing of a domain; `now` is the store's time."""
    found = current(snapshot, domain)
    if found is None:
        return Standing(domain, WANTED, None, 0.0, 0.0, "nobody claimed it")
    claim, when = found
    free, why = free_from(snapshot, claim, when)
    work = Work(claim.holder, claim.domain, claim.number)
    works, verdict = snapshot.work(claim), snapshot.verdicts.get(work)
    state = WANTED if now >= free + SLACK else HELD
    if verdict is not None and verdict[0].admitted and math.isinf(free):
        state = WITHDRAWN if works.left and works.left[0].withdrawn else ADMITTED
        if (domain, claim.number) in snapshot.removed:
            state = REMOVED  # for good: a forest gives the name of a removed ELM to no other
    elif works.submitted is not None and math.isinf(free):
        state = SUBMITTED
    return Standing(domain, state, claim, when, free, why)


def current(snapshot: Snapshot, domain: str) -> tuple[Claim, float] | None:
    """Return the last valid claim of a domain, and when it was written; None if there is none."""
    found = valid_claims(snapshot, domain)
    return found[-1] if found else None


def valid_claims(snapshot: Snapshot, domain: str) -> list[tuple[Claim, float]]:
    """List the claims of a domain that ever held, and when each was written."""
    found: list[tuple[Claim, float]] = []
    members = snapshot.charter.members
    for claim, when in snapshot.claims.get(domain, []):
        if not snapshot.is_trusted(claim.holder, when) or (members and claim.holder not in members):
            continue
        if found and when < free_from(snapshot, *found[-1], until=when)[0] - SLACK:
            continue  # too early: the one before it was held
        found.append((claim, when))
    return found


def free_from(
    snapshot: Snapshot, claim: Claim, when: float, until: float = math.inf
) -> tuple[float, str]:
    """Return from when on a claim is free, and why, as far as objects written `until` then tell."""
    ends: list[tuple[float, str]] = []
    works, work = snapshot.work(claim), Work(claim.holder, claim.domain, claim.number)
    if end := snapshot.ended.get(claim.holder):
        ends.append((end.when, f"its key was {end.reason}"))
    if is_stale(snapshot.charter, claim):
        ends.append((when, "its branch is stale"))
    verdict = snapshot.verdicts.get(work)
    if verdict is not None and verdict[1] <= until:
        if verdict[0].admitted:
            return math.inf, ""
        ends.append((verdict[1], f"rejected: {verdict[0].reason}"))
    elif works.left and works.left[1] <= until:
        ends.append((works.left[1], "given back"))
    elif works.submitted is None or works.submitted >= until:
        ends += _silences(snapshot, claim, when, until)
    return min(ends, default=(math.inf, ""))


def _silences(
    snapshot: Snapshot, claim: Claim, when: float, until: float
) -> list[tuple[float, str]]:
    """Return when the lease of a claim ends, for want of signs or of progress."""
    policy, works = snapshot.charter.policy, snapshot.work(claim)
    # Not what has the very second of a later claim: it would undo a claim that was seen to hold.
    sign = max([when, *(t for t in works.signs.values() if t < until)])
    ends = [*works.checkpoints.values(), *(when for _, when in works.rounds.values())]
    progress = max([when, *(t for t in ends if t < until)])
    return [
        (sign + policy.lease, "no sign of life"),
        (progress + policy.stall, "no checkpoint"),
    ]


def is_stale(charter: Charter, claim: Claim) -> bool:
    """Tell whether a claim is of another branch than is wanted now."""
    wanted = charter.wanted.get(domain_of(claim.domain))
    return wanted is None or (wanted.base, wanted.parents) != (claim.base, claim.parents)
