"""The URLs of remote forests: `file:///folder`, `s3://bucket/folder`, `gs://…`, `hf://owner/name`."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

from btm.errors import UserError
from btm.system.extras import install

# A scheme, and the client library that it needs. Only s3fs is in btm's extra: gcsfs brings thirty
# packages, and huggingface_hub comes with transformers.
LIBRARIES = {"file": "", "s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_PART = re.compile(r"(?!\.\.?$)[\w.+@=, -]+")


@dataclass(frozen=True)
class Url:
    """A checked URL; `key` is the setting that names it, for messages."""

    key: str
    text: str
    scheme: str
    path: str  # of file: absolute; else bucket/folder, as fsspec has it

    def __str__(self) -> str:
        return f"{self.key}={self.text}"


def is_url(text: str | None) -> bool:
    """Tell whether a setting names a URL, not a folder."""
    return text is not None and "://" in text


def read(text: str | None, key: str) -> Url:
    """Check a URL that the setting `key` gives, and that what it needs is installed.

    Raises `UserError` for what is no URL, an unknown scheme, credentials, a query, or a part that
    leads elsewhere.
    """
    if text is None:
        raise UserError(f"{key} is missing: give {key}=URL, as in {key}=s3://bucket/forest")
    if not is_url(text):
        raise UserError(
            f"{key}={text}: no URL; wanted {_schemes()}, as in {key}=s3://bucket/forest"
        )
    try:
        split = urlsplit(text)
    except ValueError as error:
        raise UserError(f"{key}: not a valid URL: {error}") from None
    if split.scheme not in LIBRARIES:
        raise UserError(f"{key}={text}: unknown scheme {split.scheme!r}; wanted {_schemes()}")
    if "@" in split.netloc:  # the text is not repeated: a password may stand in it
        raise UserError(
            f"{key}: a URL with credentials; leave them out: the client library reads them from "
            "the environment"
        )
    if split.query or split.fragment or "?" in text or "#" in text:
        raise UserError(f"{key}={text}: a URL with ? or #; wanted a bucket and a folder alone")
    path = _local(split.netloc, split.path, text, key)
    if split.scheme != "file":
        path = _of_bucket(split.netloc, split.path, text, key)
    _require_library(split.scheme, text, key)
    return Url(key, text.rstrip("/"), split.scheme, path)


def _local(host: str, path: str, text: str, key: str) -> str:
    if not text.startswith("file:"):
        return ""
    if host not in ("", "localhost") or not path.startswith("/") or path == "/":
        raise UserError(f"{key}={text}: wanted file:///absolute/folder, with three slashes")
    return unquote(path).rstrip("/")


def _of_bucket(bucket: str, path: str, text: str, key: str) -> str:
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{key}={text}: {bucket!r} is no name of a bucket or an owner")
    parts = [part for part in path.split("/") if part]
    for part in parts:
        if not _PART.fullmatch(part):
            raise UserError(f"{key}={text}: {part!r} is no name of a folder")
    if text.startswith("hf:") and len(parts) != 1:
        raise UserError(f"{key}={text}: wanted hf://OWNER/NAME, a model repository of the Hub")
    return "/".join([bucket, *parts])


def _require_library(scheme: str, text: str, key: str) -> None:
    library = LIBRARIES[scheme]
    if library and find_spec(library) is None:
        remedy = install("remote") if scheme == "s3" else f"pip install {library}"
        raise UserError(f"{key}={text}: {scheme}:// needs {library}: {remedy}")


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in LIBRARIES)
