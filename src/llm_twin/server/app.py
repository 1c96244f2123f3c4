"""The service as one application: routers, errors, the static page. Everything it does, it asks of `Twin`."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from llm_twin.server import asking, health, openai_api, problems, reading, schemas, talks, work
from llm_twin.server.mcp_http import Mcp
from llm_twin.server.metrics import Measured, Metrics
from llm_twin.server.request_id import RequestId
from llm_twin.server.security import Door
from llm_twin.server.streaming import Desk
from llm_twin.twin import Twin

WEB = Path(__file__).parent / "web"

_TAGS = [
    {"name": "asking", "description": "Answers, drafts and passages."},
    {"name": "OpenAI's protocol", "description": "The same for clients of that protocol."},
    {"name": "conversations", "description": "What was said, and what readers think of it."},
    {"name": "reading", "description": "What the twin knows and did."},
    {"name": "work", "description": "Syncs and batches of questions."},
    {"name": "health", "description": "For whoever runs the service."},
]


def create_app(twin: Twin) -> FastAPI:
    """The application that serves `twin`; whoever opened the twin closes it."""
    app = FastAPI(
        title="LLM Twin",
        summary="Finds, answers and writes in an author's own words, with a citation for every claim.",
        version=importlib.metadata.version("llm-twin"),
        openapi_tags=_TAGS,
        lifespan=_warming,
        docs_url=None,  # their pages come from other people's servers, which the content security policy refuses
        redoc_url=None,
    )
    app.state.twin = twin
    app.state.metrics = Metrics()
    app.state.desk = Desk(twin.settings.server, app.state.metrics, with_model=bool(twin.settings.llm.model))

    app.state.batch_worker = work.BatchWorker(twin)

    app.include_router(asking.router)
    app.include_router(openai_api.router)
    app.include_router(talks.router)
    app.include_router(reading.router)
    app.include_router(work.router)
    app.include_router(health.router)
    app.state.mcp = Mcp(twin, app.state.desk)
    app.add_route("/mcp", app.state.mcp, include_in_schema=False)
    _serve_page(app)

    problems.install(app)
    schemas.describe(app)
    app.add_middleware(Door, twin=twin, metrics=app.state.metrics)
    app.add_middleware(Measured, metrics=app.state.metrics)
    app.add_middleware(RequestId)
    return app


@asynccontextmanager
async def _warming(app: FastAPI) -> AsyncIterator[None]:
    """Load the twin's parts while the service starts already: /readyz tells when they are there."""
    app.state.desk.warm_up(app.state.twin.warm_up, then=app.state.batch_worker.start)
    watching = asyncio.create_task(app.state.metrics.watch_loop())
    yield
    watching.cancel()
    app.state.batch_worker.stop(wait_s=0)  # `Service` has waited for it; another server knows nothing of it
    await app.state.mcp.close()


def _serve_page(app: FastAPI) -> None:
    """The static page at / and its files under /web/, where they are installed."""
    if not (WEB / "index.html").is_file():
        return

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.mount("/web", StaticFiles(directory=WEB), name="web")
