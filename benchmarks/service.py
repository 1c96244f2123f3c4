"""The service: what it adds to the twin itself, and whether anything is lost under load, for long, or with a bad model.

    python benchmarks/service.py [--json] [--soak 10000] [--only overhead streams search soak faults]

A workspace of blog posts is served by `twin serve` in a process of its own. Its language model is scripted, in another
process: a first token after 100 ms, then one every 20 ms. This process asks, over plain sockets.

*overhead*  The same question to the twin in this process and to the service, in turn, one at a time: what the service
            adds until the passages are there (retrieval) and until the first text, over pairs; processor time of each.
*streams*   Both ways in alternating rounds with 1, 8 and 64 at a time: the same times, the pauses between two pieces of
            text, and answers that broke off.
*search*    Requests per second of POST /v1/search against `Twin.search` in threads of this process.
*soak*      Many requests of every kind, and the service's memory as it says itself.
*faults*    Questions while the model server fails every request, cuts replies, is too slow, and is dead.

How late the service's event loop was is read from its own /metrics, beside that of the idle model server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_twin import Twin
from llm_twin.core.records import Passages, TextDelta
from report import DATA, command, corpora, show

POSTS = 30
TOKENS = 40
FIRST_S, EACH_S = 0.1, 0.02
ROUNDS = 2
LATE_S = (0.01, 0.05, 0.2)
FAULTS = ("well", "failing", "cutting", "slow", "dead", "well again")
PER_FAULT = 48
PAIRS = 60
SLOW_S = 2.0
"""Seconds that the service waits for a first token; the slow model takes three times as long."""


def main() -> None:
    """Measure and print a table or JSON."""
    parser = command(__doc__)
    parser.add_argument("--soak", type=int, default=10_000, help="requests of the soak (default: 10,000)")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts to run")
    parser.add_argument("--model", metavar="MODE", help=argparse.SUPPRESS)  # this script as the model server
    arguments = parser.parse_args()
    if arguments.model is not None:
        asyncio.run(model_server())
        return
    (blog,) = corpora("blog-matklad")
    with tempfile.TemporaryDirectory() as folder, scripted_model() as model:
        tell(f"syncing {POSTS} posts")
        home, questions = workspace(blog, Path(folder))
        with served(home, model) as service:
            result = {name: PARTS[name](home, service, model, questions, arguments) for name in arguments.only}
            result["loop"] = lateness(service, model)
    result["load_average"] = os.getloadavg()[0]
    show(result, table, as_json=arguments.json)


# --- the parts ------------------------------------------------------------------------------------------------------


@dataclass
class Timed:
    """What one answer took, in milliseconds from the question; `ended` is its last event, "" where it broke off."""

    passages_ms: float = 0.0
    first_ms: float = 0.0
    gaps_ms: list[float] = field(default_factory=list)
    ended: str = ""
    mode: str = ""


def overhead(home: Path, service: Service, model: Model, questions: list[str], _: Any) -> dict[str, Any]:
    """Each question to the twin and to the service in turn, one at a time, no further than its first text."""
    model.become("well")
    direct: list[Timed] = []
    through: list[Timed] = []
    with Twin.open(home, arguments=model.settings) as twin:
        twin.warm_up()
        tell(f"overhead, {PAIRS} pairs")
        cpu_s = {"direct": 0.0, "service": 0.0}
        for question in itertools.islice(itertools.cycle(questions), PAIRS):
            before = time.process_time()
            direct.append(timed_directly(twin, question, whole=False))
            cpu_s["direct"] += time.process_time() - before
            before = service.metric("process_cpu_seconds_total")
            through += asyncio.run(asked_of(service, [question], 1, whole=False))
            time.sleep(0.1)  # until the service has noticed that its reader left
            cpu_s["service"] += service.metric("process_cpu_seconds_total") - before
    pairs = list(zip(direct, through, strict=True))
    return {
        "passages_ms": {
            "direct": quantiles([each.passages_ms for each in direct]),
            "service": quantiles([each.passages_ms for each in through]),
        },
        "added_until_passages_ms": quantiles([after.passages_ms - before.passages_ms for before, after in pairs]),
        "added_until_first_text_ms": quantiles([after.first_ms - before.first_ms for before, after in pairs]),
        "cpu_ms": {way: 1000 * seconds / PAIRS for way, seconds in cpu_s.items()},
    }


def streams(home: Path, service: Service, model: Model, questions: list[str], _: Any) -> dict[str, Any]:
    """Both ways in alternating rounds, at every number of streams, by a model of a steady pace."""
    model.become("well")
    result = {}
    with Twin.open(home, arguments=model.settings) as twin:
        twin.warm_up()
        for at_once in (1, 8, 64):
            direct: list[Timed] = []
            through: list[Timed] = []
            for _round in range(ROUNDS):
                tell(f"{at_once} streams, round {_round + 1}")
                asked = [*itertools.islice(itertools.cycle(questions), max(at_once, 8))]
                direct += in_threads(twin, asked, at_once)
                through += asyncio.run(asked_of(service, asked, at_once))
            result[str(at_once)] = {"direct": summary(direct), "service": summary(through)}
    return result


def search(home: Path, service: Service, model: Model, questions: list[str], _: Any) -> dict[str, float]:
    """Requests per second, 8 at a time, both ways in turn."""
    asked = [*itertools.islice(itertools.cycle(questions), 400)]
    with Twin.open(home, arguments=model.settings) as twin:
        twin.warm_up()
        rates = {"direct": 0.0, "service": 0.0}
        for _round in range(2):
            started = time.perf_counter()
            spread(asked, 8, lambda question: twin.search(question))
            rates["direct"] = max(rates["direct"], len(asked) / (time.perf_counter() - started))
            started = time.perf_counter()
            bodies = [("POST", "/v1/search", {"query": question}) for question in asked]
            statuses = asyncio.run(requested(service, bodies, 8))
            assert set(statuses) == {200}, Counter(statuses)
            rates["service"] = max(rates["service"], len(asked) / (time.perf_counter() - started))
    return {**rates, "ratio": rates["service"] / rates["direct"]}


def soak(_: Path, service: Service, model: Model, questions: list[str], arguments: Any) -> dict[str, Any]:
    """Requests of every kind in a fixed mix; memory after each tenth."""
    model.become("fast")
    rng = random.Random(7)
    kinds: list[Callable[[str], tuple[str, str, Any]]] = [
        lambda question: ("POST", "/v1/ask", {"question": question, "stream": True}),
        lambda question: ("POST", "/v1/ask", {"question": question, "keep": False}),
        *[lambda question: ("POST", "/v1/search", {"query": question})] * 6,
        *[lambda _question: ("GET", "/v1/documents?limit=20", None)] * 4,
        *[lambda _question: ("GET", "/v1/status", None)] * 4,
        *[lambda _question: ("GET", "/v1/traces?limit=20", None)] * 2,
        *[lambda _question: ("POST", "/v1/ask", {})] * 2,
    ]
    statuses: Counter[int] = Counter()
    memory = [service.metric("process_resident_memory_bytes") / 1e6]
    started = time.perf_counter()
    for _tenth in range(10):
        asked = [rng.choice(kinds)(rng.choice(questions)) for _ in range(arguments.soak // 10)]
        tell(f"soak, {sum(statuses.values()):,} done, {memory[-1]:.0f} MB")
        statuses.update(asyncio.run(requested(service, asked, 8)))
        memory.append(service.metric("process_resident_memory_bytes") / 1e6)
    return {
        "requests": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())),
        "seconds": time.perf_counter() - started,
        "memory_mb": [round(each, 1) for each in memory],
        "growth_second_half_mb": round(memory[-1] - memory[5], 1),
    }


def faults(_: Path, service: Service, model: Model, questions: list[str], *_arguments: Any) -> dict[str, Any]:
    """How answers end while the model server is well, fails, cuts, is slow, is dead, and is well again."""
    result: dict[str, Any] = {}
    degraded = service.metric("twin_answers_degraded_total")
    for mode in FAULTS:
        tell(f"model {mode}")
        model.become(mode.removesuffix(" again"))
        asked = [*itertools.islice(itertools.cycle(questions), PER_FAULT)]
        answers = asyncio.run(asked_of(service, asked, 16))
        ended = Counter(f"{each.ended} {each.mode}".strip() or "dropped" for each in answers)
        now = service.metric("twin_answers_degraded_total")
        result[mode] = {"ended": dict(ended), "counted_degraded": now - degraded}
        degraded = now
    return result


PARTS: dict[str, Callable[..., Any]] = {
    "overhead": overhead,
    "streams": streams,
    "search": search,
    "soak": soak,
    "faults": faults,
}


def summary(timed: list[Timed]) -> dict[str, Any]:
    """The figures of many answers."""
    return {
        "answers": len(timed),
        "dropped": sum(each.ended != "done" for each in timed),
        "passages_ms": quantiles([each.passages_ms for each in timed]),
        "first_ms": quantiles([each.first_ms for each in timed]),
        "gap_ms": quantiles([gap for each in timed for gap in each.gaps_ms]),
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """p10 (the least disturbed), p50, p95 and p99."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p10": cuts[9], "p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}


