"""The ensemble token by token: it generates, or scores a stream, and runs its top-k experts alone.

Experts outside the top-k are neither loaded nor run. Each of the k keeps its own key-value cache,
so a token costs one step of k models; the weights follow the tokens by the same rules as in
evaluation (btm/ensemble/rules.py). A router chooses its top-k for each context, so all its experts
are loaded and run.

Shapes: E experts, T tokens that are read, V tokens of the vocabulary. Log-probabilities in nats.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm.config.checks import check_weights
from btm.config.ensemble import EnsembleConfig
from btm.data.ends import ends_of_model
from btm.data.tokenizer import bos_of_copy, load_tokenizer, recorded_policy, size_of
from btm.ensemble import posterior
from btm.ensemble.commit import Commit
from btm.ensemble.posterior import Array
from btm.ensemble.rule import AnyRoute
from btm.ensemble.rules import rule_of
from btm.ensemble.sampling import Sampling, pick
from btm.errors import UserError
from btm.forest import Forest, Model, find_model, require_same_tokenizer
from btm.interop import huggingface
from btm.models import causal_lm
from btm.models.causality import require_causal

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
        self.experts = [_Reader(model, bos) for model in experts.values()]
        self.names = list(experts)
        rule = rule_of(ensemble or EnsembleConfig())
        self.online = rule.begin(log_prior_E, route)
        self._commit = rule.commit
        self._left = 0 if rule.commit is None else rule.commit.tokens  # to be read by all experts
        self._log_posterior_E = np.asarray(log_prior_E, np.float64)  # after what they have read
        self._ends = set(ends) or {start}
        self._next_EV = self._advance([start])[:, -1]

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
    ) -> "Ensemble":
        """Load the `top_k` likeliest members under `prior` {model: weight} (0: all that have
        weight).

        A member is whatever `find_model` finds: an ELM, an average, one of another forest, a folder
        with the same tokenizer, which is checked as an import is. Without a prior, every expert of
        the forest alike. `UserError` for a model that is not there, or for a top-k under a prior
        that tells no member from another. Under the rule `router` every member is loaded.
        """
        weights = check_weights(prior or {elm.name: 1.0 for elm in forest.experts()})
        members = {name: find_model(forest, name) for name in weights}
        rule = rule_of(ensemble or EnsembleConfig())
        kept = keep(weights, top_k if rule.needs_prior else 0)
        loaded = {name: load_member(forest, members[name], device) for name in kept}
        tokenizer = load_tokenizer(forest.tokenizer)
        eos, size = int(tokenizer.eos_token_id), size_of(tokenizer)
        bos = bos_of_copy(forest.tokenizer, tokenizer)
        ends = {end for model in loaded.values() for end in ends_of_model(model, eos, size).ids}
        log_prior_E = np.log(np.array(list(kept.values())))
        return cls(loaded, log_prior_E, eos if bos is None else bos, ensemble, route, ends, bos)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each expert before the next token, {name: weight}."""
        return {
            n: float(p) for n, p in zip(self.names, np.exp(self.online.log_weights), strict=True)
        }

    def next_logp(self) -> Array:
        """Mix the next token's distribution under the present weights, log p, shape (V,)."""
        joint_EV = self._next_EV + self.online.log_weights[:, None]
        top_V = joint_EV.max(axis=0)
        return np.log(np.exp(joint_EV - top_V).sum(axis=0)) + top_V

    def read(self, tokens: Sequence[int]) -> Array:
        """Read `tokens` in one pass of each expert; return their log p(x_t | x_<t), shape (T,)."""
        parts = []
        while len(tokens):
            size = min(_CHUNK, self._left or _CHUNK)
            parts.append(self._read(tokens[:size]))
            tokens = tokens[size:]
        return np.concatenate(parts) if parts else np.empty(0)

    def _read(self, tokens: Sequence[int]) -> Array:
        later_ETV = self._advance(tokens)
        before_ETV = np.concatenate([self._next_EV[:, None], later_ETV[:, :-1]], axis=1)
        logp_ET = before_ETV[:, np.arange(len(tokens)), np.asarray(tokens)]
        self._next_EV = later_ETV[:, -1]
        seen = zip(logp_ET.T, tokens, strict=True)
        logp_T = np.array([self.online.update(logp_E, token) for logp_E, token in seen])
        if self._commit is not None and self._left:
            self._left -= len(tokens)
            self._log_posterior_E = self._log_posterior_E + logp_ET.sum(axis=1)
            if not self._left:
                self._go_on_alone(self._commit)
        return logp_T

    def _go_on_alone(self, commit: Commit) -> None:
        """Let go of all experts but the best, with their caches."""
        best = commit.best(self._log_posterior_E)
        self.online.restrict(best)
        self.experts = [self.experts[j] for j in best]
        self.names = [self.names[j] for j in best]
        self._next_EV = self._next_EV[best]

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

    def _advance(self, tokens: Sequence[int]) -> Array:
        """Run each member over `tokens`; return log p of every next token after each, (E, T, V)."""
        read = [expert.read(tokens) for expert in self.experts]
        # Embeddings may be padded: what lies beyond the smallest vocabulary is no token of the
        # tokenizer.
        size = min(logp_TV.shape[1] for logp_TV in read)
        return np.stack([logp_TV[:, :size] for logp_TV in read]).astype(np.float64)


def load_member(forest: Forest, model: Model, device: str) -> "PreTrainedModel":
    """Load a member in float32, in evaluation mode; a folder passes an import's checks first."""
    import torch

    if model.kind != "folder":
        loaded = causal_lm.load_model(model.path, device, dtype=torch.float32)
        require_causal(loaded, str(model.path))
        return loaded
    bos = recorded_policy(forest.tokenizer)
    with huggingface.checked(model.path, "ensemble.experts", forest.root, bos=bos) as found:
        require_same_tokenizer(forest, found.tokenizer_sha256, str(model.path))
        return found.model.float().to(device).eval()


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
        self._forget()

    def _forget(self) -> None:
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
                self._forget()
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
