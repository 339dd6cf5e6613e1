"""A report as one HTML file that needs no network: facts in JSON, and the scripts that draw them.

`page/` has the style and the scripts, in plain JavaScript; `vendor/` has d3 and Observable Plot as
they were published, with their licences. All of it is inlined.
"""

import json
from functools import cache
from html import escape
from importlib import resources

from btm.system.json_files import Json

# The scripts in the order in which they are read; all share one scope.
_SCRIPTS = (
    *("parts.js", "cursor.js", "models.js", "heat.js", "weights.js", "tokens.js", "lineage.js"),
    *("curves.js", "cycle.js", "costs.js", "results.js", "cards.js", "main.js"),
)
_VENDOR = ("d3.min.js", "plot.umd.min.js")
# The page may run what stands in it, and ask nobody for anything.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def page(title: str, facts: Json) -> str:
    """Make the page of `facts`, whose parts the scripts in `page/` name; a number that is not
    finite is an error (`ValueError`), since JSON has none.
    """
    data = json.dumps(facts, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    parts = {
        "title": escape(title),
        "policy": escape(_POLICY),
        "style": _read("page", "style.css"),
        "licences": _inert(_read("vendor", "LICENSES.txt")),
        # In a script only "</" and "<!--" would end it: as an escape in JSON both are the same.
        "facts": data.replace("<", "\\u003c"),
        "vendor": "\n".join(_script(_read("vendor", name)) for name in _VENDOR),
        "scripts": _script("\n".join(_read("page", name) for name in _SCRIPTS), "module"),
    }
    text = _read("page", "report.html")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part, 1)
    return text


def _script(text: str, kind: str = "text/javascript") -> str:
    if "</script" in text.lower():
        raise ValueError("a script that ends itself")
    return f'<script type="{kind}">\n{text}\n</script>'


def _inert(text: str) -> str:
    return text.replace("</", "<\\/")


@cache
def _read(folder: str, name: str) -> str:
    return resources.files("btm.report.html").joinpath(folder, name).read_text(encoding="utf-8")
