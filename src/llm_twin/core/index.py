"""What every vector index agrees on, whoever's engine it runs on: ids of entries, filters, and what does not fit."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress

from llm_twin.core.errors import IndexMismatch
from llm_twin.core.records import Filter, IndexInfo

REBUILD = "run: twin sync --rebuild"
"""What to do about an index that cannot be used as it is."""


def entry_uuid(chunk_id: str) -> uuid.UUID:
    """The id of a chunk's entry: 128 bits in hex are a UUID in the same order, any other string is hashed to one."""
    with suppress(ValueError):
        return uuid.UUID(hex=chunk_id)
    return uuid.uuid5(uuid.NAMESPACE_OID, chunk_id)


def allowed_values(where: Filter) -> dict[str, list[str]]:
    """The values that a filter allows, by the place of the field in an entry's payload; dates are not among them."""
    allowed = {
        "document.author": where.authors,
        "document.source": where.sources,
        "document.kind": where.kinds,
        "document.language": where.languages,
        "document.id": where.document_ids,
    }
    return {field: list(values) for field, values in allowed.items() if values}


def check_dim(dim: int, info: IndexInfo, what: str) -> None:
    """Refuse a vector of another dimension than the index has. Raises `IndexMismatch`."""
    if dim != info.dim:
        raise IndexMismatch(
            f"{what} has {dim} dimensions, the index has {info.dim} (embedder {info.embedder}); "
            f"choose that embedder again, or {REBUILD}"
        )


def check_same_encoders(live: IndexInfo, wanted: IndexInfo) -> None:
    """Refuse to extend an index with what other encoders made. Raises `IndexMismatch`."""
    for what in ("embedder", "sparse", "dim"):
        if getattr(live, what) != getattr(wanted, what):
            raise IndexMismatch(
                f"the index was built with {what} {getattr(live, what)!r}, "
                f"not {getattr(wanted, what)!r}, so it cannot be extended; {REBUILD}"
            )


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there: the draft of one that is not was abandoned."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
