"""The ensemble token by token: it generates, or scores a stream, and runs its top-k experts alone.

Experts outside the top-k are neither loaded nor run. Each of the k keeps its own key-value cache,
so a token costs one step of k models; the weights follow the tokens by the same rules as in
evaluation (btm/ensemble/rules.py). A router chooses its top-k for each context, so all its experts
are loaded and run. An ensemble that commits lets go of the others; one that recalls keeps their
models alone, and one that comes back reads the text again (btm/ensemble/course.py).

Shapes: E experts, T tokens that are read, V tokens of the vocabulary. Log-probabilities in nats.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.config.checks import check_weights
from btm.config.ensemble import EnsembleConfig
from btm.config.load import LoadConfig
from btm.data.ends import ends_of_model
from btm.data.tokenizer import bos_of_copy, load_tokenizer, size_of
from btm.ensemble import posterior
from btm.ensemble.members import load_member
from btm.ensemble.posterior import Array
from btm.ensemble.rule import AnyRoute
from btm.ensemble.rules import rule_of
from btm.ensemble.sampling import Sampling, pick
from btm.errors import UserError
from btm.forest import Forest, find_model
from btm.models import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CHUNK = 128  # tokens whose whole distributions are held at once


class Ensemble:
    """k experts, or other models over the same tokens, that read one text together; E = k."""

    def __init__(
        self,
        experts: Mapping[str, "PreTrainedModel"],
        log_prior_E: Array,
        start: int,
        ensemble: EnsembleConfig | None = None,
        route: AnyRoute | None = None,
        ends: Collection[int] = (),
        bos: int | None = None,
    ) -> None:
        """Begin a text: the experts read the token `start` first, which is EOS, or the BOS that
        their tokenizer puts before each text. `ends`, or else `start`, end one
        (btm/data/ends.py).

        `bos` is what windows begin with, if anything: also the later part of a text that is longer
        than a model has positions. `route` weighs the experts under the rule `router`, in their
        order.
        """
        self._members = {j: _Reader(model, bos) for j, model in enumerate(experts.values())}
        self._names = list(experts)
        rule = rule_of(ensemble or EnsembleConfig())
        self._recalls = rule.commit is not None and rule.commit.recall
        self.online = rule.course(log_prior_E, route)
        self._text = [start]
        self._ends = set(ends) or {start}
        self._next = {j: member.read([start])[-1] for j, member in self._members.items()}  # (V,)
        self._known: dict[int, list[float]] = {}  # log p of the text's tokens by those that run

    @classmethod
    def load(
        cls,
        forest: Forest,
        prior: Mapping[str, float] | None = None,
        *,
        ensemble: EnsembleConfig | None = None,
        top_k: int = 0,
        device: str = "cpu",
        route: AnyRoute | None = None,
        load: LoadConfig | None = None,
    ) -> "Ensemble":
        """Load the `top_k` likeliest members under `prior` {model: weight} (0: all that have
        weight).

        A member is whatever `find_model` finds: an ELM, an average, one of another forest, a folder
        with the same tokenizer, which is checked as an import is. Without a prior, every expert of
        the forest alike. `UserError` for a model that is not there, or for a top-k under a prior
        that tells no member from another. Under the rule `router` every member is loaded. `load`
        says in what numbers they are held; without it, in float32.
        """
        weights = check_weights(prior or {elm.name: 1.0 for elm in forest.experts()})
        members = {name: find_model(forest, name) for name in weights}
        rule = rule_of(ensemble or EnsembleConfig())
        kept = keep(weights, top_k if rule.needs_prior else 0)
        loaded = {name: load_member(forest, members[name], device, load) for name in kept}
        tokenizer = load_tokenizer(forest.tokenizer)
        eos, size = int(tokenizer.eos_token_id), size_of(tokenizer)
        bos = bos_of_copy(forest.tokenizer, tokenizer)
        ends = {end for model in loaded.values() for end in ends_of_model(model, eos, size).ids}
        log_prior_E = np.log(np.array(list(kept.values())))
        return cls(loaded, log_prior_E, eos if bos is None else bos, ensemble, route, ends, bos)

    @property
    def running(self) -> list[int]:
        """The numbers of the experts that are run, in rising order."""
        return [int(j) for j in self.online.running]

    @property
    def names(self) -> list[str]:
        """The names of the experts that are run."""
        return [self._names[j] for j in self.running]

    @property
    def models(self) -> dict[str, "PreTrainedModel"]:
        """The models that run, {name: model}."""
        return {self._names[j]: self._members[j].model for j in self.running}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each expert before the next token, {name: weight}."""
        weights = np.exp(self.online.log_weights)
        return {name: float(p) for name, p in zip(self.names, weights, strict=True)}

    def next_logp(self) -> Array:
        """Mix the next token's distribution under the present weights, log p, shape (V,)."""
        rows = [self._next[j] for j in self.running]
        # Embeddings may be padded: what lies beyond the smallest vocabulary is no token of the
        # tokenizer.
        size = min(len(logp_V) for logp_V in rows)
        next_EV = np.stack([logp_V[:size] for logp_V in rows]).astype(np.float64)
        joint_EV = next_EV + self.online.log_weights[:, None]
        top_V = joint_EV.max(axis=0)
        return np.log(np.exp(joint_EV - top_V).sum(axis=0)) + top_V

    def read(self, tokens: Sequence[int]) -> Array:
        """Read `tokens` in one pass of each expert; return their log p(x_t | x_<t), shape (T,)."""
        parts = []
        while len(tokens):
            until = self.online.commits_at
            size = _CHUNK if until is None else min(_CHUNK, until - self.online.tokens)
            parts.append(self._read([int(token) for token in tokens[:size]]))
            tokens = tokens[size:]
        return np.concatenate(parts) if parts else np.empty(0)

    def _read(self, tokens: list[int]) -> Array:
        """Read some tokens by all that are run; those that are recalled read as far at once."""
        online = self.online
        self._text += tokens
        first = 0 if self._recalls else online.tokens  # of the tokens whose scores are kept
        for j in self.running:
            kept = self._known.get(j, []) if self._recalls else []
            self._known[j] = [*kept, *self._scores(j, tokens)]
        logp_T = np.empty(len(tokens))
        for t, token in enumerate(tokens):
            at = online.tokens - first
            logp_T[t] = online.update([self._known[j][at] for j in self.running], token)
            if len(online.wanted):
                for j in map(int, online.wanted):
                    if j not in self._known:
                        self._known[j] = self._replay(j)
                online.recall([self._known[j][: online.tokens] for j in online.wanted])
        self._let_go()
        return logp_T

    def _scores(self, j: int, tokens: list[int]) -> list[float]:
        """Read tokens by one expert; return the log p that it gave each."""
        later_TV = self._members[j].read(tokens)
        before_TV = np.concatenate([self._next[j][None], later_TV[:-1]])
        self._next[j] = later_TV[-1]
        return [float(p) for p in before_TV[np.arange(len(tokens)), tokens]]

    def _replay(self, j: int) -> list[float]:
        """Read the whole text by an expert that had forgotten it; return log p of its tokens."""
        self._next[j] = self._members[j].read(self._text[:1])[-1]
        found: list[float] = []
        for start in range(1, len(self._text), _CHUNK):
            found += self._scores(j, self._text[start : start + _CHUNK])
        return found

    def _let_go(self) -> None:
        """Forget what the experts that are not run have read, and themselves if for ever."""
        for j in set(self._next) - set(self.running):
            del self._next[j], self._known[j]
            self._members[j].forget()
            if not self._recalls:
                del self._members[j]

    def generate(self, tokens: int, temperature: float = 1.0, seed: int = 0) -> Iterator[int]:
        """Yield up to `tokens` next tokens, sampled at `temperature` (0: the likeliest),
        until EOS.
        """
        rng = np.random.default_rng(seed)
        for _ in range(tokens):
            token = pick(self.next_logp(), Sampling(temperature), rng)
            if token in self._ends:
                return
            yield token
            self.read([token])


