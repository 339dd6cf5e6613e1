"""Compare the results that a report shows with the forest as it stands: models that were removed,
made anew or joined since, and text that was prepared anew. The report shows them, and says so.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from btm.config.schema import Config
from btm.errors import UserError, command, first_of
from btm.forest import Forest, readers, tombstone
from btm.forest.suites import evaluated_suites
from btm.report import benchmarks, comparison
from btm.steps.report.holdings import Found
from btm.steps.standing import Text, text_of
from btm.system.json_files import Json, read_object

_BROKEN = (UserError, OSError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Standing:
    """The models, experts and text of a forest as it stands."""

    models: dict[str, set[str]]  # {name: sha256 of the weights}: an ELM and an average may share it
    removed: set[str]  # ELMs
    experts: list[str]
    text: Text | None  # of all its suites; None: one of them is not to be read here

    @classmethod
    def of(cls, config: Config, found: Found) -> "Standing":
        """Read it; `found` are the models whose cards can be read."""
        forest, text = Forest(config.forest_root), None
        with suppress(UserError, OSError):
            every = replace(config, eval=replace(config.eval, suites=[]))
            text = text_of(evaluated_suites(every))
        models: dict[str, set[str]] = {name: set() for name in forest.names()}
        for _, _, card in found:
            models.setdefault(card.name, set()).add(card.sha256)
        return cls(models, tombstone.names(forest.root), _experts(found), text)

    def others(self, measured: Mapping[str, str]) -> list[str]:
        """Say which of the models {name: sha256} that were measured do not stand any more."""
        removed, anew, gone = [], [], []
        every = set().union(*self.models.values())
        for called, sha256 in measured.items():
            name = called.rpartition("/")[2]
            if sha256 in every or ":" in called:  # one of another forest is not looked at
                continue
            if name in self.removed:
                removed.append(name)
            elif name not in self.models:
                gone.append(name)
            elif self.models[name]:  # else its card is damaged, which btm verify tells
                anew.append(name)
        said = [_said(removed, "removed since"), _said(anew, "made anew since")]
        return [each for each in [*said, _said(gone, "deleted since")] if each]

    def other_text(self, measured: Mapping[str, str]) -> list[str]:
        """Say which shards {domain/split: sha256} hold other text now; an empty sha256 is not known
        to an older btm.
        """
        if self.text is None:
            return []
        changed = []
        for name, sha256 in measured.items():
            domain, _, split = name.partition("/")
            if sha256 and self.text.get(domain, {}).get(split) != sha256:
                changed.append(name)
        return [f"on other text of {first_of(changed)} than there is now"] if changed else []


def _experts(found: Found) -> list[str]:
    return [card.name for kind, _, card in found if kind == "ELM" and card.is_expert]


def _said(names: list[str], what: str) -> str:
    were = "was" if len(names) == 1 else "were"
    return f"with {first_of(names)}, which {were} {what}" if names else ""


def outdated(config: Config, found: Found, result: Json | None) -> dict[str, list[str]]:
    """Say of each result that a report shows what it is of that is no more, a sentence a file:
    {evaluation, ways, readers or benchmarks: sentences}; empty if all are of the forest as it is.
    """
    now, said = Standing.of(config, found), {}
    said["evaluation"] = said["ways"] = list[str]()
    if result is not None:
        with suppress(*_BROKEN):  # of an older btm, or damaged
            said["evaluation"] = said["ways"] = _evaluation(config, now, result)
    file = Forest(config.forest_root).paths.comparison(config.eval.name)
    if file.exists():
        said["ways"] = []
        with suppress(*_BROKEN):  # the report says that it could not be read
            said["ways"] = _comparison(config, now, comparison.from_json(read_object(file)))
    said["readers"] = list(_readers(config, now))
    said["benchmarks"] = list(_benchmarks(config, now))
    return {part: lines for part, lines in said.items() if lines}


def _line(config: Config, file: str, verb: str, parts: list[str]) -> list[str]:
    """Make the sentence of a file that was measured with or on what is no more."""
    if not parts:
        return []
    named = {"eval.name": config.eval.name} if config.eval.name else {}
    again = command(verb, forest=config.forest_root, **named)
    return [
        f"{file} is not of the forest as it stands: it was measured {', '.join(parts)}. "
        f"{again} measures what stands."
    ]


def _evaluation(config: Config, now: Standing, result: Json) -> list[str]:
    text = {f"{d}/{s}": sha for d, of in result.get("text", {}).items() for s, sha in of.items()}
    late = sorted(set(now.experts) - result["elms"].keys())
    without = [f"without {first_of(late)}, which joined since"] if late else []
    beside = {
        name: about["sha256"]
        for name, about in result.get("models", {}).items()
        if about.get("path") is not None and about.get("kind") in ("average", "student", "MoE")
    }
    parts = [*now.others(result["elms"] | beside), *without, *now.other_text(text)]
    file = Forest(config.forest_root).paths.evaluation(config.eval.name)
    return _line(config, file.name, "eval", parts)


def _comparison(config: Config, now: Standing, made: comparison.Comparison) -> list[str]:
    late = sorted(set(now.experts) - made.elms.keys())
    without = [f"without {first_of(late)}"] if late else []
    text = {f"{shard.domain}/{shard.split}": shard.sha256 for shard in made.shards}
    parts = [*now.others(made.elms), *without, *now.other_text(text)]
    file = Forest(config.forest_root).paths.comparison(config.eval.name)
    return _line(config, file.name, "compare", parts)


def _readers(config: Config, now: Standing) -> Iterator[str]:
    """Hold the results of readers against the readers that stand, and what these stand on."""
    paths = Forest(config.forest_root).paths
    cards = {card.name: card for _, card in readers.all_of(paths.root)}
    for file in sorted(paths.evals.glob("reader-*.json")):
        try:
            values = read_object(file, reader=str, split=str, questions=int)
            measured = _measured_readers(values)
        except _BROKEN:
            continue  # another file of that name
        parts = []
        for name, sha256 in measured.items():
            if name not in cards:
                parts.append(f"with the reader {name}, which stands no more")
            elif sha256 not in ("", cards[name].sha256):
                parts.append(f"with the reader {name} before it was trained anew")
            else:
                stale = now.others(cards[name].models)
                parts += [f"with the reader {name} {' and '.join(stale)}"] if stale else []
        verb = "read compare" if "rows" in values else "read eval"
        if parts:
            yield (
                f"{file.name} is not of the readers as they stand: it was measured "
                f"{first_of(parts)}; btm {verb} measures again."
            )


def _measured_readers(values: Json) -> dict[str, str]:
    """Name the readers that a result is of, with the sha256 of their weights; those of a comparison
    that an older btm wrote by its rows, without.
    """
    if "rows" not in values:
        return {values["reader"]: values["sha256"]}
    rows = [row["on"] for row in values["rows"] if row["on"] != "argmax"]
    return values.get("readers") or {f"{values['reader']}-{on}": "" for on in rows}


def _benchmarks(config: Config, now: Standing) -> Iterator[str]:
    """Hold the rows of benchmarks against the models that stand."""
    file = Forest(config.forest_root).paths.benchmarks(config.eval.name)
    members: dict[str, str] = {}
    try:
        for row in benchmarks.from_json(read_object(file, schema=int, rows=list)):
            members.update(row.members)
    except _BROKEN:
        return
    yield from _line(config, file.name, "bench", now.others(members))
