"""What becomes of items over weeks: failures, other spellings, parts, what is forgotten and let in again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from collect.site_server import Reply, Site, serve
from llm_twin import Twin
from llm_twin.core.errors import ConfigError, NotFound, WorkspaceBusy
from llm_twin.twin import SyncReport
from llm_twin.workspace import Workspace
from test_twin import POSTS


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


# --- failed items ---------------------------------------------------------------------------------------------------

TORN = "---\ntitle: [On tea\n---\nTea wants water that has just boiled.\n"


def test_a_failed_item_tells_its_tries_and_the_next_one_and_is_left_alone_until_then(twin: Twin, posts: Path) -> None:
    (posts / "torn.md").write_text(TORN)
    os.utime(posts / "torn.md", (1_600_000_000, 1_600_000_000))
    time.sleep(2.1)  # a file just written has a version of another form once more, as it ages
    reports = [twin.sync().as_json() for _ in range(3)]
    told = [item for report in reports for item in report["items"] if item["outcome"] == "failed"]
    assert [(item["source"], item["item"], item["tries"]) for item in told] == [
        ("../posts", "torn.md", 1), ("../posts", "torn.md", 2), ("../posts", "torn.md", 2)
    ]  # fmt: skip
    assert "front matter is not valid YAML" in told[2]["reason"]
    (state,) = (item for item in twin.status().items if item.outcome == "failed")
    assert state.next_try.isoformat() == told[2]["next_try"]
    assert abs(state.next_try - state.seen_at - timedelta(minutes=5)) < timedelta(seconds=1)


def test_a_failed_item_that_is_mended_or_asked_for_is_tried_at_once(twin: Twin, posts: Path) -> None:
    (posts / "torn.md").write_text(TORN)
    for _ in range(2):
        twin.sync()
    assert tries(twin.sync(retry=True)) == 3
    assert tries(twin.sync(["../posts"])) == 4
    assert tries(twin.sync(["../posts/torn.md"])) == 5
    assert tries(twin.sync(["../posts"], retry=False)) == 5
    (posts / "torn.md").write_text(TORN.replace("[", ""))
    assert twin.sync().documents["added"] == 1


def tries(report: SyncReport) -> int:
    return max(item.tries for item in report.items)


# --- one place, one name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["../posts/", "./../posts", "{absolute}", "../twin/../posts"])
def test_every_spelling_of_a_folder_is_the_same_source(twin: Twin, posts: Path, spelling: str) -> None:
    twin.sync()
    report = twin.sync([spelling.format(absolute=posts)])
    assert (report.documents["unchanged"], report.problems) == (3, ())
    assert {item.source for item in twin.status().items} == {"../posts"}
    assert len(twin.warehouse.document_hashes()) == 3


@pytest.mark.parametrize("spelling", ["../posts/", "./../posts", "{absolute}"])
def test_another_spelling_in_the_settings_takes_over_what_was_collected_and_what_was_forgotten(
    twin: Twin, posts: Path, spelling: str
) -> None:
    chunks = twin.sync().chunks
    twin.forget("On ORMs")
    settings = twin.workspace.settings_file
    settings.write_text(settings.read_text().replace('"../posts"', f'"{spelling.format(absolute=posts)}"'))
    with Twin.open(twin.workspace.root) as later:
        report = later.sync()
        assert (report.documents["unchanged"], report.documents["skipped"], report.embedded) == (2, 1, 0)
        assert report.chunks < chunks
        assert {item.source for item in later.status().items} == {spelling.format(absolute=posts)}
        assert {header.title for header in later.documents()} == {"Code review", "Tomatoes"}


def test_a_folder_named_twice_is_one_source_unless_its_options_differ(tmp_path: Path, posts: Path) -> None:
    with Twin.init(tmp_path / "twice", addresses=["../posts", str(posts)]) as twin:
        assert twin.sync().documents["added"] == 3
        assert len(twin.status().items) == 3
        settings = twin.workspace.settings_file
        settings.write_text(settings.read_text().replace(f'"{posts}"', f'"{posts}"\nplatform = "blog"'))
    with Twin.open(tmp_path / "twice") as twin, pytest.raises(ConfigError, match="name the same source with different"):
        twin.sync()


def test_a_folder_that_was_never_in_the_settings_keeps_the_name_it_was_first_given(tmp_path: Path, posts: Path) -> None:
    with Twin.init(tmp_path / "adhoc", author="Test Author") as twin:
        assert twin.sync(["../posts/"]).documents["added"] == 3
        assert twin.sync([str(posts)]).documents["unchanged"] == 3
        assert {item.source for item in twin.status().items} == {"../posts"}


@pytest.mark.parametrize("address", ["../posts/gardens", "../posts/gardens/", "{absolute}/gardens"])
def test_a_path_inside_a_source_syncs_that_part_and_nothing_else(twin: Twin, posts: Path, address: str) -> None:
    twin.sync()
    (posts / "gardens" / "peas.md").write_text("# Peas\n\nPeas climb whatever stands beside them.\n")
    (posts / "gardens" / "tomatoes.md").unlink()
    (posts / "reviews.md").unlink()
    (posts / "new.md").write_text("# New\n\nSomething about bicycles and their brakes.\n")
    report = twin.sync([address.format(absolute=posts)])
    assert {(item.source, item.key, item.outcome) for item in report.items} == {
        ("../posts", "gardens/peas.md", "added"),
        ("../posts", "gardens/tomatoes.md", "removed"),
    }
    assert {header.title for header in twin.documents()} == {"On ORMs", "Code review", "Peas"}
    assert {item.key: item.outcome for item in twin.sync().items} == {
        "gardens/peas.md": "unchanged", "new.md": "added", "orms.md": "unchanged", "reviews.md": "removed"
    }  # fmt: skip


def test_the_innermost_source_takes_a_path(tmp_path: Path, posts: Path) -> None:
    with Twin.init(tmp_path / "nested", addresses=["../posts", "../posts/gardens"]) as twin:
        twin.sync()
        report = twin.sync(["../posts/gardens/tomatoes.md"])
        assert [(item.source, item.key) for item in report.items] == [("../posts/gardens", "tomatoes.md")]


def test_a_part_that_its_source_leaves_out_says_so(twin: Twin, posts: Path) -> None:
    (posts / ".twinignore").write_text("drafts/\n")
    (posts / "drafts").mkdir()
    (posts / "drafts" / "d.md").write_text("# Draft\n\nNot ready.\n")
    twin.sync()
    report = twin.sync(["../posts/drafts"])
    assert report.problems == (
        "'drafts' in ../posts lists nothing to collect; check its address, `include` and `exclude`",
    )
    assert len(twin.warehouse.document_hashes()) == 3


def test_the_address_of_an_item_of_a_feed_syncs_that_item(tmp_path: Path) -> None:
    with serve(Site()) as site, Twin.init(tmp_path / "t", addresses=[f"{site.url}/feed.xml"]) as twin:
        twin.workspace.settings_file.write_text(
            twin.workspace.settings_file.read_text() + "\n[fetch]\nallow_private = true\nrequests_per_second = 100\n"
        )
        post = "<item><guid>{0}/{1}</guid><title>{1}</title><description>{2}</description></item>"
        entries = "".join(post.format(site.url, number, f"Word {number}. " * 201) for number in (1, 2))
        feed = f'<rss version="2.0"><channel><title>Ann</title>{entries}</channel></rss>'
        site.pages["/feed.xml"] = Reply(feed.encode(), "application/rss+xml")
        with Twin.open(twin.workspace.root) as twin:
            assert twin.sync().documents["added"] == 2
            site.pages["/feed.xml"] = Reply(feed.replace("Word", "Term").encode(), "application/rss+xml")
            report = twin.sync([f"{site.url}/2"])
            assert [(item.key, item.outcome) for item in report.items] == [(f"{site.url}/2", "updated")]
            assert {item.source for item in twin.status().items} == {f"{site.url}/feed.xml"}


# --- forgetting, and undoing it -------------------------------------------------------------------------------------


def guest(posts: Path, name: str, title: str) -> None:
    (posts / name).write_text(f"---\nauthor: Gil Guest\n---\n# {title}\n\nTo be fair, {title.lower()} are heavy.\n")


def test_what_a_forgotten_author_publishes_later_is_not_collected_until_that_is_undone(twin: Twin, posts: Path) -> None:
    guest(posts, "ropes.md", "Ropes")
    twin.sync()
    twin.forget("Gil Guest")
    guest(posts, "knots.md", "Knots")
    (posts / "peas.md").write_text("# Peas\n\nPeas climb whatever stands beside them.\n")
    report = twin.sync()
    assert {item.key for item in report.items if item.outcome == "added"} == {"peas.md"}
    reasons = {item.key: item.reason for item in report.items if item.outcome == "skipped"}
    assert reasons.keys() == {"ropes.md", "knots.md"}
    for reason in reasons.values():
        assert reason.endswith("undo that with: twin forget --undo 'Gil Guest'")
    assert [(kept.target, kept.source) for kept in twin.forgotten()] == [("Gil Guest", "")]
    assert set(twin.undo_forget("gil guest")) == {"ropes.md", "knots.md"}
    assert twin.forgotten() == []
    assert twin.sync().documents["added"] == 2
    assert {header.author for header in twin.documents()} == {"Test Author", "Gil Guest"}


def test_a_forgotten_document_comes_back_when_that_is_undone(twin: Twin) -> None:
    twin.sync()
    twin.forget("On ORMs")
    twin.forget("Tomatoes")
    assert [(kept.target, kept.source) for kept in twin.forgotten()] == [
        ("gardens/tomatoes.md", "../posts"),
        ("orms.md", "../posts"),
    ]
    assert twin.undo_forget("orms.md") == ("orms.md",)
    assert twin.sync().documents["added"] == 1
    assert {header.title for header in twin.documents()} == {"On ORMs", "Code review"}
    assert twin.undo_forget("../posts/") == ("gardens/tomatoes.md",)
    with pytest.raises(NotFound, match="twin forget --list"):
        twin.undo_forget("orms.md")


def test_undoing_the_forgetting_of_an_author_leaves_single_documents_forgotten(twin: Twin, posts: Path) -> None:
    guest(posts, "ropes.md", "Ropes")
    guest(posts, "knots.md", "Knots")
    twin.sync()
    twin.forget("Ropes")
    twin.forget("Gil Guest")
    twin.undo_forget("Gil Guest")
    assert [kept.target for kept in twin.forgotten()] == ["ropes.md"]
    assert twin.sync().documents["added"] == 1


def test_a_source_is_forgotten_by_any_spelling_of_its_folder(twin: Twin, posts: Path) -> None:
    twin.sync()
    assert len(twin.forget(f"{posts}/").document_ids) == 3
    assert twin.sync().documents["added"] == 3


def test_watching_waits_for_another_writer_for_as_long_as_it_is_told(twin: Twin) -> None:
    started = time.monotonic()
    with Workspace.find(twin.workspace.root).writing():
        result = next(twin.watch(wait_s=0.1))
    assert isinstance(result, WorkspaceBusy)
    assert time.monotonic() - started < 30
