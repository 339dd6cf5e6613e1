"""The step of `btm moe`: put the feed-forward networks of ELMs behind a router, in one model.

The networks are the ELMs' byte for byte, and everything else is a weighted average
(btm/models/moe/). The router is found in closed form, or trained (router.py).
An expert joins or leaves because its sums stand by themselves: what is made is the same as if it
was made anew with those experts, but the others' text is not read again.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from btm.config import identity
from btm.config.checks import check_name
from btm.config.moe import TRAINED
from btm.config.schema import Config
from btm.data import ends
from btm.errors import UserError
from btm.forest import ELM, Forest, index, ledger, publish
from btm.forest.card import Card, Parent
from btm.forest.paths import MOES, ModelFolder
from btm.forest.suites import open_suites
from btm.models import causal_lm, flops, weights
from btm.models.average import normalise
from btm.models.moe import assemble
from btm.models.moe.classes import MoeClass, class_of
from btm.models.moe.hidden import Sums
from btm.report import Reporter, quiet
from btm.steps import averages
from btm.steps.moe import router
from btm.steps.moe.recipe import MoeRecipe, changed, mixture_of
from btm.steps.plan import Plan
from btm.system import durable
from btm.system.json_files import Json

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def moe(config: Config, reporter: Reporter = quiet) -> Path:
    """Make a mixture of experts in ``moes/``, or let ELMs join or leave one, and return its folder.

    If it stands there already, nothing is done.
    """
    forest = Forest(config.forest_root)
    mixture = _asked(config, forest, reporter)
    return make(config, forest, mixture, reporter)


def plan_of_moe(config: Config) -> Plan:
    """Plan `moe`; `UserError` for ELMs that it cannot be made of."""
    forest = Forest(config.forest_root)
    mixture = _asked(config, forest, None)
    elms = _experts(forest, mixture)
    names = ", ".join(mixture.experts)
    if _stands(config, forest, mixture, elms):
        return Plan.nothing("moe", mixture.name)
    steps = config.moe.steps if mixture.router in TRAINED else None
    tokens = None if steps is None else router.tokens_of(config, mixture)
    made = _transformers_config(_config_of(elms, mixture))
    per_token = flops.Shape.of_config(made).training_flops(config.trainer.seq_len)
    stored = sum(tensor.size for tensor in weights.tensors(elms[0].path).values())
    itemsize = stored // weights.parameters(elms[0].path)
    trained = "" if steps is None else f", {steps:,} steps"
    return Plan(
        "moe",
        mixture.name,
        f"the networks of {names} behind a {mixture.router} router, top-{mixture.top_k}{trained}",
        makes=(mixture.name,),
        parents=mixture.experts,
        reads=tuple(elm.path for elm in elms),
        writes=(forest.paths.derived(MOES, mixture.name).path,),
        steps=steps,
        tokens=tokens,
        flops=None if tokens is None else tokens * per_token,
        disk_bytes=causal_lm.count_parameters(made) * itemsize,
    )


def make(config: Config, forest: Forest, mixture: MoeRecipe, reporter: Reporter = quiet) -> Path:
    """Make a mixture and publish it, in place of one of that name; return its folder."""
    elms = _experts(forest, mixture)
    target = forest.paths.derived(MOES, mixture.name).path
    if _stands(config, forest, mixture, elms):
        router.clear(forest, Card.read(ModelFolder(target).card))
        averages.measure_again(config, forest, index.MOE, target, reporter)
        return target
    if target.is_dir():
        reporter.line(f"{target} is of other settings, ELMs or text: it is made anew")
    sums = router.sums_of(config, forest, mixture, elms, reporter) if mixture.is_summed else []
    mixture = mixture.read_by(router.read_by_others(forest, mixture, elms, sums))
    values = _config_of(elms, mixture)
    card = _card(forest, mixture, elms, values)
    card = replace(card, settings=router.settings_of(config, forest, mixture, elms))
    if mixture.router in TRAINED:
        made = partial(_write, forest, mixture, [], values, reporter)
        return router.trained(config, forest, mixture, elms, card, made, reporter)
    card = router.with_reading(config, card, elms, sums)
    return publish.derived(
        forest,
        index.MOE,
        card,
        partial(_write, forest, mixture, sums, values, reporter),
        averages.measuring(config, forest, reporter),
    )


def _asked(config: Config, forest: Forest, reporter: Reporter | None) -> MoeRecipe:
    """Find which mixture is meant; without a `reporter` nothing is scored for its weights."""
    if config.moe.add or config.moe.remove:
        return changed(config, forest)
    found = mixture_of(config, forest, reporter)
    check_name(found.name, "moe.name")
    if config.domain:
        open_suites(config).shard(config.domain, "valid")  # it is measured there
    return found


def _experts(forest: Forest, mixture: MoeRecipe) -> list[ELM]:
    """Open the experts, in their order; `UserError` unless a mixture can be made of them."""
    elms = [forest[name] for name in mixture.experts]
    assemble.require_alike([elm.path for elm in elms])
    if mixture.top_k > len(elms):
        names = ", ".join(mixture.experts)
        raise UserError(f"moe.top_k={mixture.top_k}: there are {len(elms)} experts ({names})")
    for elm in elms:
        if len(elm.card.domains) != 1 and (mixture.is_summed or mixture.router in TRAINED):
            raise UserError(
                f"{elm.name!r} was trained on no domain of its own, which moe.router="
                f"{mixture.router} reads: leave it out of moe.experts, or give moe.router=random"
            )
    return elms


def _stands(config: Config, forest: Forest, mixture: MoeRecipe, elms: Sequence[ELM]) -> bool:
    """Tell whether this mixture stands: of these very weights, this text and these settings."""
    file = forest.paths.derived(MOES, mixture.name).card
    if not file.exists():
        return False
    card = Card.read(file)
    ours = {elm.name: elm.card.sha256 for elm in elms}
    theirs = {name: parent.sha256 for name, parent in card.parents.items()}
    if MoeRecipe.of_card(card) != mixture or ours != theirs:
        return False
    asked = router.settings_of(config, forest, mixture, elms)
    return not identity.differences(card.settings, asked) and card.data == router.text_of(
        config, mixture, elms
    )


def _config_of(elms: Sequence[ELM], mixture: MoeRecipe) -> Json:
    """Make the mixture's config.json."""
    elm = causal_lm.read_config(ModelFolder(elms[0].path).config)
    return class_of(elm, elms[0].path).config(elm, len(elms), mixture.top_k)


