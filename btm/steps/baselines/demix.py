"""DEMix (arXiv 2108.05036): one model with a feed-forward layer for each domain, all else shared
and in step.

It starts from the forest's seed and takes a batch of each domain in every step, which goes through
that domain's feed-forward layers; the shared parameters get the mean of the gradients, and one
optimizer step follows. So it sees the very batches that the experts see, on the same schedule. What
comes of it is an ELM for each domain (the shared parameters with its feed-forward layers: a plain
transformers model) and one called `demix` with their mean.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from btm import steps
from btm.config.schema import Config
from btm.config.training import TrainerConfig
from btm.data.batches import Batches
from btm.data.shards import Suite, require_text
from btm.errors import UserError
from btm.forest import Branch, Forest, trained_on
from btm.models import causal_lm, flops
from btm.report import Beating, Reporter, quiet
from btm.steps import conflicts, score_cache
from btm.steps.baselines.derive import DEMIX
from btm.system import durable
from btm.system.json_files import Json
from btm.train import checkpoint, loop, phase
from btm.train.trainee import Trainee, backward
from btm.train.training import Pulse, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from btm.steps.baselines.ffn import DomainFFN

_NOTE = (
    "DEMix (arXiv 2108.05036): all but the feed-forward layers is shared by the domains and was "
    "trained in step"
)


@dataclass
class DemixTrainee(Trainee):
    """A model with feed-forward layers for each domain; `mixes` are the domains' batches, `batches`
    the first's.
    """

    may_compile = False  # what a layer does depends on the domain
    mixes: dict[str, Batches]
    flops_per_token: float = field(init=False)
    layers: "list[DomainFFN]" = field(init=False)

    def __post_init__(self) -> None:
        """Multiply the feed-forward layers."""
        from btm.steps.baselines import ffn

        self.flops_per_token = flops.Shape.of(self.model).training_flops(self.batches.seq_len)
        self.layers = ffn.split(self.model, len(self.mixes))

    @classmethod
    def of(cls, model: "PreTrainedModel", mixes: dict[str, Batches]) -> "DemixTrainee":
        """Return the trainee that begins with every domain's layers as they are in `model`."""
        return cls(model, next(iter(mixes.values())), mixes)

    def backward(self, step: int, trainer: TrainerConfig, precision: str) -> "Tensor":
        """Add each domain's gradient to its own layers, and the mean over domains to what is
        shared.
        """
        losses: list[Tensor] = []
        for domain, batches in enumerate(self.mixes.values()):
            for layer in self.layers:
                layer.active = domain
            losses.append(backward(self.model, batches.batch(step), trainer, precision))
        for parameter, shared in self._parameters():
            if shared and parameter.grad is not None:
                parameter.grad /= len(self.mixes)
        total = losses[0]
        for more in losses[1:]:
            total = total + more
        return total / len(losses)

    def norm(self) -> "Tensor":
        """Compute sqrt(|shared|² + mean over domains of |own|²): for one domain the norm of a plain
        model.
        """
        import torch

        pairs = [(p, shared) for p, shared in self._parameters() if p.grad is not None]
        own = len(self.mixes) ** -0.5
        norms = [torch.linalg.vector_norm(p.grad) * (1.0 if shared else own) for p, shared in pairs]
        return torch.linalg.vector_norm(torch.stack(norms))

    def _parameters(self) -> "list[tuple[torch.nn.Parameter, bool]]":
        """Return every parameter, and whether it is shared."""
        from btm.steps.baselines import ffn

        return [(p, ffn.domain_of(name) is None) for name, p in self.model.named_parameters()]

    def load_moments(self, file: Path, optimizer: "torch.optim.Optimizer") -> None:
        """Begin with the seed's moments, in every copy."""
        from btm.steps.baselines import ffn

        checkpoint.load_moments(file, self.model, optimizer, stored_name=ffn.plain_name)

    def tokens(self, steps: int) -> int:
        """Return the tokens of all domains in the first `steps` steps."""
        return sum(batches.tokens(steps) for batches in self.mixes.values())

    def flops(self, steps: int) -> float:
        """Return the FLOPs of the first `steps` steps: a token goes through one feed-forward layer
        of each.
        """
        return self.tokens(steps) * self.flops_per_token

    def settings(self) -> Json:
        """Return the domains, in order, and their text."""
        text = {domain: batches.shards[0].sha256[:16] for domain, batches in self.mixes.items()}
        return {"domains": list(self.mixes), "data": text}

    def write(self, folder: Path, dtype: str) -> None:
        """Replace the weights in `folder` by the plain model with the mean of the feed-forward
        layers.
        """
        from btm.steps.baselines import ffn

        mean = ffn.mean(checkpoint.parameters(self.model), len(self.mixes))
        causal_lm.write(folder, ffn.fill(causal_lm.load_model(folder), mean), dtype)


