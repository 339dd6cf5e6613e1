"""/v1/chat/completions: messages go on, where the tokenizer has a chat template."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from btm.errors import first_line
from btm.serve.http.answering import Asked, answer
from btm.serve.http.asking import check_limits, check_tokens, room_for, sampling_of
from btm.serve.http.choice import Piece
from btm.serve.http.errors import ApiError
from btm.serve.http.pieces import Pieces
from btm.serve.http.service import service_of
from btm.serve.http.shapes import Head, of_chat, posteriors
from btm.serve.http.wire import ChatBody, Message
from btm.serve.request import Request
from btm.system.json_files import Json

router = APIRouter()


@dataclass(frozen=True)
class _Writer:
    body: ChatBody
    pieces: Pieces

    def whole(self, index: int, piece: Piece) -> Json:
        """Write a whole message."""
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return self._choice(index, "message", message, piece)

    def part(self, index: int, piece: Piece) -> Json:
        """Write what is new of a message."""
        delta = {"content": piece.text} if piece.text else {}
        return self._choice(index, "delta", delta, piece)

    def first(self, index: int) -> Json | None:
        """Say who speaks."""
        delta = {"role": "assistant", "content": ""}
        return self._choice(index, "delta", delta, Piece())

    def _choice(self, index: int, key: str, said: Json, piece: Piece) -> Json:
        logprobs = None
        if self.body.logprobs:
            logprobs = of_chat(piece.tokens, self.pieces, self.body.top_logprobs or 0)
        made = {"index": index, key: said, "logprobs": logprobs, "finish_reason": piece.finish}
        if self.body.btm_posterior:
            made["btm_posterior"] = posteriors(piece.tokens)
        if piece.lost:
            made["btm_lost"] = list(piece.lost)
        return made


@router.post("/v1/chat/completions")
async def chat(body: ChatBody, http: HttpRequest) -> Response:
    """Go on with a chat."""
    service = service_of(http)
    limits, served = service.limits, service.find(body.model)
    check_limits(limits, body, 1, body.top_logprobs)
    sampling = sampling_of(body, service.size)
    text = await service.text(written(body.messages, service.tokenizer), "messages")
    room = room_for(service.engine.context_of(served), served, text, limits)
    # Only an answer whose length nobody asked for is as long as there is room.
    asked_for = body.max_tokens or body.max_completion_tokens
    max_tokens = min(room, limits.max_total // body.n) if asked_for is None else asked_for
    check_tokens(limits, [text], body.n, asked_for or 0)
    request = Request(
        model=body.model,
        prompt=text.tokens,
        max_tokens=max_tokens,
        sampling=sampling,
        stop=tuple(body.stop),
        ignore_ends=body.ignore_eos,
        top=body.top_logprobs or 0,
        posterior=body.btm_posterior,
    )
    asked = Asked(served, [text], [request], False, body)
    kind = "chat.completion.chunk" if body.stream else "chat.completion"
    head = Head.new(kind, "chatcmpl", served)
    return await answer(http, asked, _Writer(body, service.pieces), head)


def written(messages: list[Message], tokenizer: Any) -> str:
    """Write messages as the tokenizer's template has it; `ApiError` where there is none.

    transformers runs templates in jinja's immutable sandbox: they cannot reach Python's objects.
    """
    if not tokenizer.chat_template:
        message = (
            "the tokenizer of this forest has no chat template, so there is no telling how a chat "
            "is written for its models: use /v1/completions"
        )
        raise ApiError(400, message, param="messages", code="no_chat_template")
    said = []
    for each in messages:
        role = "system" if each.role == "developer" else each.role
        named = {} if each.name is None else {"name": each.name}
        said.append({"role": role, "content": each.text} | named)
    try:
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may refuse in its own words, or fail in any way
        message = f"messages: the chat template refuses them: {first_line(error)[:500]}"
        raise ApiError(400, message, param="messages", code="chat_template") from None
    return str(text)
