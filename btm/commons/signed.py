"""Signed objects: a JSON body, the fingerprint of its signer, and an ed25519 signature.

What is signed is the canonical form of the body: keys sorted, no blanks, UTF-8. The body names its
kind and its commons, so no object can be taken for one of another kind or of another commons.
"""

import json

from btm.commons import keys
from btm.commons.keys import Key
from btm.errors import UserError
from btm.system.json_files import Json, parse_json

MOST = 1 << 16  # bytes of a signed object
MOST_OF_CHARTER = 16 << 20  # which lists every wanted domain
_SIGNATURE = 128  # hexadecimal digits
_PURPOSE = b"btm commons 1\n"  # begins what is signed: the key signs nothing else


class RefusedError(UserError):
    """An object of a store is not as it should be; `reason` names the fault in a word."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def canonical(body: Json) -> bytes:
    """Write a JSON object so that equal objects have equal bytes."""
    text = json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def seal(body: Json, key: Key) -> bytes:
    """Sign a body, and return the object as a store keeps it."""
    signature = key.sign(_PURPOSE + canonical(body))
    return canonical({"body": body, "key": key.fingerprint, "signature": signature}) + b"\n"


def unseal(content: bytes, public: str, where: str, most: int = MOST) -> Json:
    """Return the body of an object that the owner of a public key signed.

    Raises `RefusedError` if it is no signed object, or signed by anybody else.
    """
    body, named, signature = parts(content, where, most)
    message = _PURPOSE + canonical(body)
    if named != keys.fingerprint(public) or not keys.is_signed(public, signature, message):
        raise RefusedError("signature", f"{where}: not signed by {keys.fingerprint(public)}")
    return body


def parts(content: bytes, where: str, most: int = MOST) -> tuple[Json, str, str]:
    """Read the body, the signer's fingerprint and the signature of an object, none of it checked.

    Raises `RefusedError` if it is no signed object.
    """
    try:
        if len(content) > most:
            raise ValueError(f"larger than {most:,} bytes")
        values = parse_json(content, unique=True)
        if not isinstance(values, dict) or values.keys() != {"body", "key", "signature"}:
            raise ValueError("wanted body, key and signature")
        body, named, signature = values["body"], values["key"], values["signature"]
        if not isinstance(body, dict) or not keys.is_fingerprint(named):
            raise ValueError("wanted a body that is an object, and the fingerprint of a key")
        well = isinstance(signature, str) and keys.HEX.fullmatch(signature)
        if not well or len(signature) != _SIGNATURE:
            raise ValueError("wanted a signature in hexadecimal")
        canonical(body)  # refuses NaN and infinity
    except ValueError as error:  # also of JSON and of UTF-8
        raise RefusedError("damaged", f"{where}: no signed object: {error}") from None
    return body, named, signature
