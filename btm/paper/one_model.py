"""The models that are made of a main forest: students and mixtures of experts, as rows of the
tables beside its averages.

They are a study of their own, which needs the forest's: made in that forest's folder, each trained
`paper.made_steps` steps on the train text of the forest's domains. What a row's training took is on
its card: the forest's, its own, and what teachers read.
"""

from collections.abc import Iterator
from dataclasses import replace

from btm import steps
from btm.config.distil import TEACHERS
from btm.config.schema import Config
from btm.forest import Forest, Model, ledger, own_model
from btm.forest.paths import MOES, STUDENTS
from btm.models import flops
from btm.report import Reporter
from btm.steps import score_cache

TEXT_ALONE = "text-alone"  # the token average, trained on without a teacher
ROUTERS = {"ridge": ("ridge", "router"), "finetuned": ("btx", "all")}  # name: router, what trains
TRAINED = len(TEACHERS) + 2  # of these models: all but the one with a ridge router


def names() -> dict[str, str]:
    """Name each row, and the model in the forest that it is of."""
    students = {f"student: {name}": f"{STUDENTS}/{name}" for name in TEACHERS}
    alone = {"average: token, trained on": f"{STUDENTS}/{TEXT_ALONE}"}
    return students | alone | {f"MoE: {name}": f"{MOES}/{name}" for name in ROUTERS}


def make(config: Config, reporter: Reporter) -> None:
    """Make every model of `names` that does not stand, and score it on all evaluated domains."""
    forest, suite = Forest(config.forest_root), steps.open_suite(config)
    n_steps = config.paper.made_steps
    quick = replace(config, average=replace(config.average, measure=False))
    chosen = replace(config.distil, steps=n_steps)
    for teacher in TEACHERS:
        taught = replace(chosen, name=teacher, teacher=teacher)
        steps.distil(replace(quick, distil=taught), reporter)
    alone = replace(chosen, name=TEXT_ALONE, weight=0.0)
    steps.distil(replace(quick, distil=alone), reporter)
    for name, (router, part) in ROUTERS.items():
        own = replace(config.moe, name=name, router=router, train=part, steps=n_steps)
        steps.moe(replace(quick, moe=own), reporter)
    shards = [
        suite.shard(domain, config.eval.split) for domain in config.eval.domains or suite.domains()
    ]
    for model in models(forest).values():
        score_cache.score_missing(config, forest, model.path, model.sha256, shards, reporter)


def models(forest: Forest) -> dict[str, Model]:
    """Open the models that were made, by row."""
    return {row: own_model(forest, name) for row, name in names().items()}


def costs(forest: Forest) -> Iterator[tuple[str, ledger.Sums]]:
    """Yield each row with the training of its model and all that it was made of."""
    for row, model in models(forest).items():
        if model.card is not None:
            yield row, ledger.training([model.card])


def models_run(config: Config, forest: Forest, model: Model) -> float:
    """Compute how many ELMs' FLOPs a token of `model` takes."""
    elm = forest.experts()[0].card

    def per_token(shape: flops.Shape) -> float:
        return shape.inference_flops(config.window)

    card = model.card or elm
    made = flops.Shape(card.matrix_parameters, card.attention)
    return per_token(made) / per_token(flops.Shape(elm.matrix_parameters, elm.attention))
