"""The main job through the front door: files in, cited answers out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_twin import Twin
from llm_twin.core.errors import ConfigError, IndexMismatch, ModelMissing, NotFound
from llm_twin.twin import SyncReport

POSTS = {
    "orms.md": """---
title: On ORMs
date: 2021-03-04
url: https://example.org/orms
tags: [databases]
---
I don't like object-relational mappers. They hide the query, and the query is the program.

## What I do instead

I write SQL by hand and map rows to small records. It's a little more typing, and I always know what runs.
""",
    "reviews.md": """+++
title = "Code review"
date = 2023-06-01
+++
A review should be small and quick. I review code the day it arrives, because waiting costs more than mistakes.

```python
def review(change):
    return change.is_small and change.is_tested
```
""",
    "gardens/tomatoes.md": "# Tomatoes\n\nTomatoes want sun, deep water twice a week and an early stake.\n",
}


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    for name, text in POSTS.items():
        path = tmp_path / "posts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "posts"


@pytest.fixture
def twin(tmp_path: Path, posts: Path) -> Iterator[Twin]:
    with Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]) as twin:
        yield twin


def test_files_go_in_and_a_cited_answer_comes_out(twin: Twin) -> None:
    report = twin.sync()
    assert report.documents == {"added": 3, "updated": 0, "unchanged": 0, "removed": 0, "skipped": 0, "failed": 0}
    assert report.embedded == report.chunks > 0

    answer = twin.ask("What do I think of ORMs?")
    assert answer.mode == "extractive"
    assert "They hide the query" in answer.text
    citation = answer.citations[0]
    assert (citation.title, citation.url) == ("On ORMs", "https://example.org/orms")
    assert twin.document(citation.document_id).text[citation.start : citation.end] == citation.quote
    assert citation.quote in POSTS["orms.md"]


def test_a_question_the_writing_does_not_cover_is_declined(twin: Twin) -> None:
    twin.sync()
    answer = twin.ask("Which wine goes well with grilled salmon?")
    assert answer.mode == "abstained"
    assert answer.citations == ()


def test_a_second_sync_embeds_nothing_and_keeps_the_generation(twin: Twin) -> None:
    first = twin.sync()
    second = twin.sync()
    assert second.documents["unchanged"] == 3
    assert (second.embedded, second.generation) == (0, first.generation)


def test_an_edit_embeds_only_the_chunks_it_changed(twin: Twin, posts: Path) -> None:
    long = "\n\n".join(f"## Part {n}\n\n" + f"Paragraph {n} talks about subject number {n}. " * 30 for n in range(12))
    (posts / "long.md").write_text("# Long\n\n" + long, encoding="utf-8")
    first = twin.sync()
    (posts / "long.md").write_text("# Long\n\n" + long.replace("Paragraph 7 talks", "Paragraph seven sings"))
    second = twin.sync()
    assert second.documents["updated"] == 1
    assert 1 <= second.embedded <= 3 < first.embedded


def test_a_removed_file_leaves_warehouse_index_and_embeddings(twin: Twin, posts: Path) -> None:
    twin.sync()
    (posts / "orms.md").unlink()
    report = twin.sync()
    assert report.documents["removed"] == 1
    assert all(hit.document.title != "On ORMs" for hit in twin.search("object-relational mappers", k=50))
    assert len(twin.warehouse.document_hashes()) == 2
    assert len(twin.warehouse.embedding_keys()) == report.chunks


def test_a_folder_that_is_suddenly_empty_or_gone_removes_nothing(twin: Twin, posts: Path) -> None:
    chunks = twin.sync().chunks
    posts.rename(posts.with_name("elsewhere"))
    gone = twin.sync()
    posts.mkdir()
    empty = twin.sync()
    for report in (gone, empty):
        assert report.problems
        assert (report.documents["removed"], report.chunks) == (0, chunks)


def test_another_chunker_cuts_anew_and_embeds_only_what_differs(twin: Twin) -> None:
    first = twin.sync()
    with Twin.open(twin.workspace.root, arguments={"features.chunker": "fixed"}) as other:
        report = other.sync()
        assert report.generation != first.generation
        assert other.ask("What do I think of ORMs?").mode == "extractive"


def test_another_embedder_is_an_error_until_the_index_is_built_again(twin: Twin) -> None:
    twin.sync()
    with Twin.open(twin.workspace.root, arguments={"embedder.precision": "f32"}) as other:
        if other.embedder.name == twin.embedder.name:
            pytest.skip("this CPU's default precision is f32 already")
        with pytest.raises(IndexMismatch, match="twin sync"):
            other.search("tomatoes")
        assert other.sync().embedded > 0
        assert other.search("tomatoes")[0].document.title == "Tomatoes"


def test_readers_keep_answering_while_a_sync_publishes(twin: Twin, posts: Path) -> None:
    twin.sync()
    stop = threading.Event()
    problems: list[BaseException] = []

    def read() -> None:
        with Twin.open(twin.workspace.root) as reader:
            while not stop.is_set():
                try:
                    assert reader.search("object-relational mappers")[0].document.title == "On ORMs"
                except BaseException as problem:
                    problems.append(problem)
                    return

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(5):
        (posts / f"extra-{number}.md").write_text(f"# Extra {number}\n\nSomething about topic {number} and bicycles.\n")
        twin.sync()
    stop.set()
    thread.join()
    assert not problems


def test_near_duplicates_are_left_out_with_their_leader_named(twin: Twin, posts: Path) -> None:
    text = "# Sailing\n\n" + "A boat that points too high goes nowhere, and one that bears away goes fast. " * 3
    text += "\n\n" + "\n\n".join(
        f"Lesson {n}: keep the sheet in hand, watch the luff, and reef early." for n in range(9)
    )
    (posts / "sailing.md").write_text(text)
    (posts / "sailing-crosspost.md").write_text(text.replace("reef early", "reef early!", 1))
    report = twin.sync()
    assert len(report.left_out) == 1
    assert "near_duplicate of 'Sailing'" in report.left_out[0].reason


def test_secrets_never_reach_the_warehouse(twin: Twin, posts: Path) -> None:
    key = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    (posts / "oops.md").write_text(f"# Deploying\n\nI exported `GITHUB_TOKEN={key}` and it worked for a year.\n")
    twin.sync()
    twin.close()
    stored = b"".join(path.read_bytes() for path in (twin.workspace.state).rglob("*") if path.is_file())
    assert key.encode() not in stored
    assert b"it worked for a year" in stored


def test_filters_restrict_by_date_source_and_author(twin: Twin) -> None:
    twin.sync()
    where = twin.filter(since="2022", until="2024-01")
    assert {hit.document.title for hit in twin.search("code", k=50, where=where)} == {"Code review"}
    assert twin.search("code", where=twin.filter(sources=["github"])) == []
    with pytest.raises(NotFound, match="Nobody"):
        twin.filter(authors=["Nobody At All"])
    with pytest.raises(ConfigError, match="yesterday-ish"):
        twin.filter(since="yesterday-ish")


def test_writing_without_a_model_names_the_ways_to_get_one(twin: Twin) -> None:
    twin.sync()
    with pytest.raises(ModelMissing, match=r"llm.*base_url"):
        twin.write("Why we left Kubernetes")


def test_an_api_key_in_the_environment_alone_does_not_switch_a_model_on(
    twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-something-else")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert twin.model is None


def test_every_sync_and_answer_leaves_a_trace(twin: Twin) -> None:
    report = twin.sync()
    answer = twin.ask("What do I think of ORMs?")
    assert {span.trace_id for span in twin.traces()} >= {report.trace_id, answer.trace_id}
    names = {span.name for span in twin.trace(report.trace_id)}
    assert {"sync", "collect", "features.refresh", "features.embed", "features.publish"} <= names
    assert sum(answer.timings_ms.values()) > 0


def test_runs_record_settings_code_and_what_was_made(twin: Twin) -> None:
    report = twin.sync()
    run = twin.runs()[0]
    assert (run.id, run.pipeline, run.status) == (report.run_id, "sync", "done")
    assert run.outputs["index"]["generation"] == report.generation
    assert run.settings["features.chunker"] == "structure"
    assert run.code_version


def test_a_failed_run_is_recorded_and_the_next_one_recovers(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    with Twin.open(twin.workspace.root, arguments={"embedder.weights": "/nowhere"}) as broken:
        with pytest.raises(ModelMissing, match="/nowhere"):
            broken.sync()
        assert broken.runs()[0].status == "failed"
    assert twin.sync().documents["unchanged"] == 3
    assert twin.ask("What do I think of ORMs?").mode == "extractive"


def test_doctor_looks_at_everything_and_names_remedies(twin: Twin) -> None:
    before = {check.name: check for check in twin.doctor()}
    assert before["embedder"].ok
    assert (before["index"].ok, before["index"].remedy) == (False, "twin sync")
    twin.sync()
    assert all(check.ok for check in twin.doctor())


def test_two_syncs_at_once_do_not_disturb_each_other(twin: Twin) -> None:
    program = "import sys; from llm_twin import Twin; Twin.open(sys.argv[1]).sync(wait_s=60)"
    command = [sys.executable, "-c", program, str(twin.workspace.root)]
    both = [subprocess.Popen(command, env=dict(os.environ)) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    report = twin.sync()
    assert (report.embedded, report.documents["unchanged"]) == (0, 3)


def test_json_lines_of_any_system_can_be_loaded(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{n}", "title": f"Title {n}", "date": "2020-01-02", "text": f"Subject {n} is bees."} for n in (1, 2)
    ]
    (tmp_path / "export.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with Twin.init(tmp_path / "twin", addresses=["../export.jsonl"]) as twin:
        assert twin.sync().documents["added"] == 2
        assert {hit.document.title for hit in twin.search("bees")} == {"Title 1", "Title 2"}


def test_forgetting_deletes_everywhere_and_stays_forgotten(twin: Twin, posts: Path) -> None:
    twin.sync()
    done = twin.forget("https://example.org/orms")
    assert len(done.document_ids) == 1
    assert set(done.left.values()) == {0}
    assert all(hit.document.title != "On ORMs" for hit in twin.search("object-relational mappers", k=50))
    again = twin.sync()
    assert (again.documents["skipped"], again.documents["unchanged"]) == (1, 2)
    (posts / "orms.md").write_text(POSTS["orms.md"] + "One more line.")
    assert twin.sync().documents["skipped"] == 1
    twin.close()
    stored = bytes_in(twin.workspace.state)
    assert b"map rows to small records" not in stored
    assert b"deep water twice a week" in stored


def bytes_in(folder: Path) -> bytes:
    """Every byte of every file, that of SQLite's write-ahead log too."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_no_byte_of_what_was_forgotten_is_left_while_the_workspace_is_open(twin: Twin, posts: Path) -> None:
    for number in range(60):  # enough for the pages of a database to be split and joined
        (posts / f"{number}.md").write_text(
            f"# Note {number}\n\nSentence number {number} of the notes, at length. " * 9
        )
    twin.sync()
    with Twin.open(twin.workspace.root) as reader:
        reader.status()
        for number in range(0, 60, 7):
            twin.forget(f"{number}.md")
        stored = bytes_in(twin.workspace.state)
        assert (twin.workspace.state / "warehouse.db-wal").exists()
    for number in range(60):
        assert (f"Sentence number {number} of".encode() in stored) == bool(number % 7)


