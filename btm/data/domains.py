"""The domains of a folder, in any of several layouts (docs/data.md has all of it).

    ROOT/<domain>/{train,valid,test}.jsonl    its own splits, also as shards or folders
    ROOT/<domain>/**                          pooled, to be split
    ROOT/<domain>.txt                         one file is a domain
    ROOT/<domain>/dict.txt, train.bin …       a data-bin of fairseq (btm/data/binarised.py)

`look` lists the sources and what is passed over; it reads no text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from btm.config.checks import is_name
from btm.config.data import DataConfig
from btm.data import passed_over
from btm.data.columns import header_of
from btm.data.documents import Source
from btm.data.domain_names import name_of, named, propose
from btm.data.folders import (
    entries,
    files_below,
    is_about_text,
    matches,
    why_aside,
)
from btm.data.formats import COMPRESSED, NO_ENDING, TABLE, WANTED, format_of
from btm.data.layout import POOL, arrange
from btm.data.passed_over import ABOUT, AGAIN, PassedOver
from btm.data.readable import why_not_read
from btm.data.saved_datasets import require_all_whole
from btm.data.shard_sets import incomplete, shard_of
from btm.data.split_names import above_split, is_plain, split_of, splits_of, without_split
from btm.data.words import ignoring, naming
from btm.errors import UserError, nearest
from btm.fairseq import databin

# Files of our own beside domains: which of them are novel, and the router of a discovery.
_OURS = ("suite.json", ".router")

# Endings that are proposed for data.text_endings where a folder has nothing else.
_PLAIN = frozenset(
    """
    .md .markdown .rst .tex .html .htm .xml .org .adoc .tokens .raw .log .srt .yaml .yml .toml
    .py .js .ts .java .c .h .cc .cpp .hpp .cs .go .rs .rb .php .pl .r .jl .hs .ml .scala .swift .kt
    .lua .sh .sql .lean .v
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Found:
    """The domains below `root`, by name, and what is passed over there."""

    root: Path
    sources: list[Source]
    passed: list[PassedOver]

    def lines(self) -> list[str]:
        """Say what is passed over, which folders are one domain, and which shards are missing."""
        together = [
            f"{source.domain}: one domain of the files in {places}"
            for source in self.sources
            if (places := _several_folders(source))
        ]
        partly = [
            f"{source.domain}: only {shards} are there"
            for source in self.sources
            for shards in incomplete(path for _, path in source.listing())
        ]
        return together + partly + passed_over.lines(self.passed, self.root, self._read())

    def unread(self) -> dict[str, str]:
        """Count by reason what is unread of each domain; of the top of the folder under ""."""
        domains = {each.domain for each in self.passed}
        found = {name: passed_over.unread_of(self.passed, name) for name in domains}
        return {name: passed_over.counted(unread) for name, unread in found.items() if unread}

    def require_read(self) -> None:
        """Raise `UserError` if anything is unread."""
        passed_over.refuse(self.passed, self.root, self._read())

    def _read(self) -> dict[str, int]:
        return {source.domain: len(source.listing()) for source in self.sources}


def _several_folders(source: Source) -> str:
    """List the folders that a domain's files stand in, but for those of splits; "" for one."""
    if source.home is None or source.binarised:
        return ""
    home = source.home
    folders = sorted({above_split(path.relative_to(home)) for _, path in source.listing()})
    more = f" and {len(folders) - passed_over.NAMED} more"
    listed = ", ".join(folders[: passed_over.NAMED])
    return (listed + more * (len(folders) > passed_over.NAMED)) * (len(folders) > 1)


def find(root: Path, config: DataConfig | None = None) -> list[Source]:
    """Find the domains below `root`, by name; `UserError` if there are none or one is ambiguous."""
    return look(root, config).sources


def look(root: Path, config: DataConfig | None = None) -> Found:
    """Find the domains below `root` and what is passed over; `UserError` as of `find`."""
    config = config or DataConfig()
    _require_further_endings(config)
    _require_folder_of_domains(root, config)
    candidates, passed = _candidates(root, config)
    _require_no_capital_splits(root, candidates, config)
    domains = named(candidates, config.names, root)
    _require_no_shards(root, candidates, config)
    sources: dict[str, Source] = {}
    for entry, domain in domains.items():
        if domain in sources:
            raise UserError(
                f"{root}: two sources for the domain {domain!r}, one is {entry.name}; keep one, or "
                f"give this one a name: {naming({entry.name: 'NAME'})}"
            )
        if entry.is_dir():
            sources[domain], more = _in_folder(entry, root, domain, config)
            passed += more
        else:
            sources[domain] = Source(domain, {POOL: (entry,)})
    if not sources:
        unread = f"; not read: {passed_over.named(passed, root)}" if passed else ""
        raise UserError(f"no domain in {root}; wanted a folder for each, or files{_ends()}{unread}")
    if config.splits == "named":
        pools = {path: name for path, name in domains.items() if sources[name].pooled}
        _require_several(root, pools, config)
    _require_one_kind(root, sources)
    _require_ignored(root, config, passed)
    return _settled(Found(root, [sources[name] for name in sorted(sources)], passed), config)


