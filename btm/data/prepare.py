"""`btm prepare`: text to token shards, domain by domain, each published whole or not at all.

All input is validated before anything is written. A domain whose text, settings and tokenizer match
its folder is left alone, so an interrupted run is simply run again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from btm.config.checks import check_name
from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data import binarised
from btm.data.documents import Source, find, find_one
from btm.data.encode import EncodeAll, Encoder, cores, encoding, token_type
from btm.data.pack import pack
from btm.data.shards import META, SCHEMA, TOKENIZER, SplitFacts, Suite, read_meta
from btm.data.splits import SourceFile, Survey, fingerprint, survey
from btm.data.tokenizer import (
    begins_with_bos,
    copy_tokenizer,
    read_origin,
    tokenizer_sha256,
    train_tokenizer,
    training_texts,
)
from btm.errors import UserError, unknown
from btm.fairseq import databin
from btm.fairseq.dictionary import EOS
from btm.fairseq.tokenizer import bytes_of
from btm.system.durable import publish_folder, require_space, sweep, write_json
from btm.system.json_files import Json

Progress = Callable[[str], None]
_DEMO = Path(__file__).parent / "demo"
_SAMPLE_CHARS = 20_000  # of each domain, on which both ways of encoding must agree
_WORTH_A_PROCESS = 8_000_000  # bytes of text; less is encoded before a process has started
# Text that tokenizers disagree on: blanks, contractions, scripts, controls, a spelt-out EOS.
_NASTY = (
    "I'll  we've\t\r\n \n x\u00a0\u3000 "
    "y'S 12½٣ e\u0301😀 \u200d日本語<|endoftext|>\0\x1c\x85 \ufeff  "
)


@dataclass(frozen=True)
class _Domain:
    """A domain of the source, and whether its prepared shards are still valid."""

    source: Source
    novel: bool
    settings: Json  # everything that decides the bytes on disk, except the tokenizer
    files: list[SourceFile]
    why: str  # the reason to pack it; empty if there is none


def prepare(config: DataConfig, progress: Progress = lambda line: None) -> Suite:
    """Bring the suite `config.out`/`config.name` up to date with its source and return it.

    Raises `UserError`, with nothing written, if any text that must be read is broken.
    """
    folder = Path(config.out) / config.name
    sweep(folder)
    domains = _examine(config, folder)
    for name in _left_over(folder, domains):
        progress(
            f"{name}: its source is gone; its shards stay in use until you delete {folder / name}"
        )
    if domains[0].source.binarised:
        _take_over(config, folder, domains, progress)
        return Suite.open(folder)
    surveys: dict[str, Survey] = {}
    for domain in (d for d in domains if d.why):
        progress(f"{domain.source.domain}: reading ({domain.why})")
        surveys[domain.source.domain] = survey(domain.source, config)
    if surveys:
        require_space(folder, sum(_n_bytes(each) for each in surveys.values()))
    _ensure_tokenizer(config, folder, domains, surveys, progress)
    _pack_all(config, folder, [d for d in domains if d.why], surveys, progress)
    return Suite.open(folder)


@dataclass(frozen=True)
class Packing:
    """The plan for the text of one domain."""

    domain: str
    what: str  # in words
    stands: bool  # it is prepared already, from the same text


def plan(config: DataConfig) -> list[Packing]:
    """Plan `prepare` without writing, domain by domain."""
    found = []
    for domain in _examine(config, Path(config.out) / config.name):
        size = sum(file["bytes"] for file in domain.files)
        what = "nothing: unchanged"
        if domain.why:
            what = f"pack {len(domain.files)} files, {size:,} bytes ({domain.why})"
        found.append(Packing(domain.source.domain, what, not domain.why))
    return found


def training_domains(config: DataConfig) -> list[str]:
    """List the training domains of the source, without reading any text."""
    sources, novel = _sources(config)
    return [source.domain for source in sources if source.domain not in novel]


def all_domains(config: DataConfig) -> list[str]:
    """List every domain of the source, without reading any text."""
    return [source.domain for source in _sources(config)[0]]


def is_binarised(config: DataConfig) -> bool:
    """Tell whether the source is fairseq's data-bins, whose dictionary is their tokenizer."""
    return any(source.binarised for source in _sources(config)[0])


def prepared(config: DataConfig) -> list[str]:
    """List the prepared domains, also those that the source no longer has."""
    return _prepared(Path(config.out) / config.name)


def sources(config: DataConfig) -> list[Source]:
    """List the domains of the source with their files, without reading any text."""
    return _sources(config)[0]


