"""Tables of the evaluations and comparisons of a forest, for its report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from btm.errors import UserError, unknown
from btm.forest.paths import Paths
from btm.report import comparison
from btm.report.comparison import Comparison
from btm.report.heatmap import Grid
from btm.steps.report.facts import Domain, Evaluation, Way, Ways
from btm.system.json_files import Json, read_object

_BEST = "best single expert"


def read_evaluation(paths: Paths, name: str | None) -> Json | None:
    """Read the evaluation `name`, or the forest's own; None if the forest has none.

    `UserError` if it is damaged, or if there is none of a name that was asked for.
    """
    file = paths.evaluation(name)
    if not file.exists():
        if name is None:
            return None
        raise unknown("evaluation", name, names(paths), str(paths.root))
    return read_object(file, schema=int, shards=dict, ensemble=dict, elms=dict, ledger=dict)


def names(paths: Paths) -> list[str]:
    """List the evaluations of a forest by name."""
    found = []
    for file in sorted(paths.evals.glob("*.json")):
        try:
            read_object(file, schema=int, shards=dict, ensemble=dict, ledger=dict)
        except (UserError, OSError):
            continue
        found.append(file.stem)
    return found


def evaluation(result: Json, name: str) -> Evaluation:
    """Make the facts of an evaluation from its JSON; `KeyError` and the like if it lacks some."""
    grid = Grid.of(result)
    if not np.isfinite(grid.perplexities).all():
        raise ValueError("a perplexity is no number")
    shards = {name: result["shards"][name] for name in grid.domains}
    first = next(iter(shards.values()))
    members = list(first["prior"])
    others = grid.columns[1 : 1 + grid.others]
    kinds = [
        "ensemble",
        *(result["models"][other]["kind"] for other in others),
        *("expert" if elm in members else "seed" for elm in grid.columns[1 + grid.others :]),
    ]
    columns, perplexity = list(grid.columns), grid.perplexities.tolist()
    if all("by_text_alone" in shard for shard in shards.values()):
        columns.insert(1, "ensemble, by text alone")
        kinds.insert(1, "ensemble")
        for row, shard in zip(perplexity, shards.values(), strict=True):
            row.insert(1, shard["by_text_alone"]["perplexity"])
    return Evaluation(
        name,
        str(result["created"]),
        str(result["ensemble"].get("rule", "bayes")),
        str(result["ensemble"]["prior"]),
        int(result["window"]),
        [Domain(name, shard["novel"], shard["tokens"]) for name, shard in shards.items()],
        columns,
        kinds,
        [[_short(value) for value in row] for row in perplexity],
        [_short(shard["ensemble"]["bits_per_byte"]) for shard in shards.values()],
        members,
        [[round(shard["prior"][name], 4) for name in members] for shard in shards.values()],
        [
            [round(shard["mean_posterior"][name], 4) for name in members]
            for shard in shards.values()
        ],
        list(result.get("warnings", [])),
    )


def ways(paths: Paths, name: str | None, result: Json | None) -> Ways | None:
    """Put the forest beside all it was compared with: its comparison if one stands, else what the
    evaluation has; None if there is neither.
    """
    file = paths.comparison(name)
    if not file.exists():
        return None if result is None else _of_evaluation(result, paths.evaluation(name).name)
    found = read_object(file, schema=int, rows=list, shards=list)
    try:
        made = comparison.from_json(found)
        rows = [_of_row(row) for row in made.rows]
        if result is not None and _same_shards(made, result):
            rows.append(_best_single(result))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not a comparison that this btm reads: {error!r}") from None
    return Ways(file.name, made.created, made.window, made.reference, rows, made.notes)


def _of_row(row: comparison.Row) -> Way:
    return Way(
        row.model,
        row.kind,
        row.experts_run,
        row.inference_flops_per_token,
        row.training_tokens,
        row.training_flops,
        row.compute_matched,
        None if row.in_domain is None else row.in_domain.perplexity,
        None if row.novel is None else row.novel.perplexity,
    )


def _of_evaluation(result: Json, file: str) -> Ways:
    """Make the rows of an evaluation alone: ensemble, averages and seeds, and the best ELMs."""
    costs, shards = result["ledger"], list(result["shards"].values())
    first = shards[0]
    roots = [name for name in first["experts"] if name not in first["prior"]]
    rows = [_way("ensemble", "ensemble", costs["ensemble"], shards, lambda s: s["ensemble"])]
    if all("by_text_alone" in shard for shard in shards):
        blind = "ensemble, by text alone"
        rows.append(
            _way(blind, "ensemble", costs["ensemble"], shards, lambda s: s["by_text_alone"])
        )
    for name, about in result.get("models", {}).items():
        cost = costs["models"][name]
        rows.append(_way(name, about["kind"], cost, shards, lambda s, n=name: s["models"][n]))
    for name in roots:
        rows.append(
            _way(name, "seed", costs["elms"][name], shards, lambda s, n=name: s["experts"][n])
        )
    rows.append(_best_single(result))
    budget = rows[0].training_tokens
    rows = [_matched(row, budget) for row in rows]
    reference = roots[0] if roots else rows[0].model
    notes = [
        "no comparison stands, so there is no dense LM here: grow one with baseline=dense, then "
        "btm compare"
    ]
    return Ways(file, str(result["created"]), int(result["window"]), reference, rows, notes)


def _matched(row: Way, budget: int | None) -> Way:
    return replace(row, matched=comparison.is_matched(row.training_tokens, budget))


def _way(model: str, kind: str, cost: Mapping[str, Any], shards: Sequence[Json], pick: Any) -> Way:
    training = cost["training"] or {}
    return Way(
        model,
        kind,
        cost["experts_run"],
        cost["inference_flops_per_token"],
        training.get("tokens"),
        training.get("flops"),
        None,
        _mean([pick(shard)["perplexity"] for shard in shards if not shard["novel"]]),
        _mean([pick(shard)["perplexity"] for shard in shards if shard["novel"]]),
    )


def _best_single(result: Json) -> Way:
    """Make the row of the one expert that is best on each domain, told by the test text itself."""
    shards = list(result["shards"].values())
    members = list(shards[0]["prior"])

    def best(shard: Json) -> Json:
        return min((shard["experts"][name] for name in members), key=lambda e: e["perplexity"])

    cost = result["ledger"]["elms"][members[0]]
    whole = {**cost, "training": result["ledger"]["ensemble"]["training"]}
    made = _way(_BEST, "best single (told by the test text)", whole, shards, best)
    return _matched(made, made.training_tokens)


def _same_shards(made: Comparison, result: Json) -> bool:
    """Tell whether a comparison and an evaluation measured the same text in the same windows, with
    the same experts.
    """
    for shard in made.shards:
        now = result.get("text", {}).get(shard.domain, {}).get(shard.split)
        if shard.sha256 and now not in (None, shard.sha256):
            return False
    shards = {f"{s.domain}/{s.split}": s.tokens for s in made.shards}
    others = {name: shard["tokens"] for name, shard in result["shards"].items()}
    elms = {name: result["elms"].get(name) for name in made.elms}
    cached = "none" not in (made.rule.get("cache", "none"), result["ensemble"].get("cache", "none"))
    return (
        (shards, made.window, made.stride) == (others, result["window"], result.get("stride", 0))
        and made.elms == elms
        and not cached
        and "load" not in result
        and made.load is None
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _short(value: float) -> float:
    """Round to four digits, which keeps the page small."""
    return float(f"{value:.4g}")
