"""The application: routes, refusals, and the task that looks for other models."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.types import ASGIApp

from btm.config.serve import ServeConfig
from btm.errors import UserError
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.http import chat, completions, errors, hidden, listing, page, score, texts
from btm.serve.http.guard import Guard
from btm.serve.http.service import Service

_log = logging.getLogger("btm.serve")
_ROOMS = (page, listing, completions, chat, texts, score, hidden)


def build(
    limits: ServeConfig, catalog: Catalog, engine: Engine, token: str | None
) -> tuple[ASGIApp, Service]:
    """Make the application and what its endpoints share."""
    service = Service.over(limits, catalog, engine)
    # Pages of documentation would load their scripts from other hosts.
    app = FastAPI(
        title="btm serve",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_life,
    )
    app.state.service = service
    app.state.hidden = asyncio.Lock()
    errors.install(app)
    for room in _ROOMS:
        app.include_router(room.router)
    return Guard(app, limits, token, service.metrics), service


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.metrics.models.set(len(list(service.catalog)))
    task = asyncio.create_task(_reload(service))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _reload(service: Service) -> None:
    """Look at the forest every few seconds: what was merged is served, what was removed is not."""
    while service.limits.reload:
        await asyncio.sleep(service.limits.reload)
        try:
            changed = await asyncio.to_thread(service.catalog.refresh)
        except (UserError, OSError) as error:  # it may be at work just now: look again later
            _log.warning("the forest could not be looked at: %s", error)
            continue
        service.engine.tidy()  # also what was in use when it was removed
        if changed:
            service.metrics.reloads.inc()
            service.metrics.models.set(len(list(service.catalog)))
            names = ", ".join(served.name for served in service.catalog)
            _log.info("other models: %s", names)
