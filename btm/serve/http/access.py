"""Who may ask: the token, where it comes from, and the addresses that do without one."""

import ipaddress
import os
import stat
from pathlib import Path

from btm.config.serve import ServeConfig
from btm.errors import UserError

VARIABLE = "BTM_SERVE_TOKEN"
_LEAST = 16  # characters of a token; fewer can be guessed
_MOST = 4096
_MAKE = "openssl rand -hex 32 > token; chmod 600 token"


def token_of(serve: ServeConfig) -> str | None:
    """Read the token that requests must bring; None where there is none.

    It is no value of the command line, which every user of the machine can list.
    """
    given = os.environ.get(VARIABLE)
    if serve.token_file is None:
        return None if given is None else _checked(given.strip(), VARIABLE)
    if given is not None:
        raise UserError(f"serve.token_file={serve.token_file}: {VARIABLE} is set too; unset it")
    return _checked(_read(Path(serve.token_file)), f"serve.token_file={serve.token_file}")


def require_token(serve: ServeConfig) -> None:
    """Raise `UserError` where others than this machine could ask, and no token is wanted of them.

    Also where there is a token that is none.
    """
    if token_of(serve) is None and not is_loopback(serve.host):
        raise UserError(
            f"serve.host={serve.host} can be reached from other machines, and there is no token: "
            f"give serve.token_file=FILE ({_MAKE}) or {VARIABLE}, or serve.host=127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a name or address can only be this machine's own."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _read(file: Path) -> str:
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"serve.token_file={file}: no regular file")
        if mode & stat.S_IROTH:
            raise UserError(
                f"serve.token_file={file}: every user of this machine can read it; "
                f"chmod o-rwx {file}"
            )
        with file.open("rb") as opened:
            return opened.read(_MOST + 2).decode("ascii").strip()
    except OSError as error:
        raise UserError(f"serve.token_file={file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"serve.token_file={file}: wanted letters, digits and signs") from None


def _checked(token: str, where: str) -> str:
    """Return a token that a header can carry; `UserError`, which does not show it, otherwise."""
    if not _LEAST <= len(token) <= _MOST:
        raise UserError(
            f"{where}: a token of {len(token)} characters; wanted {_LEAST} to {_MOST} ({_MAKE})"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: wanted letters, digits and signs, in one line without blanks")
    return token