def keep(weights: Mapping[str, float], top_k: int) -> dict[str, float]:
    """Keep the `top_k` likeliest of `weights` (0: all above 0) and normalise them.

    `UserError` where all weigh the same, so that there are no likeliest.
    """
    values = np.array(list(weights.values()), np.float64)
    if 0 < top_k < len(values) and np.ptp(values) == 0:
        raise UserError(
            f"top_k={top_k} of {len(values)} experts that all weigh the same: give a prior, as "
            "domain=NAME does"
        )
    with np.errstate(divide="ignore"):
        kept = np.exp(posterior.top_k(np.log(values), top_k))
    return {name: float(p) for name, p in zip(weights, kept, strict=True) if p > 0}


class _Reader:
    """One expert and its key-value cache of the tokens that it has read."""

    def __init__(self, model: "PreTrainedModel", bos: int | None = None) -> None:
        self.model, self.bos = model, bos
        self.limit = causal_lm.context_limit(model.config.to_dict())
        # transformers called it past_key_values before it called it cache.
        known = inspect.signature(model.forward).parameters
        self._key = "cache" if "cache" in known else "past_key_values"
        self.forget()

    def forget(self) -> None:
        """Begin a text of which nothing was read."""
        from transformers import DynamicCache

        self.seen: list[int] = []  # in the cache
        self._cache: Any = DynamicCache(config=self.model.config)

    def read(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Read `tokens`; return log p of every next token after each of them, shape (T, V).

        Where the model has no more positions it goes on from the second half of what it has read.
        """
        rows = []
        left = [int(token) for token in tokens]
        while left:
            if self.limit is not None and len(self.seen) >= self.limit:
                again = self.seen[-(self.limit // 2) :]
                again[:1] = again[:1] if self.bos is None else [self.bos]
                self.forget()
                self._forward(again)
            room = len(left) if self.limit is None else self.limit - len(self.seen)
            rows.append(self._forward(left[:room]))
            left = left[room:]
        return np.concatenate(rows)

    def _forward(self, tokens: list[int]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            ids = torch.tensor([tokens], device=self.model.device)
            out = self.model(input_ids=ids, use_cache=True, **{self._key: self._cache})
            self.seen += tokens
            return torch.log_softmax(causal_lm.logits_of(out)[0].float(), dim=-1).cpu().numpy()
