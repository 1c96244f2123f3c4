"""Whether the service lives, whether it can answer, and what it measured."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> JSONResponse:
    """200 while the process lives."""
    return JSONResponse({"alive": True})
