"""Let a forest write: the ensemble of its experts goes on with a prompt."""

from collections.abc import Callable, Iterator
from dataclasses import asdict

from btm.config.schema import Config
from btm.data.decoding import continuation
from btm.data.ends import ends_of_folders
from btm.data.tokenizer import load_tokenizer
from btm.ensemble import generate as online
from btm.ensemble.router import find_router
from btm.ensemble.rules import rule_of
from btm.errors import UserError
from btm.forest import Forest, Model, find_model
from btm.forest.suites import open_suites
from btm.models import causal_lm, inference
from btm.report import Reporter, quiet
from btm.steps import domain_weights
from btm.steps.beside import score_model
from btm.steps.evaluate import plan_of_scores
from btm.steps.plan import Plan
from btm.system.json_files import Json


def generate(
    config: Config,
    reporter: Reporter = quiet,
    told: Callable[[str], None] = lambda text: None,
) -> Json:
    """Go on with a prompt; the ensemble keeps, loads and runs its top-k members alone.

    `told` gets the text as it is written, piece by piece: the prompt, then what follows it.

    ``ensemble.experts=`` may name averages, models of other forests and folders beside ELMs, one of
    them alone too. Their prior, and what the rule leaves open, are fitted on the valid split of
    `domain`; without a domain the prior is the same for all, and what is open stands at the value
    that changes nothing, a gate at its default.
    """
    if not config.prompt:
        raise UserError('what shall it go on with? give prompt="some text"')
    forest = Forest(config.forest_root)
    members = writers(config, forest)
    prior, rule = dict.fromkeys((model.name for model in members), 1.0), config.ensemble
    if config.domain:
        suite = open_suites(config)
        for model in members:
            score_model(config, forest, model, [suite.shard(config.domain, "valid")], reporter)
        prior, rule = domain_weights.fit_for(
            config, forest, suite, config.domain, members, reporter
        )
    tokenizer = load_tokenizer(forest.tokenizer)
    ends = ends_of_folders(forest.tokenizer, [model.path for model in members]).ids
    route = domain_weights.route(config, forest, members, ends)
    device, top_k = causal_lm.pick_device(config.trainer.device), config.ensemble.prior_top_k
    mixed = online.Ensemble.load(
        forest, prior, ensemble=rule, top_k=top_k, device=device, route=route, load=config.load
    )
    if config.load.word:
        for name, model in mixed.models.items():
            reporter.line(f"{name}: {inference.memory(model, config.load)}")
    prompt = tokenizer(config.prompt, add_special_tokens=False).input_ids
    mixed.read(prompt)
    chosen = config.generate
    written = 0

    def counted() -> Iterator[int]:
        nonlocal written
        for token in mixed.generate(chosen.tokens, chosen.temperature, chosen.seed):
            written += 1
            yield token

    told(config.prompt)
    pieces = []
    for piece in continuation(tokenizer, prompt, counted()):
        told(piece)
        pieces.append(piece)
    return {
        "prompt": config.prompt,
        "text": "".join(pieces),
        "tokens": written,
        "experts": mixed.weights,
        **({"load": asdict(config.load)} if config.load.word else {}),
    }


def plan_of_generate(config: Config) -> Plan:
    """Plan `generate`: who writes, under which prior, and the scores that the prior needs."""
    forest = Forest(config.forest_root)
    members = writers(config, forest)
    called = "experts" if all(model.kind == "ELM" for model in members) else "models"
    most = f"{config.generate.tokens:,} tokens at most"
    kept = min(config.ensemble.prior_top_k, len(members)) or len(members)
    what = f"{most}, {kept} of {len(members)} {called} under a uniform prior"
    plans: list[Plan] = []
    if config.domain:
        shard = open_suites(config).shard(config.domain, "valid")
        plans = [plan_of_scores(config, forest, model, [shard]) for model in members]
        prior = f"the {config.ensemble.prior} prior of {config.domain}"
        what = f"{most}, {kept} of {len(members)} {called} under {prior}"
    if rule_of(config.ensemble).needs_route:
        find_router(config)
        what = f"{most}, {len(members)} {called} weighed by the router"
    what += f", loaded with {config.load}" if config.load.word else ""
    return Plan(
        "generate",
        config.prompt or "",
        what,
        reads=tuple(model.path for model in members),
        writes=tuple(file for plan in plans for file in plan.writes),
        tokens=sum(plan.tokens or 0 for plan in plans) or None,
    )


def writers(config: Config, forest: Forest) -> list[Model]:
    """Return the models that write together: those that ``ensemble.experts=`` names, or every
    expert.
    """
    names = config.ensemble.experts or [elm.name for elm in forest.experts()]
    return [find_model(forest, name) for name in names]
