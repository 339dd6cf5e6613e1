"""/v1/hidden_states: the output of a layer of one model for each token of a text.

The engine keeps no hidden states, so this is a forward pass of its own, by the model that the
engine has loaded and in its thread: others wait for it. One request is answered at a time.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from btm.serve.http.asking import check_tokens
from btm.serve.http.errors import ApiError
from btm.serve.http.service import service_of
from btm.serve.http.shapes import fingerprint, usage
from btm.serve.http.wire import HiddenBody
from btm.serve.members.member import Member

router = APIRouter()


def read(tokens: Sequence[int], layer: int, name: str, member: Member) -> list[list[float]]:
    """Compute the states of `layer` after each of T tokens, (T, width).

    Layer 0 is the embeddings, -1 the last; `ApiError` for one that is none, and for a member that
    runs elsewhere.
    """
    import torch

    from btm.serve.members.local import LocalMember

    if not isinstance(member, LocalMember):
        message = f"{name} runs on another machine, which tells log-probabilities alone"
        raise ApiError(400, message, param="model", code="invalid_value")
    ids = torch.tensor([tokens], device=member.model.device)
    with torch.inference_mode():
        found = member.model(input_ids=ids, output_hidden_states=True, use_cache=False)
    states = found.hidden_states
    if not -len(states) <= layer < len(states):
        message = f"layer {layer}: {name} has 0 to {len(states) - 1}, or -1 for the last"
        raise ApiError(400, message, param="layer", code="invalid_value")
    return states[layer][0].float().tolist()


@router.post("/v1/hidden_states")
async def hidden_states(body: HiddenBody, http: HttpRequest) -> Response:
    """Give the hidden states of a text."""
    service = service_of(http)
    service.check_ready()
    served = service.find(body.model)
    if len(served.members) != 1:
        message = f"{served.name} is {len(served.members)} models; ask for one of them by its name"
        raise ApiError(400, message, param="model", code="invalid_value")
    if served.kind == "remote":
        message = f"{served.name} is run by another server, which does not tell its hidden states"
        raise ApiError(400, message, param="model", code="invalid_value")
    text = await service.text(body.prompt)
    check_tokens(service.limits, [text], 1, 0)
    tokens, context = [served.start, *text.tokens], service.engine.context_of(served)
    if context and len(tokens) > context:
        message = f"{len(tokens)} tokens with the start: {served.name} has a context of {context}"
        raise ApiError(400, message, param="prompt", code="context_length_exceeded")
    busy: asyncio.Lock = http.app.state.hidden
    if busy.locked():
        message = "hidden states are computed for another request: try again in a moment"
        raise ApiError(429, message, code="engine_overloaded", headers={"Retry-After": "1"})
    async with busy:
        use = partial(read, tokens, body.layer, served.name)
        states = await asyncio.wrap_future(service.engine.borrow(served.members[0], use))
    return JSONResponse(
        {
            "object": "btm.hidden_states",
            "model": served.name,
            "system_fingerprint": fingerprint(served),
            "ids": tokens,
            "layer": body.layer,
            "hidden_states": states,
            "usage": usage(len(tokens), 0),
        }
    )
