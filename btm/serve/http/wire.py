"""The shapes of requests: what is read, what is passed over, and what is refused by name.

A key without effect is an error, as everywhere in btm. OpenAI's own clients send some that say
nothing about the answer (`user`, `metadata`): those are passed over. What would change the answer
and is not done here is refused, unless its value asks for nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from btm.errors import nearest
from btm.system.json_files import Json

# Keys that say nothing about an answer.
PASSED_OVER = (
    *("user", "metadata", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention"),
)
# Keys that are not done here, and the values of them that ask for nothing.
_NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
# OpenAI allows 4 strings; lm-evaluation-harness adds the end of text to those of a task.
_STOPS, _STOP_LENGTH = 16, 256
_BIASES = 1024
_SEEDS = 1 << 63


class Wire(BaseModel):
    """A body, whose null stands for a key's default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _sorted_out(cls, body: object) -> object:
        """Leave out what asks for nothing; refuse by name what is unknown or not done."""
        if not isinstance(body, dict):
            return body
        kept: Json = {}
        for name, value in body.items():
            if name in cls.model_fields:
                if value is not None:
                    kept[name] = value
            elif name not in PASSED_OVER and value is not None:
                _require_nothing(name, value, tuple(cls.model_fields))
        return kept


def _require_nothing(name: str, value: object, known: tuple[str, ...]) -> None:
    shown = name[:60].encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    if name not in _NOT_DONE:
        raise PydanticCustomError(
            "unknown_parameter",
            "no parameter {param} here{near}",
            {"param": shown, "near": nearest(shown, known)},
        )
    # `in` would take True for 1.
    if not any(value == neutral and type(value) is type(neutral) for neutral in _NOT_DONE[name]):
        is_zero = isinstance(value, float) and value == 0 and 0 in _NOT_DONE[name]
        if not is_zero:
            raise PydanticCustomError(
                "unsupported_parameter",
                "{param} is not done here: leave it out",
                {"param": shown},
            )


def _listed(stop: object) -> object:
    return [stop] if isinstance(stop, str) and stop else stop or []


def _prompts(given: object) -> object:
    """Make a list of texts and token lists of each of OpenAI's four forms of a prompt."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise ValueError("wanted a text, a list of texts, a list of tokens, or a list of those")
    if all(type(each) is int for each in given):
        return [given]
    return given


Prompt = str | list[int]
ModelName = Annotated[str, Field(max_length=8192)]  # which may list many experts
Stop = Annotated[str, Field(min_length=1, max_length=_STOP_LENGTH)]


class StreamOptions(Wire):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Choosing(Wire):
    """Parameters that completions and chats share: how tokens are chosen, what is told of them."""

    model: ModelName
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    n: Annotated[int, Field(ge=1)] = 1
    stop: Annotated[list[Stop], BeforeValidator(_listed), Field(max_length=_STOPS)] = []
    seed: Annotated[int, Field(ge=-_SEEDS, lt=_SEEDS)] | None = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=_BIASES)
    ] = {}
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    btm_posterior: bool = False
    btm_bound: bool = False

    @model_validator(mode="after")
    def _streams(self) -> "Choosing":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options has no effect without stream: leave one of them out")
        return self


class CompletionBody(Choosing):
    """The body of /v1/completions."""

    prompt: Annotated[list[Prompt], BeforeValidator(_prompts)] = [""]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool = False
    return_tokens_as_token_ids: bool = False
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _best_of(self) -> "CompletionBody":
        if self.return_tokens_as_token_ids and self.logprobs is None:
            raise ValueError("return_tokens_as_token_ids has no effect without logprobs")
        if self.best_of not in (None, self.n):
            raise PydanticCustomError(
                "unsupported_parameter",
                "best_of={best_of}, n={n}: answers are not chosen among; leave best_of out",
                {"param": "best_of", "best_of": self.best_of, "n": self.n},
            )
        return self


class TextPart(Wire):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Wire):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """All of its parts."""
        parts = self.content
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)


class ChatBody(Choosing):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs has no effect without logprobs: give logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("max_tokens and max_completion_tokens say the same: leave one out")
        return self


class TokenizeBody(Wire):
    """The body of /tokenize."""

    prompt: str
    model: ModelName | None = None
    add_special_tokens: Literal[False] = False
    return_token_strs: bool = False


class DetokenizeBody(Wire):
    """The body of /detokenize."""

    tokens: list[int]
    model: ModelName | None = None


class ScoreBody(Wire):
    """The body of /v1/score."""

    model: ModelName
    prompt: Prompt
    top: Annotated[int, Field(ge=0)] = 0


class HiddenBody(Wire):
    """The body of /v1/hidden_states."""

    model: ModelName
    prompt: Prompt
    layer: int = -1
