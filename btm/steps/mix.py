"""Rank data mixtures before anything is trained on them: the step of `btm mix`.

The experts of a forest were each trained on one domain, from one seed. The loss of their weighted
average on a target's valid text stands in for that of a model trained on the mixture with these
shares (arXiv 2410.15661): it orders mixtures, and is no forecast of the loss itself. Averages are
made, scored and deleted (unwritten.py), so a mixture that was scored before costs nothing.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from btm.config.average import AverageConfig
from btm.config.mix import normal
from btm.config.recipes import Recipe
from btm.config.schema import Config
from btm.data.shards import Shard
from btm.ensemble import score as scoring
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.paths import Paths
from btm.forest.suites import evaluated_suites
from btm.report import Reporter, quiet
from btm.report.tables import TableRow
from btm.steps import held_out, score_cache, unwritten
from btm.steps import recipe as finding
from btm.steps.plan import Plan
from btm.steps.unwritten import Unwritten
from btm.system import durable
from btm.system.json_files import Json

DIGITS = 3  # of sampled shares: what a table shows can be given again


@dataclass(frozen=True)
class Mixture:
    """One mixture: the shares of its experts, and the loss of their average."""

    shares: dict[str, float]  # {expert: share}, which sum to 1
    nats_per_token: dict[str, float]  # {domain: loss on its valid split}
    mean: float  # over the domains; mixtures are ranked by it
    sha256: str  # of the average's weights


@dataclass(frozen=True)
class Ranking:
    """Mixtures, best first, and all that their losses depend on."""

    forest: str
    suite: str
    text: dict[str, str]  # {domain: sha256 of its valid shard}
    elms: dict[str, str]  # {name: sha256} of the experts and of the seed
    window: int
    max_tokens: int
    scale: float
    seed_nats: float | None  # the seed's mean on the same text; None where there is no seed
    mixtures: list[Mixture]
    created: str
    schema: int = 1

    def to_json(self) -> Json:
        """Return the ranking as JSON values."""
        return asdict(self)


def mix(config: Config, reporter: Reporter = quiet) -> Ranking:
    """Score an average for each mixture and rank them; write ``evals/<name>-mix.json``."""
    forest, suite = Forest(config.forest_root), evaluated_suites(config)
    shards, candidates = _targets(config, forest), _candidates(config, forest)
    elms = [forest[name] for name in _elms_of(config, forest, candidates)]
    held_out.refuse(forest, suite, shards, elms, reporter)
    for number, model in enumerate(candidates, 1):
        for_it = f"mixture {number} of {len(candidates)}"
        if unwritten.score(config, forest, model, shards, reporter):
            reporter.line(f"{for_it}: {said(dict(model.parents))}")
    found = [_measured(config, forest, model, shards) for model in candidates]
    base, seed_nats = config.seed.name, None
    if base in forest:
        seed = forest[base]
        score_cache.score_missing(config, forest, seed.path, seed.card.sha256, shards, reporter)
        seed_nats = float(np.mean([_nats(config, forest, seed.card.sha256, s) for s in shards]))
    ranking = Ranking(
        forest=str(forest.root),
        suite=suite.name,
        text={shard.domain: shard.sha256 for shard in shards},
        elms={elm.name: elm.card.sha256 for elm in elms},
        window=config.window,
        max_tokens=config.score.max_tokens,
        scale=config.mix.scale,
        seed_nats=seed_nats,
        mixtures=sorted(found, key=lambda each: each.mean),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    durable.write_json(mix_file(config), ranking.to_json())
    return ranking


def plan_of_mix(config: Config) -> Plan:
    """Plan `mix`: the mixtures, the text, and the tokens that are still to be scored."""
    forest = Forest(config.forest_root)
    shards, candidates = _targets(config, forest), _candidates(config, forest)
    scores = score_cache.scores_of(config, forest)
    tokens = 0
    for model in candidates:
        missing = score_cache.unscored(config, forest, model.sha256, shards)
        tokens += sum(map(scores.reads, missing))
    file = mix_file(config)
    return Plan(
        "mix",
        file.stem,
        f"{len(candidates)} mixtures on valid of {', '.join(s.domain for s in shards)}; "
        f"scores {tokens:,} tokens; writes {file}",
        parents=tuple(_elms_of(config, forest, candidates)),
        reads=tuple(dict.fromkeys(path for model in candidates for path in model.sources)),
        writes=(file,),
        tokens=tokens,
    )


def mix_file(config: Config) -> Path:
    """Name the file that a ranking is written to."""
    return Paths(config.forest_root).mixtures(config.eval.name)


def rows_of(ranking: Ranking) -> list[TableRow]:
    """Make the table of a ranking: a row a mixture, best first."""
    rows: list[TableRow] = []
    for rank, each in enumerate(ranking.mixtures, 1):
        row: TableRow = {"rank": rank, "mixture": said(each.shares), "nats/token": each.mean}
        if ranking.seed_nats is not None:
            row["less the seed"] = each.mean - ranking.seed_nats
        rows.append(row | (each.nats_per_token if len(each.nats_per_token) > 1 else {}))
    return rows


def said(shares: dict[str, float]) -> str:
    """Write the shares of a mixture, greatest first."""
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {share:.{DIGITS}g}" for name, share in ordered)


def _targets(config: Config, forest: Forest) -> list[Shard]:
    """List the valid splits that mixtures are measured on: of ``domain=``, or of all experts."""
    suite = evaluated_suites(config)
    return [suite.shard(d, "valid") for d in finding.meant_for(config, forest.experts())]


def _candidates(config: Config, forest: Forest) -> list[Unwritten]:
    """Make the recipes of the averages that stand for the mixtures."""
    chosen = config.mix
    if not chosen.candidates and not chosen.samples:
        raise UserError(
            "which mixtures? give mix.candidates='[{law: 0.5, med: 0.5}, …]', mix.samples=N, or "
            "both"
        )
    mixtures = [normal(dict(each)) for each in chosen.candidates]
    for each in mixtures:
        forest.experts(list(each))  # one that is not there is refused by the forest
    mixtures += [each for each in _sampled(config, forest) if each not in mixtures]
    if chosen.scale == 1:
        average = AverageConfig(method="linear")
    else:
        average = AverageConfig(method="task_arithmetic", base=config.seed.name, scale=chosen.scale)
    return [
        unwritten.unwritten_of(config, forest, Recipe(f"mixture-{i}", each, None, average))
        for i, each in enumerate(mixtures, 1)
    ]


def _sampled(config: Config, forest: Forest) -> list[dict[str, float]]:
    """Draw mixtures of all experts from a Dirichlet; each is a function of (seed, number)."""
    chosen, names = config.mix, [elm.name for elm in forest.experts()]
    drawn = []
    for number in range(chosen.samples):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([chosen.seed, number])))
        shares = np.round(rng.dirichlet([chosen.concentration] * len(names)), DIGITS)
        drawn.append(normal({n: float(s) for n, s in zip(names, shares, strict=True)}))
    return drawn


def _elms_of(config: Config, forest: Forest, candidates: list[Unwritten]) -> list[str]:
    """List every ELM that takes part in a mixture, and the seed."""
    names = {name for model in candidates for name in model.parents}
    return sorted(names | ({config.seed.name} if config.seed.name in forest else set()))


def _measured(config: Config, forest: Forest, model: Unwritten, shards: list[Shard]) -> Mixture:
    """Read the losses of one mixture from the score cache."""
    sha256 = unwritten.settled(config, forest, model).sha256
    nats = {shard.domain: _nats(config, forest, sha256, shard) for shard in shards}
    return Mixture(dict(model.parents), nats, float(np.mean(list(nats.values()))), sha256)


def _nats(config: Config, forest: Forest, sha256: str, shard: Shard) -> float:
    tokens, _ = shard.head(config.score.max_tokens)
    scores = score_cache.scores_of(config, forest)
    return scoring.nats_of(score_cache.read(scores, shard, sha256), shard, tokens)
