"""The tokens of a completion and their log-probabilities, in both shapes that servers write.

OpenAI's own has lists side by side and names tokens by their text; vLLM writes `token_id:7` where
it is asked to. llama.cpp's server writes an object for each token, with its id.

Shapes: k tokens that are listed, V tokens of the vocabulary. Log-probabilities in nats.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from btm.serve.members.member import Rest
from btm.system.json_files import Json

if TYPE_CHECKING:
    import torch

_ID = "token_id:"
_ROUNDED = 1e-6  # mass of what is not listed at least: what is told is rounded
_OVER = 1e-2  # that probabilities may sum to more than 1, in 16 bits


@dataclass(frozen=True)
class Named:
    """A token as an answer names it, and its log p, if it is told."""

    text: str
    logp: float | None
    id: int | None = None
    raw: bytes | None = None  # its bytes


@dataclass(frozen=True)
class Entry:
    """A token of a text or an answer, and the likeliest tokens in its place."""

    token: Named
    top: tuple[Named, ...]


def choices_of(answer: Any, wanted: int) -> list[list[Entry]]:
    """Read the entries of each of the `wanted` prompts, in their order.

    `ValueError` says in what the answer is not as it should be.
    """
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise ValueError("the answer has no choices")
    found: dict[int, list[Entry]] = {}
    for choice in answer["choices"]:
        if not isinstance(choice, dict) or not isinstance(choice.get("index"), int):
            raise ValueError("a choice has no index")
        found[choice["index"]] = _entries(choice.get("logprobs"))
    if sorted(found) != list(range(wanted)):
        raise ValueError(f"{len(found)} answers to {wanted} prompts")
    return [found[index] for index in range(wanted)]


def _entries(logprobs: Any) -> list[Entry]:
    if not isinstance(logprobs, dict):
        raise ValueError("the answer has no logprobs: the endpoint does not tell them")
    if "content" in logprobs:
        return [
            Entry(_object(each), tuple(map(_object, _list(each.get("top_logprobs")))))
            for each in _list(logprobs["content"])
        ]
    tokens, logps, tops = (
        _list(logprobs.get(key)) for key in ("tokens", "token_logprobs", "top_logprobs")
    )
    if not len(tokens) == len(logps) == len(tops):
        raise ValueError("tokens, token_logprobs and top_logprobs are not of one length")
    return [
        Entry(_named(str(token), logp), tuple(_named(*pair) for pair in _dict(top).items()))
        for token, logp, top in zip(tokens, logps, tops, strict=True)
    ]


def _object(each: Any) -> Named:
    if not isinstance(each, dict):
        raise ValueError("a token is no object")
    token, told = each.get("id"), each.get("bytes")
    is_id = isinstance(token, int) and not isinstance(token, bool)
    raw: bytes | None = None
    if isinstance(told, list) and all(isinstance(b, int) and 0 <= b < 256 for b in told):
        raw = bytes(told)
    named = _named(str(each.get("token", "")), each.get("logprob"))
    return Named(named.text, named.logp, token if is_id else named.id, raw)


def _named(text: str, logp: Any) -> Named:
    if logp is not None:
        if isinstance(logp, bool) or not isinstance(logp, int | float) or not logp < _OVER:
            raise ValueError(f"{str(logp)[:40]} is no log-probability")
        logp = float(max(logp, -1e4))
    number = text.removeprefix(_ID)
    is_id = text.startswith(_ID) and number.isascii() and number.isdigit() and len(number) < 10
    return Named(text, logp, int(number) if is_id else None)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is missing in logprobs: the endpoint does not tell top log-probs")
    return value


def _dict(value: Any) -> Json:
    if value is not None and not isinstance(value, dict):
        raise ValueError("top_logprobs holds no map of tokens")
    return value or {}


IdOf = Callable[[Named], int | None]


@dataclass(frozen=True)
class Likeliest:
    """The likeliest tokens in one place: all that is known of a distribution."""

    logp: dict[int, float]  # {token: log p}, k
    most: float  # log p that a token beside them can have

    @classmethod
    def of(cls, top: Sequence[Named], id_of: IdOf, asked: int, size: int) -> "Likeliest":
        """Read a list of which `asked` tokens were wanted, of a vocabulary of `size`.

        `ValueError` where nothing is listed, or more than there can be.
        """
        found: dict[int, float] = {}
        is_certain = True  # whether all that is listed is known by its id
        for each in top:
            token = id_of(each)
            is_certain &= each.id is not None
            if token is not None and 0 <= token < size and each.logp is not None:
                found[token] = each.logp
        total = math.fsum(math.exp(logp) for logp in found.values())
        if not found or total > 1 + _OVER:
            raise ValueError(f"top log-probs of {len(found)} tokens sum to {total:.3f}")
        rest = math.log(max(1 - total, _ROUNDED))
        ordered = sorted((each.logp for each in top if each.logp is not None), reverse=True)
        # The chosen token is listed too where it is none of the likeliest: it bounds nothing.
        least = ordered[: max(1, asked)][-1]
        return cls(found, min(rest, least) if is_certain else rest)

    def spread(self, size: int) -> "tuple[torch.Tensor, Rest | None]":
        """Spread the rest evenly over the tokens that are not listed: log p, (V,), and the rest."""
        import torch

        others = size - len(self.logp)
        mass = max(1 - math.fsum(math.exp(logp) for logp in self.logp.values()), _ROUNDED)
        share = math.log(mass / others) if others else 0.0
        logp_V = torch.full((size,), share, dtype=torch.float32)
        logp_V[list(self.logp)] = torch.tensor(list(self.logp.values()), dtype=torch.float32)
        if not others:
            return logp_V, None
        return logp_V, Rest(mass, max(self.most, share), frozenset(self.logp))
