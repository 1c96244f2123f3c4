"""What collecting a site costs: 500 pages of a local server the first time, and again when nothing has changed.

    python benchmarks/recollect.py [--json] [--pages 500]

The second run asks conditionally: it counts requests and bodies. The baseline fetches every page again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.fetch import Fetcher, FetchPolicy
from llm_twin.collect.pipeline import SourceContext, collect
from llm_twin.collect.web import WebSource


def main() -> None:
    """Collect the site twice and print what each run cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pages", type=int, default=500)
    options = parser.parse_args()
    with Site(options.pages) as site, tempfile.TemporaryDirectory() as folder:
        rows = measure(site, Path(folder))
    if options.json:
        print(json.dumps({"pages": options.pages, "rows": rows}))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


def measure(site: Site, folder: Path) -> list[dict[str, Any]]:
    """One row for the first run and one for the second, over one warehouse and one cache."""
    store = MemoryWarehouse()
    # As fast as the policy allows: this is a server of our own, and the pace for strangers would be all we measured.
    policy = FetchPolicy(requests_per_second=100.0, concurrency=16, allow_private=True)
    rows = []
    for name in ("first", "unchanged"):
        site.served.clear()
        started = time.perf_counter()
        with Fetcher(cache_dir=folder / "cache", policy=policy) as fetcher:
            context = SourceContext(author="Site", root=folder, fetcher=partial(_same, fetcher), now=_now)
            report = collect(WebSource.open(site.url, context), store=store, redactor=None, now=_now)
        seconds = time.perf_counter() - started
        rows.append(
            {
                "run": name,
                **report.counts,
                "requests": site.served.total(),
                "bodies": site.served["200"],
                "seconds": round(seconds, 2),
                "pages/s": round(len(report.states) / seconds, 1),
            }
        )
    return rows


def _same(fetcher: Fetcher) -> Fetcher:
    return fetcher


def _now() -> datetime:
    return datetime.now(UTC)


class Site:
    """A blog on the loopback interface: a sitemap without dates, and pages that know their ETag."""

    def __init__(self, pages: int) -> None:
        self.served: Counter[str] = Counter()
        self.pages = {f"/posts/{number}": _page(number) for number in range(pages)}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Site:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def body(self, path: str) -> tuple[str, str] | None:
        """Content type and text at a path."""
        if path == "/sitemap.xml":
            urls = "".join(f"<url><loc>{self.url.rstrip('/')}{page}</loc></url>" for page in self.pages)
            return "application/xml", f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>'
        if path == "/":
            return "text/html", "<html><body><h1>A blog</h1></body></html>"
        return ("text/html", self.pages[path]) if path in self.pages else None


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self.site.body(self.path)
        content_type, text = found or ("text/plain", "not here")
        body = text.encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        status = 404 if found is None else 304 if self.headers.get("If-None-Match") == tag else 200
        self.site.served[str(status)] += 1
        self.send_response(status)
        self.send_header("ETag", tag)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", "0" if status == 304 else str(len(body)))
        self.end_headers()
        if status != 304:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _page(number: int) -> str:
    paragraphs = "".join(
        f"<p>Paragraph {part} of post {number} says something of its own about subject {number * part}, at some "
        f"length, so that there is an article to find here and not only a frame around it.</p>"
        for part in range(1, 9)
    )
    return (
        f"<html lang='en'><head><title>Post {number}</title></head><body><nav><a href='/'>Home</a></nav>"
        f"<article><h1>Post {number}</h1><time datetime='2024-01-02'>2 January 2024</time>{paragraphs}</article>"
        f"<footer>Subscribe</footer></body></html>"
    )


if __name__ == "__main__":
    main()
