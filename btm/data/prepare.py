"""`btm prepare`: text to token shards, domain by domain, each published whole or not at all.

All input is validated before anything is written. A domain whose text, settings and tokenizer match
its folder is left alone, so an interrupted run is simply run again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from btm.config.choices import SPLITS
from btm.config.data import DataConfig
from btm.data import amounts, binarised, near
from btm.data.documents import Source
from btm.data.duplicates import (
    Standing,
    require_documents,
    settle,
    settled,
    standing_in,
)
from btm.data.encode import EncodeAll, Encoder, cores, encoding, token_type
from btm.data.examine import Domain, examine, find_sources, found_in, left_over, prepared_in
from btm.data.pack import pack
from btm.data.prompted import pack as prompted_pack
from btm.data.prompted import reader as prompted
from btm.data.prompted.encode import Cut, ExampleEncoder
from btm.data.prompted.examples import plain
from btm.data.rows import RowReader, Skipped
from btm.data.sampling import training_texts
from btm.data.shards import META, SCHEMA, SKIPPED, TOKENIZER, SplitFacts, Suite, read_meta
from btm.data.splits import Survey, fingerprint, survey
from btm.data.tokenizer import (
    copy_tokenizer,
    read_origin,
    tokenizer_sha256,
    train_tokenizer,
)
from btm.errors import UserError
from btm.fairseq import databin
from btm.fairseq.dictionary import EOS
from btm.fairseq.tokenizer import bytes_of
from btm.system.durable import publish_file, publish_folder, require_space, sweep, write_json

Progress = Callable[[str], None]
_SAMPLE_CHARS = 20_000  # of each domain, on which both ways of encoding must agree
_NO_DIGESTS = "its documents have no digests yet"
_WORTH_A_PROCESS = 8_000_000  # bytes of text; less is encoded before a process has started
# Keys that have no effect on fairseq's data-bins, and why.
_NOT_OF_BINS = {
    "tokenizer": "have theirs in dict.txt",
    "sampling": "have their tokenizer in dict.txt",
    "words": "have their tokenizer in dict.txt",
    "on_error": "have no rows of text",
    "format": "are text",
    "bos": "are taken over as they are",
}
# Text that tokenizers disagree on: blanks, contractions, scripts, controls, a spelt-out EOS.
_NASTY = (
    "I'll  we've\t\r\n \n x\u00a0\u3000 "
    "y'S 12½٣ e\u0301😀 \u200d日本語<|endoftext|>\0\x1c\x85 \ufeff  "
)


def prepare(
    config: DataConfig,
    progress: Progress = lambda line: None,
    beside: Sequence[Suite] = (),
) -> Suite:
    """Bring the suite `config.out`/`config.name` up to date with its source and return it.

    What stands in the suite, and in those `beside` it (a forest's others), stays as it is: of a
    document that stands there too, what is prepared now gives way (btm/data/duplicates.py).
    Raises `UserError`, with nothing written, if any text that must be read is broken.
    """
    folder = Path(config.out) / config.name
    sweep(folder)
    domains = examine(config, folder)
    for line in passed_over(config):
        progress(line)
    for name in left_over(folder, domains):
        progress(
            f"{name}: its source is gone; its shards stay in use until you delete {folder / name}"
        )
    if domains[0].source.binarised:
        _take_over(config, folder, domains, progress)
        _look(config, folder, beside, progress)
        return Suite.open(folder)
    reader = None
    if config.format == "prompted":
        reader = prompted.reader(config, folder / TOKENIZER)
    domains, surveys = _read(config, folder, domains, beside, progress, reader)
    to_pack = [domain for domain in domains if domain.why]
    if to_pack:
        require_space(folder, sum(_n_bytes(surveys[d.source.domain]) for d in to_pack))
    _ensure_tokenizer(config, folder, domains, surveys, progress)
    if reader is not None:
        prompted.keep_template(reader, folder / TOKENIZER)
    _pack_all(config, folder, to_pack, surveys, progress)
    for domain in (d for d in domains if not d.why and not d.hashed):
        _add_digests(folder / domain.source.domain, surveys[domain.source.domain])
    _look(config, folder, beside, progress)
    return Suite.open(folder)


def _read(
    config: DataConfig,
    folder: Path,
    domains: list[Domain],
    beside: Sequence[Suite],
    progress: Progress,
    reader: RowReader | None,
) -> tuple[list[Domain], dict[str, Survey]]:
    """Survey the domains that need it, and drop what stands elsewhere.

    A domain of before digests is settled first, so that what is new gives way to it; where it had
    taken what another domain holds out, it is to be packed again.
    """
    if all(domain.hashed and not domain.why for domain in domains):
        return domains, {}
    standing = _standing(folder, domains, beside, progress)
    surveys: dict[str, Survey] = {}
    for wanted in (
        [domain for domain in domains if not domain.why and not domain.hashed],
        [domain for domain in domains if domain.why],
    ):
        read = []
        for domain in wanted:
            progress(f"{domain.source.domain}: reading ({domain.why or _NO_DIGESTS})")
            before = _before(folder, domain)
            if before:
                progress(
                    f"{domain.source.domain}: its documents keep their splits, new ones are dealt"
                )
            read.append(survey(domain.source, config, before, reader))
            for line in read[-1].skipped.lines(domain.source.domain):
                progress(line)
        seen = settle(read, standing)
        require_documents(seen)
        surveys |= {each.source.domain: each for each in seen}
        standing += [split for each in seen for split in settled(each)]
    return [_with_reason(folder, domain, surveys) for domain in domains], surveys


def _before(folder: Path, domain: Domain) -> Mapping[str, np.ndarray]:
    """Read which documents each split of a domain has, if nothing but its text has changed."""
    if not domain.has_other_text or not domain.source.drawn or not domain.hashed:
        return {}
    return {each.split: each.digests for each in standing_in(folder / domain.source.domain)}


def _standing(
    folder: Path, domains: list[Domain], beside: Sequence[Suite], progress: Progress
) -> list[Standing]:
    """Collect the documents of the domains that stay as they are."""
    staying = [d.source.domain for d in domains if not d.why and d.hashed]
    places = {folder / name: False for name in sorted([*staying, *left_over(folder, domains)])}
    places |= {suite.path / name: True for suite in beside for name in suite.domains()}
    found = []
    for place, elsewhere in places.items():
        splits = standing_in(place, elsewhere)
        if not splits:
            progress(f"{place}: {_NO_DIGESTS}, and what is prepared now is not compared with it")
        found += splits
    return found


def _with_reason(folder: Path, domain: Domain, surveys: dict[str, Survey]) -> Domain:
    """Give a domain of before digests a reason to be packed if its documents are others now."""
    seen, meta = surveys.get(domain.source.domain), read_meta(folder / domain.source.domain)
    if seen is None or domain.why or meta is None:
        return domain
    same = all(meta["splits"][s]["documents"] == seen.splits[s].documents for s in SPLITS)
    return domain if same else replace(domain, why="documents of it stand in another domain")


@dataclass(frozen=True)
class Packing:
    """The plan for the text of one domain."""

    domain: str
    what: str  # in words
    stands: bool  # it is prepared already, from the same text
    train_tokens: int  # estimated from the size of the files unless it stands


def plan(config: DataConfig) -> list[Packing]:
    """Plan `prepare` without writing, domain by domain."""
    found = []
    missed = unread(config)
    for domain in examine(config, Path(config.out) / config.name):
        size = sum(file["bytes"] for file in domain.files)
        what = "nothing: unchanged"
        if not domain.hashed:
            what = f"read {len(domain.files)} files, {size:,} bytes ({_NO_DIGESTS})"
        if domain.why:
            what = f"pack {len(domain.files)} files, {size:,} bytes ({domain.why})"
        if not_read := missed.get(domain.source.domain):
            what += f"; not read: {not_read}"
        name = domain.source.domain
        tokens = amounts.about(config, domain.source) if domain.why else amounts.of(config, name)
        found.append(Packing(name, what, not domain.why, tokens))
    return found


def passed_over(config: DataConfig) -> list[str]:
    """Say what of the source is not read: a line for each domain that misses any."""
    return found_in(config).lines() if config.root else []


def unread(config: DataConfig) -> dict[str, str]:
    """Count by reason the files of each domain that are not read; "" has those of no domain."""
    return found_in(config).unread() if config.root else {}


def training_domains(config: DataConfig) -> list[str]:
    """List the training domains of the source, without reading any text."""
    sources, about = find_sources(config)
    novel = {domain for domain, each in about.items() if each.novel}
    return [source.domain for source in sources if source.domain not in novel]


def all_domains(config: DataConfig) -> list[str]:
    """List every domain of the source, without reading any text."""
    return [source.domain for source in find_sources(config)[0]]


def is_binarised(config: DataConfig) -> bool:
    """Tell whether the source is fairseq's data-bins, whose dictionary is their tokenizer."""
    return any(source.binarised for source in find_sources(config)[0])


def prepared(config: DataConfig) -> list[str]:
    """List the prepared domains, also those that the source no longer has."""
    return prepared_in(Path(config.out) / config.name)


def sources(config: DataConfig) -> list[Source]:
    """List the domains of the source with their files, without reading any text."""
    return find_sources(config)[0]


def _ensure_tokenizer(
    config: DataConfig,
    folder: Path,
    domains: list[Domain],
    surveys: dict[str, Survey],
    progress: Progress,
) -> None:
    """Train or copy the suite's tokenizer unless it has one."""
    if read_origin(folder / TOKENIZER):
        return
    if config.tokenizer:
        progress(f"tokenizer: copying {config.tokenizer}")
        copy_tokenizer(Path(config.tokenizer), folder / TOKENIZER, config.bos)
        return
    training = [surveys[d.source.domain] for d in domains if not d.novel]
    if not training:
        raise UserError(
            f"every domain of {config.root} is novel; a tokenizer is trained on those that are not"
        )
    progress(f"tokenizer: training one of {config.vocab_size:,} tokens on {len(training)} domains")
    texts = training_texts(
        training,
        config.text_column,
        config.tokenizer_bytes,
        plain if config.format == "prompted" else str,
        config.sampling,
    )
    asked = (config.vocab_size, config.special_tokens, config.bos)
    train_tokenizer(texts, folder / TOKENIZER, *asked, progress, config.sampling, config.words)


def _pack_all(
    config: DataConfig,
    folder: Path,
    domains: list[Domain],
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
            if config.format == "prompted":
                for line in _pack_examples(config, folder, domain, seen, encoder):
                    progress(line)
            else:
                _pack_one(config, folder, domain, seen, encoder, encode_all)


def _pack_one(
    config: DataConfig,
    folder: Path,
    domain: Domain,
    seen: Survey,
    encoder: Encoder,
    encode_all: EncodeAll,
) -> None:
    """Publish data/<suite>/<domain>/, replacing an older one in one step."""
    size = (encoder.dtype.name, encoder.eos, encoder.vocab_size, encoder.bos)
    with publish_folder(folder / seen.source.domain, replace=True) as temporary:
        packed = pack(seen.documents(config.text_column), temporary, encoder, encode_all)
        _add_dropped(packed, seen)
        for split in SPLITS:
            (temporary / f"{split}.docs").write_bytes(seen.digests(split).tobytes())
        _describe(domain, packed, size, folder, temporary, seen.skipped)


def _pack_examples(
    config: DataConfig, folder: Path, domain: Domain, seen: Survey, encoder: Encoder
) -> list[str]:
    """Publish a domain of prompted data as `_pack_one` does; say what was cut, in lines."""
    if config.max_tokens is None:
        raise ValueError("data.max_tokens is still to be decided (forest.suites.data_of does)")
    size = (encoder.dtype.name, encoder.eos, encoder.vocab_size, encoder.bos)
    everywhere = config.loss_on == "all"
    cut = Cut(config.max_tokens, config.truncate, everywhere)
    examples, name = ExampleEncoder(encoder, everywhere=everywhere), seen.source.domain
    with publish_folder(folder / name, replace=True) as temporary:
        documents = seen.documents(config.text_column)
        packed = prompted_pack.pack(documents, temporary, examples, cut, name)
        _add_dropped(packed.facts, seen)
        for split in SPLITS:
            digests = packed.digests(split, seen.digests(split))
            (temporary / f"{split}.docs").write_bytes(digests.tobytes())
        _describe(domain, packed.facts, size, folder, temporary, seen.skipped)
    return packed.lines(name, cut)


def _add_dropped(packed: dict[str, SplitFacts], seen: Survey) -> None:
    """Add to the facts of a domain's splits what its survey has dropped."""
    for split, facts in packed.items():
        facts["duplicates_dropped"] = seen.splits[split].duplicates_dropped
        if seen.splits[split].found_in:
            facts["found_in"] = seen.splits[split].found_in


def _add_digests(folder: Path, seen: Survey) -> None:
    """Give a domain that was packed without them the digests of its documents."""
    for split in SPLITS:
        with publish_file(folder / f"{split}.docs") as handle:
            handle.write(seen.digests(split).tobytes())


def _describe(
    domain: Domain,
    splits: dict[str, SplitFacts],
    size: tuple[str, int, int, int | None],
    folder: Path,
    target: Path,
    skipped: Skipped | None = None,
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
    if skipped is not None and skipped.rows:
        meta[SKIPPED] = skipped.to_json()
    write_json(target / META, meta)


def _take_over(config: DataConfig, folder: Path, domains: list[Domain], progress: Progress) -> None:
    """Make shards of fairseq's data-bins: ids stay, and the dictionary becomes the tokenizer."""
    usual = DataConfig()
    for key, why in _NOT_OF_BINS.items():
        if (value := getattr(config, key)) != getattr(usual, key):
            raise UserError(f"data.{key}={value}: data-bins {why}; leave it out")
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
            size = (dtype.name, EOS, len(dictionary), None)
            _describe(domain, splits, size, folder, temporary)
    for domain in (d for d in domains if not d.why and not d.hashed):
        binarised.add_digests(folder / domain.source.domain)


def _look(config: DataConfig, folder: Path, beside: Sequence[Suite], progress: Progress) -> None:
    """Look for near-duplicates in the packed domains, if they are asked for."""
    if config.near_duplicates != "off":
        others = [suite.path / name for suite in beside for name in suite.domains()]
        near.look([folder / name for name in prepared_in(folder)], others, progress)


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
