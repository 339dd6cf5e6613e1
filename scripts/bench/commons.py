"""A commons of many volunteers, simulated on the real protocol code.

    python scripts/bench/commons.py --volunteers 1000 --experts 1000

Claims, signs of life, checkpoints, submissions and verdicts are made, signed and read by
`btm.commons` itself; what is simulated is time, training, and the store: in memory, with the
semantics of S3, of whose requests some fail (503) and are tried again. Volunteers have heavy-tailed speeds (log-normal)
and sessions (log-normal, median 2 hours), come back after a while, and go without a word. Some are
malicious: they claim before a lease is over, hold a domain without working, and submit what the
gate rejects. Throughput is the tokens of admitted experts, and those saved in checkpoints of claims
that go on, over all tokens that the honest could have trained while they were there: the ideal.
"""

import argparse
import heapq
import itertools
import json
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from memory_store import MemoryStore

from btm.commons import charter as charters
from btm.commons import claims, layout
from btm.commons.bodies import (
    SUBMITTED,
    Charter,
    Checkpoint,
    Claim,
    Policy,
    Share,
    Submission,
    Verdict,
    Wanted,
)
from btm.commons.claims import Holding, LostClaimError
from btm.commons.keys import Key
from btm.commons.member import Member
from btm.commons.reviewing import check, waiting
from btm.commons.signed import RefusedError
from btm.commons.snapshot import Snapshot
from btm.commons.standing import standing
from btm.errors import UserError
from btm.interop.remote.places import Stat

HOUR = 3600.0
_SEED = "a" * 64
_ATTEMPTS = 3  # of a request before the client library gives up; s3fs makes five
_SPEED, _SPREAD = 1000.0, 1.0  # median tokens per second, and sigma of its logarithm


@dataclass
class Indexed(MemoryStore):
    """The store with an index of folders: a listing takes as long as what it lists."""

    folders: dict[str, dict[str, Stat]] = field(default_factory=dict)

    def create(self, key: str, content: bytes) -> bool:
        made = super().create(key, content)
        self._note(key)
        return made

    def put(self, key: str, content: bytes) -> None:
        super().put(key, content)
        self._note(key)

    def delete(self, key: str) -> None:
        super().delete(key)
        for folder in _above(key):
            self.folders.get(folder, {}).pop(key[len(folder) + 1 :], None)

    def _note(self, key: str) -> None:
        content, written = self.objects[key]
        for folder in _above(key):
            self.folders.setdefault(folder, {})[key[len(folder) + 1 :]] = Stat(
                len(content), written
            )

    def stats(self, key: str) -> dict[str, Any]:
        self.fault("list")
        return dict(self.folders.get(key, {}))


