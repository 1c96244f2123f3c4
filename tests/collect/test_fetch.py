from __future__ import annotations

import dataclasses
import gzip
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpcore2
import pytest
import trustme

from collect import misbehaving_server as bad
from collect.misbehaving_server import MisbehavingServer, answer, redirect
from llm_twin import __version__
from llm_twin.collect.fetch import FEEDS, PAGES, Fetcher, FetchPolicy, Gone, HttpError
from llm_twin.core.errors import ItemError
from llm_twin.settings import FetchSettings

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
PUBLIC = "93.184.215.14"
QUICK = FetchPolicy(allow_private=True, requests_per_second=1000, timeout_s=5, respect_robots=False)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


class Dialler(httpcore2.SyncBackend):
    """Keeps the addresses it is told to connect to, and connects to this machine instead."""

    def __init__(self) -> None:
        self.dialled: list[str] = []

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.dialled.append(host)
        return super().connect_tcp("127.0.0.1", port, timeout, local_address, socket_options)


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        yield running


@pytest.fixture
def fetcher(tmp_path: Path):
    """Builds fetchers over one cache, on a clock of their own, and closes them."""
    opened: list[Fetcher] = []

    def build(policy: FetchPolicy = QUICK, clock: Clock | None = None, **parts) -> Fetcher:
        clock = clock or Clock()
        still = {"clock": clock, "sleep": clock.sleep, "now": lambda: NOW, "random": lambda: 0.0}
        made = Fetcher(cache_dir=tmp_path / "cache", policy=policy, **{**still, **parts})
        opened.append(made)
        return made

    yield build
    for each in opened:
        each.close()


def policy(**changes) -> FetchPolicy:
    return dataclasses.replace(QUICK, **changes)


# --- what comes back ------------------------------------------------------------------------------------------------


def test_a_page_comes_with_its_text_type_and_address(server, fetcher):
    server.on("/post", answer("<html><p>Dragées à Łódź</p></html>", x_name="one"))
    page = fetcher().fetch(server.url("/post#part"), accept=PAGES)
    assert page.text == "<html><p>Dragées à Łódź</p></html>"
    assert (page.status, page.content_type, page.from_cache) == (200, "text/html", False)
    assert page.url == server.url("/post")
    assert page.headers["x-name"] == "one"
    assert page.fetched_at == NOW


def test_requests_say_who_asks_and_what_for(server, fetcher):
    server.on("/", answer("<html>"))
    fetcher(policy(contact="https://jane.example/about")).fetch(server.url(), accept=PAGES, headers={"X-Own": "1"})
    sent = server.seen[0].headers
    assert sent["user-agent"] == f"llm-twin/{__version__} (+https://jane.example/about)"
    assert sent["accept"] == "text/html, application/xhtml+xml, */*;q=0.1"
    assert sent["accept-encoding"] == "gzip, deflate"
    assert sent["host"] == f"127.0.0.1:{server.port}"
    assert sent["x-own"] == "1"


def test_the_policy_is_what_the_settings_say():
    assert FetchPolicy(**FetchSettings().model_dump()) == FetchPolicy()
    with pytest.raises(ValueError, match="contact"):
        FetchSettings(contact="me)\r\nX-Evil: 1")


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_told_apart_from_other_failures(server, fetcher, status):
    server.on("/", answer("no", status=status))
    with pytest.raises(Gone, match=rf"answered {status} .*leave") as caught:
        fetcher().fetch(server.url())
    assert (caught.value.status, caught.value.skipped) == (status, False)
    assert len(server.seen) == 1


@pytest.mark.parametrize(("status", "advice"), [(401, "browser profile"), (403, "feed or export"), (400, "browser")])
def test_refusals_say_what_to_do(server, fetcher, status, advice):
    server.on("/", answer("no", status=status, x_ratelimit_remaining="0"))
    with pytest.raises(HttpError, match=rf"answered {status} .*{advice}") as caught:
        fetcher().fetch(server.url())
    assert caught.value.headers["x-ratelimit-remaining"] == "0"
    assert not isinstance(caught.value, Gone)


def test_a_query_is_not_shown_in_reasons_because_it_may_hold_a_key(server, fetcher):
    with pytest.raises(Gone) as caught:
        fetcher().fetch(server.url("/feed?token=hunter2"))
    assert "hunter2" not in str(caught.value)
    assert "/feed?…" in str(caught.value)


