"""Search the weights of a linear average on valid text: `average.search=valid`.

The candidates are the experts and the seed, which a linear average may draw them towards, as a
scale of task arithmetic does. Their weights are a softmax of logits (one row, or one for each group
of tensors), which Adam moves along the exact gradient of the loss
(btm/models/gradient_of_average.py).
A derivative-free search was not taken: each of its losses needs an average too, and tells one
number where a gradient, at the price of two more, tells one for every weight of every group.

The state is written after each loss, so a search that is killed goes on.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.config.schema import Config
from btm.data.batches import windows
from btm.data.shards import Shard
from btm.data.windows import Windows
from btm.errors import UserError
from btm.forest import ELM, Forest, publish
from btm.forest.card import Candidate, Card
from btm.forest.suites import open_suites
from btm.models import causal_lm
from btm.models import weights as wt
from btm.models.gradient_of_average import AverageWithGradient, Matrix, groups_of
from btm.report import Reporter, quiet
from btm.steps import held_out
from btm.steps import recipe as finding
from btm.steps.domain_weights import NEGLIGIBLE
from btm.system import durable
from btm.system.json_files import Json, read_object
from btm.train import trainee

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "search"  # as the card's branch_method
RATE = 0.3  # of Adam on the logits; .1 had not arrived after 32 losses on the demo's forest
BETAS = (0.8, 0.95)  # short memories: a budget is a few dozen steps
FLOOR = 0.02  # least share of a candidate at the beginning; softmax moves 0 nowhere


@dataclass(frozen=True)
class Found:
    """The weights that a search found, and its own account of them."""

    weights: dict[str, float]  # of the tensors that no pattern of average.groups matches
    layers: dict[str, dict[str, float]]  # {pattern: weights}
    estimator: str  # what was asked for, and what came of it
    state: Path  # the file of the search's state, to be deleted once the average is published
    candidates: list[Candidate] = field(default_factory=list)  # all that were tried, by benchmarks


@dataclass
class State:
    """A search between two losses; logits and moments are (G, E)."""

    logits: list[list[float]]
    first: list[list[float]]
    second: list[list[float]]
    losses: list[float]
    best: list[list[float]]  # logits of the least loss


@dataclass(frozen=True)
class _Problem:
    """What is searched: models, and the text that their average is measured on."""

    elms: list[ELM]
    shards: list[Shard]
    asked: str  # all that the result depends on, in words


def search(config: Config, forest: Forest, name: str, reporter: Reporter = quiet) -> Found | None:
    """Find the weights of least loss among `average.budget` tried, and say what they gave; None
    where the average `name` is what this search has found before.
    """
    import torch

    problem = _problem(config, forest)
    if stands(config, forest, name, problem.asked):
        return None
    suite = open_suites(config)
    held_out.refuse(forest, suite, problem.shards, problem.elms, reporter)
    device = causal_lm.pick_device(config.trainer.device)
    model = causal_lm.load_trainable(problem.elms[0].path, device).eval()
    average = AverageWithGradient([elm.path for elm in problem.elms], config.average.groups, model)
    read = [windows(s, config.window, config.trainer.valid_tokens) for s in problem.shards]
    file = state_file(forest, problem.asked)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    state = _state(file) or _begin(config, forest, problem, reporter)
    total = config.average.budget * sum(each.n_tokens for each in read)
    with reporter.scoring(name, total) as told:
        if state.losses:  # of a search that was killed
            told(len(state.losses) * (total // config.average.budget))
        while len(state.losses) < config.average.budget:
            weights_GE = softmax(np.array(state.logits))
            average.place(weights_GE)
            nats = _backward(model, read, config.trainer.batch_size, reporter.alive, told)
            state = advanced(state, nats, weights_GE, average.gradient())
            durable.write_json(file, asdict(state))
    return _found(config, problem, state, average.sizes_G, file)


def plan(config: Config, forest: Forest) -> str:
    """Say what a search will do; `UserError` if it cannot, before anything is computed."""
    problem = _problem(config, forest)
    floats = [t.name for t in wt.tensors(problem.elms[0].path).values() if t.is_float]
    groups_of(floats, config.average.groups)
    on = ", ".join(shard.domain for shard in problem.shards)
    return f"searched ({config.average.budget} losses on valid of {on})"


def stands(config: Config, forest: Forest, name: str, asked: str) -> bool:
    """Tell whether the card of the average `name` says that it was found by what is `asked`, for
    these groups of tensors, and made with these settings.
    """
    file = forest.paths.average(name).card
    if not file.is_file():
        return False
    card = Card.read(file)
    known = dict(card.recipe)
    groups = list(known.pop("layers", {}))  # found, not asked for
    return (
        card.estimator.startswith(asked)
        and groups == list(config.average.groups)
        and not publish.of_recipe(known, recipe_of(config, forest))
    )


def recipe_of(config: Config, forest: Forest) -> Json:
    """Return the settings that the card of what is searched has beside the weights."""
    bare = replace(config, average=replace(config.average, layers=None))
    settings = finding.settings_of(bare, forest, {}, lambda: open_suites(config))
    return publish.recipe_of(settings)


def softmax(logits_GE: Matrix) -> Matrix:
    """Turn logits into weights: each row is positive and sums to 1."""
    raised = np.exp(logits_GE - logits_GE.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def advanced(state: State, nats: float, weights_GE: Matrix, by_weight_GE: Matrix) -> State:
    """Note a loss, and move the logits by a step of Adam (arXiv 1412.6980).

    Of softmax, ∂L/∂z_j = w_j (∂L/∂w_j − Σ_k w_k ∂L/∂w_k).
    """
    mean_G1 = (weights_GE * by_weight_GE).sum(axis=1, keepdims=True)
    gradient = weights_GE * (by_weight_GE - mean_G1)
    t, (b1, b2) = len(state.losses) + 1, BETAS
    first = b1 * np.array(state.first) + (1 - b1) * gradient
    second = b2 * np.array(state.second) + (1 - b2) * gradient**2
    step = RATE * (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + 1e-8)
    is_best = not state.losses or nats < min(state.losses)
    return State(
        (np.array(state.logits) - step).tolist(),
        first.tolist(),
        second.tolist(),
        [*state.losses, nats],
        state.logits if is_best else state.best,
    )


def weighed(config: Config, forest: Forest) -> list[ELM]:
    """List the models that a search weighs: the experts, and the seed or average.base."""
    experts = forest.experts(config.average.experts)
    base = config.average.base or config.seed.name
    among = [elm.name for elm in experts]
    elms = experts if base in among or base not in forest else [*experts, forest[base]]
    if len(elms) < 2:
        raise UserError(
            f"average.search: {forest.root} has {', '.join(among) or 'no ELM'} alone; wanted two "
            "ELMs or more to weigh"
        )
    return elms


def in_words(elms: Sequence[ELM], groups: Sequence[str]) -> str:
    """Name what is weighed, with the beginning of each sha256, and the groups of tensors."""
    who = ", ".join(f"{elm.name} ({elm.card.sha256[:8]})" for elm in elms)
    return who + (f"; groups {', '.join(groups)}" if groups else "")


def _problem(config: Config, forest: Forest) -> _Problem:
    """Collect the models, the text and the words of a search."""
    elms, chosen = weighed(config, forest), config.average
    suite, experts = open_suites(config), forest.experts(chosen.experts)
    shards = [suite.shard(d, "valid") for d in finding.meant_for(config, experts)]
    where = ", ".join(f"{shard.domain}/valid ({shard.sha256[:16]})" for shard in shards)
    asked = (
        f"gradient search, {chosen.budget} losses, each on the first "
        f"{config.trainer.valid_tokens} tokens, in windows of {config.window}, of {where}; "
        f"over {in_words(elms, chosen.groups)}"
    )
    return _Problem(elms, shards, asked)


def _begin(config: Config, forest: Forest, problem: _Problem, reporter: Reporter) -> State:
    """Begin at the token weights of the experts, drawn halfway to the base.

    Experts that went far from the seed average to something worse than it, where no gradient leads
    out within a budget.
    """
    experts = [elm for elm in problem.elms if elm.card.is_expert] or problem.elms
    token = finding.fitted_weights(config, forest, "token", experts, reporter)
    whole = sum(token.values())
    rest = 0.5 / max(1, len(problem.elms) - len(experts))
    shares = [
        0.5 * token.get(elm.name, 0.0) / whole if elm in experts else rest for elm in problem.elms
    ]
    row = np.log(np.maximum(np.array(shares), FLOOR))
    logits = np.tile(row, (1 + len(config.average.groups), 1)).tolist()
    nothing = np.zeros_like(np.array(logits)).tolist()
    return State(logits, nothing, nothing, [], logits)


def _backward(
    model: "PreTrainedModel",
    read: Sequence[Windows],
    rows: int,
    alive: Callable[[], object],
    told: Callable[[int], None],
) -> float:
    """Compute the mean over domains of nats per token, and its gradient in the model."""
    mean = 0.0
    for domain in read:
        predicted = domain.n_predicted
        for start in range(0, domain.n_windows, rows):
            stop = min(start + rows, domain.n_windows)
            inputs = trainee.on_device(domain.inputs(start, stop), model.device)
            targets = trainee.on_device(domain.targets(start, stop), model.device)
            logp = causal_lm.token_logp(model, inputs, targets)
            if (uncounted := domain.uncounted(start, stop)) is not None:
                logp = logp.masked_fill(trainee.on_device(uncounted, model.device), 0.0)
            flat = logp.flatten()[: domain.kept(logp.numel(), start)]
            loss = -flat.sum() / (predicted * len(read))
            loss.backward()
            mean += float(loss.detach())
            told(len(flat))
            alive()
    return mean


def _found(
    config: Config, problem: _Problem, state: State, sizes_G: NDArray[np.float64], file: Path
) -> Found:
    """Read the best weights out of a finished search."""
    weights_GE = softmax(np.array(state.best))
    if sizes_G[0] == 0:  # the patterns match all: the card shows the mean over the parameters
        weights_GE[0] = sizes_G @ weights_GE / sizes_G.sum()
    weights, layers = named(weights_GE, problem.elms, config.average.groups)
    said = (
        f"{problem.asked}; began at {state.losses[0]:.4f}, found {min(state.losses):.4f} "
        "nats/token there"
    )
    return Found(weights, layers, said, file)


def named(
    weights_GE: Matrix, elms: Sequence[ELM], groups: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Name weights: {ELM: weight} of the tensors of no group, {pattern: {ELM: weight}} of others.

    A model of a negligible share in every group is dropped, as a parent's is elsewhere.
    """
    kept = [j for j in range(len(elms)) if weights_GE[:, j].max() >= NEGLIGIBLE]
    rows = [{elms[j].name: float(row[j]) for j in kept} for row in weights_GE]
    return rows[0], dict(zip(groups, rows[1:], strict=True))


def state_file(forest: Forest, asked: str) -> Path:
    """Name the file of the state of a search."""
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return forest.paths.unwritten / f"{digest}.json"


def _state(file: Path) -> State | None:
    """Read the state of a search that was killed; None if there is none."""
    with suppress(UserError, TypeError):
        return State(**read_object(file, logits=list, losses=list, best=list))
    return None
