from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from llm_twin import Twin
from llm_twin.core.errors import NotFound, StoreError, WorkspaceBusy
from llm_twin.inference.batch import Batch
from llm_twin.ops.jobs import Jobs
from scripted_llm import ScriptedLlm, says
from serving import Served, events_of, until


@pytest.fixture
def service(home: Path) -> Any:
    with Twin.open(home) as twin, Served(twin) as served:
        yield served


def ended(service: Served, job_id: str) -> dict[str, Any]:
    until(lambda: service.client.get(f"/v1/jobs/{job_id}").json()["status"] != "running")
    found: dict[str, Any] = service.client.get(f"/v1/jobs/{job_id}").json()
    return found


def test_a_sync_brings_a_new_post_into_answers_and_reports_every_item(service: Served, home: Path) -> None:
    (home.parent / "posts" / "bees.md").write_text("# Bees\n\nBees winter in a dry hive with a small entrance.\n")
    begun = service.client.post("/v1/sync", json={})
    assert begun.status_code == 202
    assert begun.headers["location"] == f"/v1/jobs/{begun.json()['id']}"
    with service.client.stream("GET", f"{begun.headers['location']}?stream=true") as response:
        told = list(events_of(response.iter_lines()))
    assert told[-1][0] == "done"
    assert {data["step"] for name, data in told if name == "progress"} >= {"collect ../posts", "embed", "index"}
    assert told[-1][1]["report"]["documents"]["added"] == 1
    hits = service.client.post("/v1/search", json={"query": "How do bees winter?", "k": 1}).json()
    assert hits[0]["title"] == "Bees"


def test_a_second_sync_is_refused_with_the_name_of_the_first(service: Served, home: Path) -> None:
    twin: Twin = service.app.state.twin
    with twin.workspace.writing():  # so that the first one waits
        first = service.client.post("/v1/sync", json={}).json()
        refused = service.client.post("/v1/sync", json={})
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:llm-twin:WorkspaceBusy")
        assert first["id"] in refused.json()["detail"]
    assert ended(service, first["id"])["status"] == "done"
    assert [job["id"] for job in service.client.get("/v1/jobs").json()] == [first["id"]]


def test_a_sync_of_an_address_that_is_none_fails_and_says_why(service: Served) -> None:
    job = ended(service, service.client.post("/v1/sync", json={"addresses": ["./nowhere"]}).json()["id"])
    assert job["status"] in ("failed", "done")
    assert "nowhere" in json.dumps(job)


def test_a_job_that_its_service_did_not_end_is_shown_as_interrupted(home: Path) -> None:
    left = {"id": "abc", "started_at": "2026-01-01T00:00:00+00:00", "status": "running"}
    with Twin.open(home) as twin:
        twin.warehouse.put("jobs", "abc", left)
    with Twin.open(home) as twin, Served(twin) as service:
        job = service.client.get("/v1/jobs/abc").json()
        assert job["status"] == "interrupted"
        assert "sync again" in job["detail"]
        assert twin.warehouse.record("jobs", "abc") == job


def test_a_job_of_another_process_that_still_writes_is_running(home: Path) -> None:
    left = {"id": "abc", "started_at": "2026-01-01T00:00:00+00:00", "status": "running"}
    with Twin.open(home) as twin:
        twin.warehouse.put("jobs", "abc", left)
        with twin.workspace.writing():
            assert twin.jobs.job("abc").status == "running"
        assert twin.jobs.job("abc").status == "interrupted"


def test_a_job_nobody_knows_is_not_found(service: Served) -> None:
    for path in ("/v1/jobs/nope", "/v1/jobs/nope?stream=true"):
        refused = service.client.get(path)
        assert (refused.status_code, refused.json()["type"]) == (404, "urn:llm-twin:NotFound")


def test_stopping_ends_a_sync_between_two_items_and_it_can_be_begun_again(tmp_path: Path) -> None:
    from llm_twin.adapters.memory import MemoryWarehouse

    at_second, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def sync(addresses: Any, *, rebuild: bool, progress: Any) -> dict[str, Any]:
        with progress.step("collect", 3) as advance:
            for number in range(3):
                if number == 1:
                    at_second.set()
                    go_on.wait(30)
                seen.append(number)
                advance(1)
        return {"documents": {}}

    jobs = Jobs(MemoryWarehouse(), sync, busy=lambda: False)
    job = jobs.begin()
    assert at_second.wait(30)
    assert jobs.job(job.id).progress[0].done == 1
    stopping = threading.Thread(target=jobs.stop, kwargs={"wait_s": 30})
    stopping.start()
    until(lambda: jobs._cancellation.wanted)
    go_on.set()
    stopping.join()
    assert jobs.job(job.id).status == "interrupted"
    assert seen == [0, 1], "the item at work was finished, the next one not begun"
    again = jobs.begin()
    until(lambda: jobs.job(again.id).status == "done")
    assert [each.status for each in jobs.all()] == ["done", "interrupted"]


