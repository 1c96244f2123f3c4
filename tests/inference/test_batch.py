"""A batch answers every question once, in order, whatever is wrong with single lines and whoever is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.core.errors import ModelError, ModelMissing, NotFound, StoreError, WorkspaceBusy
from llm_twin.core.mentions import Mentions
from llm_twin.core.records import Answer, Filter, Passage
from llm_twin.inference.batch import HEADERS, LONGEST_LINE, Asking, Batches, read_lines
from llm_twin.twin import Twin
from small_parts import article

ORMS = article("orms", "I write SQL by hand. They hide the query, and the query is the program.")
SHOWN = (Passage(1, ORMS.header, ORMS.text, 0, len(ORMS.text), 1.0),)


class Office:
    """Batches over a store in memory; answers by `reply`, and counts who is at work at once."""

    def __init__(self, reply=lambda question: Answer(f"About {question}", "extractive"), **options) -> None:
        self.store = MemoryWarehouse()
        self.reply = reply
        self.asked: list[tuple[str, Filter, str]] = []
        self.documents = {ORMS.id}
        self.at_once = self.most_at_once = 0
        self._counting = threading.Lock()
        self._held: set[str] = set()
        asking = Asking(
            ask=self.ask,
            where=self.where,
            alone=self.alone,
            known=self.documents.intersection,
            clean=lambda text: text.replace("hunter2", ""),
        )
        self.batches = Batches(self.store, asking, **options)

    def ask(self, question: str, where: Filter, user: str) -> Answer:
        with self._counting:
            self.asked.append((question, where, user))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.reply(question)
        finally:
            with self._counting:
                self.at_once -= 1

    def where(self, *, authors=(), **filters) -> Filter:
        if "Nobody" in authors:
            raise NotFound("nothing was collected from an author 'Nobody'; known are: Ada")
        return Filter(authors=tuple(authors))

    @contextmanager
    def alone(self, batch_id: str):
        with self._counting:
            if batch_id in self._held:
                raise WorkspaceBusy(f"somebody is at work on {batch_id} already; wait for it")
            self._held.add(batch_id)
        try:
            yield
        finally:
            self._held.remove(batch_id)

    def results(self, batch_id: str) -> list[dict]:
        return list(self.batches.results(batch_id, user=None))


def lines(*questions: object) -> list[str]:
    return [question if isinstance(question, str) else json.dumps(question) for question in questions]


def numbered(count: int) -> list[str]:
    return lines(*({"id": f"q{n}", "question": f"Question {n}?"} for n in range(count)))


def test_every_question_is_answered_once_and_results_come_in_the_order_of_the_questions() -> None:
    def reply(question: str) -> Answer:
        time.sleep(0.003 if question.endswith("7?") else 0.0)
        return Answer(f"About {question}", "extractive")

    office = Office(reply, concurrency=3)
    batch = office.batches.start(numbered(250), user="ada")
    assert (batch.status, batch.total, batch.done) == ("running", 250, 0)
    done = office.batches.run(batch.id)
    assert (done.status, done.total, done.done, done.failed) == ("done", 250, 250, 0)
    assert [result["id"] for result in office.results(batch.id)] == [f"q{n}" for n in range(250)]
    assert [result["line"] for result in office.results(batch.id)] == list(range(1, 251))
    assert office.results(batch.id)[7]["answer"]["text"] == "About Question 7?"
    assert Counter(question for question, _, _ in office.asked).most_common(1)[0][1] == 1
    assert 1 < office.most_at_once <= 3
    assert {user for _, _, user in office.asked} == {"ada"}


def test_bad_lines_and_questions_without_an_answer_are_reported_and_stop_nothing() -> None:
    def reply(question: str) -> Answer:
        if "refused" in question:
            raise ModelError("toy refuses; try another model")
        if "broken" in question:
            raise KeyError("nobody foresaw this")
        return Answer("Fine.", "extractive")

    office = Office(reply)
    batch = office.batches.start(
        lines(
            {"id": 1, "question": "Good?"},
            "",
            "{not json",
            "[1]",
            {"question": "  "},
            {"question": "x" * 8001},
            {"id": "typo", "question": "x", "filter": {}},
            {"question": "x", "filters": {"author": ["Ada"]}},
            {"question": "x", "filters": {"authors": "Ada"}},
            {"id": [], "question": "x"},
            {"id": "no", "question": "Who?", "filters": {"authors": ["Nobody"]}},
            {"question": "A refused one?"},
            {"question": "A broken one?"},
            b'{"question": "\xff"}'.decode("utf-8", "surrogateescape"),
            r'{"question": "Half a smile \ud83d?"}',
            r'{"id": "Half a smile \ud83d", "question": "x"}',
            {"id": "end", "question": "Good again?", "filters": {"authors": ["Ada"], "since": None}},
        ),
        user="ada",
    )
    done = office.batches.run(batch.id)
    assert (done.status, done.total, done.done, done.failed) == ("done", 16, 16, 14)
    results = office.results(batch.id)
    details = {result["line"]: result.get("error", {}).get("detail", "") for result in results}
    assert [line for line, detail in details.items() if not detail] == [1, 17]
    for line, words in {
        3: "line 3 is no JSON",
        4: "line 4 is no JSON object",
        5: "has the question '  '",
        6: "8,001 characters, 8,000 are the most",
        7: "has a key 'filter'; use id, question, filters",
        8: "has the filters",
        9: "has the filter authors 'Ada'; use a list of texts",
        10: r"has the id []",
        11: "nothing was collected from an author 'Nobody'",
        12: "toy refuses",
        13: "a mistake of ours, KeyError",
        14: "line 14 is no",
        15: "has half a character in the question",
        16: "has half a character in the id",
    }.items():
        assert words in details[line]
    assert {result["line"]: result["error"]["type"] for result in results if "error" in result}[12] == "ModelError"
    assert {result["line"]: result["id"] for result in results}[7] == "typo", "an id that can be read comes back"
    assert office.asked[-1][1] == Filter(authors=("Ada",))


def test_what_fails_every_question_alike_ends_the_run_and_it_can_be_run_again() -> None:
    office = Office()
    batch = office.batches.start(numbered(30), user="ada")

    def missing(question: str) -> Answer:
        if question == "Question 11?":
            raise ModelMissing("no weights; run: pip install …")
        return Answer("Fine.", "extractive")

    office.reply = missing
    with pytest.raises(ModelMissing):
        office.batches.run(batch.id)
    assert office.batches.get(batch.id, user="ada").status == "running"
    office.reply = lambda question: Answer("Fine.", "extractive")
    assert office.batches.run(batch.id).done == 30
    assert max(Counter(question for question, _, _ in office.asked).values()) <= 2, (
        "only the failing one is asked twice"
    )
    assert len({result["id"] for result in office.results(batch.id)}) == 30


def test_a_stopped_run_goes_on_where_it_was() -> None:
    office = Office(concurrency=2)
    stop = threading.Event()
    office.reply = lambda question: (stop.set() if question == "Question 20?" else None) or Answer("x", "extractive")
    batch = office.batches.start(numbered(60), user="ada")
    half = office.batches.run(batch.id, stop=stop)
    assert half.status == "running"
    assert 20 < half.done <= 24
    assert [each.id for each in office.batches.unfinished()] == [batch.id]
    assert office.batches.run(batch.id).status == "done"
    assert len(office.asked) == 60
    assert office.batches.unfinished() == []


def test_a_cancelled_batch_asks_no_more_and_keeps_its_results() -> None:
    office = Office(concurrency=1)
    batch = office.batches.start(numbered(40), user="ada")

    def reply(question: str) -> Answer:
        if question == "Question 5?":
            office.batches.cancel(batch.id, user="ada")
        return Answer("x", "extractive")

    office.reply = reply
    done = office.batches.run(batch.id)
    assert done.status == "cancelled"
    assert 6 <= len(office.results(batch.id)) <= 7
    assert office.batches.run(batch.id).status == "cancelled"
    assert len(office.asked) <= 7
    assert office.batches.unfinished() == []


def test_a_batch_is_its_users_own_and_nobody_runs_or_deletes_it_twice_at_once() -> None:
    office = Office(concurrency=1)
    batch = office.batches.start(numbered(3), user="ada")
    for look in (office.batches.get, office.batches.results, office.batches.cancel, office.batches.delete):
        with pytest.raises(NotFound, match="no batch"):
            look(batch.id, user="bob")
    assert office.batches.all(user="bob") == []
    refused = []

    def reply(question: str) -> Answer:
        for again in (lambda: office.batches.run(batch.id), lambda: office.batches.delete(batch.id, user="ada")):
            try:
                again()
            except WorkspaceBusy as error:
                refused.append(str(error))
        return Answer("x", "extractive")

    office.reply = reply
    assert office.batches.run(batch.id).done == 3
    assert len(refused) == 6
    office.batches.delete(batch.id, user="ada")
    assert office.batches.all(user=None) == []
    assert not any(office.store._records[collection] for collection in office.store._records)


def test_questions_that_never_arrived_completely_are_cleared_away() -> None:
    office = Office()

    def breaking():
        yield from numbered(150)
        raise StoreError("the connection broke")

    with pytest.raises(StoreError):
        office.batches.start(breaking(), user="ada")
    assert [batch.status for batch in office.batches.all(user="ada")] == ["receiving"]
    assert office.batches.unfinished() == []
    assert not any(office.store._records[collection] for collection in office.store._records)


def test_no_secret_of_a_question_is_kept() -> None:
    office = Office()
    batch = office.batches.start(lines({"question": "Is hunter2 a good password?"}), user="ada")
    office.batches.run(batch.id)
    assert office.asked[0][0] == office.results(batch.id)[0]["question"] == "Is  a good password?"
    assert "hunter2" not in json.dumps(office.store._records)


def test_an_empty_batch_is_done() -> None:
    office = Office()
    assert office.batches.run(office.batches.start(["", "\n"], user="ada").id).status == "done"


def test_progress_is_told_with_every_result() -> None:
    office = Office(concurrency=2)
    seen = []
    batch = office.batches.start([*numbered(5), "broken"], user="ada")
    office.batches.run(batch.id, told=seen.append)
    assert [(each.done, each.total) for each in seen] == [(n, 6) for n in range(1, 7)]
    assert seen[-1].failed == 1


def test_forgetting_leaves_an_error_in_the_place_of_an_answer_that_mentions_a_document() -> None:
    office = Office(lambda question: Answer("Fine.", "generated", passages=SHOWN if "ORM" in question else ()))
    batch = office.batches.start(lines({"id": "a", "question": "ORMs?"}, {"id": "b", "question": "Boats?"}), user="a")
    office.batches.run(batch.id)
    mentions = Mentions([ORMS])
    assert office.batches.mentioning(mentions) == 1
    office.batches.forget(mentions)
    assert office.batches.mentioning(mentions) == 0
    first, second = office.results(batch.id)
    assert "forgotten since; ask it again" in first["error"]["detail"]
    assert second["answer"]["text"] == "Fine."
    office.documents.clear()
    again = office.batches.start(lines({"question": "ORMs?"}), user="ada")
    office.batches.run(again.id)
    assert "error" in office.results(again.id)[0], "the document was forgotten while the answer was on its way"


def test_a_line_without_end_costs_no_memory_and_is_reported() -> None:
    long = b'{"question": "' + b"x" * (3 * LONGEST_LINE) + b'"}'
    stream = io.BytesIO(long + b"\n" + b'{"question": "Short?"}\n' + long)
    read = list(read_lines(stream))
    assert [len(line) <= LONGEST_LINE + 1 for line in read] == [True, True, True]
    office = Office()
    batch = office.batches.start(read, user="ada")
    office.batches.run(batch.id)
    assert [result.get("error", {}).get("detail") for result in office.results(batch.id)] == [
        "line 1 is longer than 65,536 bytes; shorten it",
        None,
        "line 3 is longer than 65,536 bytes; shorten it",
    ]


def test_the_same_file_is_the_same_batch_until_it_is_deleted(tmp_path: Path) -> None:
    office = Office()
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(numbered(3)))
    batch = office.batches.of_file(file, user="ada")
    assert office.batches.of_file(file, user="ada").id == batch.id
    assert office.batches.of_file(file, user="bob").id != batch.id
    office.batches.delete(batch.id, user="ada")
    assert office.batches.of_file(file, user="ada").id != batch.id
    file.write_text("\n".join(numbered(4)))
    assert office.batches.of_file(file, user="ada").total == 4
    assert len(office.store.records(HEADERS)) == 3


# --- a real process, really killed ----------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from llm_twin.twin import Twin
with Twin.open(sys.argv[1]) as twin:
    answer = twin.ask
    def ask(question, **options):
        with open(sys.argv[3], "a") as asked:
            asked.write(question + "\\n")
        time.sleep(0.05)
        return answer(question, **options)
    twin.ask = ask
    batch = twin.batches.of_file(Path(sys.argv[2]), user="local")
    print(batch.id, flush=True)
    twin.batches.run(batch.id, concurrency=3)
"""


