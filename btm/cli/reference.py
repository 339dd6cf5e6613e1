"""Write the reference: docs/settings.md, all keys, from the dataclasses of the configuration, and
docs/verbs.md, all verbs, from what `--help` says.

python -m btm.cli.reference > docs/settings.md
python -m btm.cli.reference verbs > docs/verbs.md
"""

import sys
from itertools import groupby
from typing import Any

from btm.cli.flags import FLAGS_OF
from btm.cli.help import (
    about,
    bundles,
    examples,
    keys_in_force,
    meaning,
    shown_name,
    shown_value,
)
from btm.cli.verbs import VERBS, reads
from btm.config.keys import Key
from btm.config.schema import Config

_HEAD = """# Settings

Every key of the configuration, with the default that is in force once `conf/` is composed. Give one
as `key=value` ([how values are written](cli.md#how-values-are-written)); `btm <verb> --help` lists
those that a verb reads. This page is written by
`python -m btm.cli.reference > docs/settings.md`.
"""

_HEAD_OF_VERBS = """# Verbs

What each verb does, with examples, its own flags, and the [settings](settings.md) that it reads:
keys of no section, then sections. All verbs take `--dry-run`, `--json`, `--debug` and `--help`.
[The command line](cli.md) has a table of all. This page is written by
`python -m btm.cli.reference verbs > docs/verbs.md`.
"""


def page_of_verbs() -> str:
    """Write the page of verbs: a section for each."""
    lines = [_HEAD_OF_VERBS]
    for verb, function in VERBS.items():
        doc = function.__doc__ or ""
        lines += [f"## btm {verb}", "", _cell(about(doc)), "", "```sh"]
        lines += [*examples(verb, doc), "```", ""]
        if own := FLAGS_OF.get(verb):
            lines += [*(f"- `{flag}`: {meaning}" for flag, meaning in own.items()), ""]
        lines += [_read_by(verb), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _read_by(verb: str) -> str:
    """Name the keys that a verb reads: those of no section, then section by section, with links."""
    found = []
    for section, rows in groupby(keys_in_force(), lambda row: row[0].section):
        keys = [key for key, _ in rows]
        own = [key for key in keys if reads.reads(verb, key.name)]
        if not section:
            found.append(", ".join(f"`{shown_name(key)}`" for key in own))
        elif own:
            link = f"[{_title(section)}](settings.md#{_title(section)})"
            left = [key for key in keys if key not in own]
            named, word = (own, ": ") if len(own) <= len(left) else (left, " without ")
            short = " ".join(f"`{shown_name(key).partition('.')[2]}`" for key in named)
            found.append(f"{link}{word if named else ''}{short}")
    return f"Reads {'; '.join(found)}."


def page() -> str:
    """Write the page: the bundles, then a table for each section."""
    lines = [_HEAD, "## Bundles", "", "| group | bundles |", "|---|---|"]
    lines += [f"| `{name}=` | {options} |" for name, options in bundles().items()]
    for section, rows in groupby(keys_in_force(), lambda row: row[0].section):
        lines += ["", *_head_of(section), "", "| key | default | type | meaning |"]
        lines += ["|---|---|---|---|", *(_row(key, value) for key, value in rows)]
    return "\n".join(lines) + "\n"


def _head_of(section: str) -> list[str]:
    """Write the title of a section and what its dataclass says of it."""
    if not section:
        return ["## Keys of no section"]
    about = type(getattr(Config(), section)).__doc__ or ""
    return [f"## {_title(section)}", "", _cell(" ".join(about.split()))]


def _title(section: str) -> str:
    return "import" if section == "imports" else section


def _row(key: Key, value: Any) -> str:
    kind = key.type.replace(" | None", " or null").replace(" | ", " or ").replace("Any", "any")
    return f"| `{shown_name(key)}` | `{shown_value(value)}` | {kind} | {_cell(meaning(key))} |"


def _cell(text: str) -> str:
    """Escape what Markdown would read in a cell as its own."""
    for sign in "|*":
        text = text.replace(sign, "\\" + sign)
    return text.replace("<", "&lt;")


if __name__ == "__main__":
    print(page_of_verbs() if sys.argv[1:] == ["verbs"] else page(), end="")
