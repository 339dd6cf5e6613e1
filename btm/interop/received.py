"""The door for an ELM that was made elsewhere from parents that stand here.

Its card is the sender's word. What the gate decides by is measured again, on text of our own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import ELM, Branch, Forest, Terms
from btm.forest.card import Card
from btm.system import durable, lease
from btm.system.json_files import Json


@dataclass(frozen=True)
class Losses:
    """The losses of a received branch and its parents, in nats per token of our valid split.

    `own` is None where that was impossible; `why` says why.
    """

    own: float | None = None
    parents: dict[str, float] = field(default_factory=dict)
    why: str = ""


# Of a held branch, whose lease the second argument beats.
Measure = Callable[[Branch, Callable[[], None]], Losses]


def unmeasured(branch: Branch, beat: Callable[[], None]) -> Losses:
    """Measure nothing: for callers that have no suite."""
    return Losses(why="no suite was given")


def merge(
    forest: Forest,
    name: str,
    card: Card,
    result: Json,
    measure: Measure,
    config: Config,
) -> ELM:
    """Measure the received branch `name` here and merge it; `card` is the sender's.

    `result` is what its trained.json takes over from that card, whose terms are kept where a key
    could state them, its licence before ours. Raises `UserError`, and removes the branch, if the
    gate refuses it and `merge.force` is false.
    """
    terms = Terms.of_config(config.card).with_(Terms.of_card(card).checked())
    try:
        with forest.hold(name) as (branch, held):
            found = measure(branch, held.beat)
            durable.write_json(branch.files.result, result | _measured(card, result, found))
        return forest.merge(forest.get_branch(name), force=config.merge.force, terms=terms)
    except (lease.HeldError, lease.LostError):
        raise  # the branch is another process's now
    except UserError:
        if forest.has_branch(name):
            with forest.hold(name) as (refused, _):
                durable.remove_folder(refused.path)
        raise


def _measured(card: Card, result: Json, found: Losses) -> Json:
    """Make the losses of a trained.json, and its notes: the sender's losses are hearsay."""
    said = "no loss" if card.valid_nats is None else f"{card.valid_nats:.4f} nats/token"
    note = f"received: the sender measured {said}"
    if card.forced:
        note += " and merged it although it was worse than a parent"
    if found.own is None:
        note += f"; not measured here: {found.why}"
    return {
        "valid_nats": found.own,
        "parent_valid_nats": found.parents,
        "notes": [*result["notes"], note],
    }
