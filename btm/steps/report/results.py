"""Results of readers, benchmarks and languages of a forest, for its report."""

from collections.abc import Sequence

from btm.errors import UserError
from btm.forest.card import Card
from btm.forest.paths import Paths
from btm.report import benchmarks
from btm.steps.report.facts import Evaluation, Language, Reading
from btm.system.json_files import Json, read_object


def readings(paths: Paths) -> list[Reading]:
    """Read the measured readers of a forest, and the comparisons of readers."""
    found: list[Reading] = []
    for file in sorted(paths.evals.glob("reader-*.json")):
        try:
            found += _readings(read_object(file, reader=str, split=str, questions=int))
        except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
            continue  # another file of that name
    return found


def _readings(values: Json) -> list[Reading]:
    about = (values["reader"], values["split"], values["questions"])
    rows = [(row["model"], row["values"]) for row in values["rows"]] if "rows" in values else []
    rows += [("", values["values"])] if "values" in values else []
    return [
        Reading(*about, on, metric, *(round(float(number), 5) for number in interval))
        for on, of_row in rows
        for metric, interval in of_row.items()
    ]


def measured_tasks(paths: Paths, name: str | None) -> list[dict[str, str]]:
    """Read the benchmarks of a forest as a table: a row a model, a column a task."""
    file = paths.benchmarks(name)
    try:
        rows = benchmarks.table(benchmarks.from_json(read_object(file, schema=int, rows=list)))
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return []
    return [{key: str(value) for key, value in row.items()} for row in rows]


def languages(cards: Sequence[Card], found: Evaluation | None) -> list[Language]:
    """Group an evaluation by the languages of the experts' own text, as their cards state them."""
    experts: dict[str, list[Card]] = {}
    for card in cards:
        own = card.languages if card.own_languages is None else card.own_languages
        for tag in own if card.is_expert else []:
            experts.setdefault(tag, []).append(card)
    return [_language(tag, of, found) for tag, of in sorted(experts.items())]


def _language(tag: str, cards: Sequence[Card], found: Evaluation | None) -> Language:
    names = sorted({domain for card in cards for domain in card.domains})
    rows = []
    if found is not None:
        rows = [n for n, d in enumerate(found.domains) if d.name.partition("/")[0] in names]
    seeds = [m for m, kind in enumerate(found.kinds) if kind == "seed"] if found else []

    def mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return Language(
        tag,
        [card.name for card in cards],
        names,
        mean([found.perplexity[n][0] for n in rows]) if found else None,
        mean([found.perplexity[n][seeds[0]] for n in rows]) if found and seeds else None,
        mean([found.bits_per_byte[n] for n in rows]) if found else None,
    )
