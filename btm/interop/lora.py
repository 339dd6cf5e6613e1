"""Adapters from and for peft: ``format=lora``.

What is exported is a folder that ``PeftModel.from_pretrained(base, folder)`` loads, of an ELM that
was trained by an adapter, or of an average of such ELMs: the sum of their products, as one adapter
of all their ranks together. What is imported becomes the ELM of its base and the adapter, which
stands beside the weights.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from btm.config.checks import is_name
from btm.config.schema import Config
from btm.data import ends
from btm.errors import UserError
from btm.forest import ELM, EXACT, Forest, adapter, ledger, seal, trained_on
from btm.forest.adapter import Adapter
from btm.forest.card import Card, Parent, read_parents
from btm.forest.paths import AVERAGES, CARD, ELMS
from btm.interop import peft_files, received
from btm.interop.export import publish
from btm.models import average as averaging
from btm.models import causal_lm, low_rank, weights
from btm.models.files import README
from btm.report import Reporter
from btm.system import durable, sums
from btm.system.json_files import Json
from btm.system.outside import Folder

_README = """---
library_name: peft
---
# {name}

The {kind} {name} of a Branch-Train-Merge forest as a LoRA adapter of {parents}:

    from peft import PeftModel
    model = PeftModel.from_pretrained(base, "path/to/{name}")

