"""The models that are measured beside an ensemble: derived ones, and what ``models=`` names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btm.config.schema import Config
from btm.data.shards import Shard
from btm.data.tokenizer import recorded_policy
from btm.forest import ELM, Forest, Model, derived, find_model, ledger, require_same_tokenizer
from btm.interop import huggingface, probe
from btm.models import causal_lm as causal
from btm.models import flops, inference, trial
from btm.report import Reporter, quiet
from btm.steps import score_cache, unwritten
from btm.steps.unwritten import Unwritten
from btm.system import sandbox


@dataclass(frozen=True)
class Subjects:
    """The models of an evaluation."""

    elms: list[ELM]  # each is reported alone
    members: list[ELM]  # those of the ensemble
    others: list[Model]  # reported beside them: derived models, and what ``models=`` names
    trained_on: set[str]  # the domains that are not novel; ``ensemble.fit=forest`` fits on them


def beside(config: Config, forest: Forest, reporter: Reporter = quiet) -> list[Model]:
    """List the derived models of the forest that are whole, the models of ``models=``, each once,
    and the averages of ``averages=``, which have no folder.

    A damaged one is told of and left out; a damaged or unknown model that was named is a
    `UserError`.
    """
    found = {model.path.resolve(): model for model in derived(forest, reporter.line)}
    for name in config.models:
        model = find_model(forest, name)
        found.setdefault(model.path.resolve(), model)
    return [*found.values(), *unwritten.asked(config, forest)]


def score_model(
    config: Config, forest: Forest, model: Model, shards: list[Shard], reporter: Reporter
) -> list[Path]:
    """Score a model on those of `shards` where the forest's cache lacks it; return the new files.

    A folder from outside passes the checks of an import first, and the copy that passed is scored.
    """
    if isinstance(model, Unwritten):
        return unwritten.score(config, forest, model, shards, reporter)
    if model.kind != "folder":
        return score_cache.score_missing(config, forest, model.path, model.sha256, shards, reporter)
    if not score_cache.unscored(config, forest, model.sha256, shards):
        return []
    bos = recorded_policy(forest.tokenizer)
    with huggingface.checked(
        model.path, "models", forest.root, bos=bos, alive=reporter.alive
    ) as found:
        require_same_tokenizer(forest, found.tokenizer_sha256, str(model.path))
        causal.check_context(config, found.model.config.to_dict(), str(model.path))
        trial.run(found.model, config.window, f"models=[{model.path}]")
        loaded = inference.prepared(found.model, "cpu", config.load)
        return score_cache.score_missing(
            config, forest, model.path, model.sha256, shards, reporter, model=loaded
        )


def folders_of(model: Model) -> tuple[Path, ...]:
    """List the folders that a model is read from: its own, or those that it is made of."""
    return model.sources if isinstance(model, Unwritten) else (model.path,)


def cost(config: Config, model: Model) -> ledger.Cost:
    """Compute the cost of training and of running a model, as an entry of a ledger.

    "training" is None where it is not known: for a folder without a card of its own.
    """
    if model.kind == "folder":  # its config.json may ask for any memory, so a box reads it first
        sandbox.ask(probe.QUESTION, model.path)
    if model.card is not None and model.card.matrix_parameters:
        shape = flops.Shape(model.card.matrix_parameters, model.card.attention)
    else:
        shape = flops.Shape.of_config(causal.load_config(folders_of(model)[0]))
    return {
        "training": None if model.card is None else ledger.training([model.card]),
        "experts_run": 1,
        "inference_flops_per_token": shape.inference_flops(config.window),
    }


def seeds(forest: Forest, members: Sequence[str]) -> list[str]:
    """List the roots (ELMs without parents) that the `members` of an ensemble descend from."""
    ancestors = {spent.sha256 for name in members for spent in forest[name].card.ancestors}
    roots = [elm for elm in forest.elms() if elm.name not in members and not elm.card.parents]
    known = [elm.name for elm in roots if elm.card.sha256 in ancestors]
    return known or [elm.name for elm in roots]  # cards from before the ledger name no ancestors


def warnings(
    entries: Mapping[str, Any], models: Sequence[Model], seeds: Sequence[str]
) -> list[str]:
    """Warn, in a line each, of averages that are no better than a seed on the mean of the trained
    domains.

    `entries` are the shards of an evaluation: {"domain/split": {"novel", "experts", "models", …}}.
    """
    trained = [entry for entry in entries.values() if not entry["novel"]]

    def mean(key: str, name: str) -> float:
        return sum(entry[key][name]["nats_per_token"] for entry in trained) / len(trained)

    lines = []
    for seed in seeds if trained else ():
        bound = mean("experts", seed)
        for model in models:
            if model.kind == "average" and (nats := mean("models", model.name)) >= bound:
                lines.append(
                    f"the average {model.name!r} is no better than {seed!r} on the domains trained "
                    f"on ({nats:.3f} against {bound:.3f} nats/token): average otherwise "
                    "(docs/averaging.md), or deploy the ensemble"
                )
    return lines
