"""What training and inference cost, counted alike everywhere: on cards, in evaluations, in
forecasts.

FLOPs per token (PaLM, arXiv 2204.02311, appendix B; a multiply-add is 2): training 6 N + 12 ·
layers · width · T, inference 2 N + 4 · layers · width · T. N are the parameters that take part in
matrix products: neither a looked-up embedding nor a table of positions, but a tied embedding, for
it is the head. T tokens are attended to in full, as a causal mask saves no product that is
computed. Norms, biases and softmax are left out: under 2 %.
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
    experts_run: int
    inference_flops_per_token: float


class Ledger(TypedDict):
    """The `ledger` of an evaluation's JSON."""

    shape: dict[str, int]  # of `Shape`
    elms: dict[str, Cost]
    ensemble: Cost
    models: NotRequired[dict[str, Cost]]  # what is measured beside the ensemble


def lineage(parents: Iterable[Card]) -> list[Spent]:
    """Return what a model descends from, each once, when its parents are those with these cards."""
    return _once(spent for card in parents for spent in (*card.ancestors, own(card)))


def own(card: Card) -> Spent:
    """Return what the training of one ELM took, without its ancestors'."""
    return Spent(card.name, card.sha256, card.tokens, card.flops)


def training(cards: Iterable[Card]) -> Sums:
    """Add up what was spent on ELMs and all their ancestors, each counted once.

    An imported model's own training is not known and counts as nothing.
    """
    return total(lineage(cards))


def summed(card: Card) -> Card:
    """Return a card with its totals filled in: its own training and its ancestors'."""
    sums = training([card])
    return replace(card, total_tokens=sums["tokens"], total_flops=sums["flops"])


def total(spent: Iterable[Spent]) -> Sums:
    """Add up tokens and FLOPs."""
    entries = list(spent)
    return {
        "tokens": sum(entry.tokens for entry in entries),
        "flops": sum(entry.flops for entry in entries),
    }


def entry(elms: list[Card], members: list[Card], shape: Shape, context: int, top_k: int) -> Ledger:
    """Return the ledger of an evaluation: of each of `elms`, and of the ensemble of `members`.

    Training is in tokens and FLOPs with all ancestors; inference in FLOPs per token at `context`
    tokens, where an ensemble runs its `top_k` experts, or all of them for 0.
    """
    run = min(top_k, len(members)) or len(members)
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
    """Return the distinct entries by name and weights, in order of appearance."""
    return list({(entry.name, entry.sha256): entry for entry in spent}.values())
