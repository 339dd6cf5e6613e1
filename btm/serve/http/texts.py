"""/tokenize, /detokenize and /tokenizer_info, in vLLM's shapes."""

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from btm.serve.http.asking import at_most, text_of
from btm.serve.http.service import service_of
from btm.serve.http.wire import DetokenizeBody, TokenizeBody
from btm.system.json_files import Json

router = APIRouter()


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, http: HttpRequest) -> Response:
    """Encode a text; all models of a forest have one tokenizer."""
    service = service_of(http)
    context = 0
    if body.model is not None:
        context = service.engine.context_of(service.find(body.model))
    text = await service.text(body.prompt)
    made: Json = {
        "count": len(text.all),
        "max_model_len": context or None,
        "tokens": list(text.all),
    }
    if body.return_token_strs:
        made["token_strs"] = [service.pieces.text(token) for token in text.all]
    return JSONResponse(made)


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, http: HttpRequest) -> Response:
    """Decode tokens."""
    service = service_of(http)
    if body.model is not None:
        service.find(body.model)
    at_most(len(body.tokens), service.limits.max_total, "tokens", "tokens")
    text = text_of(body.tokens, service.tokenizer, service.catalog.start, service.size, "tokens")
    said = service.tokenizer.decode(text.all, clean_up_tokenization_spaces=False)
    return JSONResponse({"prompt": said})


@router.get("/tokenizer_info")
async def tokenizer_info(http: HttpRequest) -> Response:
    """Tell what a client needs to write prompts; lm-evaluation-harness asks for it."""
    tokenizer = service_of(http).tokenizer
    return JSONResponse(
        {
            "tokenizer_class": type(tokenizer).__name__,
            "eos_token": tokenizer.eos_token,
            "bos_token": tokenizer.bos_token,
            "pad_token": tokenizer.pad_token,
            "chat_template": tokenizer.chat_template,
            "vocab_size": service_of(http).size,
        }
    )
