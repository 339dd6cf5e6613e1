"""Put a forest beside its averages, its seed, its baselines and other forests, at equal context.

Every row is measured on the same tokens, in the same windows, and each window is begun anew: a
dense LM does not remember the window before, so neither may an ensemble (``ensemble.carry=window``,
whatever the settings say).
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from btm.config.choices import BASELINES
from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.ensemble import priors
from btm.ensemble.evaluate import row_alone
from btm.errors import UserError, first_of
from btm.forest import ELM, Forest, Model, ledger, require_same_tokenizer
from btm.forest.paths import Paths
from btm.forest.suites import evaluated_suites
from btm.report import Reporter, comparison, comparison_picture, pictures, quiet
from btm.report.comparison import Comparison, Measured
from btm.steps import domain_weights, held_out, score_cache, unwritten
from btm.steps.beside import Subjects, beside, cost, folders_of, score_model, seeds
from btm.steps.evaluate import evaluated, measure, refuse_own_data, scored
from btm.steps.names import is_baseline
from btm.steps.plan import Plan
from btm.system import durable


@dataclass(frozen=True)
class _Scene:
    """One forest and the shards that its models are measured on; scores lie in its own cache."""

    config: Config  # never carries a belief from one window to the next
    forest: Forest
    suite: Suite
    shards: list[Shard]
    trained_on: set[str]  # domains that are not novel, to the forest that is compared
    reporter: Reporter

    def uncommitted(self) -> "_Scene":
        """Return the scene in which every ensemble is whole to the end of its contexts."""
        chosen = self.config.ensemble
        whole = replace(chosen, commit=0, top_k=chosen.prior_top_k)
        return replace(self, config=replace(self.config, ensemble=whole))

    def of(self, rival: Forest) -> "_Scene":
        """Return the scene of another forest: the same shards and rule, all of its experts."""
        everyone = replace(self.config.ensemble, experts=[])
        config = replace(self.config, forest=str(rival.root), ensemble=everyone)
        return replace(self, forest=rival, config=config)


def compare(config: Config, reporter: Reporter = quiet) -> Comparison:
    """Measure the forest and all that stands beside it; write what came of it, and a picture.

    That is its averages, its seed, its baselines, ``models=`` and ``against=``. Scores that are
    missing are computed; what the rule leaves open is fitted on valid splits, as `eval_forest`
    does.
    """
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    config = replace(config, ensemble=replace(config.ensemble, carry="window"))
    shards, _ = evaluated(config, suite)
    _refuse_valid(config, suite, shards)
    trained_on = {domain for elm in forest.elms() for domain in elm.card.domains}
    scene = _Scene(config, forest, suite, shards, trained_on, reporter)
    members = forest.experts(config.ensemble.experts)
    if not members:
        raise UserError(f"{forest.root} has no ELM to compare yet: grow it with btm run")
    measured = _own_rows(scene, members)
    notes: list[str] = []
    for root, kind in rivals(config):
        try:
            measured.append(_rival_row(scene.uncommitted(), root, kind))
            notes += _unlike(forest, root, kind)
        except UserError as error:
            if kind == "forest":  # it was asked for
                raise
            notes.append(f"{root} is left out: {error}")
    return _published(_put_together(scene, members, measured, notes), compared_file(config))


def plan_of_compare(config: Config) -> list[Plan]:
    """Plan `compare`: the forest, each model and forest beside it, and the files."""
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    shards, _ = evaluated(config, suite)
    _refuse_valid(config, suite, shards)
    members = forest.experts(config.ensemble.experts)
    what = f"ensemble of {len(members)} and top-1 on {len(shards)} shards"
    what += f", models with {config.load}" if config.load.word else ""
    file = compared_file(config)
    return [
        Plan("compare", forest.root.name, what, parents=tuple(elm.name for elm in members)),
        *(
            Plan("beside", model.name, _where(model), reads=folders_of(model))
            for model in beside(config, forest)
        ),
        *(
            Plan("beside", root.name, f"{kind} in {Forest(root).root}", reads=(root,))
            for root, kind in rivals(config)
        ),
        Plan(
            "write",
            file.name,
            "what scores are missing, the table, a picture",
            writes=(file, file.with_suffix(".png")),
        ),
    ]


def _where(model: Model) -> str:
    if isinstance(model, unwritten.Unwritten):
        return f"{model.kind} of {', '.join(model.parents)}, made and not kept"
    return f"{model.kind} in {model.path}"


def _refuse_valid(config: Config, suite: Suite, shards: list[Shard]) -> None:
    """Raise `UserError` if the top-1 row would be measured on the text that chose its expert."""
    remedy = "give another eval.split"
    refuse_own_data(replace(config, ensemble=top_1(config.ensemble)), suite, shards, remedy)


def _published(found: Comparison, file: Path) -> Comparison:
    """Write a comparison and its picture, unless the same is there; return the one on disk."""
    picture = file.with_suffix(".png")
    with suppress(OSError, ValueError, AttributeError):  # none, or not one that we wrote
        standing = json.loads(file.read_bytes())
        dated = replace(found, created=standing.get("created", ""))
        if picture.exists() and standing == json.loads(json.dumps(dated.to_json())):
            return dated
    pictures.attempt(lambda: comparison_picture.draw(found, picture), picture)
    durable.write_json(file, found.to_json())
    return found


def compared_file(config: Config) -> Path:
    """Name the file that a comparison is written to; its picture is beside it."""
    return Paths(config.forest_root).comparison(config.eval.name)


def rivals(config: Config) -> list[tuple[Path, str]]:
    """List the (folder, kind) of the other forests: baselines that stand, then ``against=``."""
    root = Path(config.forest_root)
    beside_it = {root.with_name(f"{root.name}-{kind}"): kind for kind in BASELINES}
    found = {
        path.resolve(): (path, kind)
        for path, kind in beside_it.items()
        if Forest.stands(path) and is_baseline(path, kind, besides=config.seed.name)
    }
    named = config.against or []
    for name in [named] if isinstance(named, str) else named:
        path = Path(name)
        if path.resolve() == root.resolve():
            raise UserError(f"against={name}: that is the forest itself")
        found.setdefault(path.resolve(), (path, "forest"))
    return list(found.values())


def top_1(rule: EnsembleConfig) -> EnsembleConfig:
    """Return the settings that choose one expert for a domain, as ``ensemble.top_k=1`` does.

    By the rule's own prior if that is fitted, else by `cached`, the paper's.
    """
    prior = rule.prior if rule.prior in priors.FITTED else "cached"
    return replace(rule, rule="bayes", prior=prior, top_k=1, commit=0, carry="window")


def _own_rows(scene: _Scene, members: list[ELM]) -> list[Measured]:
    """Return the forest's rows: ensemble, top-1, averages, named models, seed."""
    names = seeds(scene.forest, [elm.name for elm in members])
    roots = [_as_model(scene.forest[name]) for name in names]
    others = beside(scene.config, scene.forest, scene.reporter)
    held_out.refuse(scene.forest, scene.suite, scene.shards, [*members, *others, *roots])
    rows = _ensemble_rows(scene, members)
    rows += [_alone(scene, m, m.name, m.kind) for m in others if m not in roots]
    return rows + [_alone(scene, root, root.name, comparison.SEED) for root in roots]


