"""The comparison of a forest with averages, baselines and its seed: its values and its tables.

A perplexity over domains is the arithmetic mean of the domains' perplexities, as in the paper's
tables. A ratio is that of two such means, to the row called the reference: the dense LM where one
stands beside the forest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from btm.report.tables import TableRow
from btm.system.json_files import Json

SCHEMA = 1
MATCHED = 0.01  # relative difference in training tokens up to which they count as equal
DENSE = ("dense", "dense_large_batch")  # kinds of rows that are a dense LM, in order of preference
SEED = "seed"
M = TypeVar("M", bound="Measured")


@dataclass(frozen=True)
class Shard:
    """One shard on which all rows were measured."""

    domain: str
    split: str
    novel: bool
    tokens: int
    sha256: str = ""  # of the text; empty: an older btm did not say


@dataclass(frozen=True)
class Measured:
    """One way to predict: its training cost, its inference cost, and its loss on every shard."""

    model: str
    kind: str  # ensemble, commit, top-1, average, seed, ELM, folder, forest or a baseline
    experts_run: float  # models run for each token, on the average
    training_tokens: int | None  # with all ancestors, each once; None: not recorded
    training_flops: float | None
    inference_flops_per_token: float
    nats_per_token: dict[str, float]  # by domain


@dataclass(frozen=True)
class Scope:
    """A row's perplexity over the domains that were trained on, or over the novel ones."""

    domains: int
    perplexity: float  # mean over domains
    ratio: float  # to the reference's
    ahead: int  # domains on which the row is better than the reference

    @classmethod
    def of(cls, row: Measured, reference: Measured, domains: Sequence[str]) -> "Scope | None":
        """Compute a row's figures over `domains`; None if there are none."""
        if not domains:
            return None
        own = [math.exp(row.nats_per_token[domain]) for domain in domains]
        other = [math.exp(reference.nats_per_token[domain]) for domain in domains]
        ahead = sum(a < b for a, b in zip(own, other, strict=True))
        return cls(len(domains), sum(own) / len(domains), sum(own) / sum(other), ahead)


@dataclass(frozen=True)
class Row(Measured):
    """A measured model with its figures relative to the reference."""

    compute_matched: bool | None  # training tokens within 1 % of the forest's; None: not known
    in_domain: Scope | None
    novel: Scope | None


@dataclass(frozen=True)
class Comparison:
    """All rows, measured on the same shards, tokens and windows, each window begun anew."""

    forest: str
    suite: str
    window: int  # tokens
    rule: Json  # the settings of the ensembles, `carry` always window
    elms: dict[str, str]  # sha256 of the forest's ELMs that took part
    shards: list[Shard]
    rows: list[Row]  # the first is the forest itself
    reference: str  # the model that ratios are relative to
    reference_kind: str
    notes: list[str] = field(default_factory=list)
    stride: int = 0  # tokens from window to window; 0: they do not overlap
    load: Json | None = None  # how models were loaded; None: in float32
    created: str = ""  # UTC, ISO 8601
    schema: int = SCHEMA

    def to_json(self) -> Json:
        """Convert to JSON values; in float32, how models were loaded goes without saying."""
        values = {"schema": self.schema, **asdict(self)}
        if self.load is None:
            del values["load"]
        return values

    @property
    def dense(self) -> bool:
        """Whether the reference is a dense LM."""
        return self.reference_kind in DENSE

    def domains(self, *, novel: bool) -> list[str]:
        """List the domains that are novel, or those that were trained on."""
        return [shard.domain for shard in self.shards if shard.novel == novel]


def reference_of(measured: Sequence[M]) -> M:
    """Choose the row that ratios are relative to: a dense LM, else the seed, else the first row."""
    for kind in (*DENSE, SEED):
        for row in measured:
            if row.kind == kind:
                return row
    return measured[0]


def rows_of(measured: Sequence[Measured], shards: Sequence[Shard]) -> list[Row]:
    """Relate each model to the reference, and its training tokens to those of the first model."""
    reference, budget = reference_of(measured), measured[0].training_tokens
    trained = [shard.domain for shard in shards if not shard.novel]
    novel = [shard.domain for shard in shards if shard.novel]
    return [
        Row(
            **vars(row),
            compute_matched=is_matched(row.training_tokens, budget),
            in_domain=Scope.of(row, reference, trained),
            novel=Scope.of(row, reference, novel),
        )
        for row in measured
    ]


def is_matched(tokens: int | None, budget: int | None) -> bool | None:
    """Tell whether `tokens` are within 1 % of `budget`; None if either is unknown."""
    if tokens is None or not budget:
        return None
    return abs(tokens / budget - 1) <= MATCHED


