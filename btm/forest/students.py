"""Students on disk: begun as a branch of their own, sealed with a card, moved to ``students/``.

A student in the making stands in ``branches/<name>+student/``, so leases, gc, lists and removals
treat it as every branch, and no ELM can have its name. What it learns from and how is the step's
(btm/steps/distil/student.py).
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from btm.data import ends
from btm.errors import UserError
from btm.forest import index, ledger, model_card, publish, tombstone
from btm.forest.branch import Branch
from btm.forest.card import Card, Measured
from btm.forest.forest import EXACT, Forest
from btm.forest.paths import ModelFolder, in_making
from btm.forest.terms import descended
from btm.models import average as averaging
from btm.models import causal_lm, weights
from btm.system import durable, lease, sums
from btm.system.json_files import Json


def begin(
    forest: Forest,
    name: str,
    start: Mapping[Path, float],
    origin: Json,
    alive: Callable[[], None] = lambda: None,
) -> Branch:
    """Begin the student `name` with the average of the models in `start` {folder: weight}.

    `origin` is its branch.json. Where another process begins it too, one of the two stands.
    `UserError`, with nothing published, if one of its parents was removed meanwhile.
    """
    called, parents = in_making(name), list(origin["parents"])
    place = forest.paths.branch(called)
    making = tombstone.require_parents(forest.root, tombstone.BRANCH, called, parents)
    with suppress(FileExistsError), durable.publish_folder(place) as folder, making:
        averaging.average(start, folder, alive, EXACT)
        causal_lm.copy_files(next(iter(start)), folder)
        if len(start) > 1:
            ends.declare(folder, list(start))
        ModelFolder(folder).origin.write_text(json.dumps(origin, indent=1))
    try:
        # As in `Forest.new_branch`: a removal sees this branch, or its tombstone is seen here.
        tombstone.refuse_parents(forest.root, tombstone.BRANCH, called, parents)
    except UserError:
        with suppress(FileNotFoundError):
            durable.remove_folder(place)
        raise
    return forest.get_branch(called)


def seal(
    forest: Forest,
    branch: Branch,
    card: Card,
    beat: Callable[[], None],
    measure: Callable[[Path, Card], dict[str, Measured]],
) -> Path:
    """Seal a trained student, held as `branch`, and move it to ``students/``; return its folder.

    `measure` gets the folder and returns losses by domain for the card. Raises `UserError` for
    weights that are not finite, and where a parent was removed meanwhile.
    """
    target = forest.paths.derived(index.DERIVED[index.STUDENT], card.name).path
    bad = weights.first_not_finite(branch.path)
    if bad is not None:
        raise UserError(f"student {card.name!r} has a NaN or an infinity in tensor {bad!r}")
    beat()
    digests = weights.digests(branch.path)
    card = replace(card, sha256=weights.identity(digests), sums=True)
    card = ledger.summed(descended(card, forest))
    card = publish.measured(card, measure(branch.path, card))
    durable.write_json(branch.files.card, card.to_json())
    with durable.publish_file(branch.files.readme) as handle:
        handle.write(model_card.readme(card, index.STUDENT).encode())
    for leftover in [*branch.files.checkpoints(), *branch.path.glob(".tmp-*")]:
        durable.remove_folder(leftover) if leftover.is_dir() else leftover.unlink()
    sums.write(branch.path, digests)
    beat()
    durable.sync_tree(branch.path)
    durable.make_folder(target.parent)
    called = in_making(card.name)
    tombstone.refuse_parents(forest.root, tombstone.BRANCH, called, card.parents)
    try:
        durable.rename_folder(branch.path, target)
    except FileExistsError:
        raise UserError(f"{target} stands there already: another process was faster") from None
    except FileNotFoundError:
        raise lease.LostError(f"{called!r} was taken over by another process") from None
    publish.take_back(forest, index.STUDENT, target, card)
    return target
