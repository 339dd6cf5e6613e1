"""A commons as its store holds it at one moment: one listing, and the signed objects in it.

Nothing in it is believed that is not signed by whom it should be; what is not is left out, and
`refused` says why. Times are the store's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from btm.commons import keys, layout, signed
from btm.commons.bodies import (
    Charter,
    Claim,
    Contribution,
    Left,
    Person,
    Retired,
    Revoked,
    Round,
    Signed,
    Verdict,
)
from btm.commons.fields import is_seat
from btm.commons.signed import RefusedError
from btm.interop.remote.manifest import Content
from btm.interop.remote.places import Seen, Stat, Told
from btm.interop.remote.urls import Url

Body = TypeVar("Body", bound=Signed)
SLACK = 1.0  # seconds: stores write times down to whole ones


class Place(Protocol):
    """A store of objects: `Local` and `Bucket` of btm/interop/remote, or one in memory."""

    @property
    def url(self) -> Url:
        """Its address."""

    def read(self, key: str, most: int) -> Seen | None:
        """Read a small object; None if there is none."""

    def read_many(self, keys: Iterable[str], most: int) -> list[bytes | None]:
        """Read small objects; None for one that is not there."""

    def stats(self, key: str) -> dict[str, Stat]:
        """List the objects below a folder, with their bytes and times."""

    def create(self, key: str, content: bytes) -> bool:
        """Write a small object; return False, with nothing written, if one stands there."""

    def put(self, key: str, content: bytes) -> None:
        """Write a small object, over whatever stands there."""

    def delete(self, key: str) -> None:
        """Delete an object."""

    def send(self, file: Path, key: str, expected: Content, told: Told) -> None:
        """Write a file."""

    def fetch(self, key: str, begin: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a file from `begin` up to `size`."""


def write_once(place: Place, name: str, content: bytes) -> bool:
    """Write a small object where none stands; return False where another stands.

    The very same one is ours: a client library repeats a request whose answer was lost, and then
    meets what it wrote itself.
    """
    if place.create(name, content):
        return True
    seen = place.read(name, signed.MOST_OF_CHARTER)
    return seen is not None and seen.content == content


@dataclass(frozen=True)
class Ended:
    """The end of a key: when, why, and the key that came in its place."""

    when: float
    reason: str  # revoked | retired
    successor: str = ""


@dataclass
class Works:
    """The folder of a claim: times by count of signs and checkpoints, contributions by name."""

    signs: dict[int, float] = field(default_factory=dict)
    checkpoints: dict[int, float] = field(default_factory=dict)
    rounds: dict[str, tuple[Contribution, float]] = field(default_factory=dict)
    submitted: float | None = None
    left: tuple[Left, float] | None = None


@dataclass
class Snapshot:
    """All that matters of a commons at one moment."""

    charters: list[tuple[Charter, float]]  # all versions, and when each was written
    people: dict[str, Person] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    claims: dict[str, list[tuple[Claim, float]]] = field(default_factory=dict)  # by number
    taken: dict[str, int] = field(default_factory=dict)  # the greatest number, valid or not
    works: dict[layout.Work, Works] = field(default_factory=dict)
    rounds: dict[str, list[tuple[Round, float]]] = field(default_factory=dict)  # by domain
    verdicts: dict[layout.Work, tuple[Verdict, float]] = field(default_factory=dict)
    removed: dict[tuple[str, int], tuple[Left, float]] = field(default_factory=dict)
    refused: dict[str, RefusedError] = field(default_factory=dict)  # by the object's name

    @property
    def charter(self) -> Charter:
        """The charter that is in force."""
        return self.charters[-1][0]

    def maintainers(self, when: float) -> dict[str, str]:
        """Return the public keys of those who were maintainers at a moment, by fingerprint."""
        in_force = [charter for charter, since in self.charters if since <= when + SLACK]
        return (in_force or [self.charters[0][0]])[-1].maintainers

    def work(self, claim: Claim) -> Works:
        """Read the folder of a claim."""
        return self.works.get(layout.Work(claim.holder, claim.domain, claim.number), Works())

    def public_of(self, key: str) -> str | None:
        """Return the public key of a fingerprint; None if nobody registered it."""
        person = self.people.get(key)
        return None if person is None else person.public

    def is_trusted(self, key: str, when: float) -> bool:
        """Tell whether a key was known, and not ended, at a moment."""
        end = self.ended.get(key)
        return key in self.people and (end is None or when < end.when)

    def owner(self, key: str) -> str:
        """Follow a key to the one that its owner uses now."""
        seen = set()
        while (end := self.ended.get(key)) and end.reason == "retired" and key not in seen:
            seen.add(key)
            key = end.successor
        return key