def test_other_types_than_wanted_are_skipped(server, fetcher):
    server.on("/page", answer(b"%PDF-1.7 ...", kind="text/html"))
    with pytest.raises(ItemError, match="is application/pdf, and text/html or") as caught:
        fetcher().fetch(server.url("/page"), accept=PAGES)
    assert caught.value.skipped


def test_a_video_is_not_read_to_find_out_that_it_is_none_of_the_types_wanted(server, fetcher):
    server.on("/", answer(b"", kind="video/mp4", content_length="900000"))
    with pytest.raises(ItemError, match="is video/mp4"):
        fetcher().fetch(server.url(), accept=PAGES)


def test_a_feed_that_is_served_as_a_page_is_taken_for_a_feed(server, fetcher):
    server.on("/", answer("<?xml version='1.0'?>\n<!-- hi -->\n<rss version='2.0'/>"))
    assert fetcher().fetch(server.url(), accept=FEEDS).content_type == "application/rss+xml"


# --- redirects ------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_and_relative_ones_joined(server, fetcher):
    server.on("/a/one", redirect("two?x=1"))
    server.on("/a/two?x=1", redirect("/three", 308))
    server.on("/three", answer("here"))
    page = fetcher().fetch(server.url("/a/one"))
    assert (page.text, page.url) == ("here", server.url("/three"))


def test_redirects_in_a_circle_end_at_once(server, fetcher):
    server.on("/a", redirect("/b"))
    server.on("/b", redirect("/a"))
    with pytest.raises(ItemError, match="/a redirects in a circle"):
        fetcher().fetch(server.url("/a"))
    assert server.paths() == ["/a", "/b"]


def test_redirects_without_end_stop_after_five(server, fetcher):
    for number in range(10):
        server.on(f"/{number}", redirect(f"/{number + 1}"))
    with pytest.raises(ItemError, match="/0 redirects more than 5 times"):
        fetcher().fetch(server.url("/0"))
    assert server.paths() == [f"/{number}" for number in range(6)]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://user:pw@127.0.0.1/", "http:///"]
)
def test_redirects_to_what_is_not_fetched_are_refused(server, fetcher, location):
    server.on("/", redirect(location))
    with pytest.raises(ItemError):
        fetcher().fetch(server.url())
    assert server.paths() == ["/"]


def test_the_headers_of_a_caller_stay_with_the_origin_they_were_given_for(server, fetcher):
    with MisbehavingServer() as other:
        server.on("/", redirect("/same"))
        server.on("/same", redirect(other.url("/file")))
        other.on("/file", answer("archive"))
        page = fetcher().fetch(server.url(), headers={"Authorization": "Bearer secret", "X-Api-Key": "secret"})
        assert page.text == "archive"
        assert [seen.headers.get("authorization") for seen in server.seen] == ["Bearer secret", "Bearer secret"]
        assert "secret" not in str(other.seen)


# --- robots.txt -----------------------------------------------------------------------------------------------------

ROBOTS = policy(respect_robots=True)


def test_what_robots_txt_disallows_is_skipped_and_robots_txt_asked_for_once(server, fetcher):
    server.on("/robots.txt", answer("User-agent: *\nDisallow: /private/\n", kind="text/plain"))
    server.on("/open", answer("open"))
    ours = fetcher(ROBOTS)
    assert ours.fetch(server.url("/open")).text == "open"
    with pytest.raises(ItemError, match="disallows /private/diary") as caught:
        ours.fetch(server.url("/private/diary"))
    assert caught.value.skipped
    assert server.paths() == ["/robots.txt", "/open"]


def test_robots_txt_may_address_us_by_name(server, fetcher):
    server.on("/robots.txt", answer("User-agent: *\nDisallow:\n\nUser-agent: llm-twin\nDisallow: /\n"))
    with pytest.raises(ItemError, match="disallows"):
        fetcher(ROBOTS).fetch(server.url("/"))