def _class_of(folder: Path) -> MoeClass:
    return class_of(causal_lm.read_config(ModelFolder(folder).config), folder)


def _card(forest: Forest, mixture: MoeRecipe, elms: Sequence[ELM], values: Json) -> Card:
    """Make the card of a mixture, before its parameters are made."""
    made = _transformers_config(values)
    shape = flops.Shape.of_config(made)
    shares = _shares(mixture, elms)
    return Card(
        name=mixture.name,
        domains=sorted({domain for elm in elms for domain in elm.card.domains}),
        sha256="",
        tokenizer_sha256=forest.identity["tokenizer_sha256"],
        parents={
            elm.name: Parent(shares[elm.name], mixture.weights[elm.name], elm.card.sha256)
            for elm in elms
        },
        branch_method=mixture.how,
        recipe=mixture.recipe(),
        ancestors=ledger.lineage(elm.card for elm in elms),
        parameters=causal_lm.count_parameters(made),
        matrix_parameters=shape.matrix_parameters,
        attention=shape.attention,
    )


def _transformers_config(values: Json) -> "PretrainedConfig":
    from transformers import AutoConfig

    return AutoConfig.for_model(**values)


def _shares(mixture: MoeRecipe, elms: Sequence[ELM]) -> dict[str, float]:
    """Compute each expert's share of the parameters: its network, and its part of the average."""
    tensors, found = weights.tensors(elms[0].path), _class_of(elms[0].path)
    own = sum(t.size for name, t in tensors.items() if assemble.expert_tensor(found, name, 0))
    shared = sum(t.size for t in tensors.values()) - own
    averaged = normalise(mixture.weights)
    whole = own * len(elms) + shared
    return {e.name: (own + shared * averaged.get(e.name, 0.0)) / whole for e in elms}


def _write(
    forest: Forest,
    mixture: MoeRecipe,
    sums: Sequence[Sums],
    values: Json,
    reporter: Reporter,
    folder: Path,
) -> dict[str, str]:
    """Write a mixture with its sums into `folder`; return the sha256 of each weight file."""
    folders = {name: forest[name].path for name in mixture.experts}
    shared = {folders[name]: weight for name, weight in mixture.weights.items()}
    rows = router.rows_of(mixture, sums, values)
    first = next(iter(folders.values()))
    digests = assemble.write(
        _class_of(first),
        *(shared, list(folders.values()), rows, folder, mixture.top_k, reporter.alive),
    )
    causal_lm.copy_files(first, folder)
    durable.write_json(ModelFolder(folder).config, values)
    ends.declare(folder, list(folders.values()))
    for name, each in zip(mixture.experts, sums, strict=bool(sums)):
        each.write(folder / router.sums_file(name))
    return digests
