"""Where the objects of a commons stand, below the URL of its forest.

    commons/charter/<version>.json                what is wanted, and the rules
    commons/people/<key>/person.json              a public key
    commons/people/<key>/retired.json             its end: replaced by its owner
    commons/revoked/<key>.json                    its end: by a maintainer
    commons/claims/<domain>/<number>.json         who trains the expert of a domain
    commons/people/<key>/work/<domain>/<number>/  of a claim:
        signs/<count>.json                        signs of life
        checkpoints/<count>.json, <sha256>.safetensors
        rounds/<course>/<round>.json, <sha256>.safetensors
                                                  what a volunteer of several adds to a round
        submission.json, submitted/<file>         the trained expert
        left.json                                 given back, or withdrawn
    commons/rounds/<domain>/<course>/<round>/<attempt>.json
                                                  what a round of several volunteers came to
    commons/verdicts/<domain>/<number>/<key>.json what a maintainer decided
    commons/removed/<domain>/<number>.json        a withdrawn expert is gone: tombstone
    commons/index.html                            the board, for people

All but signs of life and the board are written once, by a condition: nobody writes over them.
Somebody's own folder is `commons/people/<key>/`; beside it a volunteer writes claims and ends of
rounds. Where several volunteers train the expert of a domain, each claims a seat: the first is
named as the domain, the others <domain>@2, <domain>@3 and so on.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

ROOT = "commons"
BOARD = f"{ROOT}/index.html"
_NUMBER = re.compile(r"([1-9]\d{0,8})\.json")


def charter(version: int) -> str:
    """Name a version of the charter."""
    return f"{ROOT}/charter/{version}.json"


def person(key: str) -> str:
    """Name the object of a public key."""
    return f"{ROOT}/people/{key}/person.json"


def retired(key: str) -> str:
    """Name the end of a key that was replaced."""
    return f"{ROOT}/people/{key}/retired.json"


def revoked(key: str) -> str:
    """Name the end of a key that was revoked."""
    return f"{ROOT}/revoked/{key}.json"


def claim(domain: str, number: int) -> str:
    """Name a claim."""
    return f"{ROOT}/claims/{domain}/{number}.json"


def claims(domain: str) -> str:
    """Name the folder of the claims of a domain."""
    return f"{ROOT}/claims/{domain}"


def seats(domain: str, volunteers: int) -> list[str]:
    """Name the seats of a domain."""
    return [domain, *(f"{domain}@{number}" for number in range(2, volunteers + 1))]


def domain_of(seat: str) -> str:
    """Return the domain of a seat."""
    return seat.partition("@")[0]


def rounds(domain: str, course: int, number: int) -> str:
    """Name the folder of the attempts to close a round."""
    return f"{ROOT}/rounds/{domain}/{course}/{number}"


def verdict(domain: str, number: int, key: str) -> str:
    """Name the verdict on the submission of a claim by a key."""
    return f"{ROOT}/verdicts/{domain}/{number}/{key}.json"


def removed(domain: str, number: int) -> str:
    """Name the tombstone of an expert that was admitted."""
    return f"{ROOT}/removed/{domain}/{number}.json"


@dataclass(frozen=True)
class Work:
    """The objects of one claim, in the folder of its holder."""

    key: str
    domain: str
    number: int

    @property
    def folder(self) -> str:
        """Its folder."""
        return f"{ROOT}/people/{self.key}/work/{self.domain}/{self.number}"

    @property
    def submission(self) -> str:
        """The submission."""
        return f"{self.folder}/submission.json"

    @property
    def left(self) -> str:
        """The end of the claim, or of the expert."""
        return f"{self.folder}/left.json"

    def sign(self, count: int) -> str:
        """Name a sign of life."""
        return f"{self.folder}/signs/{count}.json"

    def checkpoint(self, count: int) -> str:
        """Name the object of a checkpoint."""
        return f"{self.folder}/checkpoints/{count}.json"

    def weights(self, sha256: str) -> str:
        """Name the file of a checkpoint."""
        return f"{self.folder}/checkpoints/{sha256}.safetensors"

    def contribution(self, course: int, number: int) -> str:
        """Name the object of a contribution to a round."""
        return f"{self.folder}/rounds/{course}/{number}.json"

    def moved(self, course: int, sha256: str) -> str:
        """Name the file of a contribution."""
        return f"{self.folder}/rounds/{course}/{sha256}.safetensors"

    def submitted(self, file: str) -> str:
        """Name a file of the submission."""
        return f"{self.folder}/submitted/{file}"


@lru_cache(maxsize=1 << 16)  # a look at a commons asks it of every object, and of most again
def number_of(name: str) -> int | None:
    """Read the number of a numbered object from its name; None if it has none."""
    found = _NUMBER.fullmatch(name)
    return int(found[1]) if found else None