def test_a_redirect_into_what_robots_txt_disallows_is_not_followed(server, fetcher):
    server.on("/robots.txt", answer("User-agent: *\nDisallow: /private\n"))
    server.on("/", redirect("/private"))
    with pytest.raises(ItemError, match="disallows /private"):
        fetcher(ROBOTS).fetch(server.url("/"))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_site_without_robots_txt_may_be_fetched(server, fetcher, status):
    server.on("/robots.txt", answer(status=status))
    server.on("/", answer("hello"))
    assert fetcher(ROBOTS).fetch(server.url("/")).text == "hello"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_while_robots_txt_cannot_be_had_nothing_is_fetched_and_nothing_given_up(server, fetcher, status):
    server.on("/robots.txt", *[answer(status=status)] * 4, answer("User-agent: *\nDisallow: /no\n"))
    server.on("/", answer("hello"))
    clock = Clock()
    ours = fetcher(ROBOTS, clock)
    for _ in range(2):
        with pytest.raises(ItemError, match=rf"robots.txt answered {status} .*nothing is fetched") as caught:
            ours.fetch(server.url("/"))
        assert not caught.value.skipped
    assert server.paths() == ["/robots.txt"] * 4
    clock.time += 600
    assert ours.fetch(server.url("/")).text == "hello"


def test_a_crawl_delay_is_kept_and_bounded(server, fetcher):
    server.on("/robots.txt", answer("User-agent: *\nCrawl-delay: 7\n"))
    server.on("/", answer("hello"))
    clock = Clock()
    ours = fetcher(ROBOTS, clock)
    for _ in range(3):
        ours.fetch(server.url("/"))
    assert clock.slept == pytest.approx([7, 7, 7])
    server.on("/robots.txt", answer("User-agent: *\nCrawl-delay: 86400\n"))
    clock = Clock()
    fetcher(policy(respect_robots=True, max_wait_s=60), clock).fetch(server.url("/"))
    assert clock.slept == pytest.approx([60])


def test_of_an_endless_robots_txt_the_beginning_counts(server, fetcher):
    server.on("/robots.txt", bad.endless_body(b"User-agent: *\nDisallow: /no\n" * 1000))
    server.on("/yes", answer("yes"))
    ours = fetcher(ROBOTS)
    assert ours.fetch(server.url("/yes")).text == "yes"
    with pytest.raises(ItemError, match="disallows"):
        ours.fetch(server.url("/no"))


def test_robots_txt_can_be_left_unasked(server, fetcher):
    server.on("/", answer("hello"))
    fetcher(ROBOTS).fetch(server.url("/"), check_robots=False)
    fetcher(policy(respect_robots=False)).fetch(server.url("/"))
    assert server.paths() == ["/", "/"]


# --- pace -----------------------------------------------------------------------------------------------------------


def test_requests_to_one_host_keep_the_rate(server, fetcher):
    server.on("/", answer("hello"))
    clock = Clock()
    ours = fetcher(policy(requests_per_second=0.5), clock)
    for _ in range(4):
        ours.fetch(server.url("/"))
    assert clock.slept == pytest.approx([2, 2, 2])


def test_the_rate_jitters_upwards_by_a_tenth_at_most(server, fetcher):
    server.on("/", answer("hello"))
    clock = Clock()
    ours = fetcher(policy(requests_per_second=1), clock, random=iter([0.0, 0.5, 1.0, 0.0]).__next__)
    for _ in range(4):
        ours.fetch(server.url("/"))
    assert clock.slept == pytest.approx([1, 1.05, 1.1])


def test_hosts_do_not_wait_for_each_other(server, fetcher):
    server.on("/", answer("hello"))
    clock = Clock()
    ours = fetcher(policy(requests_per_second=1), clock, resolve=lambda *_: ["127.0.0.1"])
    for name in ("one.example", "two.example", "three.example"):
        ours.fetch(server.url("/", name))
    assert clock.slept == []


def test_no_more_connections_to_a_host_than_allowed(server, tmp_path):
    met = threading.Barrier(2)

    def meet(request):
        met.wait(5)
        time.sleep(0.02)
        answer("hello")(request)

    server.on("/", meet)
    ours = Fetcher(cache_dir=tmp_path, policy=policy(concurrency=2))
    with ours, ThreadPoolExecutor(6) as threads:
        pages = list(threads.map(lambda _: ours.fetch(server.url("/")).text, range(6)))
    assert pages == ["hello"] * 6
    assert server.most_active == 2


# --- trouble that passes, and trouble that does not -----------------------------------------------------------------


def test_errors_of_a_server_that_heals_are_waited_out(server, fetcher):
    server.on("/", answer(status=500), answer(status=503), answer(status=502), answer("healed"))
    clock = Clock()
    assert fetcher(clock=clock).fetch(server.url("/")).text == "healed"
    assert clock.slept == pytest.approx([0.5, 1, 2])


