"""The router along a text: the experts' weights before every token, by the words before it.

    w_j,t = softmax_j( −‖f(x_<t) − c_j‖² / T ),    p(x_t | x_<t) = Σ_j w_j,t p(x_t | x_<t, D=j)

over the `top_k` centres c_j that are nearest to this context (c-BTM, arXiv 2303.14177, section
2.3). f is the router's feature, of length 1, so TF-IDF's own norm cancels: the features of all
prefixes of a document are the sums Σ idf_v components[:, v] over the words read so far, each
normalised. Time and memory are linear in the words.

A context begins with a document (EOS ends one) or, if windows are contexts of their own, with a
window. Only text of tokens before t counts:
- a word counts once a token with a character after its end was read, since until then it may go on;
- a character of several tokens counts once the last of them was read;
- the first CHARS characters of a context count, as in `words`; the last word there is cut off, and
  counts at once;
- before the first known word all experts weigh the same, whatever `top_k` is: none is nearest.

Shapes: E experts, N tokens, R contexts that differ, F features. numpy alone.
"""

import codecs
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from btm.config.schema import Config
from btm.data.discover.router import CHARS, HOME, Router, words
from btm.data.pieces import token_bytes
from btm.ensemble.posterior import normalise
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Flags, Integers
from btm.errors import UserError

Array = NDArray[np.float64]

_TO_LAST_END = re.compile(r".*\W", re.DOTALL)
_BLOCK = 1 << 13  # tokens whose weights are made at once


class Reading:
    """The words of one text that is read token by token."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """Begin a text; `pieces` are the bytes of each token."""
        self._pieces = pieces
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._open = ""  # the word that may go on
        self._left = CHARS

    @property
    def is_over(self) -> bool:
        """Whether the rest of the text is ignored."""
        return self._left == 0

    def read(self, token: int) -> list[str]:
        """Read one token; return the words that are known to have ended with it."""
        # A vocabulary may be padded with ids that no token has.
        piece = self._pieces[token] if token < len(self._pieces) else b""
        text = self._decode(piece)[: self._left]
        if not text:
            return []
        self._left -= len(text)
        last = _TO_LAST_END.match(text)
        end = len(text) if self.is_over else last.end() if last else 0
        ended, rest = text[:end], text[end:]
        if not ended:
            self._open += rest
            return []
        ended, self._open = self._open + ended, rest
        return words(ended)


@dataclass
class Route:
    """A router for the experts of one ensemble, over the tokens of one tokenizer."""

    router: Router
    rows: list[int]  # the cluster of each expert, (E,)
    pieces: Sequence[bytes]
    ends: Collection[int]  # the tokens that end a document
    top_k: int = 0
    temperature: float | None = None  # None: the router's own

    def __post_init__(self) -> None:
        """Lay the sums out by word."""
        self._index = {term: v for v, term in enumerate(self.router.terms)}
        self._terms_VF = np.ascontiguousarray((self.router.components * self.router.idf).T)
        self._centres_EF = self.router.centres[self.rows].astype(np.float64)

    @classmethod
    def open(
        cls,
        config: Config,
        tokenizer: Path,
        members: Mapping[str, Sequence[str]],
        ends: Collection[int],
    ) -> "Route":
        """Build the route of `members` {expert: domains it was trained on}.

        `UserError` for a member whose domain is no cluster of the router.
        """
        folder, router = find_router(config)
        for name, domains in members.items():
            if len(domains) != 1 or domains[0] not in router.domains:
                trained = ", ".join(domains) or "no domain"
                raise UserError(
                    f"the expert {name!r} was trained on {trained}; wanted one of the clusters of "
                    f"the router {folder}, "
                    f"{_span(router)}: choose with ensemble.experts=[…], or give another "
                    "ensemble.router=DIR"
                )
        rows = [router.domains.index(domains[0]) for domains in members.values()]
        chosen = config.ensemble
        return cls(router, rows, token_bytes(tokenizer), ends, chosen.top_k, chosen.temperature)

    def __call__(self, ids_N: ArrayLike, resets_N: Flags) -> Iterator[Array]:
        """Yield log w_j,t of consecutive tokens, (E, some of N), for the tokens `ids_N`.

        A context ends at each of `ends`, and before each token that `resets_N` marks.
        """
        ids = np.asarray(ids_N)
        ends = np.flatnonzero(np.isin(ids, list(self.ends))) + 1
        cuts = np.flatnonzero(resets_N)
        bounds = np.unique(np.concatenate([[0, len(ids)], ends, cuts]).astype(np.int64))
        for start, stop in pairwise(bounds.tolist()):
            yield from self._context(ids[start:stop].tolist())

    def begin(self) -> "OnlineRouter":
        """Begin a text that is read token by token."""
        return OnlineRouter(self)

    def terms(self, found: Sequence[str]) -> list[int]:
        """Look up words as indices of the router's terms; unknown ones are left out."""
        return [self._index[word] for word in found if word in self._index]

    def sums(self, terms: Sequence[int]) -> Array:
        """Look up the summand of each term in the features, (terms, F)."""
        return self._terms_VF[list(terms)].astype(np.float64)

    def log_weights(self, sums_RF: Array) -> Array:
        """Compute log w of contexts from their sums over words, (R, E); equal where a sum is 0."""
        lengths = np.linalg.norm(sums_RF, axis=1, keepdims=True)
        features = sums_RF / np.maximum(lengths, 1e-12)
        squares = (features**2).sum(axis=1)[:, None] + (self._centres_EF**2).sum(axis=1)
        logits = 2 * features @ self._centres_EF.T - squares
        logits /= self.router.temperature if self.temperature is None else self.temperature
        # The top-k is of each context, so it is taken here and not from a prior.
        if 0 < self.top_k < logits.shape[1]:
            others = np.argsort(-logits, axis=1, kind="stable")[:, self.top_k :]
            np.put_along_axis(logits, others, -np.inf, axis=1)
        logits[lengths[:, 0] <= 1e-12] = 0
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def _context(self, ids: list[int]) -> Iterator[Array]:
        reading = Reading(self.pieces)
        read_at, counts, terms = [], [], []  # tokens that ended known words, how many words, which
        for t, token in enumerate(ids):
            if reading.is_over:
                break
            if found := self.terms(reading.read(token)):
                read_at.append(t)
                terms += found
                counts.append(len(terms))
        added = self.sums(terms)
        sums = np.concatenate(
            [np.zeros((1, added.shape[1])), np.cumsum(added, axis=0)[np.array(counts, int) - 1]]
        )
        log_weights_ER = self.log_weights(sums).T
        for start in range(0, len(ids), _BLOCK):
            tokens = np.arange(start, min(start + _BLOCK, len(ids)))
            yield log_weights_ER[:, np.searchsorted(read_at, tokens)]


