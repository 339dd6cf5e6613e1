"""Log-probabilities in the two shapes that OpenAI has for them, and the answers around them."""

import hashlib
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from btm.serve.catalog import Served
from btm.serve.http.choice import Placed
from btm.serve.http.pieces import Pieces
from btm.serve.request import Token
from btm.system.json_files import Json

_LEAST = -9999.0  # JSON has no infinity; OpenAI writes this for a token without a chance


@dataclass(frozen=True)
class Head:
    """The fields that every part of an answer begins with."""

    kind: str
    id: str
    model: str
    fingerprint: str
    created: int

    @classmethod
    def new(cls, kind: str, prefix: str, served: Served) -> "Head":
        """Begin an answer, with an id that no other has."""
        number = f"{prefix}-{uuid.uuid4().hex}"
        return cls(kind, number, served.name, fingerprint(served), int(time.time()))

    def body(self, choices: Sequence[Json]) -> Json:
        """Write an answer, or a part of one."""
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": list(choices),
        }


def fingerprint(served: Served) -> str:
    """Name the weights that answer, and how they are loaded, so that a client can tell that others
    do by now.
    """
    loaded = [served.loaded] if served.loaded else []
    weights = " ".join([served.name, *(model.sha256 for model in served.members), *loaded])
    return "btm-" + hashlib.sha256(weights.encode()).hexdigest()[:16]


def lost(names: Iterable[str]) -> Json:
    """Name the members that an answer had to go on without, if there are any."""
    found = list(dict.fromkeys(names))
    return {"btm_lost": found} if found else {}


def usage(read: int, written: int) -> Json:
    """Count the tokens of prompts and answers."""
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


def of_completion(
    tokens: Sequence[Placed], pieces: Pieces, top: int, *, as_ids: bool = False
) -> Json:
    """Write tokens as /v1/completions does: lists side by side.

    As at OpenAI, a token that was chosen stands among the likeliest even where it is none of them.
    With `as_ids` tokens are written `token_id:7`, as vLLM does where it is asked to.
    """
    tops: list[dict[str, float] | None] = []
    for each in tokens:
        tops.append(likeliest(each.token, pieces, as_ids=as_ids) if each.is_scored else None)
    ids = [each.token.id for each in tokens]
    return {
        "tokens": _as_ids(ids) if as_ids else [pieces.text(token) for token in ids],
        "token_logprobs": [finite(each.token.logp) if each.is_scored else None for each in tokens],
        "top_logprobs": tops if top else None,
        "text_offset": [each.place for each in tokens],
    }


def likeliest(token: Token, pieces: Pieces, *, as_ids: bool = False) -> dict[str, float]:
    """Write the likeliest tokens, and the one that was chosen, with their log-probabilities."""
    found = dict(token.top)
    found.setdefault(token.id, token.logp)
    names = _as_ids(list(found)) if as_ids else pieces.keys(list(found))
    return {name: finite(logp) for name, logp in zip(names, found.values(), strict=True)}


def of_chat(tokens: Sequence[Placed], pieces: Pieces, top: int) -> Json:
    """Write tokens as /v1/chat/completions does: an object for each."""
    content = []
    for each in tokens:
        token = each.token
        likeliest = [_one(other, logp, pieces) for other, logp in token.top[:top]]
        content.append(_one(token.id, token.logp, pieces) | {"top_logprobs": likeliest})
    return {"content": content, "refusal": None}


def _one(token: int, logp: float, pieces: Pieces) -> Json:
    return {
        "token": pieces.text(token),
        "logprob": finite(logp),
        "bytes": list(pieces.bytes(token)),
    }


def _as_ids(tokens: Sequence[int]) -> list[str]:
    return [f"token_id:{token}" for token in tokens]


def posteriors(tokens: Sequence[Placed]) -> list[dict[str, float] | None]:
    """List the weight of each member before each token; None where nothing was predicted."""
    return [dict(p) if (p := each.token.posterior) is not None else None for each in tokens]


def bounds(tokens: Sequence[Placed]) -> list[float | None]:
    """List how far the mixture before each token may be from the exact one, in total variation."""
    return [each.token.bound if each.is_scored else None for each in tokens]


def finite(logp: float) -> float:
    """Write a log-probability so that JSON can hold it."""
    return max(logp, _LEAST)