{base}
"""
_ONE = (
    "`base` is the model {name} (weights of sha256 {sha256}), as `btm export expert={name}` has it."
)
_SEVERAL = "`base` is the average of these models by the weights {shares}."


def export(source: Path, target: Path) -> Path:
    """Publish the adapter of the ELM or average in `source` as peft's folder and return `target`.

    Raises `UserError` if it has none, or if something else stands at `target`.
    """
    card = Card.read(source / CARD)
    made = _adapter_of(source, card)
    parents = {name: asdict(parent) for name, parent in made.parents.items()}
    with publish(target) as folder:
        peft_files.write(folder, made.rank, made.alpha, made.tensors, parents)
        shutil.copyfile(source / CARD, folder / CARD)
        trained_on.copy(Forest(source.parents[1]).paths.digests, folder, card)
        (folder / README).write_text(_readme(source, made))
        sums.write(folder)
    return target


def _readme(source: Path, made: Adapter) -> str:
    shares = {name: round(parent.weight, 6) for name, parent in made.parents.items()}
    base = _SEVERAL.format(shares=shares)
    if len(shares) == 1:
        name = next(iter(shares))
        base = _ONE.format(name=name, sha256=made.parents[name].sha256)
    kind = "ELM" if source.parent.name == ELMS else "average"
    return _README.format(name=source.name, kind=kind, parents=" and ".join(shares), base=base)


def _adapter_of(source: Path, card: Card) -> Adapter:
    """Read the adapter of an ELM, or make that of an average."""
    if (file := source / adapter.FILE).is_file():
        made = adapter.read(file)
        if made.sha256 != weights.sha256(source):
            raise UserError(
                f"{source}: its weights and its {adapter.FILE} disagree: damaged, restore it from "
                "a copy"
            )
        return made
    if source.parent.name == AVERAGES:
        return _of_average(Forest(source.parents[1]), card)
    raise UserError(
        f"{source.name!r} was not trained by an adapter (trainer.adapter=lora); format=hf exports "
        "it whole"
    )


def _of_average(forest: Forest, card: Card) -> Adapter:
    """Make the adapter of an average of ELMs that have adapters of one base; the base may be one of
    them.
    """
    shares = _coefficients(card)
    changes: list[tuple[float, Mapping[str, low_rank.LowRank]]] = []
    bases: list[dict[str, Parent]] = []
    without = []
    for name, share in shares.items():
        elm = forest[name]
        if elm.card.sha256 != card.parents[name].sha256:
            raise UserError(
                f"the average {card.name!r} was made of another {name!r}: make it again"
            )
        if (file := elm.path / adapter.FILE).is_file():
            found = adapter.read(file)
            changes.append((share, found.tensors))
            bases.append(found.parents)
        else:
            without.append(elm)
    for elm in without:
        if not bases or [p.sha256 for p in bases[0].values()] != [elm.card.sha256]:
            raise UserError(
                f"the average {card.name!r} has the parent {elm.name!r}, which has no adapter; "
                "format=hf exports it whole"
            )
    if any(_key(base) != _key(bases[0]) for base in bases):
        raise UserError(
            f"the average {card.name!r} is of adapters of several bases; format=hf exports it whole"
        )
    tensors = low_rank.average(changes)
    rank = max(change.rank for change in tensors.values())
    targets = sorted({change.module.rpartition(".")[2] for change in tensors.values()})
    return Adapter(bases[0], card.sha256, rank, float(rank), targets, tensors)


def _key(parents: Mapping[str, Parent]) -> list[tuple[str, float]]:
    return sorted((parent.sha256, parent.weight) for parent in parents.values())


def _coefficients(card: Card) -> dict[str, float]:
    """Read the factor of each model of a linear average, or of a sum of differences from a base."""
    recipe = dict(card.recipe)
    method, scale = recipe.pop("method", "linear"), float(recipe.pop("scale", 1.0))
    base = recipe.pop("base", None)
    recipe.pop("accumulate", None)
    if recipe or method not in ("linear", "task_arithmetic"):
        said = ", ".join(map(str, recipe)) or method
        raise UserError(
            f"the average {card.name!r} is no weighted sum of products ({said}); format=hf exports "
            "it whole"
        )
    if method == "linear":
        return {name: parent.weight for name, parent in card.parents.items()}
    found = {name: scale * p.raw for name, p in card.parents.items() if name != base}
    return found | ({} if base is None else {base: 1 - sum(found.values())})


def import_elm(
    config: Config,
    source: Path,
    name: str,
    domains: list[str],
    measure: received.Measure,
    reporter: Reporter,
) -> ELM:
    """Make the ELM `name` of a base in the forest and the adapter that peft saved in `source`.

    The base is ``parent=``; of a folder that btm exported it is found by its hash. An ELM of that
    name from the same file is returned as it is. Raises `UserError`, with nothing changed, for an
    adapter of another base, of another kind, or that is worse than its base (merge.force=true).
    """
    if not Forest.stands(config.forest_root):
        raise UserError(
            f"there is no forest in {config.forest_root}: an adapter needs its base, so import "
            "that first"
        )
    forest, folder = Forest(config.forest_root), _folder(source)
    with durable.scratch_in(forest.root) as scratch:
        file = scratch / peft_files.TENSORS
        sha256 = folder.copy(peft_files.TENSORS, file, reporter.alive)
        if name in forest and forest[name].card.source_sha256 == sha256:
            return forest[name]
        found = peft_files.read(folder.read(peft_files.CONFIG, peft_files.MOST), file, source)
        parents = _parents(config, forest, found, source)
        _make(config, forest, name, domains, found, parents, (source, sha256), reporter)
    card, result = _said(forest, name, source, domains)
    return received.merge(forest, name, card, result, measure, config)


def _folder(source: Path) -> Folder:
    """Open a folder of peft; `UserError` if it holds no adapter as safetensors."""
    if not source.is_dir():
        raise UserError(f"from={source}: no such folder")
    folder = Folder(source)
    for wanted in (peft_files.CONFIG, peft_files.TENSORS):
        if not folder.has(wanted):
            raise UserError(f"from={source}: no {wanted}; wanted an adapter that peft saved")
    return folder


def _make(
    config: Config,
    forest: Forest,
    name: str,
    domains: list[str],
    found: peft_files.Peft,
    parents: dict[str, Parent],
    source: tuple[Path, str],
    reporter: Reporter,
) -> None:
    """Make the branch of an import: the average of `parents`, and the adapter added to it."""
    if forest.has_branch(name) and forest.get_branch(name).origin.get("source") == str(source[0]):
        with forest.hold(name) as (left, _):
            durable.remove_folder(left.path)  # left by an import that was killed
    forest.require_free(name)
    origin: Json = {
        "domains": domains,
        "method": "import",
        "estimator": "given",
        "parents": {each: asdict(parent) for each, parent in parents.items()},
        "ancestors": [asdict(s) for s in ledger.lineage(forest[each].card for each in parents)],
        "source": str(source[0]),
        "source_sha256": source[1],
    }
    folders = {forest[each].path: parent.weight for each, parent in parents.items()}
    called = " and ".join(parents)
    with forest.new_branch(name, origin) as made:
        averaging.average(folders, made, reporter.alive, EXACT)
        causal_lm.copy_files(next(iter(folders)), made)
        if len(folders) > 1:
            ends.declare(made, list(folders))
        tensors = peft_files.fitted(found.layers, made, called)
        adapter.require_fits(tensors, made, called)
        adapter.add(tensors, made, made)
        targets = sorted({layer.rpartition(".")[2] for layer in found.layers})
        sha256 = weights.sha256(made)
        whole = Adapter(parents, sha256, found.rank, found.alpha, targets, tensors)
        adapter.write(made / adapter.FILE, whole)
    reporter.line(f"made {name} of {called} and {whole.said}")


def _parents(
    config: Config, forest: Forest, found: peft_files.Peft, source: Path
) -> dict[str, Parent]:
    """Find the base of an adapter: by its hash where the folder says it, else parent=NAME."""
    if found.parents is None:
        if config.parent is None:
            base = f" (it says {found.base!r})" if found.base.isprintable() and found.base else ""
            raise UserError(f"{source}: an adapter of which base{base}? give parent=NAME, an ELM")
        card = forest[config.parent].card
        return {config.parent: Parent(1.0, 1.0, card.sha256)}
    said = read_parents(source / peft_files.TENSORS, found.parents)
    if not said or not all(map(is_name, said)):
        raise UserError(f"{source}: names no base: damaged, export it again")
    averaging.normalise({name: parent.weight for name, parent in said.items()})
    here = {elm.card.sha256: elm.name for elm in forest.elms()}
    for name, parent in said.items():
        mine = None if config.parent is None else forest[config.parent].card.sha256
        if parent.sha256 not in here or (mine is not None and mine != parent.sha256):
            wanted = config.parent or f"any in {forest.root}"
            raise UserError(
                f"{source}: an adapter of another base than {wanted}: of {name!r} with sha256 "
                f"{parent.sha256[:12]}; import that first, or give the parent= it is of; have: "
                f"{', '.join(forest.names()) or 'none'}"
            )
    return {here[parent.sha256]: parent for parent in said.values()}


def _said(forest: Forest, name: str, source: Path, domains: list[str]) -> tuple[Card, Json]:
    """Return the sender's card, and what trained.json takes over from it."""
    branch = forest.get_branch(name)
    file = branch.path / adapter.FILE
    facts: Json = {"adapter": adapter.read(file).facts(file)}
    made = Card(name, domains, weights.sha256(branch.path), forest.identity["tokenizer_sha256"])
    if (source / CARD).is_file():
        theirs = Card.read(source / CARD)
        if theirs.sha256 == made.sha256 and len(theirs.domains) == 1:
            trained_on.copy(source, forest.paths.digests, theirs)
            return theirs, seal.result(theirs) | facts
    note = f"an adapter of peft from {source}, {adapter.read(file).said}"
    return made, {"steps": 0, "tokens": 0, "notes": [note]} | facts
