"""What training and inference cost, counted alike everywhere: on cards, in evaluations, in forecasts.

FLOPs per token (PaLM, arXiv 2204.02311, appendix B; a multiply-add is 2): training 6 N + 12 · layers · width · T,
inference 2 N + 4 · layers · width · T. N are the parameters that take part in matrix products: neither a looked-up
embedding nor a table of positions, but a tied embedding, for it is the head. T tokens are attended to in full, as a
causal mask saves no product that is computed. Norms, biases and softmax are left out: under 2 % (tests/test_ledger.py).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from btm.forest.card import Card, Spent

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """What the cost of an architecture's token depends on: N, and layers · width of its attention."""

    matrix_parameters: int
    attention: int

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Shape":
        """Return the shape of a model; one on torch's meta device will do.

        Every expert of a layer counts where a layer is itself a mixture of experts.
        """
        from torch import nn

        head = model.get_output_embeddings()
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        if head is not None:
            looked_up.discard(id(head.weight))
        matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in looked_up]
        config = model.config
        heads = int(getattr(config, "num_attention_heads", 0) or 0)
        width = heads * int(getattr(config, "head_dim", 0) or 0) or int(config.hidden_size)
        return cls(sum(p.numel() for p in matrices), int(config.num_hidden_layers) * width)

    @classmethod
    def of_config(cls, config: "PretrainedConfig") -> "Shape":
        """Return the shape of an architecture, without making any parameter."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return cls.of(AutoModelForCausalLM.from_config(config))

    def training_flops(self, seq_len: int) -> float:
        """Return the FLOPs of forward and backward for one token of a sequence of `seq_len`."""
        return float(6 * self.matrix_parameters + 12 * self.attention * seq_len)

    def inference_flops(self, context: int) -> float:
        """Return the FLOPs of a forward pass for one token of a sequence of `context`."""
        return float(2 * self.matrix_parameters + 4 * self.attention * context)


def lineage(parents: Iterable[Card]) -> list[Spent]:
    """Return what a model descends from, each once, when its parents are those with these cards."""
    return _once(spent for card in parents for spent in (*card.ancestors, own(card)))


def own(card: Card) -> Spent:
    """Return what the training of one ELM took, without its ancestors'."""
    return Spent(card.name, card.sha256, card.tokens, card.flops)


def training(cards: Iterable[Card]) -> dict[str, Any]:
    """Return {"tokens", "flops"} spent on ELMs and all their ancestors, each counted once.

    An imported model's own training is not known and counts as nothing.
    """
    return total(lineage(cards))


def summed(card: Card) -> Card:
    """Return a card with its totals filled in: its own training and its ancestors'."""
    sums = training([card])
    return replace(card, total_tokens=sums["tokens"], total_flops=sums["flops"])


def total(spent: Iterable[Spent]) -> dict[str, Any]:
    """Return the sums {"tokens", "flops"}."""
    entries = list(spent)
    return {"tokens": sum(entry.tokens for entry in entries), "flops": sum(entry.flops for entry in entries)}


def entry(elms: list[Card], members: list[Card], shape: Shape, context: int, top_k: int) -> dict[str, Any]:
    """Return the ledger of an evaluation: of each of `elms`, and of the ensemble of `members`.

    Training is in tokens and FLOPs with all ancestors; inference in FLOPs per token at `context` tokens, where an
    ensemble runs its `top_k` experts, or all of them for 0.
    """
    run = min(top_k, len(members)) or len(members)
    one = shape.inference_flops(context)
    return {
        "shape": asdict(shape),
        "elms": {
            card.name: {"training": training([card]), "experts_run": 1, "inference_flops_per_token": one}
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
