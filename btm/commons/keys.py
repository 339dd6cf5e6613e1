"""Keys of people: ed25519, by the package `cryptography`.

A private key never leaves its file, which nobody but its owner can read. A public key is named by
its fingerprint, the beginning of its sha256 in hexadecimal.
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from btm.errors import UserError
from btm.system import durable
from btm.system.extras import install

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HEX = re.compile(r"[0-9a-f]+")
DIGITS = 32  # of a fingerprint: 128 bits of a sha256
_FILE = "commons-key.pem"
_NEXT = "commons-key-next.pem"  # while it takes the place of the other
_PUBLIC = 64  # hexadecimal digits of a public key


def home() -> Path:
    """Name the folder of this user's keys: BTM_HOME, or btm/ in XDG_CONFIG_HOME or ~/.config."""
    if given := os.environ.get("BTM_HOME"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "btm"
    except RuntimeError:
        raise UserError("this user has no home folder: set BTM_HOME to a folder for keys") from None


def fingerprint(public: str) -> str:
    """Return the fingerprint of a public key, given in hexadecimal."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:DIGITS]


def is_fingerprint(text: object) -> bool:
    """Tell whether `text` may be a fingerprint."""
    return isinstance(text, str) and len(text) == DIGITS and HEX.fullmatch(text) is not None


def is_public(text: object) -> bool:
    """Tell whether `text` may be a public key."""
    return isinstance(text, str) and len(text) == _PUBLIC and HEX.fullmatch(text) is not None


@dataclass(frozen=True)
class Key:
    """A pair of keys; the private half is in no representation of it."""

    public: str  # hexadecimal
    _private: "Ed25519PrivateKey"

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its public half."""
        return fingerprint(self.public)

    def sign(self, message: bytes) -> str:
        """Sign a message, and return the signature in hexadecimal."""
        return self._private.sign(message).hex()


def is_signed(public: str, signature: str, message: bytes) -> bool:
    """Tell whether a signature of a message is that of a public key; both in hexadecimal."""
    require_library()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def make() -> Key:
    """Make a new pair of keys, which no file holds yet."""
    require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _pair(Ed25519PrivateKey.generate())


def own(folder: Path | None = None) -> Key | None:
    """Read this user's keys; None if there are none.

    Raises `UserError` if others can read the file, or it holds no ed25519 key.
    """
    require_library()
    return _read((folder or home()) / _FILE)


def successor() -> Key:
    """Return the key that is to take the place of this user's own, made and kept if there is none.

    It is kept beside the other from before the store hears of it: whoever is killed in between
    would have a key that ended, and lose the one that came in its place.
    """
    fresh, mine = _read(home() / _NEXT), own()
    if fresh is None or (mine is not None and fresh.public == mine.public):
        fresh = make()
        _write(fresh, home() / _NEXT)
    return fresh


def succeed(fresh: Key) -> None:
    """Put the key that `successor` returned in the place of this user's own."""
    keep(fresh)
    (home() / _NEXT).unlink()


def _read(file: Path) -> Key | None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as stream:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise UserError(f"{file}: others can read this private key: chmod 600 {file}")
        content = stream.read(1 << 14)
    try:
        private = load_pem_private_key(content, None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise UserError(f"{file}: holds no ed25519 private key: restore it, or move it away")
    return _pair(private)


def keep(key: Key, folder: Path | None = None) -> None:
    """Write a pair of keys to this user's file, mode 600, in place of what stands there."""
    _write(key, (folder or home()) / _FILE)


def _write(key: Key, file: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    place = file.parent
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    fresh = file.with_name(f".tmp-{durable.writer()}-{file.name}")
    # Its mode is there before its content: never for an instant can another read it.
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(handle)
    fresh.replace(file)
    durable.sync_folder(place)


def require_library() -> None:
    """Raise `UserError`, with the remedy, if the package `cryptography` is not installed."""
    if find_spec("cryptography") is None:
        raise UserError(f"btm commons needs the package cryptography: {install('commons')}")


def _pair(private: "Ed25519PrivateKey") -> Key:
    return Key(private.public_key().public_bytes_raw().hex(), private)
