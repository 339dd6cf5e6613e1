"""The domains of a source, compared with those that are prepared already."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from btm.config.checks import check_name
from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data import suite_file
from btm.data.bos import ALWAYS, AUTO, bos_of
from btm.data.documents import BY_DOCUMENT, Source
from btm.data.domains import Found, look, look_at_one
from btm.data.passed_over import IGNORED
from btm.data.prompted.template import read_template
from btm.data.shards import META, NEAR, SCHEMA, TOKENIZER, Shard, read_meta
from btm.data.splits import SourceFile, fingerprint
from btm.data.suite_file import About
from btm.data.tokenizer import begins_with_bos, load_tokenizer, read_origin, tokenizer_sha256
from btm.errors import UserError, unknown
from btm.system import lfs
from btm.system.json_files import Json

_SOURCE = "source_sha256"
_DEMO = Path(__file__).parent / "demo"


@dataclass(frozen=True)
class Domain:
    """A domain of the source, and whether its prepared shards are still valid."""

    source: Source
    novel: bool
    settings: Json  # everything that decides the bytes on disk, except the tokenizer
    files: list[SourceFile]
    why: str  # the reason to pack it; empty if there is none
    hashed: bool  # its documents' digests are on disk

    @property
    def has_other_text(self) -> bool:
        """Whether its text is all that has changed since it was packed."""
        return self.why == f"changed: {_SOURCE}"


def examine(config: DataConfig, folder: Path) -> list[Domain]:
    """Compare the source with the prepared domains; reads files for their hashes only."""
    check_name(config.name, "data.name")
    sources, about = find_sources(config)
    tokenizer = _kept_tokenizer(config, folder)
    return [
        _compare(config, folder, source, about.get(source.domain, About()), tokenizer)
        for source in sources
    ]


def left_over(folder: Path, domains: list[Domain]) -> list[str]:
    """List the prepared domains that the source no longer has."""
    known = {domain.source.domain for domain in domains}
    return [name for name in prepared_in(folder) if name not in known]


def prepared_in(folder: Path) -> list[str]:
    """List the domains that are prepared in a suite's folder."""
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    return [child.name for child in children if (child / META).is_file()]


def find_sources(config: DataConfig) -> tuple[list[Source], dict[str, About]]:
    """Find the domains of the source, and what their suite says of them."""
    found = found_in(config)
    for source in found.sources:
        for _, path in source.listing():
            lfs.refuse(path)  # before hours of packing other domains, not in the middle of them
    names = [source.domain for source in found.sources]
    if TOKENIZER in names:
        raise UserError(
            f"{found.root}: no domain can be called {TOKENIZER!r}, which is the tokenizer's folder"
        )
    return found.sources, {} if config.domain else _about(config, found)


def found_in(config: DataConfig) -> Found:
    """Find the domains of the source, and what is passed over there."""
    root = Path(config.root) if config.root else _DEMO
    return look_at_one(root, config.domain, config) if config.domain else look(root, config)


def _about(config: DataConfig, found: Found) -> dict[str, About]:
    """Read what ROOT/suite.json says of domains, by their names here.

    It may call them as their folders or as `data.names` does.
    """
    about = suite_file.read(found.root)
    domains = [source.domain for source in found.sources]
    ignored = {each.path.name for each in found.passed if each.why == IGNORED}
    names = {name: config.names.get(name, name) for name in about if name not in ignored}
    for name, domain in names.items():
        if domain not in domains:
            raise unknown("domain", name, domains, f"{found.root}, though suite.json lists it")
    if len({*names.values()}) < len(names):
        twice = sorted(name for name, domain in names.items() if domain != name)
        raise UserError(
            f"{found.root / suite_file.NAME} lists a domain under two names, of which data.names "
            f"renames one: {', '.join(twice)}"
        )
    return {domain: about[name] for name, domain in names.items()}


