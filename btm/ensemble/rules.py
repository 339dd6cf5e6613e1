"""The seven rules that weigh the experts of an ensemble, each with its equation.

A new rule is a class here, a line in RULES, and its word in `btm.config.ensemble.RULES`.

Shapes: E experts, S sequences, T tokens of one, N tokens of a shard in order. Scores are
log p(x_t | x_<t, D=j) in nats; π is the prior, w_t are the weights before token t. numpy alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from btm.config.checks import check_choice
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate, posterior, tracking
from btm.ensemble.course import OnlineWeights
from btm.ensemble.posterior import Array, normalise
from btm.ensemble.rule import (
    AnyRoute,
    Mixed,
    Rule,
    SequenceRule,
    ValidScores,
)
from btm.ensemble.text import Text, portions, resets
from btm.ensemble.tracking import Likelihoods
from btm.system.json_files import Json


def rule_of(ensemble: EnsembleConfig) -> Rule:
    """Build the rule that `ensemble` names; `UserError` for an unknown name."""
    return RULES[check_choice(ensemble.rule, "ensemble.rule", tuple(RULES))](ensemble)


class Bayes(SequenceRule):
    """Weigh by the posterior of the whole prefix: w_t ∝ π p(x_<t | D=j).

    BTM, arXiv 2208.03306, equation 2 (`posterior.domain_posterior`). Under a frozen prior these are
    the paper's `uniform` and `cached`; with a moving one, its `updating`.
    """

    is_posterior = True

    def _weigh(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, log_first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        begin_ES = log_prior_ES if log_first_ES is None else log_first_ES
        return posterior.mix_sequences(logp_EST, begin_ES)

    def step(self, log_weights_E: Array, logp_E: Array, log_prior_E: Array) -> Array:
        """Multiply the weights by the token's likelihoods."""
        return normalise(log_weights_E + logp_E)