def tell(what: str) -> None:
    """Say on stderr what is being measured."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


# --- asking ---------------------------------------------------------------------------------------------------------


def in_threads(twin: Twin, asked: list[str], at_once: int) -> list[Timed]:
    """The questions to the twin itself."""
    return spread(asked, at_once, lambda question: timed_directly(twin, question))


def spread(items: list[str], at_once: int, work: Callable[[str], Any]) -> list[Any]:
    """`work` on every item, so many at a time, each in a thread."""
    results: list[Any] = []
    left = iter(items)
    taking = threading.Lock()
    together = threading.Barrier(at_once)

    def take() -> None:
        together.wait()  # else those that run already keep the others from being started, and from being counted
        while True:
            with taking:
                item = next(left, None)
            if item is None:
                return
            results.append(work(item))

    threads = [threading.Thread(target=take) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def timed_directly(twin: Twin, question: str, *, whole: bool = True) -> Timed:
    """One answer of the twin itself; not `whole`, it is left at its first text."""
    timed, clock = Timed(), _Clock()
    for event in twin.chat(keep=True).ask(question):
        if isinstance(event, Passages):
            timed.passages_ms = clock.since_start()
        elif isinstance(event, TextDelta):
            clock.text(timed)
            if not whole:
                break
    timed.ended = "done"
    return timed


async def asked_of(service: Service, asked: list[str], at_once: int, *, whole: bool = True) -> list[Timed]:
    """The questions to the service, so many at a time; not `whole`, they are left at their first text."""
    free = asyncio.Semaphore(at_once)

    async def one(question: str) -> Timed:
        async with free:
            timed, clock = Timed(), _Clock()
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async for name, data in events(service, {"question": question, "stream": True}):
                    if name == "passages":
                        timed.passages_ms = clock.since_start()
                    elif name == "delta":
                        clock.text(timed)
                        if not whole:
                            timed.ended = "done"
                            break
                    elif name in ("done", "error"):
                        timed.ended, timed.mode = name, json.loads(data).get("mode", "")
            return timed

    return await asyncio.gather(*(one(question) for question in asked))


class _Clock:
    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._texts = 0

    def since_start(self) -> float:
        """Milliseconds since the question."""
        return (time.perf_counter() - self._start) * 1000

    def text(self, timed: Timed) -> None:
        """A piece of text came."""
        now = time.perf_counter()
        if self._texts:
            timed.gaps_ms.append((now - self._last) * 1000)
        else:
            timed.first_ms = (now - self._start) * 1000
        self._texts += 1
        self._last = now


async def events(service: Service, body: dict[str, Any]) -> AsyncIterator[tuple[str, str]]:
    """The events of a streamed answer, each as soon as it is here."""
    name = ""
    async for line in body_lines(service, "POST", "/v1/ask", body):
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, line[6:]


async def body_lines(service: Service, method: str, path: str, body: Any) -> AsyncIterator[str]:
    """The lines of a chunked response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        status = await send(reader, writer, service, method, path, body)
        if status[0] != 200:
            yield "event: error"
            yield "data: {}"
            return
        rest = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            *lines, rest = (rest + await reader.readexactly(size)).split(b"\n")
            await reader.readexactly(2)
            for line in lines:
                yield line.decode()
    finally:
        writer.close()


