"""The signed objects of a commons: what each says, checked, since all of it comes from outside."""

from dataclasses import asdict, dataclass
from typing import ClassVar, TypeVar

from btm.commons.fields import (
    by,
    is_any,
    is_bool,
    is_commons,
    is_count,
    is_domain,
    is_momentum,
    is_number,
    is_object,
    is_positive,
    is_seat,
    is_sha256,
    is_text,
    list_of,
    read,
    said,
)
from btm.commons.keys import is_fingerprint, is_public
from btm.commons.signed import RefusedError
from btm.interop import delta8
from btm.system.json_files import Json

Body = TypeVar("Body", bound="Signed")
SUBMITTED = (delta8.HEADER, delta8.TENSORS)


@dataclass(frozen=True)
class Signed:
    """A body that is signed; `KIND` is its name in the object."""

    KIND: ClassVar[str] = ""
    commons: str = said(is_commons)

    def to_json(self) -> Json:
        """Write the body."""
        return {"kind": self.KIND, **asdict(self)}

    @classmethod
    def from_json(cls: type[Body], body: Json, where: str) -> Body:
        """Read a body; `RefusedError` if it is of another kind, or not valid."""
        if body.get("kind") != cls.KIND:
            found = str(body.get("kind"))[:40]
            raise RefusedError("damaged", f"{where}: a {found!r}; wanted a {cls.KIND!r}")
        made: Body = read(cls, {k: v for k, v in body.items() if k != "kind"}, where)
        return made


@dataclass(frozen=True)
class Share:
    """A parent of a branch: its weight in the average, and its weights' sha256."""

    weight: float = said(is_number)
    sha256: str = said(is_sha256)


@dataclass(frozen=True)
class Together:
    """How several volunteers train one expert, in rounds (docs/commons.md)."""

    volunteers: int = said(is_positive)  # seats
    tokens: int = said(is_positive)  # of a round, of all volunteers together
    seconds: float = said(is_number)  # after which a round is closed without those who are late
    lr: float = said(is_number)  # of the outer step, btm/models/outer.py
    momentum: float = said(is_momentum)


@dataclass(frozen=True)
class Wanted:
    """A domain that the commons wants an expert of, and the branch that it begins as."""

    tokens: int = said(is_positive)  # to train on
    least: int = said(is_positive)  # tokens that a slow machine may do with
    parents: dict[str, Share] = said(by(is_domain, is_any), Share)
    base: str = said(is_sha256)  # of the weights that the branch begins with
    # None: one volunteer
    together: Together | None = said(
        lambda v: v is None or isinstance(v, dict), None, Together, None
    )


@dataclass(frozen=True)
class Policy:
    """The rules of a commons; times in seconds by the store's clock."""

    lease: float = said(is_number)  # without a sign of life, after which a claim is free
    stall: float = said(is_number)  # without a checkpoint, after which it is free all the same
    most_bytes: int = said(is_positive)  # of a submission, or of a checkpoint
    gate: Json = said(lambda value: isinstance(value, dict))  # bounds of the content


@dataclass(frozen=True)
class Charter(Signed):
    """The wanted domains of a forest and its rules; a maintainer named by one version signs the
    next.
    """

    KIND: ClassVar[str] = "charter"
    version: int = said(is_positive)
    forest: str = said(is_text)
    architecture: str = said(is_text)
    tokenizer_sha256: str = said(is_sha256)
    maintainers: dict[str, str] = said(by(is_fingerprint, is_public))  # public keys
    members: list[str] = said(list_of(is_fingerprint))  # who may claim; empty: everybody
    wanted: dict[str, Wanted] = said(by(is_domain, is_any), Wanted)
    policy: Policy = said(is_any, one=Policy)


@dataclass(frozen=True)
class Person(Signed):
    """A key that somebody uses; signed by itself, so that nobody registers another's."""

    KIND: ClassVar[str] = "person"
    public: str = said(is_public)
    name: str = said(is_domain)  # for people; never an identity


@dataclass(frozen=True)
class Retired(Signed):
    """The end of a key that its owner replaced by another."""

    KIND: ClassVar[str] = "retired"
    key: str = said(is_fingerprint)
    successor: str = said(is_fingerprint)


@dataclass(frozen=True)
class Revoked(Signed):
    """The end of a key that a maintainer no longer trusts."""

    KIND: ClassVar[str] = "revoked"
    key: str = said(is_fingerprint)
    reason: str = said(is_text)