def test_a_server_that_does_not_heal_fails_after_all_tries(server, fetcher):
    server.on("/", answer(status=500))
    with pytest.raises(HttpError, match=r"answered 500 .*try again later"):
        fetcher(policy(retries=2)).fetch(server.url("/"))
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7), ("Wed, 04 Mar 2026 12:00:09 GMT", 9), ("Wed, 04 Mar 2020 12:00:00 GMT", 0)]
)
def test_retry_after_is_obeyed(server, fetcher, asked, waited):
    server.on("/", answer(status=429, retry_after=asked), answer("now"))
    clock = Clock()
    assert fetcher(clock=clock).fetch(server.url("/")).text == "now"
    assert sum(clock.slept) == pytest.approx(waited, abs=0.01)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("3600", r"asks to wait 3600 s\)$"),
        ("99999999999999999999", "asks to wait 9"),
        ("Thu, 05 Mar 2026 12:00:00 GMT", r"asks to wait until Thu, 05 Mar 2026 12:00:00 GMT\)$"),
    ],
)
def test_who_asks_to_wait_for_too_long_is_left_alone(server, fetcher, asked, told):
    server.on("/", answer(status=429, retry_after=asked))
    clock = Clock()
    with pytest.raises(HttpError, match=rf"answered 429 .*requests_per_second.*{told}") as caught:
        fetcher(clock=clock).fetch(server.url("/"))
    assert caught.value.status == 429
    assert (len(server.seen), clock.slept) == (1, [])


@pytest.mark.parametrize("asked", ["soon", "-1", "1.5", "²"])
def test_a_retry_after_that_means_nothing_is_overlooked(server, fetcher, asked):
    def busy(request):
        request.raw(f"HTTP/1.1 503 Busy\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n".encode())

    server.on("/", busy, answer("now"))
    clock = Clock()
    assert fetcher(clock=clock).fetch(server.url("/")).text == "now"
    assert clock.slept == pytest.approx([0.5])


@pytest.mark.parametrize("trouble", [bad.reset, bad.broken_off, bad.not_http], ids=lambda each: each.__name__)
def test_broken_connections_are_tried_again_and_then_fail_with_a_reason(server, fetcher, trouble):
    server.on("/heals", trouble, answer("whole"))
    server.on("/never", trouble)
    ours = fetcher(policy(retries=1))
    assert ours.fetch(server.url("/heals")).text == "whole"
    with pytest.raises(ItemError, match=r"broke off|cannot be reached") as caught:
        ours.fetch(server.url("/never"))
    assert not caught.value.skipped
    assert server.paths().count("/never") == 2


def test_a_port_where_nobody_listens_is_a_failure_with_a_reason(fetcher):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ItemError, match=rf"127.0.0.1:{port} cannot be reached: .*check the address"):
        fetcher().fetch(f"http://127.0.0.1:{port}/")


def test_a_name_that_nobody_knows_is_a_failure_with_a_reason(fetcher):
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(ItemError, match=r"jnae.example cannot be reached: the name cannot be looked up.*not known"):
        fetcher(resolve=unknown).fetch("http://jnae.example/")


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dripping", [bad.dripping_body(0.02), bad.dripping_headers(0.02)], ids=["body", "headers"])
def test_answers_that_drip_end_when_the_time_is_up_and_are_not_tried_again(server, tmp_path, dripping):
    server.on("/", dripping)
    began = time.monotonic()
    ours = Fetcher(cache_dir=tmp_path, policy=policy(timeout_s=0.3))
    with ours, pytest.raises(ItemError, match=r"took longer than 0.3 s") as caught:
        ours.fetch(server.url("/"))
    assert 0.3 <= time.monotonic() - began < 3
    assert not caught.value.skipped
    assert len(server.seen) == 1


def test_a_server_that_says_nothing_is_given_up(server, fetcher):
    server.on("/", bad.slow(1.0, answer("late")))
    with pytest.raises(ItemError, match=r"took longer than 0.2 s"):
        fetcher(policy(timeout_s=0.2)).fetch(server.url("/"))


