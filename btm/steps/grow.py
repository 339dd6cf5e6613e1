"""Grow a forest: text, seed phase, branch, train, merge, one function a verb (Branch-Train-Merge,
arXiv 2208.03306).

Every step takes the configuration and reads all else from the forest and the suite on disk; each is
idempotent: what stands there already is not made again.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from btm.config import identity
from btm.config.checks import check_weights
from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.data.shards import Shard, Suite
from btm.ensemble.router import check_domains
from btm.errors import UserError
from btm.forest import ELM, Branch, Forest, Terms, seal, settings, tombstone, trained_on
from btm.forest.paths import ModelFolder, Paths, step_of
from btm.forest.suites import data_of, open_suite, open_suites, other_suites
from btm.models import causal_lm, configs, trial
from btm.models.causality import require_causal
from btm.report import Beating, Reporter, quiet
from btm.steps import conflicts, domain_weights, names, seed_source, standing
from btm.steps.averages import average
from btm.steps.closing import close
from btm.steps.evaluate import check_text, eval_forest
from btm.steps.origin import origin_of
from btm.steps.plan import Plan
from btm.steps.proposal import settled
from btm.steps.rates import find_rate
from btm.system.json_files import Json
from btm.train import checkpoint, phase
from btm.train.distributed import job
from btm.train.fairseq import training as by_fairseq
from btm.train.training import Trained


def prepare(config: Config, reporter: Reporter = quiet) -> Suite:
    """Turn text into token shards, unless they stand there already; where the forest stands, with
    its tokenizer.
    """
    if config.baseline == "random_split":
        # Dealt from another suite (btm/steps/baselines), it has no text of its own.
        return open_suite(config)
    names.require_apart(config, _planned(config))
    preparation.prepare(data_of(config), reporter.line, other_suites(config))
    suite = open_suite(config)
    if Forest.stands(config.forest_root):
        settings.record_suite(config, Forest(config.forest_root), suite)
    return suite


def _planned(config: Config) -> list[str]:
    """List the domains that a cycle with the settings `config` would grow experts for."""
    if config.run.rounds:
        return [domain for domains in config.run.rounds for domain in domains]
    return config.run.domains or preparation.training_domains(config.data)


def seed(config: Config, reporter: Reporter = quiet) -> ELM:
    """Grow the ELM that all others descend from: train it on the balanced mix, or import it.

    With ``seed.steps=0`` it keeps its random parameters: the paper's seed phase of 0 %.
    """
    suite = open_suite(config)
    by_fairseq.check(config, suite)
    config = settled(config, suite, reporter)
    plan = plan_of_seed(config, reporter)
    if config.seed.source is not None:
        stands = Forest(config.forest_root)[plan.name] if plan.idle else None
        elm = stands or seed_source.import_seed(config, suite, reporter)
        settings.record(config, Forest(config.forest_root), suite)
        return elm
    name = config.seed.name
    causal_lm.pick_device(config.trainer.device)
    forest, model = _plant(config, suite)
    settings.record(config, forest, suite)
    if name in forest:
        standing.require_trained(forest, suite, [name], reporter.line)
        return forest[name]
    if not forest.has_branch(name):
        model = model or _new_model(config, suite)
        forest.root_branch(name, list(plan.domains), model)
    del model
    dense = config.trainer.dense()  # it has no parents
    train(replace(config, trainer=dense), name, reporter)
    return merge(config, name, reporter)


def plan_of_seed(config: Config, reporter: Reporter = quiet) -> Plan:
    """Plan `seed`: what it trains on or imports, or that the seed stands."""
    suite, name, root = open_suite(config), config.seed.name, Path(config.forest_root)
    forest = Forest(root) if Forest.stands(root) else None
    if forest is not None:
        found = conflicts.of_seed(config, forest, suite.training_domains())
        conflicts.refuse(config, {name: found})
        if name in forest:
            seed_source.require(config, reporter)
            return Plan.nothing("seed", name)
    if config.seed.source is not None:
        source = Path(config.seed.source)
        plan = Plan("seed", name, f"import {source}", reads=(source,))
        return replace(plan, makes=(name,), writes=(Paths(root).elm(name).path,))
    n_steps = settled(config, suite).seed_steps(suite.training_domains())
    if n_steps == 0:
        plan = Plan("seed", name, "random parameters, untrained", steps=0)
        return replace(plan, makes=(name,), writes=(Paths(root).elm(name).path,))
    planned = configs.make_config(config.model, suite.vocab_size, suite.eos)
    causal_lm.check_context(config, planned.to_dict())
    domains = config.seed.domains or suite.training_domains()
    shards = [suite.shard(domain, "train") for domain in domains]
    begun = forest.get_branch(name) if forest and forest.has_branch(name) else None
    plan = _plan_of_training(config, name, n_steps, shards, begun, is_root=True)
    return replace(plan, step="seed", makes=(name,), writes=(Paths(root).elm(name).path,))


def branch(
    config: Config,
    name: str,
    domain: str,
    *,
    among: list[str] | None = None,
    reporter: Reporter = quiet,
) -> Branch:
    """Initialise a new ELM for `domain` from those in the forest (or in `among`)."""
    forest, suite = Forest(config.forest_root), open_suites(config)
    plan = plan_of_branch(config, name, domain, among=among)
    settings.record_suite(config, forest, open_suite(config))
    if config.weights is not None:
        return forest.branch(
            name,
            domain,
            check_weights(config.weights),
            method="weights",
            estimator="given",
            alive=reporter.alive,
        )
    if config.branch == "copy":
        parents = dict.fromkeys(plan.parents, 1.0)
        return forest.branch(
            name, domain, parents, method="copy", estimator="given", alive=reporter.alive
        )
    candidates = [forest[parent] for parent in plan.parents]
    weights, estimator = domain_weights.domain_weights(
        config, forest, suite, domain, candidates, config.branch, reporter
    )
    weighed = identity.of_branch(config) if len(candidates) > 1 else {}
    return forest.branch(
        name,
        domain,
        weights,
        method=config.branch,
        estimator=estimator,
        settings=weighed | {identity.CANDIDATES: sorted(plan.parents)},
        alive=reporter.alive,
    )


def plan_of_branch(
    config: Config, name: str, domain: str, *, among: list[str] | None = None
) -> Plan:
    """Plan `branch`: which ELMs the new one may be initialised from, and how."""
    forest = Forest(config.forest_root)
    forest.require_free(name)
    open_suites(config).shard(domain, "train")
    what, parents = origin_of(config, forest, among)
    return Plan(
        "branch",
        name,
        what,
        makes=(name,),
        parents=parents,
        domains=(domain,),
        reads=tuple(forest[parent].path for parent in parents),
        writes=(forest.paths.branch(name),),
    )


def train(config: Config, name: str, reporter: Reporter = quiet) -> Branch:
    """Train a branch on its own domain alone, from wherever an earlier attempt stopped."""
    forest, suite = Forest(config.forest_root), open_suites(config)
    if (done := forest.get_branch(name)).result is not None:
        conflicts.refuse(config, {name: conflicts.of_training(config, forest, done)})
        return done
    config = settled(config, suite, reporter)
    asked, seed_steps = config, config.seed_steps(suite.training_domains())
    config = replace(config, seed=replace(config.seed, steps=seed_steps))
    with forest.hold(name) as (branch, held):
        reporter = Beating(reporter, held.beat)
        # Planned again under the lease: another process may have worked on the branch until now.
        plan = _plan_of_branch(config, suite, branch)
        shards = [suite.shard(domain, "train") for domain in plan.domains]
        trained = Trained(steps=0, tokens=0)
        trained_on.record(forest.paths, shards)
        if shards:
            if config.trainer.lr == phase.FIND and not branch.parents:
                find_rate(config, branch, shards, seed_steps, reporter.pulse, reporter)
            together = job.processes(config, branch) > 1
            run = job.train if together else phase.train
            trained = run(config, forest, branch, shards, suite, reporter, reporter.pulse)
        close(asked, forest, branch, suite, trained, reporter)
    return forest.get_branch(name)


def plan_of_train(config: Config, name: str) -> Plan:
    """Plan `train`: the steps and tokens that are still to come, and the passes over the text."""
    forest = Forest(config.forest_root)
    made = forest.get_branch(name)
    conflicts.refuse(config, {name: conflicts.of_training(config, forest, made)})
    if made.result is not None:
        return Plan.nothing("train", name, "it is trained")
    return _plan_of_branch(config, open_suites(config), made)


def _plan_of_branch(config: Config, suite: Suite, made: Branch) -> Plan:
    """Plan the training of a branch that stands."""
    is_root, config = not made.parents, settled(config, suite)
    n_steps = config.seed_steps(suite.training_domains()) if is_root else config.trainer.steps
    shards = [suite.shard(domain, "train") for domain in made.domains]
    causal_lm.check_context(config, causal_lm.read_config(ModelFolder(made.path).config))
    if not is_root:
        phase.course_of(config, Forest(config.forest_root), made)  # refuses before anything is read
    plan = _plan_of_training(config, made.name, n_steps, shards, made, is_root=is_root)
    trained = ModelFolder(Paths(config.forest_root).branch(made.name)).result
    return replace(plan, parents=tuple(made.parents), writes=(trained,))


def _plan_of_training(
    config: Config,
    name: str,
    n_steps: int,
    shards: list[Shard],
    begun: Branch | None,
    *,
    is_root: bool,
) -> Plan:
    """Plan a training; one without shards, of a seed that stays random, has no steps."""
    if not shards:
        return Plan("train", name, "nothing to train on: it stays as it is", steps=0, tokens=0)
    batches = phase.batches(config, shards, name, is_root=is_root)
    newest = checkpoint.latest(begun.path) if begun is not None else None
    done = 0 if newest is None else step_of(newest)
    what = f"train {n_steps:,} steps, {batches.tokens(n_steps):,} tokens"
    what += job.said(config, "seed" if is_root else "train")
    what += "" if config.trainer.backend == "btm" else f", by {config.trainer.backend}"
    return Plan(
        "train",
        name,
        what if newest is None else f"{what}, from {newest.name}",
        domains=tuple(shard.domain for shard in shards),
        reads=tuple(shard.folder for shard in shards),
        steps=n_steps,
        tokens=batches.read(n_steps) - batches.read(done),  # FLOPs follow from them
        epochs=batches.epochs(n_steps),
    )


def merge(config: Config, name: str, reporter: Reporter = quiet) -> ELM:
    """Move a trained branch into the forest, if it passes the checks."""
    forest = Forest(config.forest_root)
    if name in forest:
        return forest[name]
    terms = Terms.of_config(config.card)
    elm = forest.merge(forest.get_branch(name), force=config.merge.force, terms=terms)
    reporter.line(f"merged {elm.path}")
    return elm


def plan_of_merge(config: Config, name: str) -> Plan:
    """Plan `merge`; `UserError` for a branch that is not trained, or that the gate refuses."""
    forest = Forest(config.forest_root)
    if name in forest:
        return Plan.nothing("merge", name)
    made, target = forest.get_branch(name), forest.paths.elm(name).path
    seal.is_worse(name, seal.require_trained(made), config.merge.force)
    what = f"check {made.path} and move it to {target.parent}"
    return Plan("merge", name, what, makes=(name,), reads=(made.path,), writes=(target,))


def grow_expert(config: Config, domain: str, among: list[str], reporter: Reporter = quiet) -> ELM:
    """Branch, train and merge the expert of one domain, from wherever an earlier attempt
    stopped.
    """
    forest = Forest(config.forest_root)
    conflicts.refuse(config, {domain: conflicts.of_expert(config, forest, domain, among)})
    if domain in forest:
        standing.require_trained(forest, open_suites(config), [domain], reporter.line)
        return forest[domain]
    if not forest.has_branch(domain):
        try:
            branch(config, domain, domain, among=among, reporter=reporter)
        except (UserError, FileExistsError):
            if domain not in forest and not forest.has_branch(domain):
                raise  # else a twin of this process was faster, and its branch is as good
    if domain in forest:
        return forest[domain]
    train(config, domain, reporter)
    return merge(config, domain, reporter)


def plan_of_expert(config: Config, domain: str, among: list[str]) -> Plan:
    """Plan `grow_expert`, also of a domain whose text is still to be prepared."""
    forest = Forest(config.forest_root)
    conflicts.refuse(config, {domain: conflicts.of_expert(config, forest, domain, among)})
    if domain in forest:
        return Plan.nothing("grow", domain)
    if forest.has_branch(domain):
        parents = tuple(forest.get_branch(domain).parents)
        plan = plan_of_train(config, domain)
        parts = [] if plan.idle else [plan.what]
    else:
        how, parents = origin_of(config, forest, among)
        model = ModelFolder(forest[parents[0]].path)
        causal_lm.check_context(config, causal_lm.read_config(model.config))
        plan = _plan_of_new_domain(config, domain)
        parts = [f"branch ({how})", plan.what]
    return replace(
        plan,
        step="grow",
        what=", ".join([*parts, "merge"]),
        makes=(domain,),
        parents=parents,
        domains=(domain,),
        writes=(forest.paths.elm(domain).path,),
    )


def _plan_of_new_domain(config: Config, domain: str) -> Plan:
    """Plan the training of an expert that has no branch yet, perhaps no prepared text either."""
    suite = open_suites(config)
    trainer = settled(config, suite).trainer
    if domain in suite.domains():
        shards = [suite.shard(domain, "train")]
        return _plan_of_training(config, domain, trainer.steps, shards, None, is_root=False)
    tokens = trainer.steps * trainer.batch_size * trainer.seq_len
    what = f"train {trainer.steps:,} steps, {tokens:,} tokens"
    return Plan("train", domain, what, steps=trainer.steps, tokens=tokens)


def run(config: Config, reporter: Reporter = quiet) -> Json:
    """Grow a whole forest: seed, then rounds of branch, train and merge, then averages and
    evaluation.

    Within a round every branch sees the same forest, that of the rounds before, so the order of
    siblings and the place where an earlier run was killed make no difference.
    """
    suite = prepare(config, reporter)
    config = settled(config, suite, reporter)
    begin(config, suite)  # of what stands, each step says how much of its text it knows
    seed(config, reporter)
    Forest(config.forest_root).sweep()
    earlier: list[str] = []
    for domains in rounds(config, suite, reporter.line):
        for domain in domains:
            grow_expert(config, domain, earlier or [config.seed.name], reporter)
        earlier += domains
    return finish(config, reporter)


def begin(config: Config, suite: Suite, reporter: Reporter = quiet) -> None:
    """Record the words of a cycle whose forest stands, and see that all it will be evaluated on is
    there, and is trained on by none of its ELMs.

    Of ELMs whose text has grown `reporter` gets a line; `UserError` if some of it is gone, or where
    what stands is of other settings.
    """
    planned = rounds(config, suite)
    conflicts.refuse(config, conflicts.of_cycle(config, planned))
    domains = [domain for each in planned for domain in each]
    check_text(config, suite, domains, reporter)
    if Forest.stands(config.forest_root):  # else its seed records them, when it plants it
        settings.record(config, Forest(config.forest_root), suite)


def finish(config: Config, reporter: Reporter = quiet) -> Json:
    """End a cycle: one model of the experts, if asked for, and the evaluation."""
    if config.run.average:
        reporter.line(f"averaged into {average(config, reporter)}")
    return eval_forest(config, reporter)


def rounds(
    config: Config, suite: Suite, say: Callable[[str], None] = lambda text: None
) -> list[list[str]]:
    """Return the domains of each round; an unknown or repeated one is a `UserError`.

    The domain of an expert that was removed is left out, and `say` is told.
    """
    planned = config.run.rounds or [config.run.domains or suite.training_domains()]
    flat = [domain for domains in planned for domain in domains]
    for domain in flat:
        suite.shard(domain, "train")
    check_domains(config, flat)
    names.require_apart(config, flat)
    if len(set(flat)) < len(flat):
        raise UserError(f"run.rounds={planned}: a domain stands there twice")
    root = Path(config.forest_root)
    removed = tombstone.names(root) & set(flat)
    for domain in sorted(removed):
        say(f"not grown: {tombstone.error(root, domain)}")
    kept = [[domain for domain in domains if domain not in removed] for domains in planned]
    return [domains for domains in kept if domains] if removed else planned


def _plant(config: Config, suite: Suite) -> tuple[Forest, Any]:
    """Return the forest, planted if need be, and the model that its seed begins as, unless that
    stands or is begun.

    A model that cannot be made, run, saved and loaded plants nothing: a forest never gets another
    architecture.
    """
    root, name = Path(config.forest_root), config.seed.name
    wanted = configs.make_config(config.model, suite.vocab_size, suite.eos)
    causal_lm.check_context(config, wanted.to_dict())
    begun = Forest.stands(root) and (name in Forest(root) or Forest(root).has_branch(name))
    model = None if begun else _new_model(config, suite)
    return Forest.create(root, wanted, suite.tokenizer, suite.tokenizer_sha256), model


def _new_model(config: Config, suite: Suite) -> Any:
    """Return the model that the seed phase begins with, tried on as many tokens as it will read."""
    wanted = configs.make_config(config.model, suite.vocab_size, suite.eos)
    if suite.bos is not None:
        wanted.bos_token_id = suite.bos
    model = causal_lm.new_model(wanted, config.trainer.seed)
    tokens, called = max(config.trainer.seq_len, config.window), configs.called(config.model)
    require_causal(model, called)
    trial.comes_back(model, tokens, Path(config.forest_root), called, vocabulary=suite.vocab_size)
    trial.train(model, config.trainer.seq_len, called)
    return model
