"""A commons in memory, whose store has a clock that tests turn, and people with keys."""

from dataclasses import dataclass, replace

from bench.memory_store import MemoryStore
from btm.commons import charter as charters
from btm.commons import keys, layout
from btm.commons.bodies import SUBMITTED, Charter, Policy, Share, Submission, Wanted
from btm.commons.member import Member

SEED, BASE, TOKENIZER = "a" * 64, "a" * 64, "c" * 64
LEASE, STALL = 60.0, 600.0
COMMONS = "0" * 32


@dataclass
class Clock:
    """The store's clock, in seconds."""

    now: float = 1_000_000.0

    def __call__(self):
        return self.now


class Town:
    """A commons that wants experts of law and med, its maintainer, and its store."""

    def __init__(self, place=None):
        self.clock = Clock()
        self.place = place or MemoryStore(self.clock)
        key = keys.make()
        wanted = Wanted(1000, 100, {"seed": Share(1.0, SEED)}, BASE)
        charter = Charter(
            commons=COMMONS,
            version=1,
            forest="town",
            architecture="f" * 16,
            tokenizer_sha256=TOKENIZER,
            maintainers={key.fingerprint: key.public},
            members=[],
            wanted={"law": wanted, "med": wanted},
            policy=Policy(LEASE, STALL, 1000, {}),
        )
        charters.publish(self.place, charter, key)
        self.maintainer = self.member(key)

    def member(self, key):
        return Member(self.place, key, charters.require(self.place))

    def volunteer(self, name="somebody"):
        made = self.member(keys.make())
        made.register(name)
        return made

    def amend(self, **changes):
        """Publish the next version of the charter."""
        last = charters.require(self.place)[-1][0]
        made = replace(last, version=last.version + 1, **changes)
        charters.publish(self.place, made, self.maintainer.key)
        return made


def submission(member, claim, **changes):
    """The submission of a claim, with files of made-up content."""
    body = Submission(
        commons=member.commons,
        domain=claim.domain,
        number=claim.number,
        holder=claim.holder,
        parents=claim.parents,
        base=claim.base,
        sha256="d" * 64,
        tokens=1000,
        files=dict.fromkeys(SUBMITTED, "e" * 64),
        sizes=dict.fromkeys(SUBMITTED, 10),
    )
    return replace(body, **changes)


def submit(member, claim, **changes):
    """Put a submission where the claim's belongs."""
    work = layout.Work(claim.holder, claim.domain, claim.number)
    assert member.write(work.submission, submission(member, claim, **changes))
    return work
