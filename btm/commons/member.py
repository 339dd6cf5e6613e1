"""Somebody who takes part in a commons: a key, the store, and what was agreed on at first sight."""

from dataclasses import dataclass
from pathlib import Path

from btm.commons import audit, keys, layout, signed
from btm.commons import charter as charters
from btm.commons.bodies import Charter, Person, Retired, Signed
from btm.commons.keys import Key
from btm.commons.snapshot import Place, Reader, Snapshot, write_once
from btm.config.schema import Config
from btm.errors import UserError
from btm.interop.remote import urls
from btm.interop.remote.places import open_place
from btm.system import durable
from btm.system.json_files import Json, read_object

AUDIT = "commons-audit.jsonl"  # in the maintainer's forest
_KNOWN = "commons"  # folder of what is known of each commons, below `keys.home`


@dataclass
class Member:
    """A key at a commons; `charters` are all versions of its charter and their times."""

    place: Place
    key: Key
    charters: list[tuple[Charter, float]]

    def __post_init__(self) -> None:
        self._reader = Reader(self.place)

    @property
    def charter(self) -> Charter:
        """The charter that is in force."""
        return self.charters[-1][0]

    @property
    def commons(self) -> str:
        """The identity of the commons."""
        return self.charter.commons

    @property
    def is_maintainer(self) -> bool:
        """Whether this key is a maintainer's."""
        return self.key.fingerprint in self.charter.maintainers

    def look(self) -> Snapshot:
        """Take a snapshot, of the charter too."""
        self.charters = charters.require(self.place, self.charters)
        return self._reader.look(self.charters)

    def now(self) -> float:
        """Return the time by the store's clock, in seconds since 1970: that of an object of ours,
        written now.
        """
        folder = f"{layout.ROOT}/people/{self.key.fingerprint}/clock"
        self.place.put(f"{folder}/now", b"")
        return self.place.stats(folder)["now"].written

    def write(self, name: str, body: Signed) -> bool:
        """Sign a body and write it where none stands; return False where another does."""
        return write_once(self.place, name, signed.seal(body.to_json(), self.key))

    def log(self, root: Path, event: str, **facts: object) -> None:
        """Append what a maintainer did to the log in a forest (btm/commons/audit.py)."""
        said = {"commons": self.commons, "by": self.key.fingerprint, **facts}
        audit.append(root / AUDIT, event, said)

    def register(self, name: str) -> None:
        """Put the public key into the store, if it is not there."""
        person = Person(self.commons, self.key.public, name)
        self.write(layout.person(self.key.fingerprint), person)

    def require_trusted(self, snapshot: Snapshot) -> None:
        """Raise `UserError` if this key was revoked or replaced, or may not claim here."""
        mine = self.key.fingerprint
        if end := snapshot.ended.get(mine):
            raise UserError(f"{self.place.url}: your key {mine} was {end.reason}")
        members = self.charter.members
        if members and mine not in members:
            raise UserError(
                f"{self.place.url}: only members may claim here; ask a maintainer to add {mine}"
            )


def enter(config: Config, *, make_key: bool = False) -> Member:
    """Open the commons that a command is about, with this user's key.

    Without from=URL it is the one that was joined. Raises `UserError` if there is no key and none
    is to be made, or if the store shows other maintainers than it did, or an older charter.
    """
    key = keys.own()
    if key is None and not make_key:
        raise UserError(f"no key in {keys.home()}: first btm commons join from=URL")
    place = open_place(urls.read(config.imports.source or _only_known(), "from"))
    found = charters.require(place)
    _require_as_known(place, found)
    if key is None:
        key = keys.make()
        keys.keep(key)
    return Member(place, key, found)


def remember(member: Member, **facts: object) -> None:
    """Keep what is known of a commons now: its maintainers, and `facts` such as our speed."""
    file = _file(member.commons)
    known = read_object(file) if file.exists() else {}
    charter = member.charter
    known |= {"url": member.place.url.text, "version": charter.version}
    known |= {"maintainers": charter.maintainers, **facts}
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    durable.write_json(file, known)


def recalled(member: Member) -> Json:
    """Read the facts of a commons that `remember` kept."""
    file = _file(member.commons)
    return read_object(file, url=str, version=int, maintainers=dict) if file.exists() else {}


def rotate(member: Member, name: str) -> Key:
    """Replace this user's key by a new one, which the old one names; return the new one.

    Killed, or without an answer of the store, the same command goes on with the same new key.
    """
    fresh, old = keys.successor(), member.key
    Member(member.place, fresh, member.charters).register(name)
    ended = Retired(member.commons, old.fingerprint, fresh.fingerprint)
    if not member.write(layout.retired(old.fingerprint), ended):
        raise UserError(f"{member.place.url}: the key {old.fingerprint} was replaced already")
    keys.succeed(fresh)
    return fresh


def _file(commons: str) -> Path:
    return keys.home() / _KNOWN / f"{commons}.json"


def _known() -> list[Json]:
    folder = keys.home() / _KNOWN
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return [read_object(file, url=str, version=int, maintainers=dict) for file in files]


def _only_known() -> str:
    found = [known["url"] for known in _known()]
    if len(found) != 1:
        have = f"joined: {', '.join(found)}" if found else "none was joined yet"
        raise UserError(f"which commons? give from=URL ({have})")
    return str(found[0])


def _require_as_known(place: Place, found: list[tuple[Charter, float]]) -> None:
    """Raise `UserError` unless a charter goes on from the version that was seen here before."""
    by_url = [known for known in _known() if known["url"] == place.url.text]
    for known in by_url:
        if not _file(found[0][0].commons).exists():
            raise UserError(
                f"{place.url}: another commons stands there than the one that was joined: ask its "
                f"maintainers; if that is right, delete its file in {keys.home() / _KNOWN}"
            )
        version = known["version"]
        if version > len(found) or found[version - 1][0].maintainers != known["maintainers"]:
            raise UserError(
                f"{place.url}: its charter is not the one that was seen here (version {version}): "
                "somebody put another in its place; ask its maintainers"
            )