def table(suite: Suite) -> list[dict[str, object]]:
    """Make a table row for each domain: documents, tokens and bytes by split, and summaries."""
    rows = []
    for name in suite.domains():
        splits = suite.metas[name]["splits"]
        row: dict[str, object] = {"domain": name, "novel": suite.novel(name)}
        for key in ("documents", "tokens", "bytes"):
            row |= {f"{split}_{key}": splits[split][key] for split in SPLITS}
        tokens, size = (sum(splits[split][key] for split in SPLITS) for key in ("tokens", "bytes"))
        row["bytes_per_token"] = size / tokens
        row["duplicates_dropped"] = sum(splits[split]["duplicates_dropped"] for split in SPLITS)
        rows.append(row)
    return rows


def _examine(config: DataConfig, folder: Path) -> list[_Domain]:
    """Compare the source with the prepared domains; reads files for their hashes only."""
    check_name(config.name, "data.name")
    sources, novel = _sources(config)
    tokenizer = _kept_tokenizer(config, folder)
    return [
        _compare(config, folder, source, source.domain in novel, tokenizer) for source in sources
    ]


def _left_over(folder: Path, domains: list[_Domain]) -> list[str]:
    """List the prepared domains that the source no longer has."""
    known = {domain.source.domain for domain in domains}
    return [name for name in _prepared(folder) if name not in known]


def _prepared(folder: Path) -> list[str]:
    """List the domains that are prepared in a suite's folder."""
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    return [child.name for child in children if (child / META).is_file()]


def _sources(config: DataConfig) -> tuple[list[Source], set[str]]:
    """Find the domains of the source, and the names of the novel ones."""
    root = Path(config.root) if config.root else _DEMO
    sources = [find_one(root, config.domain)] if config.domain else find(root, config.made_by)
    names = [source.domain for source in sources]
    if TOKENIZER in names:
        raise UserError(
            f"{root}: no domain can be called {TOKENIZER!r}, which is the tokenizer's folder"
        )
    return sources, set() if config.domain else _novel(root, names)


def _novel(root: Path, domains: list[str]) -> set[str]:
    """Read the novel domains, which are kept from training, from ROOT/suite.json."""
    path = root / "suite.json"
    try:
        listed = json.loads(path.read_bytes())["domains"] if path.exists() else {}
        novel = {name for name, about in listed.items() if about.get("novel", False)}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f'{path}: wanted {{"domains": {{name: {{"novel": true}}}}}}') from None
    for name in listed:
        if name not in domains:
            raise unknown("domain", name, domains, f"{root}, though suite.json lists it")
    return novel


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
        return None
    kept = tokenizer_sha256(folder / TOKENIZER)
    remedy = "a suite keeps its tokenizer: use another data.name, or leave data.tokenizer as it was"
    if asked and asked not in (kept, origin.get("copied", {}).get("sha256")):
        raise UserError(
            f"{folder} has another tokenizer than data.tokenizer={config.tokenizer}; {remedy}"
        )
    if "trained" not in origin or asked:
        return kept
    older = {"vocab_size": config.vocab_size, "special_tokens": "endoftext"}  # keys once missing
    for key, before in (older | origin["trained"]).items():
        if before != getattr(config, key):
            raise UserError(
                f"{folder} has a tokenizer trained with data.{key}={before}, not "
                f"{getattr(config, key)}; a suite keeps its tokenizer: use another data.name"
            )
    return kept


def _compare(
    config: DataConfig, folder: Path, source: Source, novel: bool, tokenizer: str | None
) -> _Domain:
    sha256, files = fingerprint(source)
    settings: Json = {
        "schema": SCHEMA,
        "novel": novel,
        "source_sha256": sha256,
        "text_column": config.text_column,
    }
    if source.pooled:
        settings |= {"valid_fraction": config.valid_fraction, "test_fraction": config.test_fraction}
    meta = read_meta(folder / source.domain)
    if meta is None:
        why = "new"
    elif tokenizer is None or meta["tokenizer_sha256"] != tokenizer:
        why = "another tokenizer"
    else:
        # Over the keys of both: a setting that was added or removed is a change as well.
        before = meta["settings"]
        changed = [key for key in settings | before if before.get(key) != settings.get(key)]
        why = f"changed: {', '.join(changed)}" if changed else ""
    return _Domain(source, novel, settings, files, why)


def _ensure_tokenizer(
    config: DataConfig,
    folder: Path,
    domains: list[_Domain],
    surveys: dict[str, Survey],
    progress: Progress,
) -> None:
    """Train or copy the suite's tokenizer unless it has one."""
    if read_origin(folder / TOKENIZER):
        return
    if config.tokenizer:
        progress(f"tokenizer: copying {config.tokenizer}")
        copy_tokenizer(Path(config.tokenizer), folder / TOKENIZER)
        return
    training = [surveys[d.source.domain] for d in domains if not d.novel]
    if not training:
        raise UserError(
            f"every domain of {config.root} is novel; a tokenizer is trained on those that are not"
        )
    progress(f"tokenizer: training one of {config.vocab_size:,} tokens on {len(training)} domains")
    texts = training_texts(training, config.text_column, config.tokenizer_bytes)
    train_tokenizer(texts, folder / TOKENIZER, config.vocab_size, config.special_tokens)


