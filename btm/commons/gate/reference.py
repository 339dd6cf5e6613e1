"""The forest's side of every comparison, measured once for many contributions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.commons.gate import movement, trials
from btm.commons.gate.harm import Held, Losses, losses
from btm.commons.gate.movement import Movement
from btm.commons.gate.probes import NO_PROBES, Probes
from btm.commons.gate.verdict import RefusedError
from btm.config.load import LoadConfig
from btm.config.schema import Config
from btm.data.shards import Shard, Suite
from btm.data.tokenizer import load_tokenizer, size_of
from btm.ensemble import adapters
from btm.ensemble import score as scoring
from btm.ensemble.text import Text
from btm.errors import UserError
from btm.forest import ELM, Forest
from btm.models import causal_lm
from btm.report import Reporter, quiet
from btm.steps import score_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Tried:
    """The results of the trials of one model on one domain."""

    certainties: NDArray[np.float64]  # of a continuation, by trigger, as probabilities
    recital: int  # tokens
    exposures: list[float]  # bits by canary
    extracted: int  # canaries


@dataclass
class Reference:
    """A forest, its experts' movements, their scores on held-out text, and trials of parents.

    Losses are measured as those on cards are: in float32, in windows that do not overlap. Good for
    as long as no ELM enters or leaves.
    """

    config: Config
    forest: Forest
    suite: Suite
    probes: Probes = NO_PROBES
    reporter: Reporter = quiet
    _held: dict[str, Held] = field(default_factory=dict)
    _tried: dict[tuple[str, str], Tried] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = score_cache.for_cards(self.config)

    @cached_property
    def experts(self) -> list[ELM]:
        """The members of the ensemble."""
        return self.forest.experts()

    @cached_property
    def movements(self) -> dict[str, Movement]:
        """How far each expert moved from the parents on its card, by name; one whose parents are
        not all there any more is left out.
        """
        made = {}
        here = {elm.card.sha256: elm.path for elm in self.forest.elms()}
        for elm in self.experts:
            parents = elm.card.parents.values()
            if parents and all(parent.sha256 in here for parent in parents):
                shares = {here[parent.sha256]: parent.weight for parent in parents}
                made[elm.name] = movement.movement(elm.path, shares)
        return made

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that all ELMs share."""
        return load_tokenizer(self.forest.tokenizer)

    @cached_property
    def triggers(self) -> list[trials.Tokens]:
        """The triggers, as token ids."""
        shards = [self.shard(domain) for domain in self.suite.domains()]
        return trials.triggers(self.probes, self.tokenizer, shards, size_of(self.tokenizer))

    @cached_property
    def texts(self) -> trials.Tokens:
        """The held-out texts that triggers are put behind."""
        return trials.texts_of([self.shard(domain) for domain in self.domains])

    def shard(self, domain: str) -> Shard:
        """Open the held-out text of a domain."""
        return self.suite.shard(domain, "valid")

    def tokens(self, shard: Shard) -> int:
        """Count the tokens of a shard that are measured on."""
        return shard.head(self.config.score.max_tokens)[0]

    def held(self, domain: str) -> Held:
        """Read the scores of the ensemble's members on a domain; computed where missing."""
        if domain not in self._held:
            shard = self.shard(domain)
            scores = self._forest_scores(self.experts, shard)
            tokens = self.tokens(shard)
            logp = score_cache.stack(scores, shard, self.experts)
            self._held[domain] = Held(logp, tokens, Text.of(shard, tokens))
        return self._held[domain]

    @cached_property
    def domains(self) -> list[str]:
        """The domains that harm is measured on: all of the suite."""
        return self.suite.domains()

    @cached_property
    def _fitted_on(self) -> list[str]:
        """The domains that a rule is fitted on: those that experts were trained on."""
        trained = {domain for elm in self.experts for domain in elm.card.domains}
        return [domain for domain in self.domains if domain in trained]

    @cached_property
    def losses(self) -> dict[str, Losses]:
        """The losses of the ensemble as it stands, by domain."""
        helds = {domain: self.held(domain) for domain in self.domains}
        return losses(helds, self._fitted_on, self.config.ensemble)

    def harms(self, scores: Callable[[str], NDArray[np.float32]]) -> dict[str, float]:
        """Compute what the ensemble loses on each domain by one more expert, in nats per token.

        `scores` gives the expert's on a domain, (S, T).
        """
        helds = {domain: self.held(domain).with_(scores(domain)) for domain in self.domains}
        after = losses(helds, self._fitted_on, self.config.ensemble)
        return {domain: self.losses[domain].harm(after[domain]) for domain in self.domains}

    def parent_nats(self, parents: Mapping[str, float], domain: str) -> dict[str, float]:
        """Measure each parent on a domain, in nats per token."""
        elms, shard = [self.forest[name] for name in parents], self.shard(domain)
        scores = self._forest_scores(elms, shard)
        tokens = self.tokens(shard)
        return {
            elm.name: scoring.nats_of(
                score_cache.read(scores, shard, elm.card.sha256), shard, tokens
            )
            for elm in elms
        }

    def tried(self, name: str, domain: str) -> Tried:
        """Try an ELM of the forest on a domain, once."""
        if (name, domain) not in self._tried:
            model = self.load(self.forest[name].path)
            self._tried[name, domain] = self.trial(model, domain)
        return self._tried[name, domain]

    def trial(self, model: "PreTrainedModel", domain: str) -> Tried:
        """Try a model on a domain with every trigger and canary, and ask what it recites."""
        shard = self.shard(domain)
        tokens = self.tokens(shard)
        triggers = self.triggers if len(self.texts) else []
        certainties = trials.certainties(model, self.texts, triggers)
        found = [
            trials.exposure(model, self.tokenizer, canary, self.probes.seed)
            for canary in self.probes.canaries
        ]
        recital = trials.longest_recital(model, shard, tokens, self.config.window)
        bits = [exposure for exposure, _ in found]
        return Tried(certainties, recital, bits, sum(extracted for _, extracted in found))

    def load(self, folder: Path) -> "PreTrainedModel":
        """Load a model of the forest, or a restored one, for measuring."""
        device = causal_lm.pick_device(self.config.trainer.device)
        return adapters.load(folder, device, LoadConfig()).eval()

    def _forest_scores(self, elms: list[ELM], shard: Shard) -> scoring.Scores:
        for elm in elms:
            score_cache.score_missing(
                self.config, self.forest, elm.path, elm.card.sha256, [shard], self.reporter
            )
        return score_cache.scores_of(self.config, self.forest)

    def scores_in(
        self, folder: Path, model: "PreTrainedModel", sha256: str
    ) -> Callable[[str], NDArray[np.float32]]:
        """Return a function from a domain to a stranger's scores, (S, T); they stay out of the
        forest, in `folder`. It raises `RefusedError` if one is not finite.
        """
        kept = score_cache.scores_of(self.config, self.forest)
        scores = scoring.Scores(folder, kept.window, kept.max_tokens, kept.stride, kept.loaded)

        def of(domain: str) -> NDArray[np.float32]:
            shard = self.shard(domain)
            if scores.read(shard, sha256) is None:
                size = self.config.score.batch_size
                try:
                    scoring.score(model, shard, scores, sha256, batch_size=size)
                except UserError as error:
                    raise RefusedError("own", str(error)) from None
            return score_cache.read(scores, shard, sha256)

        return of
