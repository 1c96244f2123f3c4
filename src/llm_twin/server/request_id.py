"""An id for every request: the client's own `X-Request-Id` or a new one. The reply names it, and so does our log."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

current: ContextVar[str] = ContextVar("llm_twin_request_id", default="-")
"""The id of the request at work."""

# What may stand in a line of a log.
_ALLOWED = re.compile(r"[\w.:-]{1,100}", re.ASCII)


class RequestId:
    """ASGI middleware: names the request in `current`, in `request.state.request_id`, and in the reply's header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ALLOWED.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        current.set(request_id)

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self.app(scope, receive, naming)
