"""Put a forest beside its averages, its seed, its baselines and other forests, at equal context.

Every row is measured on the same tokens, in the same windows, and each window is begun anew: a dense LM does not
remember the window before, so neither may an ensemble (``ensemble.carry=false``, whatever the settings say).
"""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from btm import durable, ensemble, evaluate
from btm import score as scoring
from btm.choices import BASELINES
from btm.config import Config, EnsembleConfig
from btm.data.shards import Shard, Suite
from btm.errors import UserError
from btm.forest import ELM, Forest, Model, require_same_tokenizer
from btm.forest.suites import evaluated_suites
from btm.report import Reporter, comparison, comparison_picture, quiet
from btm.report.comparison import Comparison, Measured
from btm.steps.beside import beside, cost, score_model, seeds
from btm.steps.evaluate import evaluated, measure, refuse_own_data

_FITTED = ("cached", "em", "token")  # priors that say which expert a domain's valid split asks for


@dataclass(frozen=True)
class _Setting:
    """What all rows share; `config` never carries a belief from one window to the next."""

    config: Config
    suite: Suite
    shards: list[Shard]
    trained_on: set[str]
    reporter: Reporter

    def of(self, forest: Forest) -> "Config":
        """Return the settings for the ensemble of another forest: all of its experts."""
        everyone = replace(self.config.ensemble, experts=[])
        return replace(self.config, forest=str(forest.root), ensemble=everyone)


def compare(config: Config, reporter: Reporter = quiet) -> Comparison:
    """Measure the forest, its averages, seed, baselines and ``against=`` side by side; write what came of it.

    Scores that are missing are computed, and what the rule leaves open is fitted on valid splits as `eval_forest`
    does. Writes ``evals/<name>-compare.json`` and a picture beside it.
    """
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    config = replace(config, ensemble=replace(config.ensemble, carry=False))
    shards, _ = evaluated(config, suite)
    remedy = "give another eval.split"
    refuse_own_data(replace(config, ensemble=top_1(config.ensemble)), suite, shards, remedy)
    trained_on = {domain for elm in forest.elms() for domain in elm.card.domains}
    setting = _Setting(config, suite, shards, trained_on, reporter)
    members = forest.experts(config.ensemble.experts)
    if not members:
        raise UserError(f"{forest.root} has no ELM yet, so there is nothing to compare: grow it with btm run")
    measured = _forest_rows(setting, forest, members)
    notes: list[str] = []
    for root, kind in rivals(config):
        try:
            measured.append(_rival_row(setting, forest, root, kind))
        except UserError as error:
            if kind == "forest":  # it was asked for
                raise
            notes.append(f"{root} is left out: {error}")
    found = _put_together(setting, forest, members, measured, notes)
    target = compared_file(config)
    durable.write_json(target, found.to_json())
    comparison_picture.draw(found, target.with_suffix(".png"))
    return found


def compared_file(config: Config) -> Path:
    """Return the file that a comparison is written to; its picture lies beside it."""
    root = Path(config.forest_root)
    return root / "evals" / f"{config.eval.name or root.name}-compare.json"


def rivals(config: Config) -> list[tuple[Path, str]]:
    """Return (folder, kind) of every forest to compare with: baselines that stand beside it, then ``against=``."""
    root = Path(config.forest_root)
    found = {root.with_name(f"{root.name}-{kind}"): kind for kind in BASELINES}
    found = {path: kind for path, kind in found.items() if Forest.stands(path)}
    named = config.against or []
    for name in [named] if isinstance(named, str) else named:
        if Path(name).resolve() == root.resolve():
            raise UserError(f"against={name}: that is the forest itself")
        found.setdefault(Path(name), "forest")
    return list(found.items())


def top_1(rule: EnsembleConfig) -> EnsembleConfig:
    """Return the settings that choose one expert for a domain: by the fitted prior, which is `cached` if none is."""
    prior = rule.prior if rule.prior in _FITTED and rule.rule != "router" else "cached"
    return replace(rule, rule="bayes", prior=prior, top_k=1, carry=False)


def _forest_rows(setting: _Setting, forest: Forest, members: list[ELM]) -> list[Measured]:
    """Return the rows of the forest itself: ensemble, top-1, every average and named model, its seed."""
    config = setting.config
    roots = [forest[name] for name in seeds(forest, [elm.name for elm in members])]
    named: list[tuple[Model, str]] = [
        (model, model.kind) for model in beside(config, forest, setting.reporter)
    ]
    named += [(_as_model(elm), comparison.SEED) for elm in roots]
    rows = _ensemble_rows(setting, forest, members)
    return rows + [_alone(setting, config, forest, model, model.name, kind) for model, kind in named]


