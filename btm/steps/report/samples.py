"""The posterior over the tokens of sample documents, from scores that stand in the forest."""

import codecs
from dataclasses import replace

import numpy as np

from btm.config.ensemble import EnsembleConfig
from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.data.pieces import token_bytes
from btm.data.shards import Shard, Suite
from btm.ensemble import score as scoring
from btm.ensemble.course import follow
from btm.ensemble.posterior import Array
from btm.ensemble.rule import AnyRoute, Rule
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Flags, Text, resets
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.suites import evaluated_suites
from btm.steps import domain_weights
from btm.steps.report.facts import Sample
from btm.steps.standing import router_of
from btm.system.json_files import Json

_SHARDS = 8  # that are shown, at most
TOKENS = 160  # of each
_EXPERTS = 8  # of each: as many as there are colours


def samples(config: Config, result: Json, tokens: int = TOKENS) -> list[Sample]:
    """Weigh the experts before each of the first `tokens` tokens of some shards, under the rule and
    the prior that an evaluation fitted for them.

    `UserError` if the text, scores of it or the router are not there any more, and for a prior
    that moves from window to window, which an evaluation does not keep.
    """
    if result["ensemble"]["prior"] == "updating":
        raise UserError(
            "ensemble.prior=updating: an evaluation does not keep the prior of a window"
        )
    if (router := result.get("router_sha256")) is not None:
        chosen = replace(config.ensemble, rule="router", router=result["ensemble"]["router"])
        config = replace(config, ensemble=chosen)
        if router_of(config)["router_sha256"] != router:
            raise UserError("its router is another one than when it was evaluated")
    forest = Forest(config.forest_root)
    config = replace(config, eval=replace(config.eval, suites=[]))
    suite = evaluated_suites(config)
    pieces = token_bytes(forest.tokenizer)
    shown = _chosen(result["shards"])
    return [_sample(config, forest, suite, result, name, pieces, tokens) for name in shown]


def _chosen(shards: Json) -> list[str]:
    """Choose shards: of those trained on and of the novel ones as many, evenly."""
    found: list[str] = []
    for novel, most in ((False, _SHARDS // 2), (True, _SHARDS // 2)):
        of_kind = [name for name, shard in shards.items() if shard["novel"] == novel]
        step = max(1, len(of_kind) / most)
        found += [of_kind[int(i * step)] for i in range(min(most, len(of_kind)))]
    return found


def _sample(
    config: Config,
    forest: Forest,
    suite: Suite,
    result: Json,
    name: str,
    pieces: list[bytes],
    most: int,
) -> Sample:
    domain, _, split = name.partition("/")
    shard, entry = suite.shard(domain, split), result["shards"][name]
    if shard.sha256 != result["text"][domain][split]:
        raise UserError(f"{name}: its text is another one than when it was evaluated")
    members = list(entry["prior"])
    logp_EN = _scores(forest, result, shard, members, most)
    tokens = logp_EN.shape[1]
    text = Text.of(shard, tokens)
    begins_N = resets(result["ensemble"]["carry"], tokens, int(result["window"]), text)
    with np.errstate(divide="ignore"):
        log_prior_E = np.log(np.array([entry["prior"][name] for name in members]))
    rule = rule_of(fitted(result["ensemble"], entry))
    elms = [forest[name] for name in members]
    route = domain_weights.route(config, forest, elms, {suite.eos})
    weights_NE, nats_N = _weighed(rule, log_prior_E, logp_EN, text, begins_N, route)
    top = np.argsort(-weights_NE.mean(axis=0), kind="stable")[:_EXPERTS]
    top = top[weights_NE[:, top].max(axis=0) >= 0.005]
    return Sample(
        name,
        entry["novel"],
        texts(text.ids.tolist(), pieces),
        np.flatnonzero(begins_N).tolist(),
        [members[e] for e in top],
        [[round(float(w), 3) for w in row] for row in weights_NE[:, top]],
        [round(float(n), 3) for n in nats_N],
        [[round(-float(v), 3) for v in row] for row in logp_EN[top].T],
    )


def _weighed(
    rule: Rule,
    log_prior_E: Array,
    logp_EN: Array,
    text: Text,
    begins_N: Flags,
    route: AnyRoute | None,
) -> tuple[Array, Array]:
    """Compute the weights before each token, (N, E), and the mixture's nats, (N,)."""
    kept = np.flatnonzero(np.isfinite(log_prior_E))
    starts = np.flatnonzero(begins_N)
    weights_NE, nats_N = np.zeros(logp_EN.T.shape), np.empty(logp_EN.shape[1])
    for start, stop in zip(starts, [*starts[1:], len(nats_N)], strict=True):
        course, some = rule.course(log_prior_E[kept], route), slice(start, stop)
        mixed_T, log_weights_ET = follow(course, logp_EN[kept, some], text.ids[some])
        nats_N[some] = -mixed_T
        weights_NE[some, kept] = np.exp(log_weights_ET).T
    return weights_NE, nats_N


def fitted(chosen: Json, entry: Json) -> EnsembleConfig:
    """Make the settings of the ensemble of one shard: those of the evaluation, and what was fitted
    for the shard.
    """
    known = {key: value for key, value in chosen.items() if key in EnsembleConfig.__annotations__}
    made = EnsembleConfig(**known)
    for key in ("alpha", "beta", "temperature"):
        if key in entry:
            made = replace(made, **{key: entry[key]})
    return replace(made, gate=list(entry["gate"].values())) if "gate" in entry else made


def _scores(forest: Forest, result: Json, shard: Shard, members: list[str], most: int) -> Array:
    """Read the scores of the first tokens by every member, (E, N)."""
    load = LoadConfig(**result["load"]) if "load" in result else LoadConfig()
    scores = scoring.Scores(
        forest.paths.scores,
        int(result["window"]),
        int(result["max_tokens"]),
        int(result.get("stride", 0)),
        load.word,
    )
    size = min(most, shard.head(int(result["max_tokens"]))[0])
    rows = []
    for name in members:
        found = scores.read(shard, result["elms"][name])
        if found is None:
            raise UserError(f"no scores of {name} on {shard.domain}/{shard.split} stand any more")
        rows.append(np.asarray(found.reshape(-1)[:size]))
    return np.stack(rows)


def texts(ids: list[int], pieces: list[bytes]) -> list[str]:
    """Read tokens as text; where a character takes several tokens, the last one has it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(pieces[i] if i < len(pieces) else b"") for i in ids]