def test_forgetting_a_source_deletes_it_and_the_next_sync_brings_it_back(twin: Twin) -> None:
    twin.sync()
    done = twin.forget("../posts/")
    assert (len(done.document_ids), done.returns, done.copies) == (3, True, ())
    assert twin.index.count() == 0
    assert twin.sync().documents["added"] == 3


def test_forgetting_names_the_copies_that_stay(tmp_path: Path) -> None:
    said = (
        "Mending a seam takes an hour at sea and a minute in the harbour, so I carry two needles and good light. " * 5
    )
    for platform in ("blog", "letter"):
        (tmp_path / platform).mkdir()
        (tmp_path / platform / "seams.md").write_text(
            f"---\nurl: https://{platform}.example/seams\n---\n# Seams\n\n{said}"
        )
    (tmp_path / "blog" / "tar.md").write_text("# Tar\n\nTar is for rope, for boards, and for the hands of beginners.\n")
    with Twin.init(tmp_path / "twin", addresses=["../blog", "../letter"]) as twin:
        twin.sync()
        done = twin.forget("https://blog.example/seams")
        assert ([copy.url for copy in done.copies], done.returns) == (["https://letter.example/seams"], False)
        assert [hit.document.url for hit in twin.search("needles")][:1] == ["https://letter.example/seams"]
        assert twin.forget(done.copies[0].id).copies == ()