@pytest.mark.parametrize(
    "large",
    [
        bad.endless_body(),
        bad.endless_body(gzip.compress(bytes(10_000_000)), "gzip"),
        bad.endless_body(gzip.compress(b"") * 1000, "gzip"),
        answer(gzip.compress(bytes(50_000_000)), content_encoding="gzip"),
        answer(zlib.compress(bytes(50_000_000)), content_encoding="deflate"),
        answer(b"x" * 100_001),
    ],
    ids=["endless", "endless gzip", "endless nothing", "gzip bomb", "deflate bomb", "announced"],
)
def test_bodies_are_bounded_before_and_after_decompression(server, fetcher, large):
    server.on("/", large)
    with pytest.raises(
        ItemError, match=r"is larger than 100,000 bytes; leave it out, or raise fetch.max_bytes$"
    ) as caught:
        fetcher(policy(max_bytes=100_000)).fetch(server.url("/"))
    assert caught.value.skipped
    assert len(server.seen) == 1


def test_a_caller_may_set_another_bound(server, fetcher):
    server.on("/", answer(b"x" * 100))
    ours = fetcher(policy(max_bytes=10))
    assert len(ours.fetch(server.url("/"), max_bytes=100).content) == 100
    with pytest.raises(ItemError, match="larger than 10 bytes"):
        ours.fetch(server.url("/"))


def test_headers_without_end_fail(server, fetcher):
    server.on("/", bad.huge_headers)
    with pytest.raises(ItemError, match="broke off or does not speak HTTP"):
        fetcher(policy(retries=0)).fetch(server.url("/"))


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_encodings_nobody_asked_for_fail(server, fetcher, encoding):
    server.on("/", answer(b"\x1b\x03\x00", content_encoding=encoding))
    with pytest.raises(ItemError, match=f"compressed as '{encoding}', which was not asked for"):
        fetcher().fetch(server.url("/"))


def test_a_compressed_page_arrives_whole_and_a_cut_one_fails(server, fetcher):
    packed = gzip.compress(b"<p>" + os.urandom(300_000).hex().encode())
    server.on("/whole", answer(packed, content_encoding="gzip"))
    server.on("/cut", answer(packed[:-100], content_encoding="gzip"))
    server.on("/wrong", answer(b"<p>plain", content_encoding="gzip"))
    ours = fetcher(policy(retries=0))
    assert ours.fetch(server.url("/whole")).content == gzip.decompress(packed)
    with pytest.raises(ItemError, match="ends too early"):
        ours.fetch(server.url("/cut"))
    with pytest.raises(ItemError, match="not compressed as it says"):
        ours.fetch(server.url("/wrong"))


# --- whom to connect to ---------------------------------------------------------------------------------------------

STRICT = policy(allow_private=False)


@pytest.mark.parametrize(
    "url", ["ftp://jane.example/", "file:///etc/passwd", "javascript:alert(1)", "mailto:jane@jane.example", "data:,x"]
)
def test_other_schemes_are_skipped(fetcher, url):
    with pytest.raises(ItemError, match="only http and https") as caught:
        fetcher().fetch(url)
    assert caught.value.skipped


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "1.2.3",
        "%31%32%37.0.0.1",
        "a b",
        "-x.example",
        "[::1%25lo]",
    ],
)
def test_odd_spellings_of_addresses_are_no_hosts_even_in_ones_own_network(fetcher, host):
    with pytest.raises(ItemError, match=r"no host name|no web address"):
        fetcher().fetch(f"http://{host}/")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1/", r"^127.0.0.1 is a private address .*`allow_private = true` under \[fetch\]"),
        ("http://[::1]/", r"^::1 is a private address .*`allow_private = true`"),
        ("http://[::ffff:10.0.0.1]/", r"^::ffff:10.0.0.1 carries 10.0.0.1, which is a private address"),
        ("http://169.254.169.254/", r"^169.254.169.254 is where clouds keep .*; correct the address or leave it out$"),
    ],
)
def test_private_addresses_are_refused(fetcher, url, why):
    dialler = Dialler()
    with pytest.raises(ItemError, match=why) as caught:
        fetcher(STRICT, sockets=dialler).fetch(url)
    assert not caught.value.skipped  # a network that answers every name with its own address must not cost documents
    assert dialler.dialled == []