@dataclass(frozen=True)
class OfClaim(Signed):
    """A signed object of one claim: its domain, its number and the key of its holder."""

    domain: str = said(is_seat)  # or a further seat of it
    number: int = said(is_positive)
    holder: str = said(is_fingerprint)


@dataclass(frozen=True)
class Checkpoint(OfClaim):
    """The weights of a branch in training, as a difference in 8 bits from what it began with."""

    KIND: ClassVar[str] = "checkpoint"
    tokens: int = said(is_count)  # trained on by then, by all holders
    base: str = said(is_sha256)
    sha256: str = said(is_sha256)  # of the file
    size: int = said(is_positive)  # bytes of the file
    block: int = said(is_positive)


@dataclass(frozen=True)
class Contribution(OfClaim):
    """The difference of one volunteer's weights after a round from those that it began with."""

    KIND: ClassVar[str] = "contribution"
    course: int = said(is_positive)  # 1 more after each submission that was rejected
    round: int = said(is_positive)
    tokens: int = said(is_positive)  # trained on in the round
    speed: float = said(is_number)  # tokens per second, as measured in the round
    base: str = said(is_sha256)  # of the weights that the round began with
    sha256: str = said(is_sha256)  # of the file
    size: int = said(is_positive)  # bytes of the file
    block: int = said(is_positive)


@dataclass(frozen=True)
class Counted:
    """A contribution that a round counts: its file, and its weight in the mean."""

    sha256: str = said(is_sha256)
    tokens: int = said(is_positive)


@dataclass(frozen=True)
class Round(Signed):
    """The end of a round: what was counted, and the weights that follow from it by computation."""

    KIND: ClassVar[str] = "round"
    domain: str = said(is_domain)
    course: int = said(is_positive)
    round: int = said(is_positive)
    attempt: int = said(is_positive)
    closer: str = said(is_fingerprint)
    before: str = said(is_sha256)  # of the weights that it began with
    counted: dict[str, Counted] = said(by(is_object, is_any), Counted)  # by the contribution's name
    sha256: str = said(is_sha256)  # of the weights after it
    momentum: str = said(is_sha256)  # of the file of the outer momentum after it


@dataclass(frozen=True)
class Sign(OfClaim):
    """A sign of life of the holder of a claim."""

    KIND: ClassVar[str] = "sign"
    count: int = said(is_positive)


@dataclass(frozen=True)
class Claim(OfClaim):
    """The right to train the expert of a domain, while its holder shows signs of life."""

    KIND: ClassVar[str] = "claim"
    tokens: int = said(is_positive)  # to train on, by all holders together
    begun: int = said(is_count)  # tokens of these that the checkpoint taken over has seen
    speed: float = said(is_number)  # tokens per second, as the holder measured
    parents: dict[str, Share] = said(by(is_domain, is_any), Share)
    base: str = said(is_sha256)
    taken_over: str | None = said(lambda v: v is None or is_object(v))  # a checkpoint's key


@dataclass(frozen=True)
class Submission(OfClaim):
    """A trained expert, as a difference in 8 bits, that asks to be admitted."""

    KIND: ClassVar[str] = "submission"
    parents: dict[str, Share] = said(by(is_domain, is_any), Share)
    base: str = said(is_sha256)
    sha256: str = said(is_sha256)  # of the weights that the maintainer gets
    tokens: int = said(is_count)
    files: dict[str, str] = said(by(lambda name: name in SUBMITTED, is_sha256))
    sizes: dict[str, int] = said(by(lambda name: name in SUBMITTED, is_positive))


@dataclass(frozen=True)
class Verdict(OfClaim):
    """The decision of a maintainer on a submission, and its reason."""

    KIND: ClassVar[str] = "verdict"
    admitted: bool = said(is_bool)
    reason: str = said(is_text)  # a word; empty of one that was admitted
    text: str = said(is_text)
    sha256: str = said(lambda value: value == "" or is_sha256(value))


@dataclass(frozen=True)
class Left(OfClaim):
    """The end of a claim, or of an expert that was admitted, by its owner or a maintainer."""

    KIND: ClassVar[str] = "left"
    withdrawn: bool = said(is_bool)  # the expert, not only the claim
    reason: str = said(is_text)
    heirs: list[str] = said(list_of(is_text))  # models that inherited parameters from it