def title(found: Comparison) -> str:
    """Make the title of a comparison's table, with the conditions of the measurement."""
    trained, novel = (len(found.domains(novel=flag)) for flag in (False, True))
    begun = f"that begin every {found.stride}" if found.stride else "begun anew"
    return (
        f"{found.forest} beside {found.reference}: mean perplexity over {trained} domains "
        f"trained on and {novel} novel ones; the same tokens for every row, in windows of "
        f"{found.window} {begun} (ensemble.carry=window)"
        + (", all with an n-gram cache" if found.rule.get("cache", "none") != "none" else "")
    )


def summary_rows(found: Comparison) -> list[TableRow]:
    """Make the summary table: one row per model."""
    to = "dense" if found.dense else found.reference
    return [
        {
            "model": row.model,
            "kind": row.kind,
            "experts run": row.experts_run,
            "training tokens": row.training_tokens,
            "equal training": said_matched(row, found.rows[0]),
            "training FLOPs": None if row.training_flops is None else f"{row.training_flops:.3g}",
            "FLOPs/token": f"{row.inference_flops_per_token:.3g}",
            "ppl": row.in_domain and row.in_domain.perplexity,
            "novel ppl": row.novel and row.novel.perplexity,
            f"/ {to}": row.in_domain and row.in_domain.ratio,
            f"novel / {to}": row.novel and row.novel.ratio,
            "ahead on": row.in_domain and f"{row.in_domain.ahead} of {row.in_domain.domains}",
        }
        for row in found.rows
    ]


def summary(found: Comparison) -> str:
    """Say in a sentence how the forest stands to the reference, and the best of its single
    models.
    """
    own, others = found.rows[0], found.rows[1:]
    single = [
        row
        for row in others
        if row.experts_run == 1 and row.kind not in (*DENSE, SEED) and row.in_domain
    ]
    sentences = [_standing(own, found.reference)]
    if single:
        best = min(single, key=lambda row: row.in_domain.ratio if row.in_domain else math.inf)
        sentences.append(f"At the cost of one model, {_standing(best, '')}")
    return " ".join(sentences)


def _standing(row: Row, reference: str) -> str:
    """Say a row's perplexity over the reference's."""
    of, parts = f" of {reference}'s perplexity" if reference else "", []
    if row.in_domain:
        ahead = f"ahead on {row.in_domain.ahead} of {row.in_domain.domains}"
        parts.append(f"{row.in_domain.ratio:.3f}{of} on the domains trained on ({ahead})")
    if row.novel:
        parts.append(f"{row.novel.ratio:.3f}{'' if parts else of} on novel ones")
    return f"{row.model}: {' and '.join(parts)}."


def said_matched(row: Row, forest: Row) -> str:
    """Say whether a row saw as many training tokens as the forest, else their ratio."""
    if row.compute_matched is None:
        return "not known"
    if row.compute_matched:
        return "yes"
    return f"NO: {(row.training_tokens or 0) / (forest.training_tokens or 1):.3g} x"


def shard_rows(found: Comparison) -> list[TableRow]:
    """Make the table of perplexities: one row per shard, the domains trained on first."""
    names = column_names(found.rows)
    return [
        {
            "shard": f"{shard.domain}/{shard.split}",
            "kind": "novel" if shard.novel else "trained",
            "tokens": shard.tokens,
            **{
                name: math.exp(row.nats_per_token[shard.domain])
                for name, row in zip(names, found.rows, strict=True)
            },
        }
        for shard in sorted(found.shards, key=lambda shard: shard.novel)
    ]


def column_names(rows: Sequence[Measured]) -> list[str]:
    """Name each row uniquely: by its model, with its kind where two share a name."""
    names = [row.model for row in rows]
    clear = {name for name in names if names.count(name) == 1}
    return [row.model if row.model in clear else f"{row.model} ({row.kind})" for row in rows]


def from_json(values: Mapping[str, Any]) -> Comparison:
    """Restore the comparison that `to_json` converted."""
    rows = [
        Row(
            **{
                **row,
                "in_domain": row["in_domain"] and Scope(**row["in_domain"]),
                "novel": row["novel"] and Scope(**row["novel"]),
            }
        )
        for row in values["rows"]
    ]
    shards = [Shard(**shard) for shard in values["shards"]]
    return Comparison(**{**values, "rows": rows, "shards": shards})


def caveats(rows: Sequence[Row], reference: Row) -> list[str]:
    """List the limits of the comparison that a reader must know."""
    found = []
    if reference.kind not in DENSE:
        found.append(
            f"no dense LM stands beside the forest, so ratios are to {reference.model!r}: grow one "
            "with the forest's own words and baseline=dense (btm run … baseline=dense)"
        )
    unequal = [row.model for row in rows[1:] if not row.compute_matched]
    if unequal:
        found.append(
            "not compute-matched, trained on other tokens than the forest or on nobody knows how "
            f"many: {', '.join(unequal)}"
        )
    return found
