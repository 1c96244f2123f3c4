"""Every error as a client meets it: `application/problem+json` (RFC 9457), made from the error tree.

`type` is `urn:llm-twin:` and the name of the error, `detail` the message of the error itself: what was wrong, the
value, what to do next. What is no error of ours is a 500 that tells nothing of the inside.

Under the paths of OpenAI's protocol the same errors come in the shape its clients know.
"""

from __future__ import annotations

import http
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_twin.core.errors import (
    ConfigError,
    MissingExtra,
    ModelError,
    ModelMissing,
    NotFound,
    StoreError,
    TwinError,
    WorkspaceBusy,
)
from llm_twin.server.request_id import current

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

OPENAI_PATHS = re.compile(r"/v1/(chat/completions|models)(/.*)?")
"""Where errors are told as OpenAI tells them."""

# The first line whose error fits; a leaf of the tree stands before what it grows from.
_STATUS: tuple[tuple[type[TwinError], int, str], ...] = (
    (ConfigError, 400, "Bad request"),
    (NotFound, 404, "Not found"),
    (WorkspaceBusy, 409, "Workspace busy"),
    (ModelMissing, 409, "No model"),
    (MissingExtra, 501, "Not installed"),
    (ModelError, 502, "The model failed"),
    (StoreError, 503, "A store failed"),
)


class Refused(HTTPException):
    """A request that the service itself turns down: too many at once, too slow, shutting down, not allowed.

    An `HTTPException`, because FastAPI turns any other one that is raised while it reads a body into a 400.
    """

    def __init__(
        self, status: int, name: str, title: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.problem = Problem(name, title, status, detail)


# Codes that OpenAI's clients look for; the others are our own names.
_OPENAI_CODES = {
    "KeyMissing": "invalid_api_key",
    "KeyWrong": "invalid_api_key",
    "ScopeMissing": "insufficient_permissions",
    "TooBusy": "rate_limit_exceeded",
    "TooMany": "rate_limit_exceeded",
    "ValidationError": "invalid_value",
}
_WORTH_ANOTHER_TRY = frozenset({408, 429, 503})


@dataclass(frozen=True, slots=True)
class Problem:
    """One error as RFC 9457 describes it; `name` ends the `type`."""

    name: str
    title: str
    status: int
    detail: str
    errors: tuple[dict[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The body of the response; `errors` only where a request was not valid."""
        body: dict[str, Any] = {
            "type": f"urn:llm-twin:{self.name}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return {**body, "errors": list(self.errors)} if self.errors else body

    def as_openai(self) -> dict[str, Any]:
        """The same as OpenAI's API words it; `param` is what of the request it is about."""
        kinds = {429: "rate_limit_error"}
        kind = kinds.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        message, param = self.detail, None
        if self.errors:
            param = self.errors[0]["at"].removeprefix("body.")
            message = f"{param}: {self.errors[0]['message']}; change it or leave it out"
        code = _OPENAI_CODES.get(self.name) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).lower()
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def problem_of(error: BaseException) -> Problem:
    """What a client is told about an error. Whatever is not ours is logged here and told without internals."""
    if isinstance(error, Refused):
        return error.problem
    for kind, status, title in _STATUS:
        if isinstance(error, kind):
            return Problem(type(error).__name__, title, status, str(error))
    if isinstance(error, TwinError):
        return Problem(type(error).__name__, "The twin failed", 500, str(error))
    request_id = current.get()
    _log.error("request %s met a mistake of ours, %s: %s", request_id, type(error).__name__, error, exc_info=error)
    return Problem(
        "InternalError",
        "A mistake of ours",
        500,
        f"the service failed in a way it should not have; the log of `twin serve` says more under request {request_id}",
    )


def response(problem: Problem, headers: Mapping[str, str] | None = None, *, path: str) -> JSONResponse:
    """A problem as the response to a request for `path`."""
    if not OPENAI_PATHS.fullmatch(path):
        return JSONResponse(problem.as_json(), problem.status, dict(headers or {}), media_type=MEDIA_TYPE)
    # OpenAI's clients repeat whatever fails with a 409 or a 5xx, unless they are told not to: what took too long once
    # would take three times as long.
    again = "true" if problem.status in _WORTH_ANOTHER_TRY else "false"
    status = 400 if problem.status == 422 else problem.status
    return JSONResponse(problem.as_openai(), status, {**(headers or {}), "x-should-retry": again})


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""
    app.add_exception_handler(TwinError, _told)
    app.add_exception_handler(Refused, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(_Mistakes)


class _Mistakes:
    """ASGI middleware: what is no error of ours becomes a problem, too.

    Starlette's own handler for them answers and then raises them again, by which the connection is lost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; once a response has begun, an exception can only end it."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await response(problem_of(error), path=scope["path"])(scope, receive, send)


async def _told(request: Request, error: Exception) -> JSONResponse:
    headers = error.headers if isinstance(error, Refused) else None
    return response(problem_of(error), headers, path=request.url.path)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    found = cast("RequestValidationError", error).errors()
    errors = tuple({"at": _place(each), "message": _said(each)} for each in found)
    first = errors[0] if errors else {"at": "body", "message": "is not valid"}
    detail = f"{first['at']} is not valid: {first['message']}; /openapi.json describes every request"
    problem = Problem("ValidationError", "The request is not valid", 422, detail, errors)
    return response(problem, path=request.url.path)


def _place(found: Mapping[str, Any]) -> str:
    # For broken JSON the place is a number of characters, which `_said` tells.
    return "body" if found["type"] == "json_invalid" else ".".join(str(part) for part in found["loc"])


def _said(found: Mapping[str, Any]) -> str:
    """What is wrong, where pydantic's own words would not tell somebody with curl what to change."""
    if found["type"] == "json_invalid":
        return f"it is no JSON: {found['ctx']['error']}, at character {found['loc'][-1]}"
    if found["loc"] == ("body",) and isinstance(found["input"], bytes):  # FastAPI reads JSON where the header says so
        return "it was not sent as JSON; add the header `Content-Type: application/json`"
    if found["type"] == "extra_forbidden":
        return "there is no such field"
    return str(found["msg"]).removeprefix("Value error, ")


async def _http(request: Request, error: Exception) -> JSONResponse:
    said = cast("HTTPException", error)
    title = http.HTTPStatus(said.status_code).phrase
    detail = str(said.detail)
    if said.status_code == 404:
        detail = f"there is nothing at {request.url.path}; /openapi.json lists what there is"
    if said.status_code == 405:
        detail = (
            f"{request.url.path} takes no {request.method}; use {(said.headers or {}).get('Allow', 'another method')}"
        )
    problem = Problem(title.replace(" ", ""), title, said.status_code, detail)
    return response(problem, said.headers, path=request.url.path)
