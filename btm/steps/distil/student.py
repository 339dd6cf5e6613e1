"""The step of `btm distil`: train one model to predict what the ensemble predicts.

It begins as the average of its teachers and reads their own train text; the ensemble's predictions
there are computed first (teachers.py), then the loop of all training does the rest
(btm/train/distil.py). Killed anywhere, the same command goes on.
"""

from copy import deepcopy
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from btm import __version__
from btm.config import identity
from btm.config.distil import DistilConfig
from btm.config.schema import Config
from btm.config.validation import validate
from btm.data.batches import windows
from btm.data.shards import Suite, require_text
from btm.errors import UserError, command
from btm.forest import (
    ELM,
    Branch,
    Forest,
    Terms,
    index,
    ledger,
    require_same_tokenizer,
    students,
    trained_on,
)
from btm.forest.card import Card, Parent, Source, Spent
from btm.forest.paths import STUDENTS, ModelFolder, in_making, step_of
from btm.forest.suites import open_suites
from btm.models import average as averaging
from btm.models import causal_lm, flops, trial, weights
from btm.report import Beating, Reporter, quiet
from btm.steps import averages, closing, domain_weights
from btm.steps.distil import teachers
from btm.steps.distil.asked import Asked, of_branch, of_card, refuse, start_model
from btm.steps.distil.teachers import Teachers
from btm.steps.plan import Plan
from btm.steps.proposal import settled
from btm.system import durable
from btm.system.json_files import Json
from btm.train import checkpoint, loop, phase
from btm.train.distil import Objective, Student
from btm.train.schedule import Schedule
from btm.train.training import Trained, Training


def distil(config: Config, reporter: Reporter = quiet) -> Path:
    """Distil a student into ``students/`` and return its folder; one that stands is left alone."""
    plan, asked = plan_of_distil(config), _asked(config, reporter)
    forest, called = asked.forest, in_making(asked.name)
    if plan.idle:
        path = forest.paths.derived(STUDENTS, asked.name).path
        averages.measure_again(_measured(asked), forest, index.STUDENT, path, reporter)
        return path
    if not forest.has_branch(called):
        _begin(asked, reporter)
    with forest.hold(called) as (branch, held):
        beating = Beating(reporter, held.beat)
        # Again under the lease: another process may have begun it otherwise meanwhile.
        refuse(asked, of_branch(branch), str(branch.path))
        trained_on.record(forest.paths, asked.shards)
        if branch.result is None:
            trained = closing.with_statements(_train(asked, branch, beating), asked.suite)
            durable.write_json(branch.files.result, trained.to_json())
        card = _card(asked, branch)
        path = students.seal(forest, branch, card, held.beat, _measuring(asked, beating))
    for line in averages.worth(Card.read(ModelFolder(path).card))[:1]:
        reporter.line(line)
    return path


def plan_of_distil(config: Config) -> Plan:
    """Plan `distil`: its teachers, what they and the student still have to read, and how it begins.

    `UserError` for what cannot be distilled, and where a student of that name stands or was begun
    with other settings, teachers or text.
    """
    asked = _asked(config)
    forest, name, run = asked.forest, asked.name, asked.teachers
    target = forest.paths.derived(STUDENTS, name)
    if target.path.exists():
        if not target.card.is_file():
            gone = command("remove", student=name, forest=forest.root)
            raise UserError(f"{target.path}: no card: it is damaged; first {gone}")
        refuse(asked, of_card(Card.read(target.card)), str(target.path))
        return Plan.nothing("distil", name)
    begun = forest.get_branch(in_making(name)) if forest.has_branch(in_making(name)) else None
    if begun is not None:
        refuse(asked, of_branch(begun), str(begun.path))
    else:
        start_model(asked)
    newest = None if begun is None else checkpoint.latest(begun.path)
    done = 0 if newest is None else step_of(newest)
    to_read = sum(r.windows for r in run.missing()) * run.batches.seq_len if asked.reads else 0
    to_train = run.batches.tokens(run.steps) - run.batches.tokens(done)
    shape = _shape(asked.elms[0])
    reading = len(asked.elms) * to_read * shape.inference_flops(run.batches.seq_len)
    who = f"{len(asked.elms)} teachers ({config.distil.teacher})"
    read = f"{who} read {to_read:,} tokens, " if asked.reads else "no teacher (distil.weight=0), "
    on = "" if newest is None else f", from {newest.name}"
    return Plan(
        "distil",
        name,
        f"{read}then one model begun from {config.distil.init} trains {run.steps:,} steps, "
        f"{run.batches.tokens(run.steps):,} tokens{on}",
        makes=(name,),
        parents=tuple(elm.name for elm in asked.elms),
        domains=tuple(shard.domain for shard in asked.shards),
        reads=(*(elm.path for elm in asked.elms), *(shard.folder for shard in asked.shards)),
        writes=(target.path,),
        steps=run.steps,
        tokens=to_train,
        flops=reading + to_train * shape.training_flops(run.batches.seq_len),
        epochs=run.batches.epochs(run.steps),
    )


