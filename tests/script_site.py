"""A web site on this machine whose pages are built by scripts, with a sign-in; and the browsers to look at it with."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from llm_twin.collect.fetch import Fetcher, FetchPolicy

BATCHES = 4
MISSING = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
needs_chromium = pytest.mark.skipif(
    bool(MISSING), reason=f"NO BROWSER WAS TESTED: {MISSING} not on the PATH; apt-get install chromium chromium-driver"
)

FEED = """<title>Feed</title><main id=feed></main><script>
let next = 0, busy = false;
async function more() {
  if (busy || next < 0) return;
  busy = true;
  const words = await (await fetch('/batch?n=' + next)).text();
  next = words ? next + 1 : -1;
  for (const line of words.split('\\n').filter(Boolean)) {
    const p = document.createElement('p'); p.textContent = line; p.style.height = '700px';
    document.getElementById('feed').append(p);
  }
  busy = false;
}
more(); more();
const box = document.querySelector('.box');
(box || window).addEventListener('scroll', more);
</script>"""

PAGES = {
    "/late": """<title>Late</title><div id=app></div><noscript>Switch scripts on.</noscript><script>
        fetch('/words').then(r => r.text()).then(words => setTimeout(() => app.innerHTML = '<p>' + words, 300))
        </script>""",
    "/later": "<div id=app></div><script>setTimeout(() => app.innerHTML = '<p id=late>At last.</p>', 2000)</script>",
    "/feed": FEED,
    "/box": FEED.replace("<main id=feed></main>", "<div class=box><main id=feed></main></div>").replace(
        "<title>", "<style>.box {height: 500px; overflow: auto}</style><title>"
    ),
    "/endless": """<script>
        const add = () => { for (let i = 0; i < 5; i++) {
            const p = document.createElement('p'); p.textContent = 'more and more'; p.style.height = '500px';
            document.body.append(p); } };
        window.addEventListener('scroll', add); setTimeout(add);
        </script><body>""",
    "/restless": "<body><p>Steady words.<script>setInterval(() => document.body.append('.'), 20)</script>",
    "/banner": """<body style="overflow: hidden"><article><h1>Queues</h1><p>Every queue is full or empty. I have come to
        think of that as the first law of queues, and of plumbing.</article>
        <div style="position: fixed; bottom: 0">We value your privacy
        <button onclick="fetch('/accepted')">Accept</button>
        </div><div role=dialog>Subscribe to my letter</div>
        <script>document.querySelector('button').focus()</script>""",
    "/app": "<div id=root style='position: fixed; inset: 0; overflow: auto'><p>All of it lives in one fixed box.</div>",
    "/hang": "<p>Nearly.<script>setTimeout(() => { for (;;); }, 200)</script>",
    "/hang-at-once": "<p>Not even nearly.<script>for (;;);</script>",
    "/crash": "<p>It was fine.<script>setTimeout(() => fetch('/kill'), 100)</script>",
    "/downloads": """<p>Take this.<script>
        const a = document.createElement('a'); a.href = '/file'; a.download = 'unwanted.bin';
        document.body.append(a); a.click();
        setTimeout(() => location.href = '/file', 100);
        </script>""",
    "/rich": """<style>@font-face {font-family: F; src: url(/f.woff2)} p {font-family: F}</style><p>Words only.
        <img src=/i.png><video src=/v.mp4 autoplay></video><audio src=/a.mp3 preload=auto></audio>
        <div style="background: url(/b.jpg); width: 9px; height: 9px"></div>""",
    "/large": "<script>document.write('<p>' + 'words '.repeat(500000))</script>",
    "/rude": """<p>Before.<script>alert('Hello!'); window.open('/late'); window.onbeforeunload = () => 'stay';
        document.body.append('After.')</script>""",
    "/moving": "<p>Here.<script>setTimeout(() => location.href = '/moved', 150)</script>",
    "/moved": "<p>There.",
    "/liar": """<p>True.<script>window.Blob = function () { return {size: 1} };
        document.body.append('x'.repeat(3000000))</script>""",
    "/login": "<form method=post><input name=name><input type=password name=password><button>Sign in</button></form>",
}


class ScriptSite:
    """What was asked for, in order; `url` is where the site is."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""
        self.pages = dict(PAGES)
        self.redirects: dict[str, str] = {}


@contextmanager
def serve() -> Iterator[ScriptSite]:
    site = ScriptSite()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            parts = urlsplit(self.path)
            if parts.path in site.pages:
                self.answer(site.pages[parts.path])
            elif parts.path in site.redirects:
                self.answer("", status=302, location=site.redirects[parts.path])
            elif parts.path == "/words":
                self.answer("Words that came later.", kind="text/plain")
            elif parts.path == "/batch":
                number = int(parse_qs(parts.query)["n"][0])
                time.sleep(0.2)
                lines = [f"Story {number}-{part}." for part in range(3)] if number < BATCHES else []
                self.answer("\n".join(lines), kind="text/plain")
            elif parts.path == "/file":
                self.answer("01234", kind="application/octet-stream", content_disposition="attachment")
            elif parts.path == "/kill":
                for pid in renderers():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            elif parts.path == "/private":
                signed_in = "session=opensesame" in self.headers.get("cookie", "")
                self.answer("<p>My own page." if signed_in else "<p>Who are you?")
            else:
                self.answer("<p>Nothing here.", status=404)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            good = form == {"name": ["jane"], "password": ["secret"]}
            cookie = {"set_cookie": "session=opensesame; Max-Age=3600; HttpOnly"} if good else {}
            self.answer("<p>Welcome." if good else "<p>No.", **cookie)

        def answer(self, body: str, *, kind: str = "text/html", status: int = 200, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body.encode())))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # browsers hang up
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetcher_here(folder: Path, hosts: list[str] | None = None, **policy: object) -> Fetcher:
    """A fetcher that may reach this machine, and notes every name that it is asked to look up."""

    def resolve(host: str, port: int) -> list[str]:
        if hosts is not None:
            hosts.append(host)
        raise OSError("there are no names in tests")

    changes = {"allow_private": True, "requests_per_second": 100, **policy}
    return Fetcher(cache_dir=folder, policy=FetchPolicy(**changes), resolve=resolve)


def renderers() -> list[int]:
    """Processes below this one that draw pages."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"--type=renderer" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))

    def is_ours(pid: int) -> bool:
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid]
        return False

    return [pid for pid in found if is_ours(pid)]
