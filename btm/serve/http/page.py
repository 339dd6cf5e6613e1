"""The page at `/`, its files, and /v1/forest, which it draws.

The files hold nothing of a forest, so they are sent without the token, which a browser does not
bring to an address that is typed in. What the page then asks for needs it as ever.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from btm.errors import UserError
from btm.serve.http.errors import ApiError
from btm.serve.http.service import service_of
from btm.serve.portrait import portrait

router = APIRouter()

ROOT, STATIC = "/", "/static/"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_INDEX = "index.html"
# Nothing is loaded from elsewhere, nothing inline is run, and no other site shows the page in a
# frame, where it could make a reader click on what is not seen.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # another version of btm has other files by the same names
}


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str  # the type of its content


@router.get(ROOT, include_in_schema=False)
async def index() -> Response:
    """Send the page."""
    return _sent(_files()[_INDEX])


@router.get(STATIC + "{name}", include_in_schema=False)
async def static(name: str) -> Response:
    """Send a file of the page."""
    if (file := _files().get(name)) is None or name == _INDEX:
        raise ApiError(404, "no such file", code="unknown_url")
    return _sent(file)


@router.get("/v1/forest")
async def forest(http: HttpRequest, eval: str | None = None) -> Response:
    """Tell the lineage of the forest, and the heat map of one of its evaluations."""
    root = service_of(http).catalog.forest.root
    try:
        found = await run_in_threadpool(portrait, root, eval)
    except UserError as error:
        raise ApiError(404, str(error), param="eval", code="not_found") from None
    return JSONResponse(asdict(found))


def _sent(file: _File) -> Response:
    return Response(file.content, headers={"Content-Type": file.kind, **_HEADERS})


@cache
def _files() -> Mapping[str, _File]:
    """Read the files of the page: these names alone are sent, whatever a path says."""
    folder = resources.files("btm.serve").joinpath("page")
    files = [file for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES]
    return {
        file.name: _File(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]]) for file in files
    }