def test_a_name_that_leads_to_a_private_address_is_refused_and_the_setting_named(server, fetcher):
    with pytest.raises(ItemError, match=r"intranet.example leads to 10.0.0.7, which .* `allow_private = true`"):
        fetcher(STRICT, resolve=lambda *_: ["10.0.0.7"]).fetch("http://intranet.example/")
    with pytest.raises(ItemError, match=r"leads to 10.0.0.7"):
        fetcher(STRICT, resolve=lambda *_: [PUBLIC, "10.0.0.7"]).fetch("http://mixed.example/")


def test_metadata_services_stay_refused_in_ones_own_network(fetcher):
    for url in ("http://169.254.169.254/latest/", "http://metadata.google.internal/", "http://[fd00:ec2::254]/"):
        with pytest.raises(ItemError, match="clouds keep their metadata"):
            fetcher().fetch(url)


def test_the_connection_goes_to_the_address_that_was_checked(server, fetcher):
    """A name that first leads to a public and then to a private address (DNS rebinding) gains nothing."""
    server.on("/", answer("public", connection="close"))
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    dialler = Dialler()
    ours = fetcher(STRICT, resolve=lambda *_: next(answers), sockets=dialler)
    assert ours.fetch(server.url("/", "rebinding.example")).text == "public"
    assert dialler.dialled == [PUBLIC]
    assert server.seen[0].headers["host"] == f"rebinding.example:{server.port}"
    with pytest.raises(ItemError, match=r"leads to 127.0.0.1"):
        ours.fetch(server.url("/", "rebinding.example"))
    assert dialler.dialled == [PUBLIC]


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/secret", "http://inside.example:{port}/secret"])
def test_a_public_page_cannot_redirect_inside(server, fetcher, target):
    server.on("/", redirect(target.format(port=server.port)))
    server.on("/secret", answer("secret"))
    names = {"public.example": [PUBLIC], "inside.example": ["192.168.1.1"]}
    dialler = Dialler()
    with pytest.raises(ItemError, match=r"(^|leads to )(127.0.0.1|192.168.1.1),?( which)? is a private address"):
        fetcher(STRICT, resolve=lambda host, _: names[host], sockets=dialler).fetch(server.url("/", "public.example"))
    assert dialler.dialled == [PUBLIC]
    assert server.paths() == ["/"]


def test_robots_txt_cannot_redirect_inside_either(server, fetcher):
    server.on("/robots.txt", redirect(f"http://127.0.0.1:{server.port}/secret"))
    ours = fetcher(policy(allow_private=False, respect_robots=True), resolve=lambda *_: [PUBLIC], sockets=Dialler())
    with pytest.raises(ItemError, match=r"^127.0.0.1 is a private address"):
        ours.fetch(server.url("/", "public.example"))
    assert server.paths() == ["/robots.txt"]


def test_the_next_address_is_tried_when_the_first_does_not_answer(server, fetcher):
    server.on("/", answer("hello"))
    ours = fetcher(resolve=lambda *_: ["127.0.0.9", "127.0.0.1"])
    assert ours.fetch(server.url("/", "two.example")).text == "hello"


