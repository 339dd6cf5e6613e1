"""The commands that grow a forest again, and what stands in it that they do not make."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.errors import UserError, command, first_of
from btm.system.json_files import Json

if TYPE_CHECKING:
    from btm.forest.card import Card
    from btm.forest.settings import Settings, SuiteRecord
    from btm.steps.report import Rebuilding

# What btm grow takes from the word from= (btm/steps/add_domain.py), or from the forest.
_OF_GROW = ("name", "root", "domain", "made_by", "names", "tokenizer", "sampling")

_TRAINING = (
    "What btm grow was told of training is in the card of its expert: with other words than those "
    "of the forest, add them, or another expert is grown."
)


def rebuilding(root: Path) -> "Rebuilding | None":
    """Tell the commands that grow the forest at `root` again: btm run, and a btm grow for each text
    that joined later and whose place is known. None if it records no settings.
    """
    from btm.forest import settings, tombstone
    from btm.forest.paths import Paths
    from btm.steps.report import Rebuilding, holdings

    found, suites = settings.read(root), settings.read_suites(root)
    if found is None or found.suite not in suites:
        return None
    first = suites[found.suite]
    models = holdings.models(Paths(root))
    cards = {card.name: card for kind, _, card in models if kind == "ELM"}
    removed = tombstone.names(root)
    grown = _grown(suites, found.suite, cards)
    words = words_of(found.values, first.data)
    lines = [shlex.join(["btm", "run", f"forest={root}", *words])]
    lines += [_grow(root, first, suites[name]) for _, name in grown]
    planned = _planned(found, first)
    made = {*(planned or ()), *(domain for domain, _ in grown), found.values["seed"]["name"]}
    notes = [
        "btm run grows the seed and the experts of the first command, with the settings that the "
        "forest records; threads and device are the machine's own.",
        *([_TRAINING] if grown else []),
        *_removed(removed, planned),
        *_other_text(suites, found.suite, {name for _, name in grown}),
        *_others(cards, made, known=planned is not None),
        *_derived(models, is_averaged=bool(found.values.get("run", {}).get("average"))),
        *_baselines(root),
    ]
    text = {name: record.data for name, record in suites.items()}
    return Rebuilding("\n".join(lines), found.values, text, notes)


def _grown(
    suites: "dict[str, SuiteRecord]", first: str, cards: "dict[str, Card]"
) -> list[tuple[str, str]]:
    """List what btm grow added of texts whose place is known: (domain, suite), the oldest first."""
    found = []
    for name, record in suites.items():
        domain = record.data.get("domain")
        if name != first and domain in cards and record.data.get("root") is not None:
            found.append((str(domain), name))
    return sorted(found, key=lambda each: cards[each[0]].created)


def _grow(root: Path, first: "SuiteRecord", suite: "SuiteRecord") -> str:
    """Write the btm grow of one domain, with the words of its text in which it differs."""
    data = {
        f"data.{key}": _written(value)
        for key, value in suite.data.items()
        if key not in _OF_GROW and first.data.get(key, value) != value
    }
    words = {"domain": suite.data["domain"], "from": suite.data["root"]}
    return command("grow", forest=root, **words, **data)


def _planned(found: "Settings", first: "SuiteRecord") -> list[str] | None:
    """List the domains that btm run grows; None where they are those of a text that is gone."""
    from btm.data.shards import Suite

    run: Json = found.values.get("run", {})
    if run.get("rounds"):
        return [domain for domains in run["rounds"] for domain in domains]
    if run.get("domains"):
        return list(run["domains"])
    try:
        return Suite.open(first.folder).training_domains()
    except (UserError, OSError):
        return None


def _removed(removed: set[str], planned: list[str] | None) -> list[str]:
    """Name what was removed and would come back."""
    back = sorted(removed & set(planned)) if planned is not None else sorted(removed)
    if not back:
        return []
    return [
        f"Removed since: {first_of(back)}. In another folder these commands would grow that again: "
        "name the domains that are wanted with run.domains=[…]."
    ]


def _other_text(suites: "dict[str, SuiteRecord]", first: str, grown: set[str]) -> list[str]:
    left = sorted(suites.keys() - {first} - grown)
    return [f"Other text joined later, by other commands: {', '.join(left)}."] if left else []


def _others(cards: "dict[str, Card]", made: set[str], *, known: bool) -> list[str]:
    """Name the ELMs that the commands do not make: those that came from elsewhere, and others."""
    others = [card for name, card in sorted(cards.items()) if name not in made]
    imported = [f"{card.name} (from {card.source})" for card in others if card.source]
    rest = [card.name for card in others if not card.source]
    notes = []
    if imported:
        notes.append(f"Imported, by btm import: {', '.join(imported)}.")
    if rest and known:
        notes.append(f"Stand here by other commands: {', '.join(rest)}.")
    return notes


def _derived(models: "list[tuple[str, Any, Card]]", *, is_averaged: bool) -> list[str]:
    """Name the models that were made of ELMs."""
    notes = []
    for kind, verb in (("average", "average"), ("student", "distil"), ("MoE", "moe")):
        names = [f"{folder.path.parent.name}/{c.name}" for of, folder, c in models if of == kind]
        own = " (the first command makes one)" if kind == "average" and is_averaged else ""
        if names:
            notes.append(f"Made of the experts, by btm {verb}: {', '.join(names)}{own}.")
    return notes


def _baselines(root: Path) -> list[str]:
    """Name the baselines that stand beside the forest."""
    from btm.config.choices import BASELINES
    from btm.forest import Forest

    kinds = [kind for kind in BASELINES if Forest.stands(root.with_name(f"{root.name}-{kind}"))]
    if not kinds:
        return []
    said = ", ".join(f"{root.name}-{kind} (baseline={kind})" for kind in kinds)
    return [f"Beside the forest stand its baselines, by the first command with baseline=: {said}."]


def words_of(values: Json, data: Json) -> list[str]:
    """List the words of a command whose settings, once composed, are these recorded ones."""
    from btm.cli.compose import ALIASES, all_keys, bundles_of, compose

    bundles = [
        f"{group}={name}"
        for group, name in (("model", values["model"]["name"]), ("data", data["name"]))
        if name in bundles_of(group)
    ]
    base = all_keys(compose(bundles, "ls"))
    sections = {**values, "data": data}
    branch = sections.pop("branch")
    wanted = {
        f"{section}.{key}": value for section, of in sections.items() for key, value in of.items()
    }
    wanted["branch"] = branch
    changed = {key: value for key, value in wanted.items() if base.get(key, value) != value}
    called = {field: key for key, field in ALIASES.items()}
    return bundles + [f"{called.get(key, key)}={_written(value)}" for key, value in changed.items()]


def _written(value: Any) -> str:
    """Write a value as a command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(map(_element, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_element(k)}: {_element(v)}' for k, v in value.items())}}}"
    return str(value)


def _element(value: Any) -> str:
    """Write an element of a list or a map: a text that holds more than a name in quotes."""
    if not isinstance(value, str):
        return _written(value)
    is_name = re.fullmatch(r"[A-Za-z_*][\w.*-]*", value)
    if is_name and value not in ("null", "true", "false"):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
