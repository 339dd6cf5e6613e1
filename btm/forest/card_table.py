"""A card as a table for the terminal: a line for each thing that a reader asks of a model."""

from collections.abc import Iterator, Mapping

from btm.config.identity import CANDIDATES
from btm.forest.card import Card, Measured
from btm.report.progress import cell, count_text

SHORT = 12  # characters of a sha256 that are shown


def lines(card: Card) -> Iterator[tuple[str, str]]:
    """Yield (name, what the card says of it), and nothing that it does not say."""
    for name, text in _all(card):
        if text:
            yield name, text


def _all(card: Card) -> Iterator[tuple[str, str]]:
    yield "domains", ", ".join(card.domains)
    yield "parents", _parents(card)
    weighed = card.settings.get(CANDIDATES, [])
    yield "weighed among", ", ".join(weighed) if set(weighed) != card.parents.keys() else ""
    yield "recipe", _settings(card.recipe)
    yield "sparse", _settings(card.delta)
    yield "adapter", _settings(card.adapter)
    yield "candidates", f"{len(card.candidates)} were tried" if card.candidates else ""
    yield "parameters", f"{card.parameters:,}" if card.parameters else ""
    yield "training", _training(card)
    yield "schedule", _settings({k: v for k, v in card.schedule.items() if v is not None})
    yield "valid loss", _loss(card)
    for domain, found in card.measured.items():
        yield f"  {domain}", _measured(found)
    yield from _provenance(card)
    rest = {key: value for key, value in card.settings.items() if key != CANDIDATES}
    for section, settings in _sections(rest).items():
        yield f"{section} settings", _settings(settings)
    yield "sha256", _short(card.sha256)
    yield "tokenizer", _short(card.tokenizer_sha256)
    yield "created", card.created
    yield "versions", _settings(card.versions)


def _parents(card: Card) -> str:
    weights = ", ".join(f"{name} {each.weight:.3f}" for name, each in card.parents.items())
    how = ", ".join(filter(None, (card.branch_method, card.estimator)))
    return f"{weights} ({how})" if weights else ""


def _training(card: Card) -> str:
    own = (
        f"{card.steps:,} steps, {count_text(card.tokens)} tokens, {card.flops:.3g} FLOPs"
        if card.steps
        else ""
    )
    if card.total_tokens in (0, card.tokens):
        return own
    whole = f"{count_text(card.total_tokens)} tokens, {card.total_flops:.3g} FLOPs"
    return f"{own}; with its ancestors {whole}" if own else f"of its ancestors: {whole}"


def _loss(card: Card) -> str:
    if card.valid_nats is None:
        return ""
    others = ", ".join(f"{name} {nats:.3f}" for name, nats in card.parent_valid_nats.items())
    forced = "; merged although worse than a parent" if card.forced else ""
    return f"{card.valid_nats:.3f} nats per token" + (f"; {others}" if others else "") + forced


def _measured(found: Measured) -> str:
    seeds = ", ".join(f"{name} {nats:.3f}" for name, nats in found.seeds.items())
    return f"{found.nats:.3f}" + (f"; {seeds}" if seeds else "")


def _provenance(card: Card) -> Iterator[tuple[str, str]]:
    """Yield where the text and the weights come from, and what may be done with them."""
    yield "text", ", ".join(f"{domain} {_short(sha256)}" for domain, sha256 in card.data.items())
    yield "imported from", card.source
    yield "languages", ", ".join(card.languages)
    yield "sources", ", ".join(dict.fromkeys(each.name for each in card.sources))
    yield "licence", card.license
    yield "ancestors' licences", _settings(card.ancestor_licenses)
    yield "use", card.use
    yield "restrictions", "; ".join(card.restrictions)
    yield "exact", "" if card.exact else "no: not bit for bit that of an unbroken run"
    yield "notes", "; ".join(card.notes)


def _sections(settings: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Group dotted keys by their first part."""
    found: dict[str, dict[str, object]] = {}
    for key, value in settings.items():
        section, _, rest = key.partition(".")
        found.setdefault(section, {})[rest or section] = value
    return found


def _settings(values: Mapping[str, object]) -> str:
    """Write `key value` pairs in a line; what is nested or empty is left to --json."""
    plain = {key: v for key, v in values.items() if not isinstance(v, dict) and v not in ("", None)}
    return ", ".join(f"{key} {cell(value)}" for key, value in plain.items())


def _short(sha256: str) -> str:
    return f"{sha256[:SHORT]}…" if sha256 else ""
