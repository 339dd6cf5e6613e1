"""Training of a mixture of experts: its router alone, or all of it.

btx: next-token loss and the load-balancing loss of Switch Transformers, as Branch-Train-MiX trains
it (arXiv 2403.07816). base: while it trains, tokens are assigned to experts so that each gets as
many (BASE layers, arXiv 2103.16716, equation 3); at test time each takes its likeliest expert, and
no loss is added.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from btm.config.training import TrainerConfig
from btm.data.discover.assign import balanced_assignment
from btm.models import causal_lm
from btm.system.json_files import Json
from btm.train import loop, trainee
from btm.train.trainee import Trainee
from btm.train.training import Trained, Training

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def train(training: Training, router: str, part: str, balance: float) -> Trained:
    """Train the mixture in `training.folder` as `btm.train.loop.train` does: its `part` (router or
    all), with the routing of `router` (btx or base); `balance` weighs btx's load-balancing loss.
    """
    model = causal_lm.load_trainable(training.folder, training.trainer.device)
    return loop.loop(training, MoeTrainee(model, training.batches, router, part, balance))


@dataclass
class MoeTrainee(Trainee):
    """A mixture of which the routers, or all parameters, are trained."""

    may_compile = False  # the work of a layer depends on where its tokens go
    router: str
    part: str
    balance: float

    def __post_init__(self) -> None:
        """Freeze what is not trained, and balance the assignment where the router is base's."""
        gates = routers_of(self.model)
        if self.part == "router":
            kept = {id(gate.weight) for gate in gates}
            for parameter in self.model.parameters():
                parameter.requires_grad_(id(parameter) in kept)
        if self.router == "base":
            for gate in gates:
                gate.forward = partial(balanced, gate, gate.forward)

    def backward(self, step: int, trainer: TrainerConfig, precision: str) -> "Tensor":
        """Add the gradient of a step's loss; return it, with btx's load-balancing loss in it."""
        batch = self.batches.batch(step)
        nll = self._with_balance if self.router == "btx" and self.balance else None
        return trainee.backward(self.model, batch, trainer, precision, nll)

    def _with_balance(self, inputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Compute the mean of −log p(target) in nats, and the weighed load-balancing loss."""
        import torch.nn.functional as F  # noqa: N812

        found = self.model(input_ids=inputs, use_cache=False, output_router_logits=True)
        nll = F.cross_entropy(found.logits.float().flatten(0, 1), targets.flatten())
        return nll + self.balance * found.aux_loss

    def settings(self) -> Json:
        """Return the facts that all parts of one training share: how it routes, too."""
        own = {"router": self.router, "train": self.part, "balance": self.balance}
        return super().settings() | {"moe": own}


def routers_of(model: "PreTrainedModel") -> "list[Any]":
    """List the routers of a mixture, by layer."""
    base: Any = model.base_model
    return [layer.mlp.gate for layer in base.layers]


def balanced(gate: Any, greedy: Callable[..., Any], hidden: "Tensor") -> Any:
    """Route tokens to one expert each, equally many to every expert, while `gate` trains.

    Returns what the router does: logits (T, E), weights (T, 1), experts (T, 1). The weight is
    1, as it is where a token runs one expert; its gradient is that of log p(expert), so that
    the router learns which expert serves a token (in BASE layers a sigmoid does that). Where E does
    not divide T, loads differ by one. In evaluation `greedy`, the router's own rule, is used.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812

    if not gate.training:
        return greedy(hidden)
    logits = F.linear(hidden.reshape(-1, gate.hidden_dim), gate.weight)
    scores = logits.detach().double().cpu().numpy()
    chosen = torch.from_numpy(balanced_assignment(scores)).to(logits.device)[:, None]
    share = torch.softmax(logits.float(), dim=-1).gather(1, chosen)
    return logits, share / share.detach(), chosen
