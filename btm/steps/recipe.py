"""The recipe of an average: its settings, and what must be found on valid splits for them.

That is the members of a greedy soup, the scale λ, and the Fisher information of ELMs.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from btm.config.schema import Config
from btm.data.batches import windows
from btm.data.shards import Suite
from btm.ensemble import score as scoring
from btm.errors import UserError
from btm.forest import ELM, Forest, publish
from btm.forest.suites import open_suites
from btm.models import causal_lm, weights
from btm.models.average import METHODS, Settings
from btm.report import Reporter, quiet
from btm.steps import domain_weights, fisher, score_cache
from btm.system import durable
from btm.train import trainee

FIT = "fit"  # as average.scale: the λ that does best on valid
SCALES = (0.1, 0.25, 0.5, 0.75, 1.0)  # that are tried


def settings_of(
    config: Config,
    forest: Forest,
    parents: Mapping[str, float],
    suite: Callable[[], Suite],
    reporter: Reporter = quiet,
) -> Settings:
    """Translate `config.average` into the settings of an average of `parents`.

    For average.method=fisher this estimates the parents' Fisher information, where it is missing.
    """
    chosen = config.average
    method = "linear" if chosen.method in (None, "greedy_soup") else chosen.method
    base = forest[chosen.base or config.seed.name].path if METHODS[method].needs_base else None
    information: dict[Path, Path] = {}
    if chosen.method == "fisher":
        information = {
            forest[name].path: _information(config, forest, forest[name], suite(), reporter)
            for name in parents
        }
    return Settings(
        method=method,
        base=base,
        scale=1.0 if isinstance(chosen.scale, str) else chosen.scale,  # fit: `fit_scale` finds it
        density=chosen.density,
        gamma=chosen.gamma,
        t=chosen.t,
        rescale=chosen.rescale,
        seed=chosen.seed,
        layers=chosen.layers or {},
        importance=information,
        accumulate=chosen.accumulate,
        dtype=None if chosen.dtype is None else weights.STORED[chosen.dtype],
        shard_bytes=int(chosen.shard_gb * 1e9) or None,
    )


def meant_for(config: Config, elms: list[ELM]) -> list[str]:
    """List the domains that an average is meant for: ``domain=``, or all that its experts were
    trained on.
    """
    if config.domain:
        return [config.domain]
    known = open_suites(config).domains()
    found = sorted({domain for elm in elms for domain in elm.card.domains} & set(known))
    if not found:
        raise UserError(
            f"{config.forest_root}: no domain of its experts is prepared: give domain=NAME or "
            "weights="
        )
    return found


def fitted_weights(
    config: Config, forest: Forest, word: str, elms: list[ELM], reporter: Reporter = quiet
) -> dict[str, float]:
    """Find the weights {ELM: weight} that a word says: those of `domain_weights`."""
    if word == "uniform":
        return {elm.name: 1.0 for elm in elms}
    domains = meant_for(config, elms)
    found, _ = domain_weights.domain_weights(
        config, forest, open_suites(config), domains, elms, word, reporter
    )
    return found


def greedy_soup(
    config: Config,
    forest: Forest,
    suite: Suite,
    domain: str,
    elms: list[ELM],
    reporter: Reporter = quiet,
) -> dict[str, float]:
    """Choose the ELMs of a greedy soup on the valid split of `domain`; return {ELM: 1} of them.

    Recipe 1 of arXiv 2203.05482: ELMs are tried in the order of their own loss, best first. Each
    stays if the uniform average with it is no worse than without.
    """
    config, valid = score_cache.for_cards(config), suite.shard(domain, "valid")
    tokens, _ = valid.head(config.score.max_tokens)

    def nats(folder: Path, sha256: str) -> float:
        score_cache.score_missing(config, forest, folder, sha256, [valid], reporter)
        found = score_cache.scores_of(config, forest).read(valid, sha256)
        assert found is not None
        return scoring.nats_of(found, valid, tokens)

    # Of the number types that the average will have: they are measured as they will be published.
    settings = replace(settings_of(config, forest, {}, lambda: suite, reporter), layers={})
    alone = {elm.name: nats(elm.path, elm.card.sha256) for elm in elms}
    ranked = sorted(elms, key=lambda elm: (alone[elm.name], elm.name))
    soup, best = [ranked[0]], alone[ranked[0].name]
    for elm in ranked[1:]:
        with publish.trial(
            forest, {other.name: 1.0 for other in [*soup, elm]}, settings, reporter.alive
        ) as candidate:
            found = nats(candidate, weights.sha256(candidate))
        if found <= best:
            soup, best = [*soup, elm], found
        reporter.line(f"soup with {elm.name}: {found:.4f} nats/token, best {best:.4f}")
    return {elm.name: 1.0 for elm in soup}


def fit_scale(
    config: Config,
    forest: Forest,
    name: str,
    parents: Mapping[str, float],
    settings: Settings,
    domains: list[str],
    reporter: Reporter = quiet,
) -> tuple[Settings, str]:
    """Try the scales λ of `SCALES`; return `settings` with the best on valid, and in words what it
    was fitted on.

    WiSE-FT (arXiv 2109.01903) for several experts: θ_0 + λ Σ_j w_j (θ_j − θ_0). The best has the
    lowest mean over `domains` of nats/token on the first `trainer.valid_tokens` of the valid split.
    A scale that an average `name` of the same parents and weights has, fitted on the same, is taken
    without a trial.
    """
    shards = [open_suites(config).shard(domain, "valid") for domain in domains]
    where = ", ".join(f"{shard.domain}/valid ({shard.sha256[:16]})" for shard in shards)
    said = (
        f"scale fitted on the first {config.trainer.valid_tokens} tokens, in windows of "
        f"{config.window}, of {where}"
    )
    known = publish.scale_of(forest, name, parents, settings, said)
    if known is not None:
        return replace(settings, scale=known), said
    import torch

    read = [windows(shard, config.window, config.trainer.valid_tokens) for shard in shards]
    device = causal_lm.pick_device(config.trainer.device)
    tried: dict[float, float] = {}
    for scale in SCALES:
        with publish.trial(
            forest, parents, replace(settings, scale=scale), reporter.alive
        ) as folder:
            # In float32, as an average is measured and an ensemble scored.
            model = causal_lm.load_model(folder, device, dtype=torch.float32)
            nats = [trainee.validate(model, each, alive=reporter.alive) for each in read]
            tried[scale] = sum(nats) / len(nats)
        reporter.line(
            f"{name}: scale {scale:g}: {tried[scale]:.4f} nats/token on valid of {len(read)} "
            "domains"
        )
    return replace(settings, scale=min(tried, key=lambda scale: tried[scale])), said


def _information(
    config: Config, forest: Forest, elm: ELM, suite: Suite, reporter: Reporter
) -> Path:
    """Estimate an ELM's Fisher information on the valid split of its domain, unless it is there;
    return its folder.
    """
    if not elm.card.domains:
        raise UserError(
            f"average.method=fisher: {elm.name!r} has no domain of its own whose valid split "
            "could be used"
        )
    valid, count = suite.shard(elm.card.domains[0], "valid"), config.average.sequences
    target = forest.paths.fisher(elm.card.sha256, valid, config.window, count)
    if not target.exists():
        device = causal_lm.pick_device(config.trainer.device)
        reporter.line(f"Fisher information of {elm.name} on {valid.domain}/valid")
        try:
            with durable.publish_folder(target) as folder:
                fisher.fisher(elm.path, valid, config.window, count, folder, device, reporter.alive)
        except FileExistsError:
            pass  # another process was faster
    return target