def look_at_one(path: Path, domain: str, config: DataConfig) -> Found:
    """Make a domain of one file, or of a folder of files, under any name."""
    _require_further_endings(config)
    if path.is_dir():
        source, passed = _in_folder(path, path, domain, config)
        return _settled(Found(path, [source], passed), config)
    if not path.exists():
        raise UserError(f"no file or folder {path}; wanted the text of the domain {domain!r}")
    if why := why_not_read(path, config):
        raise UserError(
            f"{path}: is not read ({why}); wanted a folder, or a file that ends in {WANTED}, its "
            f"text in the field {config.text_column!r} (set data.text_column)"
        )
    return Found(path.parent, [Source(domain, {POOL: (path,)})], [])


def _settled(found: Found, config: DataConfig) -> Found:
    if config.unread == "refuse":
        found.require_read()
    return found


def _require_further_endings(config: DataConfig) -> None:
    """Refuse endings of plain text that are read in another way, or already."""
    for ending in config.text_endings:
        if format_of(Path(f"x{ending}")) is not None or ending.lower() in COMPRESSED:
            raise UserError(
                f"data.text_endings={ending}: such files are read already, or are compressed; "
                "leave it out"
            )


def _require_folder_of_domains(root: Path, config: DataConfig) -> None:
    if root.is_file():
        raise UserError(
            f"{root} is a file; data.root must be a folder of domains, or give data.domain=NAME"
        )
    if not root.is_dir():
        build = f"build it: {config.made_by} --out {root}"
        remedy = build if config.made_by else "data.root must be a folder of domains"
        raise UserError(f"no folder {root}; {remedy}")
    if databin.is_data_bin(root):
        raise UserError(
            f"{root} is one data-bin, and so one domain; data.root must be the folder above it"
        )


def _candidates(root: Path, config: DataConfig) -> tuple[list[Path], list[PassedOver]]:
    """List what may be a domain, by name, and what is passed over at the top of `root`."""
    candidates, passed = [], []
    for entry in entries(root):
        if entry.name in _OURS:
            continue
        why = why_aside(entry, root, config.ignore)
        if not why and entry.is_dir():
            why = AGAIN if root.resolve().is_relative_to(entry.resolve()) else ""
        elif not why:
            why = why_not_read(entry, config)
        if why:
            passed.append(PassedOver(entry, why))
        else:
            candidates.append(entry)
    return candidates, passed


def _in_folder(
    folder: Path, root: Path, domain: str, config: DataConfig
) -> tuple[Source, list[PassedOver]]:
    """Make a domain of a folder, and list what is passed over in it."""
    if databin.is_data_bin(folder):
        return Source(domain, databin.files_of(folder), folder), []
    below = files_below(folder, root, config.ignore, domain)
    require_all_whole([folder / "x", *below.files, *(each.path for each in below.passed)])
    files, passed = [], below.passed
    for path in below.files:
        if why := why_not_read(path, config):
            passed.append(PassedOver(path, why, domain))
        else:
            files.append(path)
    if not files:
        raise _no_document(folder, passed, config, alone=folder == root)
    about = [path for path in files if is_about_text(path)]
    # Beside named splits such a file is none of them; in a pool it is text as others are.
    if 0 < len(about) < len(files) and _names_splits(folder, files, config):
        files = [path for path in files if path not in about]
        passed += [PassedOver(path, ABOUT, domain) for path in about]
    unread = [each for each in passed if each.unread or each.why == AGAIN]
    return Source(domain, arrange(folder, files, unread, config), folder), passed


def _names_splits(folder: Path, files: list[Path], config: DataConfig) -> bool:
    return config.splits == "named" and any(splits_of(path.relative_to(folder)) for path in files)


def _require_ignored(root: Path, config: DataConfig, passed: Iterable[PassedOver]) -> None:
    """Refuse a name in data.ignore that is of nothing below `root`; patterns may be of nothing."""
    ignored = [each.path for each in passed if each.why == passed_over.IGNORED]
    for name in config.ignore:
        is_pattern = any(sign in name for sign in "*?[")
        if not is_pattern and not any(matches(path, root, name) for path in ignored):
            have = [entry.name for entry in entries(root)]
            raise UserError(
                f"data.ignore: nothing is called {name!r} in {root}; take that word out"
                f"{nearest(name, have)}"
            )