def _ensemble_rows(scene: _Scene, members: list[ELM]) -> list[Measured]:
    """Return the ensemble and its top-1; of one member alone there is one row."""
    if len(members) == 1:
        return [_alone(scene, _as_model(members[0]), members[0].name, "ELM")]
    chosen = scene.config.ensemble
    mixed = _mixed(scene.uncommitted(), members, f"ensemble of {len(members)}", "ensemble")
    top = replace(
        mixed,
        model=f"top-1 by {top_1(scene.config.ensemble).prior} prior",
        kind="top-1",
        experts_run=1,
        inference_flops_per_token=mixed.inference_flops_per_token / mixed.experts_run,
        nats_per_token={shard.domain: _top_1_nats(scene, members, shard) for shard in scene.shards},
    )
    if not chosen.commit:
        return [mixed, top]
    name = f"commit to {chosen.top_k} after {chosen.commit}"
    name += ", recalling" if chosen.recall else ""
    return [mixed, _mixed(scene, members, name, "commit"), top]


def _rival_row(scene: _Scene, root: Path, kind: str) -> Measured:
    """Return the row of another forest: its one model, or all its experts under the same rule."""
    rival = Forest(root)
    require_same_tokenizer(scene.forest, rival.identity["tokenizer_sha256"], str(root))
    members = rival.experts()
    if not members:
        raise UserError("it has no ELM yet")
    held_out.refuse(rival, scene.suite, scene.shards, members, scene.reporter)
    name = str(root) if kind == "forest" else root.name  # a baseline's says which it is
    if len(members) == 1:
        return _alone(scene.of(rival), _as_model(members[0]), name, kind)
    return _mixed(scene.of(rival), members, name, kind)


