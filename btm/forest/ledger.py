"""The cost of training and inference, counted in one way on cards, in evaluations and forecasts.

FLOPs per token (PaLM, arXiv 2204.02311, appendix B; a multiply-add is 2): training 6 N + 12 ·
layers · width · T, inference 2 N + 4 · layers · width · T. N are the parameters that take part in
matrix products: a looked-up embedding and a table of positions do not, a tied embedding does, as
the head. All T tokens are counted as attended to: products under a causal mask are computed too.
Norms, biases and softmax are left out; they take under 2 %.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import NotRequired, TypedDict

from btm.forest.card import Card, Spent
from btm.models.flops import Shape


class Sums(TypedDict):
    """What training took, added up."""

    tokens: int
    flops: float


class Cost(TypedDict):
    """What training a model and predicting with it take, as an evaluation's JSON has it."""

    training: Sums | None  # None: nobody wrote it down
    experts_run: float  # for a token, on the average; whole unless an ensemble commits early
    inference_flops_per_token: float


class Ledger(TypedDict):
    """The `ledger` of an evaluation's JSON."""

    shape: dict[str, int]  # of `Shape`
    elms: dict[str, Cost]
    ensemble: Cost
    models: NotRequired[dict[str, Cost]]  # what is measured beside the ensemble


def lineage(parents: Iterable[Card]) -> list[Spent]:
    """List the ancestors of a model whose parents have these cards, each once."""
    return _once(spent for card in parents for spent in (*card.ancestors, own(card)))


def own(card: Card) -> Spent:
    """Read the cost of an ELM's own training, without its ancestors', from its card."""
    return Spent(card.name, card.sha256, card.tokens, card.flops)


def training(cards: Iterable[Card]) -> Sums:
    """Add up what was spent on ELMs and all their ancestors, each counted once.

    An imported model's earlier training is not known and counts as 0.
    """
    return total(lineage(cards))


def summed(card: Card) -> Card:
    """Fill in the totals of a card: its own training and its ancestors'."""
    sums = training([card])
    return replace(card, total_tokens=sums["tokens"], total_flops=sums["flops"])


def total(spent: Iterable[Spent]) -> Sums:
    """Add up tokens and FLOPs."""
    entries = list(spent)
    return {
        "tokens": sum(entry.tokens for entry in entries),
        "flops": sum(entry.flops for entry in entries),
    }


def entry(elms: list[Card], members: list[Card], shape: Shape, context: int, run: float) -> Ledger:
    """Return the ledger of an evaluation: of each of `elms`, and of the ensemble of `members`.

    Training is in tokens and FLOPs with all ancestors; inference in FLOPs per token at `context`
    tokens, where the ensemble runs `run` of its experts.
    """
    one = shape.inference_flops(context)
    return {
        "shape": asdict(shape),
        "elms": {
            card.name: {
                "training": training([card]),
                "experts_run": 1,
                "inference_flops_per_token": one,
            }
            for card in elms
        },
        "ensemble": {
            "training": training(members),
            "experts_run": run,
            "inference_flops_per_token": run * one,
        },
    }


def _once(spent: Iterable[Spent]) -> list[Spent]:
    """Drop repeated entries of the same name and weights; keep the order of appearance."""
    return list({(entry.name, entry.sha256): entry for entry in spent}.values())