def test_proxies_of_the_environment_are_not_used(server, fetcher, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.on("/", answer("direct"))
    assert fetcher().fetch(server.url("/")).text == "direct"


# --- TLS ------------------------------------------------------------------------------------------------------------


def _tls(name: str, authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_certificates_are_checked_against_the_name_although_the_connection_goes_to_an_address(fetcher):
    authority = trustme.CA()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    asked: list[str | None] = []
    tls = _tls("jane.example", authority)
    tls.sni_callback = lambda _socket, name, _context: asked.append(name)
    with MisbehavingServer(tls=tls) as server:
        server.on("/", answer("over TLS"))
        ours = fetcher(resolve=lambda *_: ["127.0.0.1"], ssl_context=trusting)
        assert ours.fetch(server.url("/", "jane.example")).text == "over TLS"
        with pytest.raises(ItemError, match=r"certificate of joe.example is not trusted: .*joe.example"):
            ours.fetch(server.url("/", "joe.example"))
        assert asked == ["jane.example", "joe.example"]
        assert server.paths() == ["/"]


def test_a_certificate_of_nobody_known_is_refused_and_not_tried_again(fetcher):
    with MisbehavingServer(tls=_tls("jane.example", trustme.CA())) as server:
        clock = Clock()
        with pytest.raises(ItemError, match=r"not trusted: .*certificate.*SSL_CERT_FILE"):
            fetcher(clock=clock, resolve=lambda *_: ["127.0.0.1"]).fetch(server.url("/", "jane.example"))
        assert (server.seen, clock.slept) == ([], [])


def test_an_authority_of_ones_own_is_named_in_the_environment(fetcher, tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with MisbehavingServer(tls=_tls("jane.example", authority)) as server:
        server.on("/", answer("mine"))
        ours = fetcher(resolve=lambda *_: ["127.0.0.1"])
        assert ours.fetch(server.url("/", "jane.example")).text == "mine"


# --- the cache ------------------------------------------------------------------------------------------------------


def test_what_did_not_change_is_confirmed_and_not_sent_again(server, fetcher):
    server.on("/", bad.with_etag("<p>version one</p>", '"one"'))
    first = fetcher().fetch(server.url("/"))
    again = fetcher().fetch(server.url("/"))
    assert (first.from_cache, again.from_cache) == (False, True)
    assert again.content == first.content == b"<p>version one</p>"
    assert (again.status, again.content_type, again.url) == (200, "text/html", server.url("/"))
    assert server.seen[1].headers["if-none-match"] == '"one"'
    server.on("/", bad.with_etag("<p>version two</p>", '"two"'))
    changed = fetcher().fetch(server.url("/"))
    assert (changed.text, changed.from_cache) == ("<p>version two</p>", False)
    assert fetcher().fetch(server.url("/")).text == "<p>version two</p>"


def test_a_date_of_change_is_asked_about_too(server, fetcher):
    changed = "Wed, 04 Mar 2026 10:00:00 GMT"
    server.on("/", answer("feed", last_modified=changed), answer(status=304, kind=""))
    assert fetcher().fetch(server.url("/")).text == "feed"
    assert fetcher().fetch(server.url("/")).from_cache
    assert server.seen[1].headers["if-modified-since"] == changed


def test_an_answer_to_a_token_is_given_to_nobody_else(server, fetcher):
    server.on("/", bad.with_etag("private", '"one"'))
    fetcher().fetch(server.url("/"), headers={"Authorization": "Bearer mine"})
    fetcher().fetch(server.url("/"))
    fetcher().fetch(server.url("/"), headers={"Authorization": "Bearer yours"})
    assert [seen.headers.get("if-none-match") for seen in server.seen] == [None, None, None]


def test_what_must_not_be_stored_or_cannot_be_confirmed_is_not_kept(server, fetcher, tmp_path):
    server.on("/secret", answer("x", etag='"one"', cache_control="private, no-store"))
    server.on("/plain", answer("x"))
    fetcher().fetch(server.url("/secret"))
    fetcher().fetch(server.url("/plain"))
    assert list(tmp_path.rglob("*.answer")) == []


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\x00" * 100, None], ids=["empty", "no fields", "zeros", "cut"])
def test_a_damaged_entry_is_fetched_anew(server, fetcher, tmp_path, damage):
    server.on("/", bad.with_etag("<p>whole</p>", '"one"'))
    fetcher().fetch(server.url("/"))
    (entry,) = tmp_path.rglob("*.answer")
    entry.write_bytes(entry.read_bytes()[:-3] if damage is None else damage)
    page = fetcher().fetch(server.url("/"))
    assert (page.text, page.from_cache) == ("<p>whole</p>", False)


def test_the_cache_keeps_what_was_used_last_within_its_limit(server, tmp_path):
    ours = Fetcher(cache_dir=tmp_path, policy=policy(cache_max_bytes=15_000))
    for number in range(4):
        known = set(tmp_path.iterdir())
        server.on(f"/{number}", bad.with_etag(os.urandom(5_000).hex(), f'"{number}"'))
        ours.fetch(server.url(f"/{number}"))
        (entry,) = set(tmp_path.iterdir()) - known
        os.utime(entry, (number, number))  # in the seventies
    ours.fetch(server.url("/0"))  # confirmed, hence used
    ours.close()
    kept = {json.loads(path.read_bytes().split(b"\n")[0])["url"] for path in tmp_path.glob("*.answer")}
    assert server.url("/0") in kept
    assert server.url("/1") not in kept
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 15_000


def test_what_a_killed_process_left_in_the_cache_goes_and_what_another_writes_stays(server, fetcher, tmp_path):
    (tmp_path / "cache").mkdir()
    left, written = tmp_path / "cache" / ".a.x.part", tmp_path / "cache" / ".b.y.part"
    left.touch()
    written.touch()
    os.utime(left, (1, 1))
    server.on("/", bad.with_etag("hello", '"one"'))
    ours = fetcher()
    ours.fetch(server.url("/"))
    ours.close()
    assert (left.exists(), written.exists()) == (False, True)


def test_the_answers_of_a_source_can_be_forgotten(server, fetcher, tmp_path):
    for path in ("/blog/a", "/blog/b", "/feed"):
        server.on(path, bad.with_etag(path, f'"{path}"'))
        fetcher().fetch(server.url(path))
    assert fetcher().forget(server.url("/blog/")) == 2
    assert len(list(tmp_path.rglob("*.answer"))) == 1


def test_several_processes_share_a_cache(server, tmp_path):
    """Each reads and replaces the same entry many times; nobody ever sees half of one."""
    bodies = [f"<p>{number}</p>" * 20_000 for number in range(2)]
    server.on("/", *[answer(bodies[n % 2], etag=f'"{n}"') for n in range(200)])
    program = (
        "import sys; from pathlib import Path; from llm_twin.collect.fetch import *\n"
        "policy = FetchPolicy(allow_private=True, requests_per_second=100, respect_robots=False)\n"
        "with Fetcher(cache_dir=Path(sys.argv[2]), policy=policy) as fetcher:\n"
        "    for _ in range(20):\n"
        "        page = fetcher.fetch(sys.argv[1])\n"
        "        assert len(page.content) == 160_000, len(page.content)\n"
    )
    command = [sys.executable, "-c", program, server.url("/"), str(tmp_path)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[1] for process in running] == [b"", b""]
    assert [path.suffix for path in tmp_path.iterdir()] == [".answer"]


# --- downloads ------------------------------------------------------------------------------------------------------


def test_an_archive_is_streamed_to_disk_as_it_is(server, fetcher, tmp_path):
    archive = gzip.compress(os.urandom(300_000))
    server.on("/export", redirect("/export.tar.gz"))
    server.on("/export.tar.gz", answer(archive, kind="application/octet-stream", etag='"one"'))
    to = tmp_path / "new" / "export.tar.gz"
    done = fetcher(policy(max_bytes=1000)).download(server.url("/export"), to, accept=("application/gzip",))
    assert to.read_bytes() == archive
    assert (done.size, done.content_type, done.path) == (len(archive), "application/gzip", to)
    assert done.url == server.url("/export.tar.gz")
    assert server.seen[0].headers["accept-encoding"] == "identity"
    assert list(tmp_path.rglob("*.answer")) == []


@pytest.mark.parametrize(
    "trouble", [bad.reset, bad.endless_body(), answer("<html>sign in")], ids=["reset", "large", "type"]
)
def test_a_download_that_fails_leaves_what_was_there_and_nothing_half(server, fetcher, tmp_path, trouble):
    server.on("/", trouble)
    to = tmp_path / "export.zip"
    to.write_bytes(b"last week's")
    with pytest.raises(ItemError):
        fetcher(policy(max_download_bytes=1_000_000)).download(server.url("/"), to, accept=("application/zip",))
    assert to.read_bytes() == b"last week's"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["export.zip"]


def test_a_download_whose_first_try_breaks_off_begins_anew(server, fetcher, tmp_path):
    server.on("/", bad.reset, answer(b"PK\x03\x04 whole", kind="application/zip"))
    fetcher().download(server.url("/"), tmp_path / "export.zip")
    assert (tmp_path / "export.zip").read_bytes() == b"PK\x03\x04 whole"


@pytest.mark.parametrize(("status", "host"), [(429, "127.0.0.1"), (503, "127.0.0.1"), (500, ""), (403, ""), (404, "")])
def test_an_error_names_the_host_when_it_says_nothing_about_the_page(server, fetcher, status, host):
    server.on("/", answer(status=status))
    with pytest.raises(ItemError) as caught:
        fetcher(policy(retries=0)).fetch(server.url("/"))
    assert caught.value.host == host


def test_an_error_names_the_host_that_cannot_be_reached_and_the_one_whose_robots_txt_cannot_be_had(server, fetcher):
    server.on("/robots.txt", answer(status=500))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    for url, respect_robots in ((nobody, False), (server.url("/"), True)):
        with pytest.raises(ItemError) as caught:
            fetcher(policy(retries=0, respect_robots=respect_robots)).fetch(url)
        assert caught.value.host == "127.0.0.1"
