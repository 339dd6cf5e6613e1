"""Write docs/settings.md, the reference of all keys, from the dataclasses of the configuration.

python -m btm.cli.reference > docs/settings.md
"""

from itertools import groupby
from typing import Any

from btm.cli.help import bundles, keys_in_force, meaning, shown_name, shown_value
from btm.config.keys import Key
from btm.config.schema import Config

_HEAD = """# Settings

Every key of the configuration, with the default that is in force once `conf/` is composed. Give one
as `key=value` ([how values are written](cli.md#how-values-are-written)); `btm <verb> --help` lists
those that a verb reads. This page is written by
`python -m btm.cli.reference > docs/settings.md`.
"""


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
    title = "import" if section == "imports" else section
    return [f"## {title}", "", _cell(" ".join(about.split()))]


def _row(key: Key, value: Any) -> str:
    kind = key.type.replace(" | None", " or null").replace(" | ", " or ").replace("Any", "any")
    return f"| `{shown_name(key)}` | `{shown_value(value)}` | {kind} | {_cell(meaning(key))} |"


def _cell(text: str) -> str:
    """Escape what Markdown would read in a cell as its own."""
    for sign in "|*":
        text = text.replace(sign, "\\" + sign)
    return text.replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")
