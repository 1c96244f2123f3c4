"""The examples in /openapi.json, from one small workspace."""

from __future__ import annotations

from typing import Any

HEADER: dict[str, Any] = {
    "id": "b4ff6488577c6851",
    "author": "Your Name",
    "source": "files",
    "kind": "note",
    "title": "On ORMs",
    "url": "https://example.org/orms",
    "language": "en",
    "published_at": "2021-03-04T00:00:00+00:00",
    "tags": ["databases"],
    "also_at": [],
}
_TEXT = "I write SQL by hand and map rows to small records."
_PLACE = {
    "title": HEADER["title"],
    "url": HEADER["url"],
    "published_at": HEADER["published_at"],
}
ANSWER: dict[str, Any] = {
    "text": f"{_TEXT} [1]",
    "mode": "extractive",
    "citations": [
        {
            "number": 1,
            "document_id": HEADER["id"],
            "quote": _TEXT,
            "start": 0,
            "end": len(_TEXT),
            "heading_path": ["On ORMs"],
            **_PLACE,
        }
    ],
    "passages": [
        {
            "number": 1,
            "document": HEADER,
            "text": _TEXT,
            "start": 0,
            "end": len(_TEXT),
            "score": 1.0,
            "heading_path": ["On ORMs"],
            "chunk_ids": ["240e0a02d7767209f38db915eb452045"],
        }
    ],
    "unsupported": [],
    "notes": [],
    "model": None,
    "prompt": None,
    "usage": {"prompt_tokens": 0, "completion_tokens": 0},
    "timings_ms": {"understand": 0.7, "search": 6.1, "rerank": 9.0, "extract": 12.4},
    "trace_id": "309736212d5c93d574a741540a78f74b",
    "exchange_id": "8f14e45fceea-167a5d3b9c2e",
    "conversation_id": "8f14e45fceea",
}
_ASKED: dict[str, Any] = {"authors": [], "sources": [], "kinds": [], "languages": [], "document_ids": []}
_FILTERS = {**_ASKED, "since": "2021-01-01T00:00:00+00:00", "until": None}
CONVERSATIONS = [
    {
        "id": ANSWER["conversation_id"],
        "title": "What do I think of ORMs?",
        "updated_at": "2026-11-22T12:21:52.385497+00:00",
        "exchanges": 1,
    }
]
_KEPT = {name: value for name, value in ANSWER.items() if not name.endswith("_id") or name == "trace_id"}
CONVERSATION: dict[str, Any] = {
    "id": ANSWER["conversation_id"],
    "title": "What do I think of ORMs?",
    "exchanges": [
        {
            "id": ANSWER["exchange_id"],
            "kind": "ask",
            "question": "What do I think of ORMs?",
            "filters": _FILTERS,
            "answer": _KEPT,
            "created_at": "2026-11-22T12:21:52.385497+00:00",
            "feedback": {"id": "3f2a9c1e5b7d", "rating": "up", "reason": "", "edit": ""},
        }
    ],
}
FEEDBACK = {
    "id": "3f2a9c1e5b7d",
    "exchange": {
        "id": ANSWER["exchange_id"],
        "conversation_id": ANSWER["conversation_id"],
        "question": "What do I think of ORMs?",
        "answer": _KEPT,
        "created_at": "2026-11-22T12:21:52.385497+00:00",
        "where": _FILTERS,
        "user": "local",
        "generation": "bd637b8233bdf5c20f87f33e7c74776c",
        "kind": "ask",
    },
    "created_at": "2026-11-22T12:23:10.120034+00:00",
    "rating": "down",
    "reason": "too long",
    "edit": "I write SQL by hand. [1]",
    "history": [],
    "user": "local",
}
STREAM = """\
event: delta
data: {"text": "I write SQL by hand and map rows to small records. [1]"}

event: citation
data: {"number": 1, "document_id": "b4ff6488577c6851", "title": "On ORMs", "url": "https://example.org/orms", …}

event: done
data: {"text": "I write SQL by hand and map rows to small records. [1]", "mode": "extractive", …}

"""
HITS: list[dict[str, Any]] = [
    {
        "document_id": HEADER["id"],
        "text": _TEXT,
        "start": 0,
        "end": len(_TEXT),
        "score": 1.0,
        "found_by": ["dense", "bm25", "maxsim"],
        **_PLACE,
    }
]
DOCUMENTS = {"documents": [HEADER], "next": None}
DOCUMENT = {**HEADER, "text": _TEXT}
_INDEX = {
    "generation": "20261122T122140.452822",
    "embedder": "minilm-l6-h384-v1/53aa5117/default",
    "sparse": "bm25-1:k1=1.2,b=0.75,len=100,en",
    "dim": 384,
    "count": 2,
    "digest": "bd637b8233bdf5c20f87f33e7c74776c",
    "built_at": "2026-11-22T12:21:40.452822+00:00",
    "languages": ["en"],
    "search": "exact",
}
RUN: dict[str, Any] = {
    "id": "0367783783624ad8b78906daa22b8826",
    "pipeline": "sync",
    "started_at": "2026-11-22T12:21:33.935845+00:00",
    "finished_at": "2026-11-22T12:21:41.211620+00:00",
    "status": "done",
    "code_version": "0.1.0",
    "settings": {"author.name": "Your Name"},
    "inputs": {"sources": ["../posts"]},
    "outputs": {"index": _INDEX, "left_out": []},
    "report": {"documents": {"added": 2}, "chunks": 2},
}
PROFILES = {
    "Your Name": {
        "author": "Your Name",
        "documents": 2,
        "words": 45,
        "measures": {"sentence_words": 11.25},
        "function_words": {"the": 66.7},
        "openers": ["I"],
        "phrases": [],
    }
}
STATUS: dict[str, Any] = {
    "workspace": "/home/you/my-twin",
    "author": "Your Name",
    "documents": 2,
    "index": _INDEX,
    "items": [],
    "left_out": [],
    "profiles": PROFILES,
    "last_sync": RUN,
    "model": "qwen3:4b",
    "coverage": {"../posts": {"added": 2, "skipped": 1}},
}
COVERAGE = {"counts": [{"source": "files", "kind": "note", "year": 2021, "documents": 2}]}
VOICE = {
    "profiles": PROFILES,
    "recent": {"answers": 12, "words": 1480, "measures": {"sentence_words": 13.1, "contractions": 18.2}},
}
SOURCES = [
    {
        "name": "feed",
        "example": "https://you.example/feed.xml",
        "meaning": "The entries of a feed, told apart by their own ids.",
        "options": ["full_text", "platform"],
    }
]
SPANS = [
    {
        "trace_id": "43b1a42860f2a88abf47f67a1a2358b0",
        "span_id": "3f4fe4185884c7cc",
        "name": "search",
        "started_at": "2026-11-22T12:21:52.385497+00:00",
        "duration_ms": 21.3,
        "parent_id": None,
        "attributes": {"method": "reranked", "hits": 1},
        "error": None,
    }
]
JOB = {
    "id": "5d41402abc4b",
    "started_at": "2026-11-22T12:21:33.935845+00:00",
    "status": "running",
    "addresses": [],
    "rebuild": False,
    "finished_at": None,
    "progress": [{"step": "collect ../posts", "done": 2, "total": None}],
    "report": None,
    "problem": "",
    "detail": "",
}
JOB_STREAM = """\
event: progress
data: {"step": "embed", "done": 64, "total": 1210}

event: done
data: {"id": "5d41402abc4b", "status": "done", "report": {"documents": {"added": 2, …}, …}, …}

"""
BATCH = {
    "id": "7d793037a076",
    "user": "local",
    "created_at": "2026-11-22T12:21:33.935845+00:00",
    "status": "running",
    "total": 2,
    "done": 1,
    "failed": 0,
    "digest": "bd637b8233bdf5c20f87f33e7c74776c",
}
QUESTIONS = '{"id": "a", "question": "What do I think of ORMs?"}\n{"question": "And of reviews?"}\n'
RESULTS = (
    '{"id": "a", "line": 1, "question": "What do I think of ORMs?", "answer": {"text": "…", "mode": "extractive"}}\n'
)
METRICS = 'twin_requests_total{method="POST",route="/v1/ask",status="200"} 12.0\n'
