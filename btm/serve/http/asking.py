"""From the body of a request to what the engine is asked, within the limits of the server."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from btm.config.serve import ServeConfig
from btm.ensemble.sampling import Sampling
from btm.serve.catalog import Served
from btm.serve.http.errors import ApiError
from btm.serve.http.wire import Choosing, Prompt
from btm.serve.request import Request

# Colder than this the quotients overflow, and nothing but the likeliest token has a chance.
_COLDEST = 1e-3


@dataclass(frozen=True)
class Text:
    """The tokens of a prompt; `begins` where its first one is the start that all texts have.

    The engine puts the start before every text. A client that does so itself, as chat templates and
    lm-evaluation-harness do, means the same one.
    """

    tokens: tuple[int, ...]  # without that start
    begins: int | None = None

    @property
    def all(self) -> tuple[int, ...]:
        """The tokens as they were given."""
        return self.tokens if self.begins is None else (self.begins, *self.tokens)


def text_of(prompt: Prompt, tokenizer: Any, start: int, size: int, param: str = "prompt") -> Text:
    """Encode a prompt; `ApiError` for a token that is none of the `size` there are."""
    if isinstance(prompt, str):
        tokens = encode(prompt, tokenizer, param)
    else:
        tokens = prompt
        strange = next((token for token in tokens if not 0 <= token < size), None)
        if strange is not None:
            message = f"{param}: no token {strange}; wanted 0 to {size - 1}"
            raise ApiError(400, message, param=param, code="invalid_token")
    if tokens and tokens[0] == start:
        return Text(tuple(tokens[1:]), start)
    return Text(tuple(tokens))


def encode(text: str, tokenizer: Any, param: str) -> list[int]:
    """Encode a text, without what a tokenizer puts before it or after it."""
    try:
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    except (UnicodeEncodeError, TypeError):  # half of a surrogate pair is no character
        message = f"{param}: holds half of a surrogate pair, which is no character"
        raise ApiError(400, message, param=param, code="invalid_text") from None


def sampling_of(body: Choosing, size: int) -> Sampling:
    """Read how tokens are chosen; `size` is the number of tokens."""
    temperature = body.temperature if body.temperature >= _COLDEST else 0.0
    seed = None if body.seed is None else body.seed % (1 << 64)
    bias = _bias(body.logit_bias, size)
    return Sampling(temperature, body.top_p, body.top_k, body.min_p, bias, seed)


def _bias(given: dict[str, float], size: int) -> dict[int, float]:
    made = {}
    for word, nats in given.items():
        if not (word.isascii() and word.isdigit() and len(word) < 12 and int(word) < size):
            message = f"logit_bias: {word[:20]!r} is no token; wanted 0 to {size - 1}"
            raise ApiError(400, message, param="logit_bias", code="invalid_token")
        made[int(word)] = nats
    return made


def several(request: Request, n: int) -> list[Request]:
    """Ask for n answers to one prompt, with seeds one after another."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * n
    seeds = [(seed + i) % (1 << 64) for i in range(n)]
    return [replace(request, sampling=replace(request.sampling, seed=each)) for each in seeds]


def check_limits(limits: ServeConfig, body: Choosing, prompts: int, logprobs: int | None) -> None:
    """Raise `ApiError` for more prompts, answers or likeliest tokens than the server allows."""
    at_most(body.n, limits.max_n, "n", "answers to a prompt")
    at_most(prompts, limits.max_prompts, "prompt", "prompts")
    at_most(logprobs or 0, limits.max_logprobs, "logprobs", "likeliest tokens")
    answers, places = prompts * body.n, limits.running + limits.waiting
    at_most(answers, places, "n", "answers at once, of all prompts together")


def check_tokens(limits: ServeConfig, texts: Sequence[Text], answers: int, max_tokens: int) -> None:
    """Raise `ApiError` for more tokens than the server allows an answer, or a request."""
    at_most(max_tokens, limits.max_tokens, "max_tokens", "tokens of an answer")
    total = answers * sum(len(text.tokens) + max_tokens for text in texts)
    at_most(total, limits.max_total, "max_tokens", "tokens of all prompts and answers together")


def at_most(value: int, most: int, param: str, what: str) -> None:
    """Raise `ApiError` if `value` is over a limit."""
    if value > most:
        message = f"{value} {what}: this server allows {most}"
        raise ApiError(400, message, param=param, code="limit_exceeded")


def room_for(context: int, served: Served, text: Text, limits: ServeConfig) -> int:
    """Count the tokens that an answer may have at most behind a prompt; `ApiError` for none."""
    if not context:
        return limits.max_tokens
    room = min(limits.max_tokens, context - len(text.tokens))
    if room < 1:
        message = (
            f"the prompt has {len(text.tokens)} tokens, and {served.name} a context of {context}"
        )
        raise ApiError(400, message, param="messages", code="context_length_exceeded")
    return room
