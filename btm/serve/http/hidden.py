"""/v1/hidden_states: the output of a layer of one model for each token of a text.

The engine keeps no hidden states, so this is a forward pass of its own, of a copy of the model in
float32 on the CPU. The last model that was asked for is kept; one request is answered at a time.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from btm.ensemble.members import load_member
from btm.forest import Forest, Model
from btm.serve.http.asking import check_tokens
from btm.serve.http.errors import ApiError
from btm.serve.http.service import service_of
from btm.serve.http.shapes import fingerprint, usage
from btm.serve.http.wire import HiddenBody

if TYPE_CHECKING:
    from transformers import PreTrainedModel

router = APIRouter()


class Reader:
    """A model that reads texts for their hidden states."""

    def __init__(self) -> None:
        self.busy = asyncio.Lock()
        self._sha256 = ""
        self._model: PreTrainedModel | None = None

    def read(
        self, forest: Forest, model: Model, tokens: Sequence[int], layer: int
    ) -> list[list[float]]:
        """Compute the states of `layer` after each of T tokens, (T, width).

        Layer 0 is the embeddings, -1 the last; `ApiError` for one that is none.
        """
        import torch

        if self._model is None or self._sha256 != model.sha256:
            self._model = load_member(forest, model)
            self._sha256 = model.sha256
        with torch.inference_mode():
            found = self._model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
        states = found.hidden_states
        if not -len(states) <= layer < len(states):
            message = f"layer {layer}: {model.name} has 0 to {len(states) - 1}, or -1 for the last"
            raise ApiError(400, message, param="layer", code="invalid_value")
        return states[layer][0].tolist()


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
    reader: Reader = http.app.state.hidden
    if reader.busy.locked():
        message = "hidden states are computed for another request: try again in a moment"
        raise ApiError(429, message, code="engine_overloaded", headers={"Retry-After": "1"})
    async with reader.busy:
        states = await asyncio.to_thread(
            reader.read, service.catalog.forest, served.members[0], tokens, body.layer
        )
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
