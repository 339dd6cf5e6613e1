"""/v1/score: log p of each token of a text, by a model and by each of its members."""

import math
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from btm.serve.catalog import Served
from btm.serve.http.asking import Text, at_most, check_tokens
from btm.serve.http.calls import Calls, GoneError
from btm.serve.http.pieces import Places
from btm.serve.http.service import Service, gone_of, service_of
from btm.serve.http.shapes import Head, finite, likeliest, usage
from btm.serve.http.wire import ScoreBody
from btm.serve.request import Done, Posterior, Prompt, Request, Token
from btm.system.json_files import Json

router = APIRouter()


@router.post("/v1/score")
async def score(body: ScoreBody, http: HttpRequest) -> Response:
    """Score a text."""
    service = service_of(http)
    service.check_ready()
    served = service.find(body.model)
    at_most(body.top, service.limits.max_logprobs, "top", "likeliest tokens")
    text = await service.text(body.prompt)
    check_tokens(service.limits, [text], 1, 0)
    request = Request(
        model=body.model,
        prompt=text.tokens,
        max_tokens=0,
        top=body.top,
        score_prompt=True,
        posterior=True,
    )
    tokens: Sequence[Token] = ()
    lost: Sequence[str] = ()
    try:
        with Calls(service.engine, [request], gone_of(http)) as calls:
            async for _, event in calls.events():
                if isinstance(event, Prompt):
                    tokens = event.tokens
                elif isinstance(event, Done):
                    lost = event.lost
    except GoneError:
        service.metrics.gone.inc()
        return Response(status_code=499)  # nobody reads it
    head = Head.new("btm.score", "score", served)
    told = _told(head, service, text, tokens, served, body.top)
    return JSONResponse(told | ({"btm_lost": list(lost)} if lost else {}))


def _told(
    head: Head, service: Service, text: Text, tokens: Sequence[Token], served: Served, top: int
) -> Json:
    """Write the scores as lists side by side, of as many elements as there are tokens.

    The start of a text, where a client gave it, is predicted by nothing and not listed. A member
    that the ensemble has let go of has null from there on.
    """
    places, pieces = Places(service.tokenizer, []), service.pieces
    nats, count = -sum(token.logp for token in tokens), len(tokens)
    body = head.body([])
    del body["choices"]
    return body | {
        "text": service.tokenizer.decode(text.tokens, clean_up_tokenization_spaces=False),
        "ids": [token.id for token in tokens],
        "tokens": [pieces.text(token.id) for token in tokens],
        "text_offset": [places.add(token.id) for token in tokens],
        "logprobs": [finite(token.logp) for token in tokens],
        "top_logprobs": [likeliest(token, pieces) for token in tokens] if top else None,
        "members": {
            name: {
                "logprobs": [_of(token.member_logp, name) for token in tokens],
                "posterior": [_of(token.posterior, name) for token in tokens],
            }
            for name in (member.name for member in served.members)
        },
        "nats": min(nats, 9999.0 * count),
        "perplexity": math.exp(min(nats / count, 700.0)) if tokens else None,
        "usage": usage(count, 0),
    }


def _of(values: Posterior | None, name: str) -> float | None:
    found = None if values is None else values.get(name)
    return None if found is None else finite(found)
