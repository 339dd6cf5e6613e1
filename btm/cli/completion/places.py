"""Names on disk that complete a value: forests, models, domains, folders."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from btm.cli.compose import conf_folder, full_key
from btm.config.checks import is_name

# The folders of a forest as btm/forest/paths.py names them, whose imports would take too long here.
_ELMS, _BRANCHES, _READERS, FACTS = "elms", "branches", "readers", "forest.json"
_AVERAGES, _STUDENTS, _MOES = _DERIVED = ("averages", "students", "moes")
_DOMAINS = "domains"  # of the suite
# What the names are that a key takes; those of `expert` depend on the verb.
_KINDS = {
    **dict.fromkeys(("parent", "ls.parent", "ls.ancestor", "average.base", "weights"), (_ELMS,)),
    **dict.fromkeys(("averages", "average.experts", "score.experts", "distil.experts"), (_ELMS,)),
    **dict.fromkeys(("moe.experts", "moe.add", "moe.remove", "ensemble.experts"), (_ELMS,)),
    **dict.fromkeys(("against", "models", "bench.models", "distil.init"), (_ELMS, *_DERIVED)),
    "average.name": (_AVERAGES,),
    "distil.name": (_STUDENTS,),
    "moe.name": (_MOES,),
    "reader.name": (_READERS,),
    **dict.fromkeys(("domain", "run.domains", "eval.domains", "score.domains"), (_DOMAINS,)),
    **dict.fromkeys(("distil.domains", "seed.domains", "ls.domain"), (_DOMAINS,)),
}
_IN_THE_MAKING = ("train", "merge", "logs", "cancel")
_OF_ANY_MODEL = ("show", "verify", "diff")
WEIGHED = ("weights", "averages")  # NAME:WEIGHT
_FOLDERS = (
    *("forest", "seed.source", "data.out", "data.tokenizer", "bench.include", "reader.data"),
    *("discover.out", "paper.out", "paper.report"),
)
_FILES = (
    *("imports.source", "to", "data.root", "data.chat_template", "ensemble.router"),
    *("serve.token_file", "cluster.container"),
)
_SAFE = re.compile(r"[\w./~@%+=,:-]+")  # a shell reads it as it stands


@dataclass(frozen=True)
class Command:
    """The verb and the words of a command that is being typed."""

    verb: str
    words: list[str]

    def given(self, key: str) -> str:
        """Return the value of a key or a bundle as typed; empty if it is not."""
        found = [word.partition("=")[2] for word in self.words if full_key(word) == key]
        return found[-1] if found else ""

    @property
    def suite(self) -> str:
        """The name of the suite, as far as words and bundles say it."""
        return self.given("data.name") or _in_bundles(self, "name") or "demo"

    @property
    def forest(self) -> Path:
        """The folder of the forest, as far as words and bundles say it."""
        said = self.given("forest") or _in_bundles(self, "forest")
        return Path(said or f"experts/{self.suite}").expanduser()


def _in_bundles(command: Command, key: str) -> str:
    """Read a key at the top of the bundle of an experiment, or of data."""
    for group in ("experiment", "data"):
        bundle = conf_folder() / group / f"{command.given(group)}.yaml"
        if is_name(command.given(group)) and bundle.is_file():
            found = re.search(rf"^{key}: (\S+)", bundle.read_text(), re.MULTILINE)
            if found:
                return found[1]
    return ""


def names(command: Command, key: str) -> Iterator[str]:
    """Yield the names on disk that `key` may take."""
    kinds = _KINDS.get(key, ())
    if key == "expert":
        more = (_BRANCHES,) if command.verb in _IN_THE_MAKING else ()
        kinds = (_ELMS, *(_DERIVED if command.verb in _OF_ANY_MODEL else more))
    for kind in kinds:
        if kind == _DOMAINS:
            yield from _domains(command)
        else:
            yield from _folders(command.forest / kind)


def _domains(command: Command) -> Iterator[str]:
    """Yield the domains of the prepared suite, or else those of the text."""
    prepared = Path(command.given("data.out") or "data").expanduser()
    suite = command.given("data.name") or command.forest.name
    found = [*_folders(prepared / suite)]
    root = command.given("data.root")
    if not found and root:
        found = [path.name.partition(".")[0] for path in _listed(Path(root).expanduser())]
    if not found and suite == "demo":
        found = [*_folders(Path(__file__).parents[2] / "data/demo")]
    yield from (name for name in found if is_name(name) and name != "tokenizer")


def _folders(place: Path) -> Iterator[str]:
    yield from (path.name for path in _listed(place) if is_name(path.name) and path.is_dir())


def _listed(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def paths(key: str, begun: str) -> Iterator[str]:
    """Yield files and folders that `begun` may become, if `key` takes any; forests first."""
    if key not in (*_FOLDERS, *_FILES):
        return
    if key == "forest" and not begun:
        yield from (str(path) for path in _listed(Path("experts")) if (path / FACTS).is_file())
    folder = begun[: begun.rfind("/") + 1]
    for path in _listed(Path(os.path.expanduser(folder) or ".")):  # noqa: PTH111 - "" stays ""
        word = f"{folder}{path.name}" + ("/" if path.is_dir() else "")
        if _SAFE.fullmatch(word) and (path.is_dir() or key in _FILES):
            yield word
