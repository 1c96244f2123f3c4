"""What was said and what readers think of it: conversations and feedback, each caller's own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from llm_twin.core.records import Exchange, to_json
from llm_twin.twin import Twin

router = APIRouter(prefix="/v1", tags=["conversations"])

Limit = Annotated[int, Query(ge=1, le=1000)]


def user_of(request: Request) -> str:
    """Whose conversations a request adds to."""
    caller = getattr(request.state, "caller", None)
    return caller.id if caller else "local"


def _sees(request: Request) -> str | None:
    """Whose conversations a request may look at; None for everybody's."""
    caller = getattr(request.state, "caller", None)
    return None if caller and "admin" in caller.scopes else user_of(request)


@router.get("/conversations")
def conversations(request: Request, limit: Limit = 100) -> JSONResponse:
    """The caller's conversations, the one that was talked in last first."""
    twin: Twin = request.app.state.twin
    headers = twin.conversations.all(user=_sees(request), limit=limit)
    return JSONResponse(
        [
            {
                "id": header.id,
                "title": header.title,
                "updated_at": to_json(header.updated_at),
                "exchanges": header.exchanges,
            }
            for header in headers
        ]
    )


@router.get("/conversations/{conversation_id}")
def conversation(request: Request, conversation_id: str) -> JSONResponse:
    """What was said in a conversation, oldest first."""
    twin: Twin = request.app.state.twin
    header = twin.conversations.header(conversation_id, user=_sees(request))
    said = twin.conversations.exchanges(conversation_id, user=_sees(request))
    return JSONResponse(
        {"id": header.id, "title": header.title, "exchanges": [_exchange_json(exchange) for exchange in said]}
    )


@router.delete("/conversations/{conversation_id}", status_code=204)
def delete_conversation(request: Request, conversation_id: str) -> Response:
    """Delete a conversation with all that was said in it; feedback that was given on it stays."""
    twin: Twin = request.app.state.twin
    twin.conversations.delete(conversation_id, user=_sees(request))
    return Response(status_code=204)


def _exchange_json(exchange: Exchange) -> dict[str, Any]:
    return {
        "id": exchange.id,
        "kind": exchange.kind,
        "question": exchange.question,
        "filters": to_json(exchange.where),
        "answer": to_json(exchange.answer),
        "created_at": to_json(exchange.created_at),
    }