def _require_no_shards(root: Path, candidates: list[Path], config: DataConfig) -> None:
    """Refuse a root whose files are the splits of one domain."""
    plain = [entry for entry in candidates if is_plain(name_of(entry))]
    if config.splits == "named" and any(not entry.is_dir() for entry in plain):
        raise _one_domain(root, plain)


def _require_no_capital_splits(root: Path, candidates: list[Path], config: DataConfig) -> None:
    """Refuse `Train` beside `Test`, for which `named` would propose names of two domains."""
    unnamed = [e for e in candidates if not {e.name, name_of(e)} & config.names.keys()]
    plain = [e for e in unnamed if is_plain(name_of(e)) and not is_name(name_of(e))]
    if config.splits == "named" and len({split_of(name_of(e)) for e in plain}) > 1:
        raise _one_domain(root, plain)


def _require_several(root: Path, pools: Mapping[Path, str], config: DataConfig) -> None:
    """Refuse splits of one domain that stand side by side below `root`, as if they were domains.

    `pools` are those without splits of their own, with their domains; a name that `config.names`
    gives is meant.
    """
    given = config.names.values()
    splits = {path: split_of(name_of(path)) for path, name in pools.items() if name not in given}
    plain = [path for path in splits if is_plain(name_of(path))]
    if len({splits[path] for path in plain}) > 1:
        raise _one_domain(root, plain)
    if plain:
        raise UserError(
            f"{plain[0]}: the name of a split, and not of a domain; if it is one, say so with "
            f"{naming({plain[0].name: 'NAME'})}, or leave it out with {ignoring(plain[0].name)}"
        )
    beside: dict[str, list[Path]] = {}
    for path in splits:
        beside.setdefault(without_split(name_of(path)), []).append(path)
    for name, group in beside.items():
        if len({splits[path] for path in group}) > 1:
            have = ", ".join(path.name for path in group[: passed_over.NAMED])
            each = {pools[path]: pools[path] for path in group}
            raise UserError(
                f"{root}: {have} are splits of one domain by their names; move them into a folder "
                f"of their own ({propose(name, ())}/), or, if each is a domain, say so with "
                f"{naming(each)}"
            )
    for path in splits:
        if shard := None if path.is_dir() else shard_of(path):
            raise UserError(
                f"{path}: a shard by its name, and no domain; move the shards of a domain into a "
                f"folder of its own ({propose(shard, ())}/), give data.domain=NAME if {root} is "
                f"one domain, or, if the file is a domain, say so with "
                f"{naming({name_of(path): propose(shard, pools.values())})}"
            )


def _one_domain(root: Path, plain: list[Path]) -> UserError:
    have = ", ".join(entry.name for entry in plain[: passed_over.NAMED])
    return UserError(
        f"{root} is one domain, as it has {have}; data.root must be the folder above it, or "
        "give data.domain=NAME"
    )


def _require_one_kind(root: Path, sources: dict[str, Source]) -> None:
    kinds = {source.binarised: name for name, source in sources.items()}
    if len(kinds) > 1:
        raise UserError(
            f"{root}: {kinds[True]} is a data-bin of fairseq and {kinds[False]} is text; "
            "keep one kind"
        )


def _no_document(
    folder: Path, passed: list[PassedOver], config: DataConfig, *, alone: bool
) -> UserError:
    """Refuse a folder in which nothing can be read, with what is there; `alone` if it is all."""
    there = f"; there are {passed_over.named(passed, folder)}" if passed else ""
    tables = [each.path for each in passed if each.unread and format_of(each.path) == TABLE]
    if tables and tables[0].is_file():
        have = ", ".join(map(repr, header_of(tables[0]))) or "nothing"
        there += f"; {tables[0].name} has {have} (set data.text_column)"
    whys = {each.why for each in passed}
    endings = sorted(whys & _PLAIN) + [NO_ENDING] * (passed_over.BARE in whys)
    plain = ",".join([*config.text_endings, *endings])
    remedy = f" (data.text_endings=[{plain}] reads such files as plain text)" if endings else ""
    return UserError(
        f"{folder}: no document{there}; wanted files{_ends()}{remedy}"
        + f", or leave it out with {ignoring(folder.name)}" * (not alone)
    )


def _ends() -> str:
    return f" that end in {WANTED}"
