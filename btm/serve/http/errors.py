"""Refusals in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from btm.errors import UserError
from btm.serve.catalog import UnknownModelError
from btm.serve.limits import FullError, TooLongError
from btm.system.json_files import Json

INVALID, BUSY, SERVER = "invalid_request_error", "rate_limit_error", "server_error"
_RETRY = {"Retry-After": "1"}  # seconds: an answer is of that order
# What the errors of pydantic are called in OpenAI's shape, where it is not its own word.
_CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
    "value_error": "invalid_value",
}


class ApiError(Exception):
    """A request that is not answered: its status, and what is said of it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> Json:
        """Write it in OpenAI's shape."""
        kind = BUSY if self.status == 429 else SERVER if self.status >= 500 else INVALID
        said = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": said}

    def response(self) -> JSONResponse:
        """Make the response that carries it."""
        return JSONResponse(self.body(), self.status, self.headers)


def of_engine(error: UserError) -> ApiError:
    """Translate what the engine or the catalog refuses."""
    said = str(error)
    if isinstance(error, UnknownModelError):
        return ApiError(404, said, param="model", code="model_not_found")
    if isinstance(error, TooLongError):
        return ApiError(400, said, param="max_tokens", code="context_length_exceeded")
    if isinstance(error, FullError):
        return ApiError(429, said, code="engine_overloaded", headers=_RETRY)
    return ApiError(400, said, code="invalid_value")


def of_shape(error: RequestValidationError) -> ApiError:
    """Translate the first thing that is wrong with the shape of a request."""
    found: Mapping[str, Any] = error.errors()[0]
    context = found.get("ctx") or {}
    where = ".".join(str(part) for part in found["loc"] if part != "body")
    param = str(context.get("param") or where) or None
    code = _CODES.get(found["type"], found["type"])
    message = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == "json_invalid":
        message, param = f"the body is no JSON: {context.get('error', message)}", None
    elif where and "param" not in context:
        message = f"{where}: {message}"
    return ApiError(400, message, param=param, code=code)


def of_http(error: HTTPException) -> ApiError:
    """Translate what the router refuses: no such path, no such method, no JSON."""
    words = {404: "no such endpoint", 405: "no such method here", 400: "the body is no JSON"}
    codes = {404: "unknown_url", 405: "method_not_allowed", 400: "invalid_json"}
    message = words.get(error.status_code, str(error.detail))
    return ApiError(
        error.status_code, message, code=codes.get(error.status_code), headers=error.headers
    )


def of_any(_: Exception) -> ApiError:
    """Say that the server failed, and not how: its own log has the traceback."""
    return ApiError(500, "the server failed at this request; its log says how", code="internal")


def install(app: FastAPI) -> None:
    """Have every refusal and failure of an application answered in OpenAI's shape."""

    def handler(translate: Callable[[Any], ApiError]) -> Callable[[Request, Any], JSONResponse]:
        return lambda request, error: translate(error).response()

    app.add_exception_handler(ApiError, handler(lambda error: error))
    app.add_exception_handler(UserError, handler(of_engine))
    app.add_exception_handler(RequestValidationError, handler(of_shape))
    app.add_exception_handler(HTTPException, handler(of_http))
    app.add_exception_handler(Exception, handler(of_any))
