"""Experts that other servers run, as `serve.remote` names them."""

import re
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from btm.config.checks import check_name, require
from btm.config.choices import ENSEMBLE
from btm.errors import UserError, nearest

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST = 1 << 20  # likeliest tokens: more than any vocabulary has


@dataclass(frozen=True)
class RemoteExpert:
    """A model behind an OpenAI-compatible completions endpoint."""

    name: str  # as a member of the forest
    url: str  # what stands before /completions, as http://10.0.0.7:8000/v1
    model: str  # as the endpoint calls it
    key_env: str | None = None  # the variable of the environment that holds the API key
    top: int = 20  # likeliest tokens that are asked for
    timeout: float = 20.0  # seconds that one answer may take
    retries: int = 2  # times that a request is sent again

    @property
    def where(self) -> str:
        """Name it in an error."""
        return f"serve.remote.{self.name} ({self.url})"


def remote_experts(given: Any) -> list[RemoteExpert]:
    """Read `serve.remote`; `UserError` names the first value that makes no sense."""
    form = "wanted {NAME: {url: http://HOST:PORT/v1, model: MODEL}, …}"
    require(isinstance(given, dict), "serve.remote", given, form)
    return [_expert(str(name), values, form) for name, values in given.items()]


def _expert(name: str, values: Any, form: str) -> RemoteExpert:
    key = f"serve.remote.{name}"
    check_name(name, "serve.remote")
    require(name != ENSEMBLE, "serve.remote", name, "that is the ensemble's own name")
    require(isinstance(values, dict), key, values, form)
    known = [item.name for item in fields(RemoteExpert) if item.name != "name"]
    for word in values:
        if word not in known:
            raise UserError(f"{key}: no key {word!r}{nearest(str(word), known)}; {form}")
    for word in ("url", "model"):
        require(bool(values.get(word)), f"{key}.{word}", values.get(word), form)
    expert = RemoteExpert(
        name,
        _url(str(values["url"]), f"{key}.url"),
        str(values["model"]),
        values.get("key_env"),
        _number(values, "top", int, 1, _MOST, key),
        float(_number(values, "timeout", float, 0.1, 3600, key)),
        _number(values, "retries", int, 0, 10, key),
    )
    is_variable = expert.key_env is None or (
        isinstance(expert.key_env, str) and _VARIABLE.fullmatch(expert.key_env)
    )
    # Not the value itself, which may be the key by mistake.
    require(bool(is_variable), f"{key}.key_env", "…", "wanted the name of a variable, as LAW_KEY")
    return expert


def _url(url: str, key: str) -> str:
    try:
        found = urlsplit(url)
        is_url = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        is_url = False
    require(is_url, key, url, "wanted http://HOST:PORT/v1 or https://…")
    if found.username is not None or found.password is not None or found.query or found.fragment:
        raise UserError(
            f"{key}: wanted no user, key or question in it; an API key: key_env=VARIABLE"
        )
    return url.rstrip("/")


def _number(values: Any, word: str, kind: type, least: float, most: float, key: str) -> Any:
    """Read a number, or the default where there is none."""
    default = {item.name: item.default for item in fields(RemoteExpert)}[word]
    value = values.get(word, default)
    kinds = (int,) if kind is int else (int, float)
    is_right = isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most
    require(is_right, f"{key}.{word}", value, f"wanted {least:g} to {most:g}")
    return value
