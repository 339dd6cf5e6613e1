"""Export of a sparse expert as its delta alone, or of one that has an adapter as that, and its
import into a forest with its parents.

A folder holds ``delta.safetensors`` or ``adapter.safetensors``, the card, and the digests of the
documents that the expert was trained on. A forest that has the same parents, by sha256, makes the
same weights from it, bit for bit.
"""

import shutil
from pathlib import Path

from btm.config.checks import check_name
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import ELM, Forest, difference, seal, trained_on
from btm.forest.card import Card
from btm.forest.paths import CARD, Paths
from btm.interop import received
from btm.models import weights
from btm.report import Reporter
from btm.system import durable, sums


def export(source: Path, target: Path) -> Path:
    """Publish the difference of the ELM in `source` from its parents at `target` and return
    `target`.

    Raises `UserError` if it is no sparse expert and has no adapter, if it is damaged, or if
    something stands at `target`.
    """
    file = difference.file_in(source)
    if file is None:
        raise UserError(
            f"{source.name!r} was not trained as a sparse expert (trainer.delta_density=0.05), nor "
            "by an adapter (trainer.adapter=lora), so it has no delta; format=hf exports it whole"
        )
    if difference.read(file).sha256 != weights.sha256(source):
        raise UserError(
            f"{source}: its weights and its {file.name} disagree: damaged, restore it from a copy"
        )
    if target.exists():
        raise UserError(f"to={target} stands there already; give another to=DIR, or delete it")
    with durable.publish_folder(target) as folder:
        for name in (file.name, CARD):
            shutil.copyfile(source / name, folder / name)
        digests = Paths(source.parent.parent).digests
        trained_on.copy(digests, folder, Card.read(source / CARD))
        sums.write(folder)
    return target


def import_elm(config: Config, source: Path, measure: received.Measure, reporter: Reporter) -> ELM:
    """Make the ELM of the difference in `source` from its parents in the forest and return it.

    An ELM of that name with the same weights is returned as it is. It passes the gate with the
    losses that `measure` finds here, never the sender's. Raises `UserError`, with nothing changed,
    if a parent is missing, files are damaged, another ELM has the name, or it is worse than a
    parent.
    """
    forest, card = Forest(config.forest_root), Card.read(source / CARD)
    file = difference.file_in(source) or source / difference.FILES[0]
    made = difference.read(file)
    name, domains = named(config, source)
    if made.sha256 != card.sha256 or len(card.domains) != 1:
        raise UserError(
            f"{source}: its card is not that of its {file.name}: damaged, export it again"
        )
    for other, wrong in sums.differences(source).items():
        if other in (file.name, CARD):
            raise UserError(f"{source / other}: {wrong}: damaged, export it again")
    if name in forest and forest[name].card.sha256 == made.sha256:
        return forest[name]
    parents = _parents(forest, made)

    def finish(folder: Path) -> None:
        difference.apply(made, folder)
        shutil.copyfile(file, folder / file.name)

    # A killed import may have left the branch: then only the measuring and the merge are missing.
    left = forest.has_branch(name)
    if not left or weights.sha256(forest.get_branch(name).path) != made.sha256:
        forest.branch(
            name,
            domains[0],
            parents,
            method=card.branch_method,
            estimator=card.estimator,
            alive=reporter.alive,
            finish=finish,
        )
    trained_on.copy(source, forest.paths.digests, card)
    reporter.line(f"made {name} of {', '.join(parents)} and {made.said}")
    found = seal.result(card)
    return received.merge(forest, name, card, found, measure, config)


def named(config: Config, source: Path) -> tuple[str, list[str]]:
    """Return the name and the domains that the delta in `source` gets here.

    They are those of its card, unless settings give others.
    """
    card = Card.read(source / CARD)
    name = check_name(config.expert or card.name, "name")
    return name, card.domains if config.domain is None else [config.domain]


def _parents(forest: Forest, made: difference.Difference) -> dict[str, float]:
    """Find the parents of a delta in this forest, perhaps under other names: {name: raw weight}."""
    here = {elm.card.sha256: elm.name for elm in forest.elms()}
    here |= {forest[name].card.sha256: name for name in made.parents if name in forest}
    for name, parent in made.parents.items():
        if parent.sha256 not in here:
            raise UserError(
                f"the delta needs the parent {name!r} (sha256 {parent.sha256[:12]}), which "
                f"{forest.root} does not have: import it first; "
                f"have: {', '.join(forest.names()) or 'none'}"
            )
    return {here[parent.sha256]: parent.raw for parent in made.parents.values()}
