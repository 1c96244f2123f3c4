"""Running the service: uvicorn, signals, a shutdown that lets answers finish."""

from __future__ import annotations

import uvicorn

from llm_twin.server.app import create_app
from llm_twin.twin import Twin


def serve(twin: Twin, host: str, port: int) -> None:
    """Serve `twin` until the process is told to stop."""
    config = uvicorn.Config(create_app(twin), host=host, port=port, access_log=False, server_header=False)
    uvicorn.Server(config).run()