def distilled_as(config: Config, card: Card) -> Config:
    """Set the keys that distil a student again as its card says that it was."""
    made = deepcopy(config)
    made.distil = DistilConfig(
        name=card.name, experts=list(card.recipe["teachers"]), domains=list(card.data)
    )
    identity.apply(made, card.settings)
    return validate(made)


def memory_of(config: Config) -> int:
    """Estimate the bytes that distilling takes at most: first all teachers with what they predict,
    then the student with its gradient and its optimizer's state.
    """
    elms = Forest(config.forest_root).experts(config.distil.experts)
    one = 4 * weights.parameters(elms[0].path)
    reading = len(elms) * one + 2 * teachers.targets.PART
    return max(reading if config.distil.weight else 0, 4 * one)


def _asked(config: Config, reporter: Reporter = quiet) -> Asked:
    """Find out what is asked for: the teachers, the text, and the settings that were left open."""
    if config.distil.name is None:
        raise UserError("which student? give student=NAME")
    if config.trainer.backend != "btm":
        raise UserError(
            f"trainer.backend={config.trainer.backend}: btm distil trains by itself alone: give "
            "trainer.backend=btm"
        )
    forest, suite = Forest(config.forest_root), open_suites(config)
    require_same_tokenizer(forest, suite.tokenizer_sha256, f"the suite {suite.path}")
    elms = sorted(forest.experts(config.distil.experts), key=lambda elm: elm.name)
    if not elms:
        raise UserError(f"{forest.root} has no ELM that could teach: first btm run")
    domains = config.distil.domains or _domains_of(elms, suite)
    shards = [suite.shard(domain, "train") for domain in domains]
    require_text(shards, "btm distil")
    if config.distil.weight:
        for domain in domains:
            suite.shard(domain, "valid")  # which its prior is fitted on
    config = settled(config, suite, reporter)
    # Of the rate an ELM of the forest gets; it has parents, so no density is asked of it.
    lr = phase.rate(config, forest, Branch(elms[0].path))
    trainer = replace(config.trainer.dense(), lr=lr)
    config = replace(config, trainer=trainer)
    causal_lm.check_context(config, causal_lm.read_config(ModelFolder(elms[0].path).config))
    steps = config.distil.steps or trainer.steps
    batches = teachers.batches(config, shards)
    return Asked(
        config, forest, suite, Teachers(config, forest, suite, elms, batches, steps), shards
    )


def _domains_of(elms: list[ELM], suite: Suite) -> list[str]:
    """List the prepared domains that teachers were trained on; `UserError` if there is none."""
    prepared = suite.domains()
    found = sorted({domain for elm in elms for domain in elm.card.domains} & set(prepared))
    if not found:
        raise UserError(
            f"{suite.path} has no domain that its teachers were trained on: give distil.domains="
            f"[…] of {', '.join(prepared)}"
        )
    return found


def _begin(asked: Asked, reporter: Reporter) -> Branch:
    """Begin the student: its first parameters, and what it will be made of."""
    forest, model, begun = asked.forest, start_model(asked), {}
    if model is None:
        domains = [shard.domain for shard in asked.shards]
        how = asked.config.distil.init
        raw, _ = domain_weights.domain_weights(
            asked.config, forest, asked.suite, domains, asked.elms, how, reporter
        )
        shares = averaging.normalise(raw)
        start = {forest[name].path: share for name, share in shares.items()}
        parents = {n: Parent(s, raw[n], forest[n].card.sha256) for n, s in shares.items()}
    else:
        start = {model.path: 1.0}
        own = {model.name: Parent(1.0, 1.0, model.sha256)}
        begun = {asked.config.distil.init: model.sha256}
        parents = own if model.card is None or model.kind == "ELM" else dict(model.card.parents)
    # A teacher that gave it no parameters is a parent too: what it predicts was learnt from it.
    for elm in asked.elms:
        parents.setdefault(elm.name, Parent(0.0, 0.0, elm.card.sha256))
    cards = [forest[name].card for name in parents if name in forest]
    origin = {
        "domains": [shard.domain for shard in asked.shards],
        "method": "distil",
        "estimator": "",
        "parents": {name: asdict(parent) for name, parent in parents.items()},
        "ancestors": [asdict(spent) for spent in ledger.lineage(cards)],
        "settings": asked.settings,
        "teachers": [elm.name for elm in asked.elms],
        "data": asked.data,
        "fitted_on": asked.fitted_on,
        "start": begun,
    }
    return students.begin(forest, asked.name, start, origin, reporter.alive)


