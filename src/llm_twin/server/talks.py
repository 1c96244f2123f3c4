"""What was said and what readers think of it: conversations and feedback, each caller's own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from llm_twin.core.records import Exchange, Feedback, to_json
from llm_twin.server import examples
from llm_twin.server.asking import twin_of, user_of
from llm_twin.server.metrics import Metrics
from llm_twin.server.reading import Limit, Name
from llm_twin.server.schemas import ConversationLine, ConversationReply, FeedbackBody, problems, reply

router = APIRouter(prefix="/v1", tags=["conversations"])


@router.get("/conversations", responses={200: reply(list[ConversationLine], examples.CONVERSATIONS), **problems(503)})
def conversations(request: Request, limit: Limit = 100) -> JSONResponse:
    """The caller's conversations, the one that was talked in last first."""
    headers = twin_of(request).conversations.all(user=sees(request), limit=limit)
    shown = ("id", "title", "updated_at", "exchanges")
    return JSONResponse([{name: to_json(getattr(header, name)) for name in shown} for header in headers])


@router.get(
    "/conversations/{conversation_id}",
    responses={200: reply(ConversationReply, examples.CONVERSATION), **problems(404, 503)},
)
def conversation(request: Request, conversation_id: Name) -> JSONResponse:
    """What was said in a conversation, oldest first, with the feedback that was given on it."""
    twin, user = twin_of(request), sees(request)
    header = twin.conversations.header(conversation_id, user=user)
    said = twin.conversations.exchanges(conversation_id, user=user)
    given = twin.feedback.of(said)
    exchanges = [_exchange_json(exchange, given.get(exchange.id)) for exchange in said]
    return JSONResponse({"id": header.id, "title": header.title, "exchanges": exchanges})


@router.delete("/conversations/{conversation_id}", status_code=204, responses=problems(404, 503))
def delete_conversation(request: Request, conversation_id: Name) -> Response:
    """Delete a conversation with all that was said in it; feedback that was given on it stays."""
    twin_of(request).conversations.delete(conversation_id, user=sees(request))
    return Response(status_code=204)


@router.post(
    "/feedback", status_code=201, responses={201: reply(Feedback, examples.FEEDBACK), **problems(400, 404, 503)}
)
def give_feedback(request: Request, body: FeedbackBody) -> JSONResponse:
    """Say what you think of an answer, and what the author would have said.

    Given again on the same exchange, it changes what is given and keeps the rest.
    """
    given = twin_of(request).feedback.give(
        body.exchange_id,
        by=user_of(request),
        user=sees(request),
        rating=body.rating,
        reason=body.reason,
        edit=body.edit,
    )
    metrics: Metrics = request.app.state.metrics
    metrics.feedback(body.rating or "none")
    return JSONResponse(to_json(given), status_code=201)


@router.get("/feedback", responses={200: reply(list[Feedback], [examples.FEEDBACK]), **problems(503)})
def feedback(request: Request, limit: Limit = 100) -> JSONResponse:
    """The caller's feedback with the exchanges it is about, the latest first."""
    return JSONResponse(to_json(twin_of(request).feedback.all(user=sees(request), limit=limit)))


@router.delete("/feedback/{feedback_id}", status_code=204, responses=problems(404, 503))
def delete_feedback(request: Request, feedback_id: Name) -> Response:
    """Delete one piece of feedback."""
    twin_of(request).feedback.remove(feedback_id, user=sees(request))
    return Response(status_code=204)


def sees(request: Request) -> str | None:
    """Whose things a request may look at; None for everybody's."""
    caller = getattr(request.state, "caller", None)
    return None if caller and "admin" in caller.scopes else user_of(request)


def _exchange_json(exchange: Exchange, given: Feedback | None) -> dict[str, Any]:
    opinion = given and {"id": given.id, "rating": given.rating, "reason": given.reason, "edit": given.edit}
    return {
        "id": exchange.id,
        "kind": exchange.kind,
        "question": exchange.question,
        "filters": to_json(exchange.where),
        "answer": to_json(exchange.answer),
        "created_at": to_json(exchange.created_at),
        "feedback": opinion,
    }