def _pack_all(
    config: DataConfig,
    folder: Path,
    domains: list[_Domain],
    surveys: dict[str, Survey],
    progress: Progress,
) -> None:
    if not domains:
        return
    samples = [_sample(surveys[d.source.domain], config.text_column) for d in domains]
    texts = [_NASTY, *(text for sample in samples for text in sample)]
    encoder = Encoder.open(folder / TOKENIZER, texts)
    size = sum(_n_bytes(each) for each in surveys.values())
    workers = (config.workers or cores()) if size >= _WORTH_A_PROCESS else 1
    with encoding(encoder, workers) as encode_all:
        for domain in domains:
            seen = surveys[domain.source.domain]
            progress(f"{seen.source.domain}: packing {_n_bytes(seen):,} bytes")
            _pack_one(config, folder, domain, seen, encoder, encode_all)


def _pack_one(
    config: DataConfig,
    folder: Path,
    domain: _Domain,
    seen: Survey,
    encoder: Encoder,
    encode_all: EncodeAll,
) -> None:
    """Publish data/<suite>/<domain>/, replacing an older one in one step."""
    size = (encoder.dtype.name, encoder.eos, encoder.vocab_size, encoder.bos)
    with publish_folder(folder / seen.source.domain, replace=True) as temporary:
        packed = pack(seen.documents(config.text_column), temporary, encoder, encode_all)
        for split, facts in packed.items():
            facts["duplicates_dropped"] = seen.splits[split].duplicates_dropped
        _describe(domain, packed, size, folder, temporary)


def _describe(
    domain: _Domain,
    splits: dict[str, SplitFacts],
    size: tuple[str, int, int, int | None],
    folder: Path,
    target: Path,
) -> None:
    """Write meta.json, which makes `target` a domain; `UserError` if the source has changed."""
    # The source was hashed before it was packed; hashed again, it must still be the same.
    if fingerprint(domain.source)[0] != domain.settings["source_sha256"]:
        raise UserError(
            f"{domain.source.domain}: its files changed while they were read; run it again"
        )
    dtype, eos, vocab_size, bos = size
    meta = {
        "schema": SCHEMA,
        "domain": domain.source.domain,
        "novel": domain.novel,
        "dtype": dtype,
        "eos": eos,
        "vocab_size": vocab_size,
        "tokenizer_sha256": tokenizer_sha256(folder / TOKENIZER),
        "source_sha256": domain.settings["source_sha256"],
        "source_files": domain.files,
        "settings": domain.settings,
        "splits": splits,
    }
    if bos is not None:
        meta["bos"] = bos
    write_json(target / META, meta)


def _take_over(
    config: DataConfig, folder: Path, domains: list[_Domain], progress: Progress
) -> None:
    """Make shards of fairseq's data-bins: ids stay, and the dictionary becomes the tokenizer."""
    if config.tokenizer:
        raise UserError(
            f"data.tokenizer={config.tokenizer}: data-bins have theirs in dict.txt; leave it out"
        )
    places = {d.source.domain: d.source.listing()[0][1].parent for d in domains}
    dictionary = databin.shared_dictionary(list(places.values()))
    opened = {}
    for domain in (d for d in domains if d.why):
        progress(f"{domain.source.domain}: reading ({domain.why})")
        opened[domain.source.domain] = databin.read(domain.source.files, dictionary)
    require_space(folder, sum(file["bytes"] for d in domains if d.why for file in d.files))
    beside = places[domains[0].source.domain]
    binarised.ensure_tokenizer(dictionary, beside, folder / TOKENIZER)
    dtype = token_type(len(dictionary))
    lengths = bytes_of(dictionary, beside)
    for domain in (d for d in domains if d.why):
        name = domain.source.domain
        progress(f"{name}: packing {sum(file['bytes'] for file in domain.files):,} bytes")
        with publish_folder(folder / name, replace=True) as temporary:
            splits = binarised.pack(opened[name], lengths, temporary, dtype)
            _describe(domain, splits, (dtype.name, EOS, len(dictionary), None), folder, temporary)


def _sample(seen: Survey, column: str) -> list[str]:
    """Read the first documents of a domain, as many as the tokenizer check needs."""
    texts: list[str] = []
    chars = 0
    for _, text in seen.documents(column):
        texts.append(text[:_SAMPLE_CHARS])
        chars += len(texts[-1])
        if chars >= _SAMPLE_CHARS:
            break
    return texts


def _n_bytes(seen: Survey) -> int:
    return sum(count.bytes for count in seen.splits.values())