def _kept_tokenizer(config: DataConfig, folder: Path) -> str | None:
    """Fingerprint the suite's tokenizer, None without one; `UserError` if settings want another."""
    asked = None
    if config.tokenizer:
        if not Path(config.tokenizer).is_dir():
            raise UserError(
                f"data.tokenizer={config.tokenizer}: no such folder; "
                "wanted a Hugging Face tokenizer"
            )
        # Under the suite's own convention of BOS: one from before there was any stays as it is.
        asked = tokenizer_sha256(Path(config.tokenizer), begins_with_bos(folder / TOKENIZER))
    origin = read_origin(folder / TOKENIZER)
    if not origin:
        if config.tokenizer:  # an unfit one is refused before any text is read
            bos_of(load_tokenizer(Path(config.tokenizer)), config.bos, config.tokenizer)
        return None
    if config.bos != AUTO and (config.bos == ALWAYS) != ("bos" in origin):
        has = "a" if "bos" in origin else "no"
        raise UserError(
            f"data.bos={config.bos}: texts of {folder} begin with {has} BOS, and a suite keeps its "
            "tokenizer: use another data.name, or leave data.bos as it was"
        )
    kept = tokenizer_sha256(folder / TOKENIZER)
    remedy = "a suite keeps its tokenizer: use another data.name, or leave data.tokenizer as it was"
    if asked and asked not in (kept, origin.get("copied", {}).get("sha256")):
        raise UserError(
            f"{folder} has another tokenizer than data.tokenizer={config.tokenizer}; {remedy}"
        )
    if "trained" not in origin or asked:
        return kept
    # Keys once missing, and those that are recorded where they are on.
    usual = {"vocab_size": config.vocab_size, "special_tokens": "endoftext", "sampling": None}
    usual |= {"words": "gpt2"}
    for key, before in (usual | origin["trained"]).items():
        if before != (now := getattr(config, key)):
            was, asked = ("null" if value is None else value for value in (before, now))
            raise UserError(
                f"{folder} has a tokenizer trained with data.{key}={was}, not {asked}; "
                "a suite keeps its tokenizer: use another data.name"
            )
    return kept


def _compare(
    config: DataConfig, folder: Path, source: Source, about: About, tokenizer: str | None
) -> Domain:
    sha256, files = fingerprint(source)
    settings: Json = {
        "schema": SCHEMA,
        "novel": about.novel,
        _SOURCE: sha256,
        "text_column": config.text_column,
    }
    if config.on_error != DataConfig.on_error:  # which rows are left out decides what the text is
        settings |= {"on_error": config.on_error, "row_bytes": config.row_bytes}
    fractions = {"valid": config.valid_fraction, "test": config.test_fraction}
    settings |= {f"{split}_fraction": fractions[split] for split in source.drawn}
    if about.card:
        settings["card"] = about.card
    if source.split_by not in ("", BY_DOCUMENT):
        settings["split_by"] = source.split_by
    if config.near_duplicates == "drop":
        settings[NEAR] = "drop"
    settings |= _of_examples(config)
    meta = read_meta(folder / source.domain)
    if meta is None:
        why = "new"
    elif tokenizer is None or meta["tokenizer_sha256"] != tokenizer:
        why = "another tokenizer"
    else:
        # Over the keys of both: a setting that was added or removed is a change as well.
        before = meta["settings"]
        changed = [key for key in settings | before if before.get(key) != settings.get(key)]
        why = f"changed: {', '.join(changed)}" if changed else _damage(folder / source.domain)
    hashed = all((folder / source.domain / f"{split}.docs").is_file() for split in SPLITS)
    return Domain(source, about.novel, settings, files, why, hashed)


def _of_examples(config: DataConfig) -> Json:
    """List what decides the shards of prompted data beside those of texts."""
    if config.format == "text":
        return {}
    template = None
    if config.chat_template:
        content = read_template(Path(config.chat_template))
        template = hashlib.sha256(content.encode()).hexdigest()
    return {
        "format": config.format,
        "loss_on": config.loss_on,
        "chat_template": template,
        "max_tokens": config.max_tokens,
        "truncate": config.truncate,
    }


def _damage(folder: Path) -> str:
    """Say which shard of a prepared domain is missing or cut off; empty if all are whole."""
    try:
        for split in SPLITS:
            Shard.open(folder, split)
    except UserError as error:
        return str(error).partition(";")[0].removeprefix(f"{folder}/")
    return ""