async def send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service, method: str, path: str, body: Any
) -> tuple[int, dict[bytes, bytes]]:
    """Send a request; status and headers of the response."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost:{service.port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    status = int((await reader.readline()).split()[1])
    headers = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    return status, headers


async def requested(service: Service, asked: list[tuple[str, str, Any]], connections: int) -> list[int]:
    """The status of every request, sent over so many kept connections."""
    left = iter(asked)
    statuses: list[int] = []

    async def take() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for method, path, body in left:
            status, headers = await send(reader, writer, service, method, path, body)
            if b"content-length" in headers:
                await reader.readexactly(int(headers[b"content-length"]))
            else:
                while size := int((await reader.readline()).split(b";")[0], 16):
                    await reader.readexactly(size + 2)
                await reader.readline()
            statuses.append(status)
        writer.close()

    await asyncio.gather(*(take() for _ in range(connections)))
    return statuses


# --- what is asked, and what answers --------------------------------------------------------------------------------


def workspace(blog: Path, folder: Path) -> tuple[Path, list[str]]:
    """A synced workspace of the latest posts, and a question about each."""
    posts = [json.loads(line) for line in (blog / "posts.jsonl").read_text("utf-8").splitlines()][-POSTS:]
    (folder / "posts").mkdir()
    for number, post in enumerate(posts):
        front = f"---\ntitle: {json.dumps(post['title'])}\ndate: {post['date'][:10]}\n---\n"
        (folder / "posts" / f"{number}.md").write_text(front + post["text"], encoding="utf-8")
    with Twin.init(folder / "twin", author=posts[0]["author"], addresses=["../posts"]) as twin:
        twin.sync()
    return folder / "twin", [f"What do I think about {post['title']}?" for post in posts]


@dataclass
class Service:
    """`twin serve` in a process of its own."""

    process: subprocess.Popen[str]
    port: int

    def metric(self, name: str) -> float:
        """A value of /metrics; what has labels is added up."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def metrics(self) -> str:
        """All of /metrics."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as reply:
            text: str = reply.read().decode()
            return text


@contextlib.contextmanager
def served(home: Path, model: Model) -> Iterator[Service]:
    """The service, ready."""
    import urllib.error
    import urllib.request

    environment = {**os.environ, **{f"TWIN_{k.replace('.', '_').upper()}": v for k, v in model.settings.items()}}
    process = subprocess.Popen(
        [sys.executable, "-m", "llm_twin", "-C", str(home), "serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stdout
        service = Service(process, int(process.stdout.readline().strip().rpartition(":")[2]))
        while True:
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{service.port}/readyz").close()
                break
            time.sleep(0.1)
        yield service
    finally:
        process.terminate()
        process.wait(30)


class Model:
    """The scripted model server in a process of its own, which can change its ways, die and come back."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self._way = folder / "way"
        self._process: subprocess.Popen[str] | None = None
        self.settings = {
            "llm.base_url": f"http://127.0.0.1:{port}/v1",
            "llm.model": "scripted",
            "llm.retries": "1",
            "llm.first_token_timeout_s": str(SLOW_S),
        }

    def become(self, way: str) -> None:
        """Answer that way from now on."""
        self._way.write_text(way)
        if way == "dead":
            self.close()
        elif self._process is None:
            command = [sys.executable, __file__, "--model", f"{self.port}:{self._way}"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert self._process.stdout
            self._process.stdout.readline()

    @property
    def late(self) -> dict[str, float]:
        """How late the server's own event loop was, since it was started last."""
        found: dict[str, float] = json.loads(Path(f"{self._way}.late").read_text())
        return found

    def close(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def scripted_model() -> Iterator[Model]:
    """A model server on a free port."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        model = Model(port, Path(folder))
        model.become("well")
        try:
            yield model
        finally:
            model.close()


async def model_server() -> None:
    """Speak OpenAI's chat protocol in the way that a file names: well, fast, failing, cutting or slow."""
    port, _, way_file = sys.argv[sys.argv.index("--model") + 1].partition(":")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        way = Path(way_file).read_text()
        if way == "failing":
            writer.write(b"HTTP/1.1 500 Oh\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        else:
            first_s, each_s = (0.0, 0.0) if way == "fast" else (FIRST_S, EACH_S)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            await asyncio.sleep(3 * SLOW_S if way == "slow" else first_s)
            for number in range(TOKENS):
                text = " [1]." if number == TOKENS - 1 else f" word{number}"
                await spoken(writer, {"choices": [{"index": 0, "delta": {"content": text}}]})
                if way == "cutting" and number == TOKENS // 2:
                    writer.transport.abort()
                    return
                await asyncio.sleep(each_s)
            usage = {"prompt_tokens": 500, "completion_tokens": TOKENS}
            await spoken(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
            writer.write(b"data: [DONE]\n\n")
        writer.close()

    async def spoken(writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
        writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await writer.drain()

    async def shielded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await answer(reader, writer)

    async def watch() -> None:
        """Write down how late this loop is, which has next to nothing to do."""
        looks: Counter[str] = Counter()
        while True:
            due = asyncio.get_running_loop().time() + 0.1
            await asyncio.sleep(0.1)
            late = asyncio.get_running_loop().time() - due
            looks.update(["looks", *(f"over_{at * 1000:g}_ms" for at in LATE_S if late > at)])
            Path(f"{way_file}.draft").write_text(json.dumps(looks))
            Path(f"{way_file}.draft").replace(f"{way_file}.late")  # whole for whoever reads it meanwhile

    watching = asyncio.create_task(watch())
    server = await asyncio.start_server(shielded, "127.0.0.1", int(port), backlog=512)
    print("listening", flush=True)
    await asyncio.gather(server.serve_forever(), watching)


# --- what is shown --------------------------------------------------------------------------------------------------


def lateness(service: Service, model: Model) -> dict[str, dict[str, float]]:
    """Looks at the service's event loop, and how many found it later than so long; beside it an idle loop's."""
    found = dict(re.findall(r'twin_loop_lag_seconds_bucket{le="([^"]+)"} (\S+)', service.metrics()))
    looks = float(found["+Inf"])
    late = {f"over_{at * 1000:g}_ms": looks - float(found[f"{at:g}"]) for at in LATE_S}
    return {"service": {"looks": looks, **late}, "idle": model.late}


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    if "overhead" in result:
        found = result["overhead"]
        lines += [f"{key}: {told(found[key])}" for key in ("added_until_passages_ms", "added_until_first_text_ms")]
        for way in ("direct", "service"):
            cpu = found["cpu_ms"][way]
            lines.append(
                f"{way}: ms until passages {told(found['passages_ms'][way])}; processor {cpu:.0f} ms an answer"
            )
    for at_once, ways in result.get("streams", {}).items():
        for way, found in ways.items():
            lines.append(f"{at_once:>2} streams, {way}: {found['answers']} answers, {found['dropped']} dropped")
            lines += [f"           {key}: {told(found[key])}" for key in ("passages_ms", "first_ms", "gap_ms")]
    if "search" in result:
        found = result["search"]
        rates = f"{found['service']:.0f} requests/s, the twin itself {found['direct']:.0f}/s"
        lines.append(f"search: {rates}, ratio {found['ratio']:.2f}")
    if "soak" in result:
        found = result["soak"]
        lines.append(f"soak: {found['requests']:,} requests in {found['seconds']:.0f} s, statuses {found['statuses']}")
        lines.append(f"      memory MB {found['memory_mb']}, second half {found['growth_second_half_mb']:+} MB")
    for mode, found in result.get("faults", {}).items():
        lines.append(f"model {mode:<11} {found['ended']}, counted as degraded: {found['counted_degraded']:.0f}")
    lines += [f"event loop, {whose}: {dict(found)}" for whose, found in result["loop"].items()]
    lines.append(f"load average {result['load_average']:.1f}; corpora at {DATA}")
    return "\n".join(lines)


def told(found: dict[str, float]) -> str:
    """Quantiles on one line."""
    return ", ".join(f"{name} {value:.1f}" for name, value in found.items())


if __name__ == "__main__":
    main()
