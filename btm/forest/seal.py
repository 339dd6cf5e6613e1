"""What a trained branch must pass and say to become an ELM."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from btm.errors import UserError
from btm.forest import ledger
from btm.forest.card import Card, Spent, checked
from btm.models import flops, weights

if TYPE_CHECKING:
    from btm.forest.branch import Branch

# What a card takes over from trained.json, the result of the training.
_FROM_RESULT = (
    "steps",
    "lr",
    "tokens",
    "flops",
    "data",
    "valid_nats",
    "parent_valid_nats",
    "exact",
    "notes",
    "delta",
)


def require_trained(branch: "Branch") -> dict[str, Any]:
    """Return what the training of a branch left; `UserError` if it is not trained yet."""
    if (result := branch.result) is None:
        raise UserError(
            f"branch {branch.name!r} is not trained yet: btm train expert={branch.name}"
        )
    return result


def is_worse(name: str, result: dict[str, Any], force: bool) -> bool:
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
            f"({ours:.4f} against "
            f"{parents[best]:.4f} nats/token): train it longer or with another trainer.lr, or "
            "merge.force=true"
        )
    return worse


def result(card: Card) -> dict[str, Any]:
    """Return what trained.json must say for a branch to get the training of `card` on its own."""
    return {name: getattr(card, name) for name in _FROM_RESULT}


def card(
    branch: "Branch",
    result: dict[str, Any],
    tokenizer_sha256: str,
    shape: flops.Shape,
    digests: dict[str, str],
) -> Card:
    """Return the card of the ELM that a trained branch with weight files of these `digests`
    becomes.
    """
    known = {field: result[field] for field in _FROM_RESULT if field in result}
    made = Card(
        name=branch.name,
        domains=branch.domains,
        sha256=weights.identity(digests),
        tokenizer_sha256=tokenizer_sha256,
        parents=branch.parents,
        branch_method=branch.origin["method"],
        estimator=branch.origin["estimator"],
        source=branch.origin.get("source", ""),
        license=branch.origin.get("license", ""),
        ancestors=[Spent(**spent) for spent in branch.origin.get("ancestors", [])],
        parameters=weights.parameters(branch.path),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={package: version(package) for package in ("btm", "torch", "transformers")},
        sums=True,
        **asdict(shape),
        **known,
    )
    try:
        return ledger.summed(checked(made))
    except ValueError as error:
        raise UserError(
            f"{branch.path / 'trained.json'}: damaged, train the branch again: {error}"
        ) from None
