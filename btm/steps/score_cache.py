"""Score models on shards where the forest's cache has no scores yet, and read what it has."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.ensemble import adapters
from btm.ensemble import score as scoring
from btm.errors import UserError
from btm.forest import ELM, Branch, Forest
from btm.forest.paths import ModelFolder
from btm.models import causal_lm, inference, weights
from btm.models.causal_lm import check_context
from btm.models.causality import require_causal
from btm.report import Reporter
from btm.system import lease

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ValidNats:
    """The losses that decide a merge, in nats per token of the branch's valid split."""

    own: float
    parents: dict[str, float]


def valid_nats(
    config: Config, forest: Forest, branch: Branch, suite: Suite, reporter: Reporter
) -> ValidNats:
    """Measure a branch and its parents on the branch's valid split."""
    config = for_cards(config)
    valid = suite.shard(branch.domains[0], "valid")
    scores = scores_of(config, forest)
    tokens, _ = valid.head(config.score.max_tokens)
    sha256 = weights.sha256(branch.path)
    score_missing(config, forest, branch.path, sha256, [valid], reporter)
    nats = {}
    for name in branch.parents:
        parent = forest[name]
        score_missing(config, forest, parent.path, parent.card.sha256, [valid], reporter)
        nats[name] = scoring.nats_of(read(scores, valid, parent.card.sha256), valid, tokens)
    ours = scoring.nats_of(read(scores, valid, sha256), valid, tokens)
    return ValidNats(ours, nats)


def for_cards(config: Config) -> Config:
    """Return `config` with windows that do not overlap and models in float32, as all that stands
    on cards is measured.

    So the losses on cards, and the weights of parents, compare whatever ``score.stride`` and
    ``load`` are.
    """
    return replace(config, score=replace(config.score, stride=0), load=LoadConfig())


def scores_of(config: Config, forest: Forest) -> scoring.Scores:
    """Open the forest's score cache for the windows, the score.max_tokens and the way of loading
    models of `config`.
    """
    return scoring.Scores(
        forest.paths.scores,
        config.window,
        config.score.max_tokens,
        config.stride,
        config.load.word,
    )


def passes(config: Config) -> str:
    """Say how often a token is read where windows overlap; empty where they do not."""
    if not config.stride:
        return ""
    return (
        f"windows of {config.window:,} tokens that begin every {config.stride:,} (score.stride): "
        f"each token is read {config.window / config.stride:.3g} times"
    )


def unscored(config: Config, forest: Forest, sha256: str, shards: list[Shard]) -> list[Shard]:
    """List those of `shards` for which the cache has no scores of these weights."""
    scores = scores_of(config, forest)
    return [shard for shard in shards if scores.read(shard, sha256) is None]


def score_missing(
    config: Config,
    forest: Forest,
    folder: Path,
    sha256: str,
    shards: list[Shard],
    reporter: Reporter,
    *,
    model: "PreTrainedModel | None" = None,
    called: str | None = None,
) -> list[Path]:
    """Score the model in `folder` on those of `shards` where its scores are missing.

    `model` is the same model, if it is loaded already, as `config.load` asks. Progress is reported
    under `called`, or the folder's name. Returns the score files that were written.
    """
    scores = scores_of(config, forest)
    missing = unscored(config, forest, sha256, shards)
    if not missing:
        return []
    import torch

    from btm.train import kernels

    device = causal_lm.pick_device(config.trainer.device)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    check_context(config, causal_lm.read_config(ModelFolder(folder).config))
    if model is None:
        model = adapters.load(folder, device, config.load)
    model = model.to(device).eval()
    if config.load.word:
        reporter.line(f"{called or lease.name_of(folder)}: {inference.memory(model, config.load)}")
    if told := passes(config):
        reporter.line(f"{called or lease.name_of(folder)}: {told}")
    # Here too: of a forest that was planted by an older btm, nobody has asked.
    require_causal(model, str(folder))
    total = sum(shard.head(config.score.max_tokens)[0] for shard in missing)
    paths = []
    with (
        kernels.waiting.considerate(),
        reporter.scoring(called or lease.name_of(folder), total) as report,
    ):
        for shard in missing:
            paths.append(
                scoring.score(
                    model, shard, scores, sha256, batch_size=config.score.batch_size, report=report
                )
            )
    return paths


def stack(scores: scoring.Scores, shard: Shard, elms: list[ELM]) -> NDArray[np.float32]:
    """Stack the scores of several ELMs: log-probabilities in nats, shape (E, S, T)."""
    return np.stack([read(scores, shard, elm.card.sha256) for elm in elms])


def read(scores: scoring.Scores, shard: Shard, sha256: str) -> NDArray[np.float32]:
    """Read a model's scores from the cache, in nats, shape (S, T); `UserError` if they are gone."""
    logp = scores.read(shard, sha256)
    if logp is None:
        raise UserError(
            f"{scores.path(shard, sha256)} vanished while it was needed; run the command again"
        )
    return logp