def _unlike(forest: Forest, root: Path, kind: str) -> list[str]:
    """Say where a baseline was trained on other text than the forest, or on other contexts."""
    if kind == "forest":
        return []
    own, other = (_trained_with(each) for each in (forest, Forest(root)))
    text = [d for d in own.text if d in other.text and not other.text[d] <= own.text[d]]
    notes = [f"{root.name} was trained on other text of {first_of(text)}"] if text else []
    # The parts of a random split are no domains of the forest.
    if kind != "random_split" and (unread := [d for d in own.text if d not in other.text]):
        notes.append(f"{root.name} was never trained on {first_of(unread)}, and the forest was")
    if own.contexts and other.contexts and own.contexts != other.contexts:
        read, tokens = (" and ".join(map(str, sorted(each.contexts))) for each in (other, own))
        notes.append(
            f"{root.name} was trained on contexts of {read} tokens, the forest of {tokens}"
        )
    return notes


@dataclass(frozen=True)
class _TrainedWith:
    """The text {domain: sha256 of train splits} and the contexts that ELMs were trained on."""

    text: dict[str, set[str]]
    contexts: set[int]


def _trained_with(forest: Forest) -> _TrainedWith:
    """Collect from the cards of a forest what its ELMs were trained on."""
    text: dict[str, set[str]] = {}
    cards = [elm.card for elm in forest.elms()]
    for card in cards:
        for domain, sha256 in card.data.items():
            text.setdefault(domain, set()).add(sha256)
    lengths = [card.settings.get("trainer.seq_len") for card in cards]
    return _TrainedWith(text, {length for length in lengths if length})


def _alone(scene: _Scene, model: Model, name: str, kind: str) -> Measured:
    """Return the row of one model that runs alone."""
    score_model(scene.config, scene.forest, model, _needed(scene), scene.reporter)
    model = unwritten.settled(scene.config, scene.forest, model)
    nats = {shard.domain: _nats(scene, shard, model.sha256) for shard in scene.shards}
    return _measured(name, kind, cost(scene.config, model), nats)


def _mixed(scene: _Scene, members: list[ELM], name: str, kind: str) -> Measured:
    """Return the row of an ensemble."""
    subjects = Subjects(members, members, [], scene.trained_on)
    entries = measure(scene.config, scene.forest, scene.suite, subjects, reporter=scene.reporter)
    mixed = {name: entry["ensemble"]["nats_per_token"] for name, entry in entries.items()}
    nats = {shard.domain: mixed[f"{shard.domain}/{shard.split}"] for shard in scene.shards}
    costs = domain_weights.cost(scene.config, members, members, entries)
    return _measured(name, kind, costs["ensemble"], nats)