def test_a_platform_is_found_in_any_case(tmp_path: Path, posts: Path) -> None:
    with Twin.init(tmp_path / "twin") as twin:
        (tmp_path / "twin" / "twin.toml").write_text('[[sources]]\naddress = "../posts"\nplatform = "Blog"\n')
        twin = Twin.open(twin.workspace.root)
        twin.sync()
        assert twin.search("object-relational mappers", where=twin.filter(sources=["BLOG"]))
        twin.close()


def test_forgetting_an_author_forgets_how_they_write(twin: Twin, posts: Path) -> None:
    (posts / "guest.md").write_text(
        "---\nauthor: Gil Guest\n---\n# Ropes\n\nTo be fair, a wet rope is twice as heavy.\n"
    )
    twin.sync()
    assert twin.warehouse.profiles().keys() == {"Test Author", "Gil Guest"}
    assert set(twin.forget("Gil Guest").left.values()) == {0}
    assert twin.warehouse.profiles().keys() == {"Test Author"}


def test_a_removed_document_no_longer_counts_in_the_voice(twin: Twin, posts: Path) -> None:
    twin.sync()
    (posts / "orms.md").unlink()
    twin.sync()
    assert twin.warehouse.profiles()["Test Author"].documents == 2


def test_forgetting_a_source_keeps_what_another_source_lists_as_well(tmp_path: Path, posts: Path) -> None:
    with Twin.init(tmp_path / "both", addresses=["../posts", "../posts/*.md"]) as twin:
        twin.sync()
        assert len(twin.forget("../posts").document_ids) == 1
        assert len(twin.warehouse.document_hashes()) == 2
        assert twin.search("object-relational mappers")[0].document.title == "On ORMs"


