"""/v1/models lists the models; /health, /ready and /metrics say how the server is."""

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from btm.serve.catalog import Served
from btm.serve.http.service import Service, service_of
from btm.serve.http.shapes import fingerprint
from btm.system.json_files import Json

router = APIRouter()


@router.get("/v1/models")
async def models(http: HttpRequest) -> Response:
    """List the models, ensembles first."""
    service = service_of(http)
    # Contexts are read from the models' files, which may be many.
    listed = await asyncio.to_thread(lambda: [_described(s, service) for s in service.catalog])
    return JSONResponse({"object": "list", "data": listed})


@router.get("/v1/models/{name:path}")
async def model(name: str, http: HttpRequest) -> Response:
    """Describe a model."""
    service = service_of(http)
    return JSONResponse(_described(service.find(name), service))


def _described(served: Served, service: Service) -> Json:
    return {
        "id": served.name,
        "object": "model",
        "created": service.began,
        "owned_by": "btm",
        "max_model_len": service.engine.context_of(served) or None,
        "btm": {
            "kind": served.kind,
            "members": [each.name for each in served.members],
            "fingerprint": fingerprint(served),
        },
    }


@router.get("/health")
async def health() -> Response:
    """Tell that the process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def ready(http: HttpRequest) -> Response:
    """Tell whether requests are taken on; 503 while the server stops."""
    service_of(http).check_ready()
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(http: HttpRequest) -> Response:
    """Write the counts for Prometheus."""
    page = service_of(http).metrics.page()
    return Response(page, headers={"Content-Type": CONTENT_TYPE_LATEST})