def _needed(scene: _Scene) -> list[Shard]:
    """List the shards that a model alone is scored on: with a cache, which is fitted, valid too."""
    if scene.config.ensemble.cache == "none":
        return scene.shards
    return [*scene.shards, *(scene.suite.shard(shard.domain, "valid") for shard in scene.shards)]


def _top_1_nats(scene: _Scene, members: list[ELM], shard: Shard) -> float:
    """Return the loss of the one expert that the prior of the domain's valid split favours."""
    scores = score_cache.scores_of(scene.config, scene.forest)
    valid = scene.suite.shard(shard.domain, "valid")
    tokens, _ = valid.head(scene.config.score.max_tokens)
    valid_EST = score_cache.stack(scores, valid, members)
    log_prior_E = priors.fit_prior(valid_EST, top_1(scene.config.ensemble), tokens)
    return _nats(scene, shard, members[int(np.argmax(log_prior_E))].card.sha256)


def _nats(scene: _Scene, shard: Shard, sha256: str) -> float:
    """Compute the nats per token of a model from the score cache, mixed with an n-gram cache where
    the settings have one.
    """
    config, scores = scene.config, score_cache.scores_of(scene.config, scene.forest)
    test = scored(config, scores, shard, {"": sha256})
    if config.ensemble.cache == "none":
        return test.nats(test.alone("")) / test.counted[0]
    valid = scored(config, scores, scene.suite.shard(shard.domain, "valid"), {"": sha256})
    return float(row_alone(test, valid, "", config.ensemble)["nats_per_token"])


def _measured(name: str, kind: str, entry: ledger.Cost, nats: dict[str, float]) -> Measured:
    """Return a row from its entry of a ledger and its losses."""
    training = entry["training"]
    return Measured(
        model=name,
        kind=kind,
        experts_run=entry["experts_run"],
        training_tokens=training and training["tokens"],
        training_flops=training and training["flops"],
        inference_flops_per_token=entry["inference_flops_per_token"],
        nats_per_token=nats,
    )


def _memory(config: Config) -> list[str]:
    """Say where the ensemble remembers more than the window."""
    if config.ensemble.prior != "updating":
        return []
    return [
        "ensemble.prior=updating moves on through all windows of a domain, over documents too: the "
        "ensemble has read more than the other rows"
    ]


def _loaded(config: Config) -> list[str]:
    """Say how every model was loaded, where that is not in float32."""
    return [f"every row is of models loaded with {config.load}"] if config.load.word else []


def _as_model(elm: ELM) -> Model:
    return Model(elm.name, elm.path, elm.card.sha256, "ELM", elm.card)


def _put_together(
    scene: _Scene, members: list[ELM], measured: list[Measured], notes: list[str]
) -> Comparison:
    """Return the comparison of what was measured, with the notes that a reader must not miss."""
    config = scene.config
    shards = []
    for shard in scene.shards:
        tokens, _ = shard.head(config.score.max_tokens)
        tokens -= shard.n_given(tokens) if shard.is_prompted else 0
        novel = shard.domain not in scene.trained_on
        shards.append(comparison.Shard(shard.domain, shard.split, novel, tokens, shard.sha256))
    rows = comparison.rows_of(measured, shards)
    reference = comparison.reference_of(rows)
    return Comparison(
        forest=str(scene.forest.root),
        suite=scene.suite.name,
        window=config.window,
        stride=config.stride,
        load=asdict(config.load) if config.load.word else None,
        rule=asdict(config.ensemble) | {"experts": [elm.name for elm in members]},
        elms={elm.name: elm.card.sha256 for elm in members},
        shards=shards,
        rows=rows,
        reference=reference.model,
        reference_kind=reference.kind,
        notes=[*notes, *_loaded(config), *_memory(config), *comparison.caveats(rows, reference)],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
