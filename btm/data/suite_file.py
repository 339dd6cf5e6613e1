"""suite.json, which may stand beside the domains of a folder: it marks novel ones, and says in
which languages their text is and where it is from (docs/corpora.md).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from btm.config.card import CardConfig, check_card
from btm.errors import UserError, unknown
from btm.system import lfs
from btm.system.json_files import Json

NAME = "suite.json"
# Besides those that btm acts on, what the scripts that build suites say of a domain.
_OF_DOMAIN = (
    *("novel", "languages", "sources", "title", "stands_for", "source", "packages", "licence"),
    *("licences", "documents", "bytes", "dropped", "family"),
)
_OF_SUITE = ("domains", "suite", "recipe", "left_out")


@dataclass(frozen=True)
class About:
    """The entry of a domain in suite.json: whether it is novel, and its text's languages and
    sources, as `card.languages` and `card.sources` take them.
    """

    novel: bool = False
    languages: list[str] = field(default_factory=list)
    sources: list[dict[str, str]] = field(default_factory=list)

    @property
    def card(self) -> Json:
        """Select the statements for cards: `languages` and `sources`, those that are not empty."""
        found: Json = {"languages": self.languages, "sources": self.sources}
        return {key: value for key, value in found.items() if value}


def read(root: Path) -> dict[str, About]:
    """Read what ROOT/suite.json says of domains, by name; {} without the file.

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
    return {name: _about(path, name, about) for name, about in domains.items()}


def _about(path: Path, name: str, about: Any) -> About:
    if not isinstance(about, dict):
        raise _wrong(path)
    _require_known(about, _OF_DOMAIN, f"{path}, of the domain {name!r}")
    novel = about.get("novel", False)
    if novel not in (True, False):
        raise UserError(f"{path}: {name}.novel is {json.dumps(novel)}; wanted true or false")
    stated = CardConfig(languages=about.get("languages", []), sources=about.get("sources", []))
    try:
        check_card(stated)
    except UserError as error:
        said = str(error).replace("card.", f"{name}.")
        raise UserError(f"{path}: {said}") from None
    return About(bool(novel), stated.languages, stated.sources)


def _require_known(content: Json, known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise unknown("key", key, known, where)


def _wrong(path: Path) -> UserError:
    return UserError(f'{path}: wanted {{"domains": {{name: {{"novel": true}}}}}}')
