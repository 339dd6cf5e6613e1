"""What stands, held against the text that there is now: ELMs, evaluations and running cycles."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from btm.config.choices import SPLITS
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.ensemble.router import find_router
from btm.ensemble.rules import rule_of
from btm.errors import UserError, command, first_of
from btm.forest import Forest, Model, trained_on
from btm.forest.suites import open_suites
from btm.steps.beside import Subjects
from btm.steps.held_out import refuse
from btm.steps.unwritten import Unwritten
from btm.system.json_files import Json, parse_json

Text = dict[str, dict[str, str]]  # domain: split: sha256 of the shard


def text_of(suite: Suite) -> Text:
    """Identify the prepared text of a suite, by domain and split."""
    return {
        domain: {split: facts["sha256"] for split, facts in meta["splits"].items()}
        for domain, meta in suite.metas.items()
    }


def require_text(config: Config, text: Text) -> None:
    """Raise `UserError` if a domain was packed anew since a cycle recorded its `text`."""
    now = text_of(open_suites(config)) if text else {}
    changed = sorted(domain for domain in text if now.get(domain) != text[domain])
    if changed:
        raise UserError(
            f"the text of {first_of(changed)} was packed anew since this cycle began: give the "
            "same btm run again, which says what stands"
        )


def router_of(config: Config) -> Json:
    """Identify the router that weighs the ensemble, as an evaluation's JSON has it; {} without one.

    `UserError` where it is to weigh and is not there.
    """
    if not rule_of(config.ensemble).needs_route:
        return {}
    return {"router_sha256": find_router(config)[1].sha256}


def identity(
    config: Config, suite: Suite, shards: Iterable[Shard], subjects: Subjects, router: Json
) -> Json:
    """Collect all that the numbers of an evaluation depend on, as its JSON has it.

    `router` is what `router_of` returned before anything was measured.
    """
    text: Text = {}
    for shard in shards:
        text.setdefault(shard.domain, {})[shard.split] = shard.sha256
    return {
        "suite": suite.name,
        "suites": suite.names,
        "text": text,
        "window": config.window,
        "stride": config.stride,
        "max_tokens": config.score.max_tokens,
        **({} if suite.bos is None else {"bos": suite.bos}),  # an older btm read windows without
        **({"load": asdict(config.load)} if config.load.word else {}),
        "ensemble": asdict(config.ensemble) | {"experts": [elm.name for elm in subjects.members]},
        **router,
        "elms": {elm.name: elm.card.sha256 for elm in subjects.elms},
        "models": {model.name: _model(model) for model in subjects.others},
    }


def _model(model: Model) -> Json:
    """Say what a row beside the ensemble is of; an average without a folder by its recipe."""
    own: Json = {"kind": model.kind, "path": str(model.path), "sha256": model.sha256}
    if isinstance(model, Unwritten):
        own |= {"path": None, "recipe": asdict(model.recipe), "parents": model.parents}
    return own


def is_of(file: Path, wanted: Json) -> bool:
    """Tell whether the evaluation in `file` stands, and is of the text, members and settings in
    `wanted` (`identity`).
    """
    try:
        values = parse_json(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    wanted = parse_json(json.dumps(wanted).encode())  # tuples are lists there
    if not isinstance(values, dict):
        return False
    # Evaluations from before there was a stride, and before the router was named.
    values = {"stride": 0, "router_sha256": wanted.get("router_sha256")} | values
    # What is left out of an evaluation in float32 is no less a difference.
    return all(values.get(key) == wanted.get(key) for key in {*wanted, "load"})


def require_trained(
    forest: Forest, suite: Suite, names: Iterable[str], say: Callable[[str], None]
) -> None:
    """Hold the ELMs `names` that stand against the train splits that their domains have now.

    Where text was added to what an ELM was trained on, or an expert was imported, `say` gets a
    line. `UserError` if some of its text is gone from train, be it from the suite or to another
    split.
    """
    for name in names:
        card = forest[name].card if name in forest else None
        if card and card.source and name in card.domains:  # an expert of that domain, not the seed
            say(f"{name} was imported from {card.source} and stays as it is: nothing is trained")
        for line in _grown(forest, suite, name, _data(forest, name)):
            say(line)


def has_lost_text(forest: Forest, suite: Suite, name: str) -> bool:
    """Tell whether some of the text that an ELM was trained on is no longer in its train splits."""
    return any(
        old is not None and now is not None and not trained_on.among(old, now).all()
        for _, old, now in _changed(forest, suite, _data(forest, name))
    )


def require_held_out(
    config: Config, suite: Suite, shards: list[Shard], domains: Iterable[str]
) -> None:
    """Raise `UserError` if a cycle that makes the experts of `domains` would be evaluated on text
    that it trains on, or that ELMs which stand were trained on.
    """
    root = Path(config.forest_root)
    forest = Forest(root) if Forest.stands(root) else None
    standing = [] if forest is None else forest.elms()
    have = {elm.name for elm in standing}
    planned = {domain: [suite.shard(domain, "train")] for domain in domains if domain not in have}
    if config.seed.name not in have and config.seed.source is None:
        mix = config.seed.domains or suite.training_domains()
        planned[config.seed.name] = [suite.shard(domain, "train") for domain in mix]
    refuse(forest, suite, shards, standing, planned=planned)


def _data(forest: Forest, name: str) -> dict[str, str]:
    """Read the train shards {domain: sha256} of an ELM, or of a branch that is trained."""
    if name in forest:
        return forest[name].card.data
    if forest.has_branch(name):
        result = forest.get_branch(name).result or {}
        return result.get("data") or {}
    return {}


def _changed(
    forest: Forest, suite: Suite, data: dict[str, str]
) -> Iterator[tuple[str, trained_on.Digests | None, trained_on.Digests | None]]:
    """Yield each domain whose train split is another than in `data`, and the documents that it had
    and has; None where they are not known.
    """
    for domain, sha256 in data.items():
        if domain in suite.metas and suite.shard(domain, "train").sha256 != sha256:
            shard = suite.shard(domain, "train")
            yield domain, trained_on.read(forest.paths, sha256), trained_on.of_shard(shard)


def _grown(forest: Forest, suite: Suite, name: str, data: dict[str, str]) -> list[str]:
    """Say how much of the text that there is now an ELM was trained on, where that changed."""
    grown, unknown, trained, there = [], [], 0, 0
    for domain, old, now in _changed(forest, suite, data):
        if old is None or now is None:
            unknown.append(domain)
            continue
        lost = old[~trained_on.among(old, now)]
        if len(lost):
            raise _lost(forest, suite, name, domain, len(old), lost)
        if len(now) > len(old):
            grown.append(domain)
            trained, there = trained + len(old), there + len(now)
    lines = []
    if grown:
        lines.append(
            f"{name} was trained on {trained:,} of the {there:,} documents that train of "
            f"{first_of(grown)} has now"
        )
    if unknown:
        lines.append(
            f"{name} was trained on other text than train of {first_of(unknown)} has now; how "
            "much of it is the same was not recorded"
        )
    return lines


def _lost(
    forest: Forest, suite: Suite, name: str, domain: str, of: int, lost: trained_on.Digests
) -> UserError:
    """Make the error for training text that is no longer in train, and say where it went."""
    moved = []
    for place in [domain, *(other for other in suite.domains() if other != domain)]:
        for split in SPLITS if place != domain else ("valid", "test"):
            digests = suite.shard(place, split).digests
            count = 0 if digests is None else int(np.isin(digests, lost).sum())
            moved += [f"{count:,} now in {place}/{split}"] if count else []
    where = f" ({first_of(moved)})" if moved else ""
    remedy = f", or delete its branch {forest.paths.branch(name)}"
    if name in forest:
        remove = command("remove", expert=name, forest=forest.root)
        again = f", or {remove}, and again with --readmit, to grow it anew"
        remedy = again if forest[name].card.parents else ""  # all others descend from a root
    return UserError(
        f"{forest.root}: {len(lost):,} of the {of:,} documents of {domain} that {name!r} was "
        f"trained on are no longer in its train split{where}: prepare the text as it was, or give "
        f"another forest=DIR{remedy}"
    )
