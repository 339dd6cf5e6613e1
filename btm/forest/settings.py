"""The settings that a forest was grown with, so that later commands need only forest=DIR
(btm/cli/main.py reads them).

    settings.json        model, trainer, seed phase, ensemble …, of the first expert's command
    suites/<name>.json   where some domains are prepared, and the keys to prepare them again

Both are defaults: a forest without them opens all the same, and the keys are to be given again.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from btm.config.checks import is_name, renewed
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.errors import UserError
from btm.forest import trained_on
from btm.forest.forest import Forest
from btm.forest.paths import SETTINGS, Paths
from btm.system import durable, sums
from btm.system.json_files import Json, read_object

SCHEMA = 1
_SECTIONS = ("model", "trainer", "fairseq", "seed", "ensemble", "score", "average", "run", "card")
# What the machine decides, or what one command chooses for itself, is no default for the next.
_LEFT_OUT = {
    "data": ("workers",),
    "trainer": ("device", "threads", "mirrors"),
    "ensemble": ("experts",),
    "score": ("batch_size", "domains", "splits", "experts"),
    "average": ("name", "experts", "search", "budget", "groups"),
}
# An experiment or a size is a whole set of words, beside which nothing of a forest's is wanted.
_WHOLE = ("experiment", "size")
_ALTERNATIVES = ("run.domains", "run.rounds")  # to name one, or another suite, is to leave both


@dataclass(frozen=True)
class SuiteRecord:
    """A suite that a forest takes text from, as the forest records it."""

    name: str
    tokenizer_sha256: str
    data: Json  # the `data` section of the command that recorded it

    @property
    def folder(self) -> Path:
        """Where it was prepared, relative to the folder that the command was given in."""
        return Path(self.data["out"]) / self.name


@dataclass(frozen=True)
class Settings:
    """The settings of the command that grew the first expert of a forest."""

    suite: str  # the name of the one that the seed was trained on
    values: Json  # {section: {key: value}} of `_SECTIONS`, and branch


def read(root: Path) -> Settings | None:
    """Read the settings of the forest at `root`; None if it records none, `UserError` if they are
    damaged.
    """
    file = Paths(root).settings
    if not file.exists():
        return None
    found = _read(file, suite=str, settings=dict)
    return Settings(found["suite"], found["settings"])


def read_suites(root: Path) -> dict[str, SuiteRecord]:
    """Read the suites that the forest at `root` records, by name; `UserError` if one is damaged."""
    found = {}
    for file in _suite_files(root):
        values = _read(file, name=str, tokenizer_sha256=str, data=dict)
        if values["name"] != file.stem or not isinstance(values["data"].get("out"), str):
            raise _damaged(file)
        found[file.stem] = SuiteRecord(values["name"], values["tokenizer_sha256"], values["data"])
    return found


def record(config: Config, forest: Forest, suite: Suite) -> None:
    """Record the settings of `config`, and `suite`; once an expert stands, its settings stay."""
    record_suite(config, forest, suite)
    file = forest.paths.settings
    # Until then they may change: what failed is tried again with better ones.
    if file.exists() and set(forest.names()) - {config.seed.name}:
        return
    sections = [name for name in _SECTIONS if not (name == "run" and config.baseline)]
    values: Json = {name: _kept(name, asdict(getattr(config, name))) for name in sections}
    values["branch"] = config.branch
    if read(forest.root) != Settings(suite.name, values):
        _write(file, {"suite": suite.name, "settings": values})


def record_suite(config: Config, forest: Forest, suite: Suite) -> None:
    """Record that domains of the forest come from `suite`, which `config.data` names, and what of
    it ELMs were trained on, if an older btm did not.
    """
    trained_on.record_standing(forest, suite)
    said = {
        "name": suite.name,
        "tokenizer_sha256": suite.tokenizer_sha256,
        "data": _kept("data", asdict(config.data)),
    }
    known = read_suites(forest.root).get(suite.name)
    if known is None or asdict(known) != said:
        _write(forest.paths.suite(suite.name), said)


def defaults(root: Path, suite: str, named: Collection[str]) -> Json:
    """Read the defaults {dotted key: value} of the forest at `root`, without what the user `named`.

    `named` holds keys (trainer.lr) and bundles (trainer), which stand for all their keys; `suite`
    is the data.name that holds without the record.
    """
    if any(word in named for word in _WHOLE):
        return {}
    found = read(root)
    if found is None:
        return {}
    flat = dict(_flat(found.values))
    another = suite != found.suite and ("data" in named or "data.name" in named)
    if another or any(word in named for word in _ALTERNATIVES):
        flat = {key: value for key, value in flat.items() if key not in _ALTERNATIVES}
    flat |= _data_defaults(read_suites(root), found.suite, suite, named)
    return {
        key: value
        for key, value in flat.items()
        if key not in named and key.partition(".")[0] not in named
    }


def _data_defaults(
    suites: dict[str, SuiteRecord], first: str, asked: str, named: Collection[str]
) -> Json:
    """Read the `data` keys of the suite that the user asked for, or else of the forest's first."""
    name = asked if "data.name" in named else first
    if name in suites:
        return {f"data.{key}": value for key, value in suites[name].data.items()}
    if first in suites:  # a suite that is new to the forest lies beside the others
        return {"data.out": suites[first].data["out"]}
    return {}


def _flat(values: Json) -> Iterator[tuple[str, Any]]:
    for section, inner in values.items():
        if section == "branch":
            yield section, inner
            continue
        if not isinstance(inner, dict):
            raise UserError(f"{SETTINGS}: {section!r} is no section")
        for key, value in inner.items():
            yield f"{section}.{key}", renewed(f"{section}.{key}", value)


def _kept(section: str, values: Json) -> Json:
    return {key: value for key, value in values.items() if key not in _LEFT_OUT.get(section, ())}


def _suite_files(root: Path) -> list[Path]:
    return [file for file in Paths(root).suites() if is_name(file.stem)]


def files(root: Path) -> list[Path]:
    """List the files at `root` that this module wrote."""
    return [file for file in (Paths(root).settings, *_suite_files(root)) if file.exists()]


def check_file(file: Path) -> None:
    """Raise `UserError` if a file that this module wrote is damaged."""
    _read(file)


def _read(file: Path, **wanted: type) -> Json:
    values = read_object(file, schema=int, **wanted)
    if values["schema"] > SCHEMA:
        raise UserError(f"{file}: written by a newer btm (schema {values['schema']})")
    if sums.checked(values) != values:
        raise _damaged(file)
    return values


def _damaged(file: Path) -> UserError:
    return UserError(
        f"{file}: not as btm wrote it; delete it, and give its words with the next command"
    )


def _write(file: Path, values: Json) -> None:
    stamped = {
        "schema": SCHEMA,
        **values,
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    durable.write_json(file, sums.checked(stamped))
