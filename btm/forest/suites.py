"""The prepared text of a forest: suites, opened only if they have the forest's tokenizer."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from btm.config.data import DataConfig
from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.data.bos import ALWAYS, AUTO
from btm.data.shards import META, TOKENIZER, Suite, read_meta
from btm.data.tokenizer import (
    ORIGIN,
    begins_with_bos,
    bos_of_copy,
    other_beginning,
    read_origin,
    recorded_policy,
    tokenizer_sha256,
)
from btm.errors import UserError, command, unknown
from btm.forest import settings
from btm.forest.forest import Forest
from btm.forest.paths import Paths


def open_suite(config: Config) -> Suite:
    """Open the suite that `config.data` names; `UserError` if its tokenizer is not that of the
    forest.
    """
    return _open(config, _own_folder(config), config.data.name)


def open_suites(config: Config) -> Suite:
    """Open the suite of `config.data` joined with the others that the forest records.

    Those that are gone are left out, and a note in messages names them.
    """
    first, places = open_suite(config), _other_places(config)
    gone = [f"{name} ({place})" for name, place in places.items() if not _stands(place)]
    note = f" (and not in these suites, which are gone: {', '.join(gone)})" if gone else ""
    return replace(first.joined(other_suites(config)), note=note)


def other_suites(config: Config) -> list[Suite]:
    """Open the suites that the forest records beside that of `config.data`, if they stand."""
    places = _other_places(config)
    return [_open(config, place, name) for name, place in places.items() if _stands(place)]


def evaluated_suites(config: Config) -> Suite:
    """Open the suites of an evaluation, joined: eval.suites, or else all that the forest records.

    Raises `UserError` if one of them is gone.
    """
    places = {config.data.name: _own_folder(config)}
    places |= _other_places(config)
    for name in config.eval.suites:
        if name not in places:
            raise unknown("suite", name, places, config.forest_root)
    chosen = config.eval.suites or list(places)
    if config.ensemble.fit == "forest" and len(chosen) < len(places):
        raise UserError(
            "ensemble.fit=forest is fitted on the domains of all suites: choose with "
            "eval.domains=[…], not by suite"
        )
    first, *others = [_open(config, places[name], name) for name in chosen]
    return first.joined(others)


def data_of(config: Config) -> DataConfig:
    """Complete `config.data` with the longest example, and with the tokenizer of the forest, if the
    forest stands.

    Raises `UserError`, before anything is written, if the suite has another tokenizer, or a domain
    that another suite of the forest has.
    """
    root, data = Path(config.forest_root), config.data
    if data.format == "prompted" and data.max_tokens is None:
        data = replace(data, max_tokens=config.trainer.seq_len)
    if not Forest.stands(root):
        return data
    require_beginning(config)
    stands = bool(read_origin(_own_folder(config) / TOKENIZER))
    if stands:
        _require_own(
            config, tokenizer_sha256(_own_folder(config) / TOKENIZER), str(_own_folder(config))
        )
    elif data.tokenizer and Path(data.tokenizer).is_dir():
        # As it will be copied; the convention of BOS is compared when it is.
        found = tokenizer_sha256(Path(data.tokenizer), begins_with_bos(Forest(root).tokenizer))
        _require_own(config, found, f"data.tokenizer={data.tokenizer}")
    _refuse_clash(config, preparation.all_domains(data))
    policy = recorded_policy(Forest(root).tokenizer)
    if not stands and policy != AUTO:  # what overrules the forest's tokenizer overrules its copy
        data = replace(data, bos=policy)
    if stands or data.tokenizer:
        return data
    if preparation.is_binarised(data):
        return data  # its dictionary is compared when the suite is opened
    return replace(data, tokenizer=str(Forest(root).tokenizer))


def require_beginning(config: Config) -> None:
    """Raise `UserError` if `data.bos` asks for another beginning of texts than the forest has."""
    if config.data.bos != AUTO:
        has = bos_of_copy(Forest(config.forest_root).tokenizer) is not None
        _require_policy(config, has, f"the forest {config.forest_root}")


def _require_policy(config: Config, has_bos: bool, what: str) -> None:
    """Raise `UserError` if `data.bos` contradicts how texts of `what` begin."""
    asked = config.data.bos
    if asked != AUTO and (asked == ALWAYS) != has_bos:
        raise UserError(
            f"data.bos={asked}: texts of {what} begin with {'a' if has_bos else 'no'} BOS, and all "
            "of its text begins alike: leave data.bos out, or give another data.name=NAME and "
            "forest=DIR"
        )


def _records(config: Config) -> dict[str, settings.SuiteRecord]:
    return settings.read_suites(Path(config.forest_root))


def _own_folder(config: Config) -> Path:
    return Path(config.data.out) / config.data.name


def _other_places(config: Config) -> dict[str, Path]:
    """Find the folders of the suites that the forest records, but for that of `config.data`."""
    own = config.data.name
    return {name: _place(config, r) for name, r in _records(config).items() if name != own}


def _place(config: Config, record: settings.SuiteRecord) -> Path:
    """Find a recorded suite: where it was, or else beside the suite of `config.data`."""
    moved = Path(config.data.out) / record.name
    return moved if not _stands(record.folder) and _stands(moved) else record.folder


def _stands(folder: Path) -> bool:
    return (folder / TOKENIZER / ORIGIN).is_file()


def _seen(root: str, folder: Path) -> str:
    """Say where a suite stands that was recorded relative to another folder than this one."""
    above = Path(root).absolute().parents
    found = next((each / folder for each in above if _stands(each / folder)), None)
    return f", but in {found}: work from there, or give data.out={found.parent}" if found else ""


def _open(config: Config, folder: Path, name: str) -> Suite:
    root = config.forest_root
    if not _stands(folder) and name in _records(config):
        which = {} if name == config.data.name else {"data.name": name}
        raise UserError(
            f"the suite {name!r} that {root} records is not in {folder}{_seen(root, folder)}: give "
            "data.out=DIR if it was moved, prepare it "
            f"again ({command('prepare', forest=root, **which)}), or delete "
            f"{Paths(root).suite(name)} if it is to go"
        )
    if not _stands(folder) and Forest.stands(root):
        raise UserError(
            f"no prepared suite in {folder}; prepare it with the forest's tokenizer: "
            f"{command('prepare', forest=root)} data=folder data.root=DIR data.name={name}"
        )
    suite = Suite.open(folder)
    if name == config.data.name:
        _require_policy(config, suite.bos is not None, f"the suite {folder}")
    if Forest.stands(root):
        _require_own(config, suite.tokenizer_sha256, str(folder))
        for domain, meta in suite.metas.items():
            _require_own(config, meta["tokenizer_sha256"], str(folder / domain))
    return suite


def _require_own(config: Config, found: str, what: str) -> None:
    """Raise `UserError` unless a tokenizer is that of the forest."""
    root = config.forest_root
    wanted = Forest(root).identity["tokenizer_sha256"]
    if why := other_beginning(found, wanted):
        raise UserError(
            f"{what} has {why} {root}: prepare this text for the forest under a new name: btm "
            f"prepare forest={root} data=folder data.root=DIR data.name=NAME"
        )
    if found != wanted:
        raise UserError(
            f"{what} has another tokenizer than the forest {root} ({found[:12]} against "
            f"{wanted[:12]}): give the data "
            "words of the forest's own text, or prepare this one for it under a new name: "
            f"{command('prepare', forest=root)} data=folder data.root=DIR data.name=NAME"
        )


def _refuse_clash(config: Config, domains: Iterable[str]) -> None:
    """Raise `UserError` if another suite of the forest has one of these domains: evaluations name
    domains without their suite.
    """
    wanted = set(domains)
    for place in _other_places(config).values():
        both = sorted(wanted & _prepared(place))
        if both:
            raise UserError(
                f"the domain {both[0]!r} of {config.data.name!r} is in {place} already, a suite "
                "of the forest "
                f"{config.forest_root}: give the new one another name"
            )


def _prepared(folder: Path) -> set[str]:
    """List the domains that are prepared in a folder."""
    children: Sequence[Path] = list(folder.iterdir()) if folder.is_dir() else []
    return {
        child.name
        for child in children
        if (child / META).is_file() and read_meta(child) is not None
    }
