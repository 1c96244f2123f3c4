"""Who reads never notices a sync: not while it runs, not after it was killed, whatever it adds, edits or removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_twin import Twin
from llm_twin.core.errors import NotFound
from llm_twin.core.records import Answer, Query

POSTS = {
    "orms.md": "# On ORMs\n\nObject-relational mappers hide the query, and the query is the program.\n",
    "reviews.md": (
        "# Reviews\n\nSmall changes, edition {0}, deserve a quick look. I review code the day it arrives, because "
        "waiting costs more than mistakes. Nobody waits for edition {0} of a change.\n"
    ),
    "tomatoes.md": "# Tomatoes\n\nIn edition {0}, tomatoes want sun, deep water twice a week and an early stake.\n",
}
GUEST = (
    "---\nauthor: Gil Guest\n---\n# Tomatoes on balconies\n\nTomatoes on balconies want sun and a deep pot, wrote "
    "Gil Guest.\n"
)
SAID = {
    "What do I think of object-relational mappers?": "hide the query",
    "When do I review code?": "the day it arrives",
    "What do tomatoes want?": "want sun",
}
AHEAD = ["after chunk", "before embed", "after embed", "before index"]
"""Moments of a sync at which the features are ahead of the live generation; `after index` a new one is published."""
MOMENTS = ["before chunk", *AHEAD, "after index"]


class Watching:
    """Progress that does something when a step begins and when it ends."""

    def __init__(self, look: Callable[[str], None]) -> None:
        self.look = look

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        self.look(f"before {name}")
        yield lambda _: None
        self.look(f"after {name}")


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    (tmp_path / "posts").mkdir()
    write(tmp_path / "posts", 0)
    (tmp_path / "posts" / "balconies.md").write_text(GUEST)
    return tmp_path / "posts"


@pytest.fixture
def twin(tmp_path: Path, posts: Path) -> Iterator[Twin]:
    with Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]) as twin:
        twin.sync()
        yield twin


def write(posts: Path, edition: int) -> None:
    for name, text in POSTS.items():
        (posts / name).write_text(f"---\ndate: 2021-03-04\n---\n{text.format(edition)}", encoding="utf-8")


def answered(twin: Twin, question: str) -> Answer:
    answer = twin.ask(question)
    assert answer.mode == "extractive", (question, answer.text)
    assert SAID[question] in answer.text
    assert answer.citations
    return answer


def check(twin: Twin) -> int:
    """Every question is answered, and every quote stands where it says, or says that it does not any more."""
    outdated = 0
    for question in SAID:
        answer = answered(twin, question)
        for citation in answer.citations:
            text = twin.document(citation.document_id).text
            assert (text[citation.start : citation.end] == citation.quote) is not citation.outdated
            assert any(citation.title in note and "changed" in note for note in answer.notes) is citation.outdated
            outdated += citation.outdated
    return outdated


# --- while it runs --------------------------------------------------------------------------------------------------


def test_at_every_step_of_a_sync_every_question_is_answered_and_every_quote_resolves(twin: Twin, posts: Path) -> None:
    outdated: dict[str, int] = {}
    with Twin.open(twin.workspace.root) as reader:
        assert check(reader) == 0
        write(posts, 1)
        (posts / "balconies.md").unlink()
        twin.sync(progress=Watching(lambda step: outdated.update({step: check(reader)})))
        assert check(reader) == 0
        assert "edition 1" in reader.ask("What do tomatoes want?").text
    assert [step for step in MOMENTS if outdated[step]] == AHEAD


@pytest.mark.parametrize("chunker", ["fixed", "recursive"])
def test_at_every_step_of_a_rebuild_with_another_chunker_quotes_resolve_in_the_documents(
    twin: Twin, chunker: str
) -> None:
    looked: list[str] = []

    def look(step: str) -> None:
        looked.append(step)
        assert check(twin) == 0

    with Twin.open(twin.workspace.root, arguments={"features.chunker": chunker}) as other:
        other.sync(rebuild=True, progress=Watching(look))
    assert "after chunk" in looked
    assert "after index" in looked
    assert check(twin) == 0


def test_nothing_of_a_removed_document_is_shown_while_the_index_still_holds_it(twin: Twin, posts: Path) -> None:
    (removed,) = (header.id for header in twin.documents() if header.author == "Gil Guest")
    question = "Tomatoes on balconies want a deep pot"
    assert removed in twin.ask(question).document_ids
    (posts / "balconies.md").unlink()
    seen: list[str] = []

    def look(step: str) -> None:
        if step in ("before embed", "before index"):
            seen.append(step)
            assert removed in raw_hits(twin, question)
            assert removed not in {hit.document.id for hit in twin.search(question)}
            assert removed not in twin.ask(question).document_ids

    twin.sync(progress=Watching(look))
    assert seen == ["before embed", "before index"]
    assert removed not in raw_hits(twin, question)


def raw_hits(twin: Twin, question: str) -> set[str]:
    """The documents that the live generation itself finds."""
    found = twin.index.search(Query(question, sparse=twin.sparse.encode_query(question)), k=10)
    return {hit.document.id for hits in found.values() for hit in hits}


def test_threads_that_ask_while_others_edit_remove_and_rebuild_get_answers_whose_quotes_were_written(
    twin: Twin, posts: Path
) -> None:
    done, failures, given = threading.Event(), [], []

    def use(questions: list[str]) -> None:
        try:
            while not done.is_set():
                given.extend(answered(twin, question) for question in questions)
        except BaseException as failure:
            failures.append(failure)

    texts: defaultdict[str, set[str]] = defaultdict(set)

    def remember() -> None:
        for header in twin.documents():
            texts[header.id].add(twin.document(header.id).text)

    remember()
    readers = [threading.Thread(target=use, args=(list(SAID)[turn:] + list(SAID)[:turn],)) for turn in range(3)]
    for reader in readers:
        reader.start()
    root = twin.workspace.root
    for edition, (chunker, rebuild) in enumerate([("structure", False), ("fixed", True), ("structure", True)], start=1):
        write(posts, edition)
        if edition == 1:
            (posts / "balconies.md").unlink()
        with Twin.open(root, arguments={"features.chunker": chunker}) as writer:
            assert writer.sync(rebuild=rebuild).documents["updated"] == 2
        remember()
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert len(given) >= len(SAID) * len(readers)
    for citation in (citation for answer in given for citation in answer.citations):
        assert citation.quote in {text[citation.start : citation.end] for text in texts[citation.document_id]}
    assert "edition 3" in twin.ask("What do tomatoes want?").text
    assert {trace.error for trace in twin.traces(limit=1000)} == {None}


# --- after a kill ---------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_readers import Watching
from llm_twin import Twin

def end(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

twin, moment = Twin.open(sys.argv[2]), sys.argv[3]
{work}
"""
SYNC = "twin.sync(progress=Watching(lambda step: end() if step == moment else None))"
FORGET = """
from llm_twin.collect import pipeline
forget = pipeline.forget
pipeline.forget = lambda *a, **n: (forget(*a, **n), end())
twin.forget("Gil Guest")
"""