def _ensemble_rows(setting: _Setting, forest: Forest, members: list[ELM]) -> list[Measured]:
    """Return the ensemble and its top-1; of one member alone there is one row."""
    config = setting.config
    if len(members) == 1:
        return [_alone(setting, config, forest, _as_model(members[0]), members[0].name, "ELM")]
    ensemble_row = _mixed(setting, config, forest, members, f"ensemble of {len(members)}", "ensemble")
    one = replace(ensemble_row, experts_run=1, inference_flops_per_token=_one(config, members))
    nats = {shard.domain: _top_1_nats(setting, forest, members, shard) for shard in setting.shards}
    how = top_1(config.ensemble).prior
    return [
        ensemble_row,
        replace(one, model=f"top-1 by {how} prior", kind="top-1", nats_per_token=nats),
    ]


def _rival_row(setting: _Setting, forest: Forest, root: Path, kind: str) -> Measured:
    """Return the row of another forest: its one model, or the ensemble of all its experts under the same rule."""
    rival = Forest(root)
    require_same_tokenizer(forest, rival.identity["tokenizer_sha256"], str(root))
    members, config = rival.experts(), setting.of(rival)
    if not members:
        raise UserError(f"{root} has no ELM yet")
    if len(members) == 1:
        return _alone(setting, config, rival, _as_model(members[0]), root.name, kind)
    return _mixed(setting, config, rival, members, root.name, kind)


def _alone(setting: _Setting, config: Config, forest: Forest, model: Model, name: str, kind: str) -> Measured:
    """Return the row of one model that runs alone; its scores lie in the cache of `forest`."""
    score_model(config, forest, model, setting.shards, setting.reporter)
    nats = {shard.domain: _nats(config, forest, shard, model.sha256) for shard in setting.shards}
    return _measured(name, kind, cost(config, model), nats)


def _mixed(
    setting: _Setting, config: Config, forest: Forest, members: list[ELM], name: str, kind: str
) -> Measured:
    """Return the row of an ensemble."""
    entries = measure(
        config,
        forest,
        setting.suite,
        members,
        members,
        [],
        trained_on=setting.trained_on,
        reporter=setting.reporter,
    )
    nats = {
        shard.domain: float(entries[f"{shard.domain}/{shard.split}"]["ensemble"]["nats_per_token"])
        for shard in setting.shards
    }
    return _measured(name, kind, ensemble.cost(config, members, members)["ensemble"], nats)


def _top_1_nats(setting: _Setting, forest: Forest, members: list[ELM], shard: Shard) -> float:
    """Return the loss of the one expert that the prior fitted on the domain's valid split believes in most."""
    scores = ensemble.scores_of(setting.config, forest)
    valid = setting.suite.shard(shard.domain, "valid")
    prior_E = evaluate.fit_prior(ensemble.stack(scores, valid, members), top_1(setting.config.ensemble))
    return _nats(setting.config, forest, shard, members[int(np.argmax(prior_E))].card.sha256)


def _nats(config: Config, forest: Forest, shard: Shard, sha256: str) -> float:
    """Return the nats per token of a model whose scores stand in the cache."""
    tokens, _ = shard.head(config.score.max_tokens)
    return scoring.mean_nats(ensemble.read(ensemble.scores_of(config, forest), shard, sha256), tokens)


def _measured(name: str, kind: str, entry: dict[str, Any], nats: dict[str, float]) -> Measured:
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


def _one(config: Config, members: list[ELM]) -> float:
    """Return the FLOPs of a token of one expert."""
    costs = ensemble.cost(config, members, members)["elms"]
    return float(costs[members[0].name]["inference_flops_per_token"])


def _as_model(elm: ELM) -> Model:
    return Model(elm.name, elm.path, elm.card.sha256, "ELM", elm.card)


def _put_together(
    setting: _Setting, forest: Forest, members: list[ELM], measured: list[Measured], notes: list[str]
) -> Comparison:
    """Return the comparison of what was measured, with the notes that a reader must not miss."""
    config = setting.config
    shards = [
        comparison.Shard(
            shard.domain,
            shard.split,
            shard.domain not in setting.trained_on,
            shard.head(config.score.max_tokens)[0],
        )
        for shard in setting.shards
    ]
    rows = comparison.rows_of(measured, shards)
    reference = comparison.reference_of(rows)
    return Comparison(
        forest=str(forest.root),
        suite=setting.suite.name,
        window=config.window,
        rule=asdict(config.ensemble) | {"experts": [elm.name for elm in members]},
        elms={elm.name: elm.card.sha256 for elm in members},
        shards=shards,
        rows=rows,
        reference=reference.model,
        reference_kind=reference.kind,
        notes=[*notes, *comparison.caveats(rows, reference)],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