class OnlineRouter:
    """The weights of one text that is read token by token: those of a `Route`."""

    def __init__(self, route: Route) -> None:
        """Begin a text of which nothing was seen."""
        self._route = route
        self._kept = np.arange(len(route.rows))
        self._begin()

    def _begin(self) -> None:
        self._reading = Reading(self._route.pieces)
        self._sums_F: Array = np.zeros(self._route.router.components.shape[0])
        self._weigh()

    def _weigh(self) -> None:
        log_weights_E = self._route.log_weights(self._sums_F[None])[0][self._kept]
        if not np.isfinite(log_weights_E).any():  # the route's top-k are all left out
            log_weights_E = np.zeros(len(self._kept))
        self.log_weights: Array = normalise(log_weights_E)

    def restrict(self, best: Integers) -> None:
        """Go on with the experts of these numbers alone, (k,): from now on E = k."""
        self._kept = self._kept[best]
        self._weigh()

    def update(self, logp_E: ArrayLike, token: int) -> float:
        """Read one token and its log p(x_t | x_<t, D=j); return the mixture's log p(x_t | x_<t)."""
        mixed = float(np.logaddexp.reduce(self.log_weights + np.asarray(logp_E, np.float64)))
        if token in self._route.ends:
            self._begin()
            return mixed
        found = [] if self._reading.is_over else self._route.terms(self._reading.read(token))
        for added_F in self._route.sums(found):
            self._sums_F = self._sums_F + added_F
        if found:
            self._weigh()
        return mixed


def find_router(config: Config) -> tuple[Path, Router]:
    """Open the router of `ensemble.router`, or else the one in data.root; return folder and router.

    `UserError` where neither has one.
    """
    given = config.ensemble.router or config.data.root
    if given is None:
        raise UserError(
            "ensemble.rule=router: which router? give ensemble.router=DIR, the folder that "
            "discovery wrote"
        )
    folder = Path(given)
    folder = folder / HOME if (folder / HOME).is_dir() else folder
    if not (folder / "router.json").is_file():
        raise UserError(
            f"no router in {given}: give ensemble.router=DIR, the folder that btm discover wrote, "
            f"or its {HOME}"
        )
    return folder, Router.load(folder)


def check_domains(config: Config, domains: Sequence[str]) -> None:
    """Require that every domain of a cycle is a cluster of the router, if its rule needs one.

    Otherwise its evaluation, at the end, would be a `UserError`.
    """
    if not rule_of(config.ensemble).needs_route:
        return
    folder, router = find_router(config)
    for domain in domains:
        if domain not in router.domains and not config.ensemble.experts:
            raise UserError(
                f"ensemble.rule=router: {domain!r} is no cluster of the router {folder}; it has "
                f"{_span(router)}: give "
                "run.domains=[…], another ensemble.router=DIR, or another ensemble"
            )


def _span(router: Router) -> str:
    return (
        f"{router.domains[0]} … {router.domains[-1]}"
        if len(router.domains) > 1
        else router.domains[0]
    )
