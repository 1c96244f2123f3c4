"""What whoever presses Ctrl-C sees, and what their clients are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2

from scripted_llm import ScriptedLlm, says
from serving import events_of, until

QUESTION = {"question": "What do I think of object-relational mappers?", "stream": True}


def test_the_first_ctrl_c_says_what_it_waits_for_and_the_second_ends_it_with_an_error_for_the_client(
    home: Path, llm: ScriptedLlm
) -> None:
    llm.script = [says("late", wait_s=100)]
    environment = {"TWIN_LLM_BASE_URL": llm.base_url, "TWIN_LLM_MODEL": "toy", "TWIN_LLM_RETRIES": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_twin", "-C", str(home), "serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))
    reading.start()
    try:
        with httpx2.Client(base_url=process.stdout.readline().strip(), timeout=60, trust_env=False) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            with client.stream("POST", "/v1/ask", json=QUESTION) as response:
                events = events_of(response.iter_lines())
                until(lambda: bool(llm.requests))
                process.send_signal(signal.SIGINT)
                until(lambda: "what is under way has 30 s to finish; Ctrl-C again ends it now\n" in lines)
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                name, data = list(events)[-1]
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - began < 15
    finally:
        process.kill()
        process.wait()
        reading.join()
        process.stdout.close()
        process.stderr.close()
    assert (name, data["type"]) == ("error", "urn:llm-twin:ShuttingDown")
    assert not [line for line in lines if "Traceback" in line]
