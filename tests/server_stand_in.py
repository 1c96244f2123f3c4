"""A program that behaves as the server of a language model does, well or badly, for tests that start real processes.

    python tests/server_stand_in.py --port 4567 --ready-after 0.5

It takes the command lines of vLLM and llama-server, answers /health and /v1/models, and prints a log. Variables of the
environment make it misbehave: STAND_IN_READY_AFTER (seconds), STAND_IN_CRASH (a message), STAND_IN_CRASH_AFTER
(seconds), STAND_IN_DEAF (ignores SIGTERM), STAND_IN_CHILD (starts a deaf process of its own and prints its id).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STARTED = time.monotonic()
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def option(*names: str) -> str:
    return next((sys.argv[place + 1] for place, said in enumerate(sys.argv) if said in names), "")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        waiting = float(os.environ.get("STAND_IN_READY_AFTER", "0")) > time.monotonic() - STARTED
        key = os.environ.get("LLAMA_API_KEY") or os.environ.get("VLLM_API_KEY") or ""
        if self.path == "/health":
            self._send(503 if waiting else 200, {"status": "loading" if waiting else "ok"})
        elif key and self.headers.get("Authorization") != f"Bearer {key}":
            self._send(401, {"error": {"message": "no key"}})
        else:
            name = option("--alias", "--served-model-name")
            self._send(200, {"object": "list", "data": [{"id": name}], "argv": sys.argv[1:]})

    def _send(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    environment = os.environ
    _say(f"loading {option('-m') or sys.argv[1:]}")
    if environment.get("STAND_IN_DEAF"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if environment.get("STAND_IN_CHILD"):
        child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        Path(environment["STAND_IN_CHILD"]).write_text(str(child.pid))
    if message := environment.get("STAND_IN_CRASH"):
        sys.stderr.write(message + "\n")
        sys.exit(3)
    server = ThreadingHTTPServer((option("--host") or "127.0.0.1", int(option("--port"))), Handler)
    if seconds := environment.get("STAND_IN_CRASH_AFTER"):
        threading.Timer(float(seconds), os._exit, (4,)).start()
    _say("listening")
    server.serve_forever()


if __name__ == "__main__":
    main()