class Simple(SequenceRule):
    """Weigh by the prior for ever: w_t = π. A uniform prior gives the average of probabilities."""

    def _weigh(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, log_first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        log_weights_ES = normalise(log_prior_ES) if log_first_ES is None else log_first_ES
        weights_EST = np.broadcast_to(np.exp(log_weights_ES)[..., None], logp_EST.shape)
        return posterior.logsumexp(log_weights_ES[..., None] + logp_EST), weights_EST

    def step(self, log_weights_E: Array, logp_E: Array, log_prior_E: Array) -> Array:
        """Leave the weights as they are."""
        return log_weights_E


class LastToken(SequenceRule):
    """Weigh by the last token alone: w_t ∝ π p(x_t-1 | x_<t-1, D=j), w_0 uniform.

    What the code released with DEMix layers computes (kernelmachine/demix, sequence_scorer.py), and
    not what the paper writes; kept to replicate its numbers.
    """

    def _weigh(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, log_first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        log_weights_EST = np.empty(logp_EST.shape)
        log_weights_EST[..., 0] = self.first(log_prior_ES) if log_first_ES is None else log_first_ES
        log_weights_EST[..., 1:] = log_prior_ES[..., None] + logp_EST[..., :-1]
        log_weights_EST -= posterior.logsumexp(log_weights_EST)
        return posterior.logsumexp(log_weights_EST + logp_EST), np.exp(log_weights_EST)

    def first(self, log_prior_E: Array) -> Array:
        """Give every expert the same weight, whatever the prior."""
        return np.full(log_prior_E.shape, -np.log(len(log_prior_E)))

    def step(self, log_weights_E: Array, logp_E: Array, log_prior_E: Array) -> Array:
        """Multiply the prior by the token's likelihoods."""
        return normalise(log_prior_E + logp_E)


class Tracking(SequenceRule):
    """Weigh by a posterior that forgets and may switch.

    w_t+1 = (1 - α) normalise(w_t^β p(x_t | x_<t, D=j)) + α π. With α > 0 the loss is bounded
    against the best *sequence* of experts (fixed share: Herbster and Warmuth, Machine Learning 32,
    1998); β < 1 forgets old tokens. Bayes' rule on the whole prefix, α = 0 and β = 1, can do
    neither, and documents change topic.
    """

    fits: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    @property
    def alpha_beta(self) -> tuple[float, float]:
        """α and β in force; one that is null stands at the value that changes nothing."""
        return self.ensemble.settings

    def fit(self, valid: Sequence[ValidScores]) -> Rule:
        """Set the α and β that are null to the best of ALPHAS and BETAS on valid shards."""
        alphas = (self.ensemble.alpha,) if self.ensemble.alpha is not None else tracking.ALPHAS
        choices = [(alpha, beta) for alpha in alphas for beta in self._betas()]
        best = 0
        if len(choices) > 1:
            losses = np.zeros(len(choices))
            for shard in valid:
                losses += self._nats(shard, choices) / shard.tokens
            best = int(losses.argmin())
        alpha, beta = choices[best]
        return replace(self, ensemble=replace(self.ensemble, alpha=alpha, beta=beta))

    def _betas(self) -> tuple[float, ...]:
        return (self.ensemble.beta,) if self.ensemble.beta is not None else tracking.BETAS

    def _nats(self, valid: ValidScores, choices: list[tuple[float, float]]) -> Array:
        return tracking.nats_of_choices(
            valid.logp, valid.log_prior, valid.tokens, choices, self.ensemble, valid.text
        )

    def report(self) -> Json:
        """Name α and β once they are set."""
        if self.ensemble.alpha is None:
            return {}
        return {"alpha": self.ensemble.alpha, "beta": self.ensemble.beta}

    def _weigh(
        self, logp_EST: NDArray[Any], log_prior_ES: Array, log_first_ES: Array | None = None
    ) -> tuple[Array, Array]:
        return Likelihoods.of(logp_EST).track(log_prior_ES, *self.alpha_beta, log_first_ES)

    def step(self, log_weights_E: Array, logp_E: Array, log_prior_E: Array) -> Array:
        """Take one step of the recursion in log space."""
        alpha, beta = self.alpha_beta
        seen_E = normalise(beta * log_weights_E + logp_E)
        if not alpha:
            return seen_E
        with np.errstate(divide="ignore"):
            shares = np.log([1 - alpha, alpha])
        return np.logaddexp(shares[0] + seen_E, shares[1] + log_prior_E)


class FixedShare(Tracking):
    """Weigh as `Tracking` without forgetting, β = 1.

    w_t+1 = (1 - α) normalise(w_t p(x_t | x_<t, D=j)) + α π.
    """

    fits = ("alpha",)

    @property
    def alpha_beta(self) -> tuple[float, float]:
        """α in force, and β = 1."""
        return self.ensemble.settings[0], 1.0

    def _betas(self) -> tuple[float, ...]:
        return (1.0,)


class Gated(Rule):
    """Weigh by what each expert was worth lately, and after the same tokens (btm/ensemble/gate)."""

    needs_tokens = True
    fits = ("gate",)

    @property
    def theta(self) -> Sequence[float]:
        """The gate in force, its default where it is null."""
        return gate.DEFAULT if self.ensemble.gate is None else self.ensemble.gate

    def fit(self, valid: Sequence[ValidScores]) -> Rule:
        """Fit the gate, unless it is given, by maximum likelihood on valid shards."""
        if self.ensemble.gate is not None:
            return self
        samples = []
        for shard in valid:
            if shard.text is None:
                raise ValueError("a gate is fitted on scores and their tokens")
            experts, _, window = shard.logp.shape
            logp_EN = shard.logp.reshape(experts, -1)[:, : shard.tokens]
            begins_N = resets(self.ensemble.carry, shard.tokens, window, shard.text)
            ids_N, most = shard.text.ids[: shard.tokens], gate.SAMPLE // len(valid)
            samples.append(gate.Sample.of(logp_EN, shard.log_prior, ids_N, begins_N, most=most))
        return replace(self, ensemble=replace(self.ensemble, gate=list(gate.fit(samples))))

    def report(self) -> Json:
        """Name the parameters of a gate that is given or fitted."""
        return {"gate": gate.named(self.ensemble.gate)} if self.ensemble.gate else {}

    def _mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        text: Text | None,
        route: AnyRoute | None,
    ) -> Mixed:
        assert text is not None  # `mix` has seen to it
        experts, _, window = logp_EST.shape
        logp_EN = logp_EST.reshape(experts, -1)[:, :tokens]
        begins_N = resets(self.ensemble.carry, tokens, window, text)
        logp_N, weights_E = [], np.zeros(experts)
        for some in portions(begins_N):
            for block_N, weights_EN in gate.mixed_blocks(
                logp_EN[:, some],
                log_prior_E,
                self.theta,
                text.ids[some],
                begins_N[some],
                commit=self.commit,
            ):
                logp_N.append(block_N)
                weights_E += weights_EN.sum(axis=1)
        return Mixed(np.concatenate(logp_N), weights_E / tokens)

    def begin(self, log_prior_E: Array, route: AnyRoute | None = None) -> OnlineWeights:
        """Begin a text of which nothing was seen."""
        return gate.OnlineGate(log_prior_E, self.theta)


class Routed(Rule):
    """Weigh by the words of the text alone (c-BTM, arXiv 2303.14177; btm/ensemble/router.py).

    It asks for no prior: it keeps a top-k of the experts for each context, so all of them are run.
    """

    needs_tokens = True
    needs_route = True
    needs_prior = False

    def _mix(
        self,
        logp_EST: NDArray[np.float32],
        log_prior_E: Array,
        tokens: int,
        text: Text | None,
        route: AnyRoute | None,
    ) -> Mixed:
        if route is None:
            raise ValueError("the rule router needs a route")
        assert text is not None  # `mix` has seen to it
        experts, _, window = logp_EST.shape
        logp_EN = logp_EST.reshape(experts, -1)
        begins_N = resets(self.ensemble.carry, tokens, window, text)
        logp_N, weights_E, start = np.empty(tokens), np.zeros(experts), 0
        for log_weights_EB in route(text.ids[:tokens], begins_N):
            stop = start + log_weights_EB.shape[1]
            logp_N[start:stop] = np.logaddexp.reduce(
                logp_EN[:, start:stop] + log_weights_EB, axis=0
            )
            weights_E += np.exp(log_weights_EB).sum(axis=1)
            start = stop
        return Mixed(logp_N, weights_E / tokens)

    def begin(self, log_prior_E: Array, route: AnyRoute | None = None) -> OnlineWeights:
        """Begin a text at the route; `ValueError` for none, or one of other experts."""
        if route is None or len(route.rows) != len(log_prior_E):
            raise ValueError("the rule router needs a route for these experts")
        return route.begin()


RULES: Mapping[str, type[Rule]] = {
    "bayes": Bayes,
    "simple": Simple,
    "last_token": LastToken,
    "fixed_share": FixedShare,
    "tracking": Tracking,
    "gated": Gated,
    "router": Routed,
}
