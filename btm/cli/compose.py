"""Compose the configuration of `conf/` and the words of a command; hydra is used here alone."""

import re
from collections.abc import Collection
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from btm.cli import own_model, values
from btm.config.keys import Key, keys_of
from btm.config.schema import Config
from btm.config.validation import validate
from btm.errors import UserError, unknown

# `from`, `import` and `as` are words of Python, so no dataclass can have fields of these names.
ALIASES = {
    "seed.from": "seed.source",
    "from": "imports.source",
    "import.legacy": "imports.legacy",
    "push.as": "push.kind",
}

_SYNONYMS = {
    "name": "expert",
    "average": "average.name",
    "student": "distil.name",
    "moe": "moe.name",
}  # where these read better: btm import, btm export

_OPEN = "model.config."  # what any key may follow
# Dictionaries by names of the user's own: one that is given replaces that of an experiment, where
# options ({num_hidden_layers: 2}) join those that stand.
_BY_NAME = ("commons.wanted", "data.names", "serve.remote")

# Verbs for which nothing that a forest records of its settings matters: they look at what stands
# there.
_SETTLED = (
    *("discover", "paper", "doctor", "status", "logs", "cancel"),
    *("watch", "ls", "show", "verify", "lineage", "diff", "gc", "export", "push"),
)


def compose(overrides: list[str], verb: str = "") -> Config:
    """Compose `conf/` with `overrides` and validate it; a `UserError` names the wrong key.

    Where the user is silent, what the forest records of its own settings holds, if `verb` asks for
    any.
    """
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    checked = [_known(override) for override in overrides]
    named = {override.lstrip("+~").partition("=")[0] for override in checked}
    try:
        composed = _composed(checked, verb)
        if verb not in _SETTLED:
            _take_recorded(composed, named)
        config: Any = OmegaConf.to_object(composed)
    except OverrideParseException as error:
        raise UserError(f"{error.override!r}: {_reason(error)}") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_reason(error)) from None
    own_model.settle(config.model, named, conf_folder() / "model")
    if (
        verb in ("eval", "score", "compare", "mix", "bench")
        and named & {"data", "data.name"}
        and not config.eval.suites
    ):
        config.eval.suites = [config.data.name]
    return validate(config)


def _composed(overrides: list[str], verb: str = "") -> Any:
    """Compose `conf/` with checked `overrides`, as hydra's own compose does; the values are read by
    `btm.cli.values`.

    Apart from it since a process that composes often, as the tests do, needs its bundles once.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser

    ours = {override: _read(override, verb) for override in overrides}
    words = [each for each in overrides if ours[each] is None]
    parsed = OverridesParser.create().parse_overrides(words)
    bundles = [each.input_line for each in parsed if each.key_or_group in _bundles()]
    composed = deepcopy(_composed_bundles(tuple(bundles)))
    theirs = {each.input_line: each for each in parsed if each.key_or_group not in _bundles()}
    for override in overrides:  # the last word on a key counts
        if (word := ours[override]) is not None:
            _set(composed, *word, merge=word[0] not in _BY_NAME)
        elif override in theirs:
            ConfigLoaderImpl._apply_overrides_to_config([theirs[override]], composed)
    return composed


def _read(override: str, verb: str) -> tuple[str, Any] | None:
    """Read the key and the value of a checked override; None for a bundle and a deletion, which
    are hydra's.
    """
    name, equals, text = override.lstrip("+").partition("=")
    if not equals or name.startswith("~") or name in _bundles():
        return None
    if name.startswith(_OPEN):
        return name, values.read_untyped(name, text)
    key = _keys()[name]
    if name == "against" and verb in ("compare", "run"):
        key = replace(key, type="list[str] | None")
    return name, values.read(key, text)


def _set(composed: Any, key: str, value: Any, *, merge: bool = True) -> None:
    """Set a key of a composed configuration; a text stays as it is, whatever it holds."""
    from omegaconf import OmegaConf

    OmegaConf.update(composed, key, _escaped(value), merge=merge, force_add=_is_open(key))


def _escaped(value: Any) -> Any:
    """Escape what omegaconf would read as an interpolation, anywhere in `value`."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value


