"""suite.json, which may stand beside the domains of a folder: it marks novel ones
(docs/corpora.md).
"""

import json
from pathlib import Path
from typing import Any

from btm.errors import UserError, unknown
from btm.system import lfs
from btm.system.json_files import Json

NAME = "suite.json"
# Besides `novel`, which btm acts on, what the scripts that build suites say of a domain.
_OF_DOMAIN = (
    *("novel", "title", "stands_for", "source", "packages", "licence", "licences", "documents"),
    *("bytes", "dropped", "family"),
)
_OF_SUITE = ("domains", "suite", "recipe", "left_out")


def read(root: Path) -> dict[str, bool]:
    """Read which domains ROOT/suite.json lists, {name: whether it is novel}; {} without the file.

    A key that it does not know is a `UserError`: one that is misspelt would train on novel text.
    """
    path = root / NAME
    lfs.refuse(path)
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        raise _wrong(path) from None
    if not isinstance(content, dict):
        raise _wrong(path)
    _require_known(content, _OF_SUITE, f"{path}")
    domains = content.get("domains")
    if not isinstance(domains, dict):
        raise _wrong(path)
    return {name: _is_novel(path, name, about) for name, about in domains.items()}


def _is_novel(path: Path, name: str, about: Any) -> bool:
    if not isinstance(about, dict):
        raise _wrong(path)
    _require_known(about, _OF_DOMAIN, f"{path}, of the domain {name!r}")
    novel = about.get("novel", False)
    if novel not in (True, False):
        raise UserError(f"{path}: {name}.novel is {json.dumps(novel)}; wanted true or false")
    return bool(novel)


def _require_known(content: Json, known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise unknown("key", key, known, where)


def _wrong(path: Path) -> UserError:
    return UserError(f'{path}: wanted {{"domains": {{name: {{"novel": true}}}}}}')