def test_forgetting_what_was_never_there_says_so(twin: Twin) -> None:
    twin.sync()
    with pytest.raises(NotFound, match="nothing was collected of 'https://nowhere'"):
        twin.forget("https://nowhere")


def test_watching_indexes_a_local_change_and_survives_failures(twin: Twin, posts: Path) -> None:
    steps = iter(
        [
            lambda: (posts / "new.md").write_text("# New\n\nSomething about bicycles and their brakes.\n"),
            lambda: posts.rename(posts.with_name("away")),
            lambda: posts.with_name("away").rename(posts),
            lambda: (posts / "newer.md").write_text("# Newer\n\nSomething about kettles and their lids.\n"),
        ]
    )
    syncs = twin.watch(every_s=3600, sleep=lambda _: next(steps)())
    assert next(syncs).documents["added"] == 3
    assert next(syncs).documents["added"] == 1
    assert twin.search("bicycles")[0].document.title == "New"
    back = next(syncs)
    assert (back.documents["added"], back.documents["removed"], back.chunks) == (1, 0, 5)


def test_watching_sees_what_changed_while_a_sync_was_running(
    twin: Twin, posts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = twin.sync

    def sync_and_write(*args: Any, **options: Any) -> SyncReport:
        report = sync(*args, **options)
        (posts / "late.md").write_text("# Late\n\nSomething about lanterns, written while the sync was running.\n")
        return report

    monkeypatch.setattr(twin, "sync", sync_and_write)
    syncs = twin.watch(every_s=3600, sleep=lambda _: None)
    assert next(syncs).documents["added"] == 3
    assert next(syncs).documents["added"] == 1


def test_the_cross_encoder_is_chosen_by_name_and_asks_for_its_weights(twin: Twin) -> None:
    twin.sync()
    chosen = {"search.reranker": "cross_encoder", "search.reranker_weights": "/nowhere"}
    with (
        Twin.open(twin.workspace.root, arguments=chosen) as other,
        pytest.raises(ModelMissing, match="no folder /nowhere"),
    ):
        other.search("tomatoes")


def test_a_cross_post_is_one_document_that_names_both_places(twin: Twin, posts: Path) -> None:
    text = "A boat that points too high goes nowhere. " + " ".join(
        f"Lesson {n} is about rope number {n}." for n in range(60)
    )
    for day, host in ((1, "blog.example.org"), (5, "mirror.example.org")):
        url = f"https://{host}/sailing"
        (posts / f"{host}.md").write_text(f"---\ntitle: Sailing\ndate: 2020-01-0{day}\nurl: {url}\n---\n\n{text}\n")
    twin.sync()
    found = {hit.document for hit in twin.search("points too high")[:3] if hit.document.title == "Sailing"}
    assert [(document.url, document.also_at) for document in found] == [
        ("https://blog.example.org/sailing", ("https://mirror.example.org/sailing",))
    ]


def test_watching_ends_at_once_where_nothing_is_named_to_watch(tmp_path: Path) -> None:
    with Twin.init(tmp_path / "idle") as twin, pytest.raises(ConfigError, match="names no sources"):
        next(twin.watch())


def test_what_was_forgotten_stays_forgotten_when_its_whole_source_is(twin: Twin) -> None:
    twin.sync()
    twin.forget("On ORMs")
    twin.forget("../posts")
    assert twin.sync().documents["added"] == 2
    assert {header.title for header in twin.documents()} == {"Code review", "Tomatoes"}