@cache
def _composed_bundles(overrides: tuple[str, ...]) -> Any:
    """Compose `conf/` with the bundles that `overrides` choose; hydra takes a tenth of a second."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    ConfigStore.instance().store(name="schema", node=Config)
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
        return hydra_compose("config", list(overrides))


@cache
def _bundles() -> dict[str, list[str]]:
    """List the bundles of `conf/`: {key: its choices}."""
    folders = [folder for folder in conf_folder().iterdir() if folder.is_dir()]
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def _take_recorded(composed: Any, named: set[str]) -> None:
    """Give a composed configuration what its forest records, but for the keys and bundles
    that the user `named`.
    """
    from omegaconf import OmegaConf

    from btm.forest import settings

    root = Path(composed.forest or f"experts/{composed.data.name}")
    for key, value in settings.defaults(root, composed.data.name, named).items():
        below = [
            name for name in named if name.startswith(f"{key}.")
        ]  # model.config.hidden_size=64
        own = {name: OmegaConf.select(composed, name) for name in below}
        _set(composed, key, value, merge=False)
        for name, given in own.items():
            _set(composed, name, given)


def bundles_of(group: str) -> list[str]:
    """List the bundles of a group of `conf/`: `model` has pico, tiny and so on."""
    return _bundles().get(group, [])


def full_key(word: str) -> str:
    """Return the key of the word ``key=value``, an alias resolved: `name=law` gives "expert"."""
    bare = word.partition("=")[0].lstrip("+~")
    return (ALIASES | _SYNONYMS).get(bare, bare)


def conf_folder() -> Path:
    """Return `conf/`: beside the code in an installed wheel, at the top of the repository
    otherwise.
    """
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def _known(override: str) -> str:
    """Return an override with its alias resolved; `UserError` if its key does not exist."""
    key, equals, value = override.partition("=")
    bare = key.lstrip("+~")
    if not equals and not key.startswith("~"):
        raise UserError(
            f"{override!r} is no setting: wanted key=value, as in trainer.lr=2e-4 or expert=law"
        )
    if long := (ALIASES | _SYNONYMS).get(bare):
        return key.removesuffix(bare) + long + equals + value
    bundles = _bundles()
    if bare in bundles:
        if value not in bundles[bare]:
            raise unknown(bare, value, bundles[bare])
        return override
    keys = _default_keys()
    if bare not in keys and not bare.startswith(_OPEN):
        raise (
            unknown("key", bare, [*keys, *bundles, *ALIASES])
            if "." not in bare
            else _unknown_below(bare, keys)
        )
    if key.startswith("~") and not _is_open(bare):
        raise UserError(f"{override}: a setting cannot be deleted; give it a value: {bare}=VALUE")
    return "++" + override.lstrip("+") if _is_open(bare) and not key.startswith("~") else override


def _is_open(key: str) -> bool:
    """Tell whether a key is of a dictionary, which takes keys that nobody could know."""
    return key.startswith(_OPEN) or isinstance(_default_keys().get(key), dict)


def _unknown_below(key: str, keys: Collection[str]) -> UserError:
    """Make the error for an unknown dotted key; it lists the keys of the same section."""
    section = key.rpartition(".")[0]
    near = [known for known in [*keys, *ALIASES] if known.rpartition(".")[0] == section]
    return unknown("key", key, near or list(keys))


@cache
def _keys() -> dict[str, Key]:
    return {key.name: key for key in keys_of(Config())}


@cache
def _default_keys() -> dict[str, object]:
    return all_keys()


def all_keys(config: Config | None = None) -> dict[str, object]:
    """List every key with its value in `config`, or without it with its dataclass's default."""
    from dataclasses import fields, is_dataclass

    def walk(section: Any, prefix: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for field in fields(section):
            value, key = getattr(section, field.name), prefix + field.name
            found |= walk(value, f"{key}.") if is_dataclass(value) else {key: value}
        return found

    return walk(config or Config(), "")


def _reason(error: Exception) -> str:
    """Return the part of a hydra or omegaconf error that helps: its cause, and the key."""
    from omegaconf.errors import OmegaConfBaseException

    # Under a debugger omegaconf also chains its own errors, whose causes are templates nobody
    # should read.
    while isinstance(error.__cause__, Exception) and not isinstance(error, OmegaConfBaseException):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), ""
    )
    message = lines[0] if lines else type(error).__name__
    return f"{key}: {message}" if key else message
