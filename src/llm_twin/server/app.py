"""The service as one application: routers, errors, the static page. Everything it does, it asks of `Twin`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from llm_twin.server import asking, health, problems, reading, talks
from llm_twin.server.streaming import Desk
from llm_twin.twin import Twin

WEB = Path(__file__).parent / "web"


def create_app(twin: Twin) -> FastAPI:
    """The application that serves `twin`; whoever opened the twin closes it."""
    app = FastAPI(
        title="LLM Twin",
        summary="Finds, answers and writes in an author's own words, with a citation for every claim.",
        version=importlib.metadata.version("llm-twin"),
    )
    app.state.twin = twin
    app.state.desk = Desk(twin.settings.server)
    problems.install(app)
    app.include_router(asking.router)
    app.include_router(reading.router)
    app.include_router(talks.router)
    app.include_router(health.router)
    _serve_page(app)
    return app


def _serve_page(app: FastAPI) -> None:
    """The static page at / and its files under /web/, where they are installed."""
    if not (WEB / "index.html").is_file():
        return

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.mount("/web", StaticFiles(directory=WEB), name="web")
