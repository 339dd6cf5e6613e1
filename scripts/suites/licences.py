"""The licences that a package states: Debian's copyright files, npm's and Python's metadata."""

import json
import re
from collections.abc import Iterator, Sequence
from email import message_from_string

# The members of a package that say what its licences are.
STATED = r"/share/doc/[^/]+/copyright$|^[^/]+\.dist-info/METADATA$|^package/package\.json$"
_UNSTATED = "LicenseRef-unstated"
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z]+[\w.-]*\w)")


def licences(files: Sequence[tuple[str, bytes]]) -> list[str]:
    """List the licences that the files `STATED` of a package name: that of most of it comes first.

    Debian's copyright files give short names by stanza (DEP-5); of older ones, in prose, the names
    of the common licences that they refer to are taken.
    """
    found: list[str] = []
    for name, data in files:
        text = data.decode("utf-8", "replace")
        if name.endswith("/copyright"):
            found += _of_copyright(text)
        elif name.endswith(".dist-info/METADATA"):
            found += _of_metadata(text)
        elif name == "package/package.json":
            found.append(str(json.loads(text).get("license", _UNSTATED)))
    return list(dict.fromkeys(found)) or [_UNSTATED]


def _of_copyright(text: str) -> Iterator[str]:
    if not text.startswith("Format:"):
        yield from _COMMON.findall(text)  # that of most of it stands first as a rule
        return
    stanzas = [message_from_string(stanza) for stanza in re.split(r"\n\s*\n", text)]
    stated = [(each["Files"].strip(), each["License"]) for each in stanzas if each["Files"]]
    names = [(files, licence.split("\n")[0].strip()) for files, licence in stated if licence]
    yield from (name for files, name in names if files == "*" and name)
    yield from sorted({name for _, name in names if name})


def _of_metadata(text: str) -> Iterator[str]:
    about = message_from_string(text)
    for key in ("License-Expression", "License"):
        if about[key]:
            yield str(about[key]).split("\n")[0]
            return
    for classifier in about.get_all("Classifier", []):
        if classifier.startswith("License ::"):
            yield classifier.rpartition(" :: ")[2]