def grow(config: Config, reporter: Reporter = quiet) -> None:
    """Train the DEMix model of `config` (see `derive`) and publish its ELMs, `demix` last, from
    wherever it stopped.
    """
    forest, suite, seed = Forest(config.forest_root), steps.open_suite(config), config.seed.name
    conflicts.refuse(config, conflicts.of_cycle(config, config.run.rounds))
    if DEMIX in forest:
        return
    if not forest.has_branch(DEMIX):
        forest.root_branch(DEMIX, [], forest[seed].load(), parent=seed, method=DEMIX)
    domains = [domain for each in config.run.rounds for domain in each]
    with forest.hold(DEMIX) as (branch, held):
        beating = Beating(reporter, held.beat)
        if branch.result is None:
            trained_on.record(forest.paths, (suite.shard(each, "train") for each in domains))
            mixes = _mixes(config, suite, domains)
            found = _train(config, forest, branch, mixes, beating, beating.pulse)
            durable.write_json(branch.files.result, found)
        for number, domain in enumerate(domains):
            held.beat()
            _publish(config, forest, suite, branch, domain, number, beating)
    forest.merge(forest.get_branch(DEMIX), force=True)
    reporter.line(f"merged {len(domains)} domains of {forest.root}")


def _mixes(config: Config, suite: Suite, domains: list[str]) -> dict[str, Batches]:
    """Return for each domain the batches that its expert would train on."""
    t = config.trainer
    shards = {domain: suite.shard(domain, "train") for domain in domains}
    require_text(shards.values(), "baseline=demix")
    return {
        d: Batches([shard], t.seq_len, t.batch_size, t.seed, order=d) for d, shard in shards.items()
    }


def _train(
    config: Config,
    forest: Forest,
    branch: Branch,
    mixes: dict[str, Batches],
    reporter: Reporter,
    pulse: Pulse,
) -> Json:
    """Train the model in `branch` in place; return its trained.json: the tokens are in those of
    the domains.

    trainer.valid_every is not looked at: there is no one valid split.
    """
    causal_lm.check_context(config, causal_lm.read_config(branch.files.config))
    course = phase.course_of(config, forest, branch)
    trainee = DemixTrainee.of(causal_lm.load_trainable(branch.path, config.trainer.device), mixes)
    with reporter.training(DEMIX) as report:
        trained = loop.loop(
            Training(
                branch.path,
                trainee.batches,
                config.trainer,
                course.schedule,
                course.steps,
                moments=course.moments,
                report=report,
                pulse=pulse,
            ),
            trainee,
        )
    notes = [*trained.notes, _NOTE, *course.notes]
    # Of every domain's text: each ELM has the parameters that all of it trained.
    data = {domain: batches.shards[0].sha256 for domain, batches in mixes.items()}
    settings = conflicts.settings_of(config, forest, branch, trained.precision or "")
    each = {
        "settings": settings,
        "steps": trained.steps,
        "data": data,
        "lr": course.schedule.peak,
        "flops": trained.flops / len(mixes),
        "notes": notes,
    }
    mean = [
        *notes,
        "the mean of the domains' feed-forward layers; the tokens and FLOPs stand in their cards",
    ]
    trained = replace(trained, settings=settings, data=data, notes=mean)
    whole = replace(trained, steps=0, lr=course.schedule.peak, tokens=0, flops=0.0)
    return whole.to_json() | {"each": each}


def _publish(
    config: Config,
    forest: Forest,
    suite: Suite,
    branch: Branch,
    domain: str,
    number: int,
    reporter: Reporter,
) -> None:
    """Merge the ELM of one domain, unless it stands there, from what the training left in
    `branch`.
    """
    if domain in forest:
        return
    if not forest.has_branch(domain):
        forest.root_branch(
            domain, [domain], _plain(branch, number), parent=config.seed.name, method=DEMIX
        )
    with forest.hold(domain) as (made, held):
        if made.result is None:
            (batches,) = _mixes(config, suite, [domain]).values()
            whole = branch.result or {}
            text = {domain: suite.shard(domain, "train").sha256}  # of a training by an older btm
            result = {"data": text} | whole["each"]
            result |= {
                "tokens": batches.tokens(whole["each"]["steps"]),
                "exact": whole["exact"],
            }
            beating = Beating(reporter, held.beat)
            nats = score_cache.valid_nats(config, forest, made, suite, beating)
            result |= {"valid_nats": nats.own, "parent_valid_nats": nats.parents}
            durable.write_json(made.files.result, result)
    forest.merge(forest.get_branch(domain), force=True)


def _plain(branch: Branch, number: int) -> "PreTrainedModel":
    """Return the plain model of domain `number`, from the last checkpoint of the training."""
    import torch
    from safetensors.torch import load_file

    from btm.steps.baselines import ffn

    found = checkpoint.latest(branch.path)
    if found is None:
        raise UserError(f"{branch.path}: trained, but its checkpoint is gone: delete that folder")
    stored = ffn.of_domain(load_file(found / "parameters.safetensors"), number)
    model = ffn.fill(causal_lm.load_model(branch.path, dtype=torch.float32), stored)
    return model.to(getattr(torch, causal_lm.stored_dtype(branch.path)))