def killed(twin: Twin, work: str, moment: str = "") -> None:
    program = KILLED.replace("{work}", work)
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", program, here, str(twin.workspace.root), moment]
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["before chunk", "before embed", "before index", "after index"])
def test_after_a_kill_readers_get_answers_and_the_next_sync_completes_it(
    twin: Twin, posts: Path, tmp_path: Path, moment: str
) -> None:
    write(posts, 1)
    (posts / "balconies.md").unlink()
    killed(twin, SYNC, moment)
    with Twin.open(twin.workspace.root) as reader:
        assert (check(reader) > 0) is (moment in AHEAD)
        assert not [hit for hit in reader.search("tomatoes on balconies") if hit.document.author == "Gil Guest"]
    report = twin.sync()
    assert (report.embedded == 0) is (moment in ("before index", "after index"))
    assert check(twin) == 0
    with Twin.init(tmp_path / "calm", author="Test Author", addresses=["../posts"]) as calm:
        calm.sync()
        assert twin.index.digests() == calm.index.digests()
        assert twin.index.info().digest == calm.index.info().digest
        assert twin.warehouse.feature_fingerprints() == calm.warehouse.feature_fingerprints()
    again = twin.sync()
    assert (again.embedded, again.generation) == (0, twin.index.info().generation)


def test_an_edit_that_is_taken_back_after_a_kill_leaves_nothing_of_it(twin: Twin, posts: Path) -> None:
    before = {header.id: twin.document(header.id).text for header in twin.documents()}
    write(posts, 1)
    killed(twin, SYNC, "before index")
    assert "edition 1" in "".join(twin.document(name).text for name in before)
    write(posts, 0)
    twin.sync()
    assert {header.id: twin.document(header.id).text for header in twin.documents()} == before
    assert check(twin) == 0


def test_nothing_of_a_forgotten_author_is_shown_after_a_forgetting_that_was_killed(twin: Twin) -> None:
    question = "Tomatoes on balconies want a deep pot"
    (forgotten,) = (header.id for header in twin.documents() if header.author == "Gil Guest")
    killed(twin, FORGET)
    with Twin.open(twin.workspace.root) as reader:
        assert forgotten in raw_hits(reader, question)
        assert forgotten not in reader.ask(question).document_ids
        assert "Gil Guest" not in str(reader.search(question))
        with pytest.raises(NotFound):
            reader.document(forgotten)
    twin.sync()
    assert forgotten not in raw_hits(twin, question)