def test_a_killed_batch_goes_on_and_answers_every_question_once(tmp_path: Path) -> None:
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "orms.md").write_text("# On ORMs\n\nI don't like ORMs. They hide the query.\n")
    with Twin.init(tmp_path / "twin", addresses=["../posts"]) as twin:
        twin.sync()
    questions, asked = tmp_path / "questions.jsonl", tmp_path / "asked.txt"
    asked.touch()
    questions.write_text("\n".join(numbered(120)))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "twin"), str(questions), str(asked)]
    ids = set()
    for kill_after in (15, 60):
        process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
        ids.add(process.stdout.readline().strip())
        while process.poll() is None and len(asked.read_text().splitlines()) < kill_after:
            time.sleep(0.01)
        assert process.poll() is None, "it was over before it was killed: the kill tests nothing"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    ids.add(done.stdout.strip())
    assert len(ids) == 1, "every process went on with the same batch"
    with Twin.open(tmp_path / "twin") as twin:
        (batch,) = twin.batches.all(user="local")
        assert (batch.status, batch.done, batch.failed) == ("done", 120, 0)
        results = list(twin.batches.results(batch.id, user="local"))
    assert [result["id"] for result in results] == [f"q{n}" for n in range(120)]
    times = Counter(asked.read_text().splitlines())
    assert len(times) == 120
    assert sum(times.values()) <= 120 + 2 * 3, "a kill costs the questions it interrupted and no others"