def _train(asked: Asked, branch: Branch, reporter: Reporter) -> Trained:
    """Have the teachers read what is missing, then train the student in its folder."""
    trainer, run = asked.config.trainer, asked.teachers
    if asked.reads:
        run.teach(reporter)
    schedule = Schedule.of(trainer, horizon=run.steps)
    valid = None
    if len(asked.shards) == 1:
        domain = asked.shards[0].domain
        valid = windows(asked.suite.shard(domain, "valid"), trainer.seq_len, trainer.valid_tokens)
    model = causal_lm.load_trainable(branch.path, trainer.device)
    trial.run(model, trainer.seq_len, str(branch.path))
    chosen = asked.config.distil
    objective = Objective(chosen.weight, chosen.temperature)
    student = Student(model, run.batches, run.taught, objective)
    with reporter.training(asked.name) as report:
        training = Training(
            branch.path,
            run.batches,
            trainer,
            schedule,
            run.steps,
            valid=valid,
            report=report,
            pulse=reporter.pulse,
        )
        trained = loop.loop(training, student)
    return replace(trained, lr=schedule.peak, data=asked.data)


def _card(asked: Asked, branch: Branch) -> Card:
    """Make the card of a trained student, before it is measured.

    Its FLOPs are those of its own training and of what its teachers read for it.
    """
    found, like, run = Trained.from_json(branch.result or {}), asked.elms[0].card, asked.teachers
    chosen, origin = asked.config.distil, branch.origin
    reading = 0.0
    if asked.reads:
        each = _shape(asked.elms[0]).inference_flops(run.batches.seq_len)
        reading = len(asked.elms) * found.tokens * each
    recipe: Json = {"teachers": origin["teachers"], "init": chosen.init, "weight": chosen.weight}
    if asked.reads:
        recipe |= {"teacher": chosen.teacher, "temperature": chosen.temperature}
        recipe |= {"kept": teachers.targets.KEPT}
    recipe |= {key: origin[key] for key in ("fitted_on", "start") if origin.get(key)}
    recipe |= {"student_flops": found.flops, "teacher_flops": reading}
    made = Card(
        name=asked.name,
        domains=sorted(asked.data),
        sha256="",
        tokenizer_sha256=asked.forest.identity["tokenizer_sha256"],
        parents=branch.parents,
        branch_method="distil",
        recipe=recipe,
        settings=origin["settings"] | {"trainer.precision": found.precision},
        steps=found.steps,
        lr=found.lr,
        schedule=found.schedule or {},
        tokens=found.tokens,
        flops=found.flops + reading,
        ancestors=[Spent(**spent) for spent in origin["ancestors"]],
        parameters=weights.parameters(branch.path),
        matrix_parameters=like.matrix_parameters,
        attention=like.attention,
        data=asked.data,
        exact=found.exact,
        notes=found.notes,
        languages=found.languages or [],
        own_languages=found.languages,
        sources=[Source(**source) for source in found.sources or []],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"btm": __version__, **{p: version(p) for p in ("torch", "transformers")}},
    )
    return Terms.of_card(made).with_(Terms.of_config(asked.config.card)).on(made)


def _measuring(asked: Asked, reporter: Reporter) -> averages.Measuring:
    """Return the function that measures the student on the valid splits of its domains."""
    return averages.measuring(_measured(asked), asked.forest, reporter)


def _measured(asked: Asked) -> Config:
    config = asked.config
    return replace(config, domain=None, average=replace(config.average, measure=True))


def _shape(elm: ELM) -> flops.Shape:
    """Return the shape that FLOPs are counted by."""
    if elm.card.matrix_parameters:
        return flops.Shape(elm.card.matrix_parameters, elm.card.attention)
    return flops.Shape.of_config(causal_lm.load_config(elm.path))
