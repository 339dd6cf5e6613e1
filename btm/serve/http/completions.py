"""/v1/completions: a text goes on, or is scored (`echo` with `logprobs`)."""

from dataclasses import dataclass, replace

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from btm.serve.http.answering import Asked, answer
from btm.serve.http.asking import check_limits, check_tokens, sampling_of
from btm.serve.http.choice import Piece
from btm.serve.http.pieces import Pieces
from btm.serve.http.service import service_of
from btm.serve.http.shapes import Head, of_completion, posteriors
from btm.serve.http.wire import CompletionBody
from btm.serve.request import Request
from btm.system.json_files import Json

router = APIRouter()


@dataclass(frozen=True)
class _Writer:
    body: CompletionBody
    pieces: Pieces

    def whole(self, index: int, piece: Piece) -> Json:
        """Write a whole answer."""
        top, logprobs = self.body.logprobs, None
        if top is not None:
            logprobs = of_completion(piece.tokens, self.pieces, top)
        made: Json = {
            "index": index,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish,
        }
        if self.body.btm_posterior:
            made["btm_posterior"] = posteriors(piece.tokens)
        if piece.lost:
            made["btm_lost"] = list(piece.lost)
        return made

    def part(self, index: int, piece: Piece) -> Json:
        """Write what is new of an answer, which looks like a whole one."""
        return self.whole(index, piece)

    def first(self, index: int) -> Json | None:
        """Nothing comes before a text."""
        return None


@router.post("/v1/completions")
async def completions(body: CompletionBody, http: HttpRequest) -> Response:
    """Go on with one text or several."""
    service = service_of(http)
    limits, served = service.limits, service.find(body.model)
    check_limits(limits, body, len(body.prompt), body.logprobs)
    sampling = sampling_of(body, service.size)
    texts = [await service.text(prompt) for prompt in body.prompt]
    check_tokens(limits, texts, body.n, body.max_tokens)
    request = Request(
        model=body.model,
        prompt=(),
        max_tokens=body.max_tokens,
        sampling=sampling,
        stop=tuple(body.stop),
        ignore_ends=body.ignore_eos,
        top=body.logprobs or 0,
        score_prompt=body.echo and (body.logprobs is not None or body.btm_posterior),
        posterior=body.btm_posterior,
    )
    requests = [replace(request, prompt=text.tokens) for text in texts]
    asked = Asked(served, texts, requests, body.echo, body)
    writer = _Writer(body, service.pieces)
    return await answer(http, asked, writer, Head.new("text_completion", "cmpl", served))