def _above(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


@dataclass
class Volunteer:
    """One volunteer: what the simulation knows of them."""

    member: Member
    speed: float
    malicious: bool
    until: float = 0.0  # end of the session
    here: bool = False
    holding: Holding | None = None
    trained: float = 0.0  # tokens of the claim, the begun ones included
    saved: float = 0.0  # of these, in a checkpoint at the store
    counted: float = 0.0  # when `trained` was last brought up to date
    visit: int = 0  # which session an event belongs to


@dataclass
class Tally:
    """What came of it."""

    trained: float = 0.0  # tokens by honest volunteers while they were there with a claim
    present: float = 0.0  # tokens they could have trained while they were there
    lost: float = 0.0  # trained, and in no checkpoint when somebody went or lost the claim
    taken_over: int = 0
    refused_early: int = 0
    rejected: int = 0
    stale: int = 0  # submissions of claims that others held by then
    failures: int = 0  # requests that the store failed
    admitted: dict[str, float] = field(default_factory=dict)
    course: list[tuple[float, float]] = field(default_factory=list)  # (seconds, present) so far


class Simulation:
    """The volunteers, the store, and a queue of events."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.now = asked, 1e6
        self.draw, self.tally = random.Random(asked.seed), Tally()
        self.place = Indexed(lambda: self.now, fault=self._fault)
        self.calm = True  # the store fails nothing while it is set up
        self.events: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self.order = itertools.count()
        self._open()
        self.calm = False

    def _fault(self, request: str) -> None:
        for _ in range(_ATTEMPTS if not self.calm else 0):
            if self.draw.random() >= self.asked.failures:
                return
            self.tally.failures += 1
        if not self.calm:
            raise UserError("503 Slow Down")

    def _key(self) -> Key:
        """Make a key by the seed of the simulation, so that it repeats."""
        private = Ed25519PrivateKey.from_private_bytes(self.draw.randbytes(32))
        return Key(private.public_key().public_bytes_raw().hex(), private)

    def _open(self) -> None:
        boss, asked = self._key(), self.asked
        tokens = int(asked.hours * HOUR * _SPEED)
        wanted = Wanted(tokens, max(1, tokens // 10), {"seed": Share(1.0, _SEED)}, _SEED)
        charter = Charter(
            commons="0" * 32,
            version=1,
            forest="simulated",
            architecture="f" * 16,
            tokenizer_sha256="c" * 64,
            maintainers={boss.fingerprint: boss.public},
            members=[],
            wanted={f"d{n:04d}": wanted for n in range(asked.experts)},
            policy=Policy(asked.lease, asked.stall, 1 << 30, {}),
        )
        charters.publish(self.place, charter, boss)
        found = charters.require(self.place)
        self.boss = Member(self.place, boss, found)
        self.free: list[str] = list(charter.wanted)
        self.people = [self._somebody(n, found) for n in range(asked.volunteers)]
        for each in self.people:
            self.at(self.now + self.draw.expovariate(1 / asked.gap), self.come, each)
        self.at(self.now + asked.board, self.review)

    def _somebody(self, number: int, found: list[tuple[Charter, float]]) -> Volunteer:
        member = Member(self.place, self._key(), found)
        member._reader = self.boss._reader  # all see one store; each would fetch the same
        member.register(f"v{number}")
        speed = _SPEED * math.exp(self.draw.gauss(0, _SPREAD))
        return Volunteer(member, speed, self.draw.random() < self.asked.malicious)

    def at(self, when: float, what: Any, *who: Any) -> None:
        """Queue an event."""
        heapq.heappush(self.events, (when, next(self.order), what, who))

    def run(self) -> None:
        """Let time pass until every expert is admitted, or the hours are over."""
        end = self.now + self.asked.most * HOUR
        while self.events and len(self.tally.admitted) < self.asked.experts and self.now < end:
            self.now, _, what, who = heapq.heappop(self.events)
            what(*who)

    def come(self, one: Volunteer) -> None:
        """Begin a session."""
        length = self.asked.session * math.exp(self.draw.gauss(0, 1))
        one.here, one.until, one.visit = True, self.now + length, one.visit + 1
        one.counted = self.now
        self.at(one.until, self.go, one, one.visit)
        self.work(one, one.visit)

    def go(self, one: Volunteer, visit: int) -> None:
        """End a session, without a word."""
        if visit != one.visit:
            return
        self._train(one)
        one.here = False
        self.at(self.now + self.draw.expovariate(1 / self.asked.gap), self.come, one)

    def work(self, one: Volunteer, visit: int) -> None:
        """Claim something, or go on with what is claimed."""
        if not one.here or visit != one.visit:
            return
        self._train(one)
        try:
            if one.holding is None and not self._claim(one):
                self.at(self.now + 60, self.work, one, visit)
                return
            self._keep(one, visit)
        except LostClaimError:
            self._lose(one)
            self.at(self.now + 1, self.work, one, visit)
        except UserError:
            self.at(self.now + 5, self.work, one, visit)

    def _claim(self, one: Volunteer) -> bool:
        if not self.free:
            return False
        domain = self.draw.choice(self.free)
        if one.malicious and self.draw.random() < 0.3:
            self._cheat(one)
        wanted = one.member.charter.wanted[domain]
        try:
            claim = claims.take(one.member, domain, wanted.tokens, one.speed)
        except UserError:
            if domain in self.free and self.draw.random() < 0.5:
                self.free.remove(domain)  # the board that people look at is a minute old
            return False
        if domain in self.free:
            self.free.remove(domain)
        self.tally.taken_over += claim.taken_over is not None
        one.holding = Holding(one.member, claim)
        one.trained = one.saved = float(claim.begun)
        one.counted = self.now
        return True

    def _cheat(self, one: Volunteer) -> None:
        """Write a claim of a domain that somebody holds."""
        held = [each for each in self.people if each.here and each.holding is not None]
        if not held:
            return
        victim = self.draw.choice(held).holding
        assert victim is not None
        domain = victim.claim.domain
        names = self.place.stats(layout.claims(domain))
        number = 1 + max(n for name in names if (n := layout.number_of(name)))
        values = {**vars(victim.claim), "number": number, "holder": one.member.key.fingerprint}
        one.member.write(layout.claim(domain, number), Claim(**values))
        self.tally.refused_early += 1

    def _keep(self, one: Volunteer, visit: int) -> None:
        """Show a sign of life, upload a checkpoint, and submit what is done."""
        holding = one.holding
        assert holding is not None
        holding.beat()
        claim = holding.claim
        if one.trained >= claim.tokens:
            self._submit(one, claim)
            one.holding = None
            self.work(one, visit)
            return
        if not one.malicious:
            self._checkpoint(one, holding)
        pause = min(self.asked.lease / 3, (claim.tokens - one.trained) / one.speed + 0.01)
        self.at(self.now + pause, self.work, one, visit)

    def _train(self, one: Volunteer) -> None:
        """Bring what somebody trained up to date."""
        able = one.speed * (self.now - one.counted) * one.here
        self.tally.present += 0 if one.malicious else able
        if one.holding is not None and one.here:
            more = max(0.0, min(able, one.holding.claim.tokens - one.trained))
            one.trained += more
            if not one.malicious:
                self.tally.trained += more
        one.counted = self.now

    def _checkpoint(self, one: Volunteer, holding: Holding) -> None:
        claim, work = holding.claim, holding.work
        names = self.place.stats(f"{work.folder}/checkpoints")
        stand = sorted(n for name in names if (n := layout.number_of(name)))
        body = Checkpoint(
            one.member.commons,
            claim.domain,
            claim.number,
            claim.holder,
            int(one.trained),
            claim.base,
            "9" * 64,
            1000,
            64,
        )
        one.member.write(work.checkpoint(max(stand, default=0) + 1), body)
        one.saved = one.trained
        for old in [] if holding.keeps_all else stand[:-1]:
            self.place.delete(work.checkpoint(old))

    def _submit(self, one: Volunteer, claim: Claim) -> None:
        body = Submission(
            one.member.commons,
            claim.domain,
            claim.number,
            claim.holder,
            claim.parents,
            claim.base,
            ("b" if one.malicious else "d") * 64,
            int(one.trained),
            dict.fromkeys(SUBMITTED, "e" * 64),
            dict.fromkeys(SUBMITTED, 10),
        )
        work = layout.Work(claim.holder, claim.domain, claim.number)
        one.member.write(work.submission, body)

    def _lose(self, one: Volunteer) -> None:
        if not one.malicious:
            self.tally.lost += one.trained - one.saved
        one.holding = None

    def review(self) -> None:
        """Decide on what waits, and write down what is free: a maintainer, every few minutes."""
        for one in self.people:
            self._train(one)
        self.tally.course.append((self.now - 1e6, self.tally.present))
        try:
            snapshot = self.boss.look()
            for work in waiting(snapshot, None):
                self._decide(snapshot, work)
            snapshot, now = self.boss.look(), self.now
            self.free = [
                domain
                for domain in snapshot.charter.wanted
                if standing(snapshot, domain).is_free(now)
            ]
        except UserError:
            pass  # the store did not answer: next time
        self.at(self.now + self.asked.board, self.review)

    def _decide(self, snapshot: Snapshot, work: layout.Work) -> None:
        reason, sha256 = "", ""
        try:
            sha256 = check(self.boss, snapshot, work).sha256
            reason = "own" if sha256.startswith("b") else ""  # stands for the gate
        except RefusedError as error:
            reason = error.reason
        verdict = Verdict(
            self.boss.commons, work.domain, work.number, work.key, not reason, reason, "", sha256
        )
        self.boss.write(layout.verdict(work.domain, work.number, work.key), verdict)
        if not reason:
            assert work.domain not in self.tally.admitted, "admitted twice"
            self.tally.admitted[work.domain] = self.now - 1e6
        self.tally.rejected += reason == "own"
        self.tally.stale += reason == "claim-lost"


def main() -> None:
    """Run one simulation and print what came of it."""
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--volunteers", type=int, default=1000)
    words.add_argument("--experts", type=int, default=1000)
    words.add_argument("--hours", type=float, default=4.0, help="of a median machine, an expert")
    words.add_argument("--session", type=float, default=2 * HOUR, help="median, seconds")
    words.add_argument("--gap", type=float, default=4 * HOUR, help="mean, seconds")
    words.add_argument("--lease", type=float, default=900.0, help="seconds")
    words.add_argument("--stall", type=float, default=3600.0, help="seconds")
    words.add_argument("--malicious", type=float, default=0.05, help="share of volunteers")
    words.add_argument("--failures", type=float, default=0.01, help="share of requests")
    words.add_argument("--board", type=float, default=300.0, help="seconds between reviews")
    words.add_argument("--most", type=float, default=200.0, help="hours")
    words.add_argument("--seed", type=int, default=0)
    asked = words.parse_args()
    begun = time.process_time()
    simulation = Simulation(asked)
    simulation.run()
    print(json.dumps(summary(simulation, time.process_time() - begun), indent=1))


def summary(simulation: Simulation, spent: float) -> dict[str, Any]:
    """Sum up a simulation: times in hours, work in shares of the tokens trained."""
    tally, asked = simulation.tally, simulation.asked
    times = sorted(tally.admitted.values())
    needed = len(times) * asked.hours * HOUR * _SPEED
    saved: dict[str, float] = {}  # the most that any holder saved of an expert
    for one in simulation.people:
        simulation._train(one)
        if one.holding is not None and not one.malicious:
            domain = one.holding.claim.domain
            saved[domain] = max(one.saved, saved.get(domain, 0.0))
    going = sum(tokens for domain, tokens in saved.items() if domain not in tally.admitted)

    def hours(share: float) -> float | None:
        count = math.ceil(share * asked.experts)
        return round(times[count - 1] / HOUR, 2) if len(times) >= count else None

    def ideal(share: float) -> float | None:
        """Return the hours in which all that the honest could train is as much as was wanted."""
        work = share * asked.experts * asked.hours * HOUR * _SPEED
        found = (seconds for seconds, present in tally.course if present >= work)
        return next((round(seconds / HOUR, 2) for seconds in found), None)

    return {
        "admitted": len(times),
        "wanted": asked.experts,
        "hours to 50 %, 90 %, all": [hours(0.5), hours(0.9), hours(1.0)],
        "ideal hours to 50 %, 90 %, all": [ideal(0.5), ideal(0.9), ideal(1.0)],
        "hours": round((simulation.now - 1e6) / HOUR, 2),
        "throughput over ideal": round((needed + going) / max(tally.present, 1), 3),
        "tokens trained over what the honest could have": round(
            tally.trained / max(tally.present, 1), 3
        ),
        "tokens lost over trained": round(tally.lost / max(tally.trained, 1), 3),
        "taken over": tally.taken_over,
        "claims before the lease was over, none of which held": tally.refused_early,
        "rejected by the gate": tally.rejected,
        "submissions of claims that were lost": tally.stale,
        "requests that failed": tally.failures,
        "objects at the end": len(simulation.place.objects),
        "CPU seconds": round(spent, 1),
    }


if __name__ == "__main__":
    main()
