"""Sealing: the checks that a trained branch must pass to become an ELM, and the card it gets."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from btm import __version__
from btm.errors import UserError, command
from btm.forest import ledger
from btm.forest.card import Card, Source, Spent, checked
from btm.models import flops, weights
from btm.system.json_files import Json

if TYPE_CHECKING:
    from btm.forest.branch import Branch

# What a card takes over from trained.json, the result of the training.
_FROM_RESULT = (
    "settings",
    "steps",
    "lr",
    "schedule",
    "tokens",
    "flops",
    "data",
    "valid_nats",
    "parent_valid_nats",
    "exact",
    "notes",
    "delta",
    "adapter",
)


def require_trained(branch: "Branch") -> Json:
    """Return the result of a branch's training; `UserError` if it is not trained yet."""
    if (result := branch.result) is None:
        raise UserError(
            f"branch {branch.name!r} is not trained yet: "
            f"{command('train', expert=branch.name, forest=branch.path.parents[1])}"
        )
    return result


def is_worse(name: str, result: Json, force: bool) -> bool:
    """Tell whether a forced expert is worse than its best parent; unforced, that is a
    `UserError`.
    """
    ours, parents = result.get("valid_nats"), result.get("parent_valid_nats") or {}
    losses = (
        [*parents.values(), 0.0 if ours is None else ours] if isinstance(parents, dict) else [None]
    )
    if not all(isinstance(loss, int | float) for loss in losses):
        raise UserError(
            f"branch {name!r}: the losses in its trained.json are no numbers: train it again"
        )
    if ours is None or not parents:
        return False
    best = min(parents, key=lambda parent: parents[parent])
    worse = not ours <= parents[best]
    if worse and not force:
        raise UserError(
            f"branch {name!r} is worse than its parent {best!r} on its own valid split "
            f"({ours:.4f} against {parents[best]:.4f} nats/token): merge.force=true takes it all "
            "the same; btm run --regrow with another trainer.lr or trainer.steps grows all anew"
        )
    return worse


def result(card: Card) -> Json:
    """Select from `card` the values for trained.json that give a branch the same card again."""
    return {name: getattr(card, name) for name in _FROM_RESULT}


def card(
    branch: "Branch",
    result: Json,
    tokenizer_sha256: str,
    shape: flops.Shape,
    digests: dict[str, str],
) -> Card:
    """Make the card of the ELM that a trained branch becomes; `digests` are its weight files'."""
    known = {field: result[field] for field in _FROM_RESULT if field in result}
    # What a branch was weighed by, then what it was trained with.
    known["settings"] = {**branch.origin.get("settings", {}), **result.get("settings", {})}
    try:
        known["sources"] = [Source(**source) for source in result.get("sources") or []]
    except TypeError as error:
        raise _damaged(branch, error) from None
    own = result.get("languages")
    made = Card(
        name=branch.name,
        domains=branch.domains,
        sha256=weights.identity(digests),
        tokenizer_sha256=tokenizer_sha256,
        parents=branch.parents,
        branch_method=branch.origin["method"],
        estimator=branch.origin["estimator"],
        source=branch.origin.get("source", ""),
        source_sha256=branch.origin.get("source_sha256", ""),
        license=branch.origin.get("license", ""),
        ancestors=[Spent(**spent) for spent in branch.origin.get("ancestors", [])],
        parameters=weights.parameters(branch.path),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"btm": __version__, **{p: version(p) for p in ("torch", "transformers")}},
        sums=True,
        **asdict(shape),
        languages=own or [],
        own_languages=own,
        **known,
    )
    try:
        return ledger.summed(checked(made))
    except ValueError as error:
        raise _damaged(branch, error) from None


def _damaged(branch: "Branch", error: Exception) -> UserError:
    return UserError(f"{branch.files.result}: damaged, train the branch again: {error}")