class Reader:
    """Reads a commons; objects that are written once are fetched once, and verified once."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._kept: dict[str, bytes] = {}
        self._opened: dict[str, Signed] = {}

    def look(self, charters: list[tuple[Charter, float]]) -> Snapshot:
        """Take a snapshot: one listing, then what is new in it."""
        stats = self.place.stats(layout.ROOT)
        made = Snapshot(charters)
        self._keep(name for name in stats if _is_read(name))
        self._people(made, stats)
        for name, stat in stats.items():
            self._one(made, name, stat)
        for claims in made.claims.values():
            claims.sort(key=lambda pair: pair[0].number)
        for rounds in made.rounds.values():
            rounds.sort(key=lambda pair: (pair[0].course, pair[0].round, pair[0].attempt))
        return made

    def _keep(self, names: Iterable[str]) -> None:
        """Fetch the objects that were not fetched yet."""
        missing = [name for name in names if name not in self._kept]
        keys_of = [f"{layout.ROOT}/{name}" for name in missing]
        contents = self.place.read_many(keys_of, signed.MOST)
        found = zip(missing, contents, strict=True)
        self._kept |= {name: content for name, content in found if content is not None}

    def _people(self, made: Snapshot, stats: dict[str, Stat]) -> None:
        """Read keys first, then what ends them: the rest is checked by them."""
        for name in stats:
            match name.split("/"):
                case ["people", key, "person.json"] if keys.is_fingerprint(key):
                    person = self._open(made, name, Person, self._own_public)
                    if person is not None and keys.fingerprint(person.public) == key:
                        made.people[key] = person
        for name, stat in stats.items():
            match name.split("/"):
                case ["people", key, "retired.json"] if key in made.people:
                    retired = self._open(made, name, Retired, {key: made.people[key].public}.get)
                    if retired is not None and retired.key == key:
                        end = Ended(stat.written, "retired", retired.successor)
                        made.ended.setdefault(key, end)
                case ["revoked", file]:
                    revoked = self._open(made, name, Revoked, made.maintainers(stat.written).get)
                    if revoked is not None and file == f"{revoked.key}.json":
                        made.ended[revoked.key] = Ended(stat.written, "revoked")

    def _own_public(self, content_signer: str) -> str | None:
        """Return the public key that an object of a person says of itself."""
        name = f"people/{content_signer}/person.json"
        with_body = signed.parts(self._kept[name], name)[0] if name in self._kept else {}
        public = with_body.get("public")
        return public if keys.is_public(public) else None

    def _one(self, made: Snapshot, name: str, stat: Stat) -> None:
        """Read one object of claims, of work, or of maintainers."""
        match name.split("/"):
            case ["claims", domain, file] if is_seat(domain):
                number = layout.number_of(file)
                if number is None:
                    return
                made.taken[domain] = max(number, made.taken.get(domain, 0))
                claim = self._open(made, name, Claim, made.public_of)
                if claim is not None and (claim.domain, claim.number) == (domain, number):
                    made.claims.setdefault(domain, []).append((claim, stat.written))
            case ["people", key, "work", domain, number, *rest] if keys.is_fingerprint(key):
                if is_seat(domain) and (count := layout.number_of(f"{number}.json")):
                    self._work(made, layout.Work(key, domain, count), rest, name, stat)
            case ["rounds", domain, *_]:
                end = self._open(made, name, Round, made.public_of)
                if end is not None:
                    folder = layout.rounds(end.domain, end.course, end.round)
                    if f"{folder}/{end.attempt}.json" == f"{layout.ROOT}/{name}":
                        made.rounds.setdefault(domain, []).append((end, stat.written))
            case ["verdicts", domain, number, file]:
                verdict = self._open(made, name, Verdict, made.maintainers(stat.written).get)
                if verdict is not None:
                    work = layout.Work(verdict.holder, verdict.domain, verdict.number)
                    if layout.verdict(work.domain, work.number, work.key).endswith(name):
                        made.verdicts[work] = verdict, stat.written
            case ["removed", domain, file]:
                left = self._open(made, name, Left, made.maintainers(stat.written).get)
                if left is not None and layout.removed(left.domain, left.number).endswith(name):
                    made.removed[left.domain, left.number] = left, stat.written

    def _work(
        self, made: Snapshot, work: layout.Work, rest: list[str], name: str, stat: Stat
    ) -> None:
        works = made.works.setdefault(work, Works())
        match rest:
            case ["signs", file] if number := layout.number_of(file):
                works.signs[number] = stat.written
            case ["checkpoints", file] if number := layout.number_of(file):
                works.checkpoints[number] = stat.written
            case ["rounds", _, file] if layout.number_of(file):
                found = self._open(made, name, Contribution, made.public_of)
                if found is None:
                    return
                of = layout.Work(found.holder, found.domain, found.number)
                where = of.contribution(found.course, found.round)
                if where == f"{layout.ROOT}/{name}":
                    works.rounds[where] = found, stat.written
            case ["submission.json"]:
                works.submitted = stat.written
            case ["left.json"]:
                public = made.public_of(made.owner(work.key)) or ""
                own = {keys.fingerprint(public): public} if public else {}
                left = self._open(made, name, Left, own.get)
                if left is not None and (left.domain, left.number) == (work.domain, work.number):
                    works.left = left, stat.written

    def _open(
        self,
        made: Snapshot,
        name: str,
        kind: type[Body],
        public_of: Callable[[str], str | None],
    ) -> Body | None:
        """Open an object; None, and the reason in `refused`, if it is not what it should be."""
        content, known = self._kept.get(name), self._opened.get(name)
        if isinstance(known, kind):
            return known
        if content is None:
            return None
        where = f"{layout.ROOT}/{name}"
        try:
            found = open_object(content, kind, made.charter.commons, public_of, where)
        except RefusedError as error:
            made.refused[where] = error
            return None
        self._opened[name] = found
        return found


def open_object(
    content: bytes,
    kind: type[Body],
    commons: str,
    public_of: Callable[[str], str | None],
    where: str,
) -> Body:
    """Open a signed object of a commons; `public_of` returns the key of a signer who may sign it.

    Raises `RefusedError` if nobody who may signed it, or it is of another kind or commons.
    """
    signer = signed.parts(content, where)[1]
    public = public_of(signer)
    if public is None:
        raise RefusedError("unknown-key", f"{where}: signed by {signer}, who may not sign it")
    body = kind.from_json(signed.unseal(content, public, where), where)
    of = body.closer if isinstance(body, Round) else getattr(body, "holder", signer)
    # A verdict is a maintainer's on the work of another, and who replaced a key may leave by it.
    if not isinstance(body, Verdict | Left) and of != signer:
        raise RefusedError("signature", f"{where}: of {of}, and signed by {signer}")
    if body.commons != commons:
        raise RefusedError("replay", f"{where}: of another commons, {body.commons}")
    return body


@lru_cache(maxsize=1 << 16)
def _is_read(name: str) -> bool:
    """Tell whether a snapshot reads an object; others are only counted."""
    match name.split("/"):
        case ["people", _, "person.json" | "retired.json"]:
            return True
        case ["revoked" | "claims" | "rounds" | "verdicts" | "removed", *_]:
            return True
        case ["people", _, "work", _, _, "left.json"]:
            return True
        case ["people", _, "work", _, _, "rounds", _, file]:
            return layout.number_of(file) is not None
    return False