def test_jobs_refuse_a_second_and_know_only_their_own() -> None:
    from llm_twin.adapters.memory import MemoryWarehouse

    go_on = threading.Event()
    jobs = Jobs(MemoryWarehouse(), lambda *_, **__: {"waited": go_on.wait(30)}, busy=lambda: False)
    first = jobs.begin(["./posts"], rebuild=True)
    with pytest.raises(WorkspaceBusy, match=first.id):
        jobs.begin()
    with pytest.raises(NotFound, match="'zzz'"):
        jobs.job("zzz")
    go_on.set()
    until(lambda: jobs.job(first.id).status == "done")
    assert jobs.job(first.id).addresses == ("./posts",)


QUESTIONS = [
    {"id": "a", "question": "What do I think of object-relational mappers?"},
    {"question": "How quick should a review be?", "filters": {"since": "2022"}},
    {"question": ""},
]


def batch_of(service: Served, lines: list[Any]) -> dict[str, Any]:
    body = "\n".join(json.dumps(line) for line in lines)
    begun = service.client.post("/v1/batches", content=body, headers={"content-type": "application/jsonl"})
    assert begun.status_code == 202, begun.text
    found: dict[str, Any] = begun.json()
    return found


def test_a_batch_answers_every_question_and_tells_which_line_was_none(service: Served) -> None:
    batch = batch_of(service, QUESTIONS)
    until(lambda: service.client.get(f"/v1/batches/{batch['id']}").json()["status"] == "done")
    reply = service.client.get(f"/v1/batches/{batch['id']}/results")
    assert reply.headers["content-type"].startswith("application/jsonl")
    results = [json.loads(line) for line in reply.text.splitlines()]
    assert [(each["id"], each["line"]) for each in results] == [("a", 1), (None, 2), (None, 3)]
    assert "hide the query" in results[0]["answer"]["text"]
    assert "line 3" in results[2]["error"]["detail"]
    now = service.client.get("/v1/batches").json()[0]
    assert (now["total"], now["done"], now["failed"]) == (3, 3, 1)


def test_a_cancelled_batch_asks_no_more_and_keeps_what_it_has(home: Path, llm: ScriptedLlm) -> None:
    llm.always = says("They hide the query [1].", wait_s=0.3)
    settings = {"llm.base_url": llm.base_url, "llm.model": "toy", "batch.concurrency": 1}
    with Twin.open(home, arguments=settings) as twin, Served(twin) as service:
        batch = batch_of(service, [QUESTIONS[0]] * 40)
        until(lambda: len(llm.requests) >= 2)
        assert service.client.delete(f"/v1/batches/{batch['id']}").json()["status"] == "cancelled"
        until(lambda: not twin.batches.unfinished())
        assert len(llm.requests) < 40


def test_a_batch_that_cannot_go_on_takes_no_turn_of_the_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Twin.open(home) as twin:
        broken, failing, whole = (twin.batches.start([json.dumps(QUESTIONS[0])], user="local") for _ in range(3))
        run = twin.batches.run

        def run_or_fail(batch_id: str) -> Batch:
            if batch_id == broken.id:
                raise ZeroDivisionError
            if batch_id == failing.id:
                raise StoreError("the disk is full; free some space")
            return run(batch_id)

        monkeypatch.setattr(twin.batches, "run", run_or_fail)
        with Served(twin) as service:
            until(lambda: twin.batches.get(whole.id, user=None).status == "done")
            monkeypatch.setattr(twin.batches, "run", run)
            service.app.state.batch_worker.wake()
            until(lambda: not twin.batches.unfinished())


def test_what_begins_work_is_refused_while_the_service_shuts_down(service: Served) -> None:
    service.app.state.desk.closing = True
    for path, body in (("/v1/sync", {}), ("/v1/batches", QUESTIONS[0])):
        refused = service.client.post(path, json=body)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:llm-twin:ShuttingDown")
    assert service.client.get("/v1/jobs").json() == service.client.get("/v1/batches").json() == []
    service.app.state.desk.closing = False


def test_a_batch_that_a_stopped_service_left_is_finished_by_the_next(home: Path, llm: ScriptedLlm) -> None:
    llm.always = says("They hide the query [1].", wait_s=0.2)
    settings = {"llm.base_url": llm.base_url, "llm.model": "toy", "batch.concurrency": 2}
    with Twin.open(home, arguments=settings) as twin, Served(twin) as service:
        batch = batch_of(service, [QUESTIONS[0]] * 12)
        until(lambda: len(llm.requests) >= 4)
    with Twin.open(home, arguments=settings) as twin, Served(twin) as service:
        until(lambda: service.client.get(f"/v1/batches/{batch['id']}").json()["status"] == "done")
        lines = service.client.get(f"/v1/batches/{batch['id']}/results").text.splitlines()
    assert len(lines) == 12
    assert len(llm.requests) <= 12 + 2, "only what was being asked at the stop is asked again"
