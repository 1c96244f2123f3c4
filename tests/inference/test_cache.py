"""A repeated question gets its earlier answer, and no question ever gets somebody else's or another one's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llm_twin import Twin
from llm_twin.core.mentions import Mentions
from llm_twin.core.records import Answer, Done, Filter, Passage, TextDelta, Usage
from llm_twin.inference.cache import AnswerCache, Repeats, stands_alone
from llm_twin.inference.paraphrase import normalised, same_question
from scripted_llm import Reply, ScriptedLlm, piece, says
from small_parts import WordEmbedder, article

NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time


def cache(**options) -> AnswerCache:
    return AnswerCache(WordEmbedder(), **{"now": lambda: NOON, "similarity": 0.5, **options})


def found(answers: AnswerCache, question: str, *, generation="g1", scope="s") -> str | None:
    answer = answers.find(question, generation=generation, scope=scope)
    return answer and answer.text


def keep(answers: AnswerCache, question: str, text="By hand.", *, generation="g1", scope="s") -> None:
    answers.keep(question, Answer(text, "generated", usage=Usage(5, 7)), generation=generation, scope=scope)


# --- what is the same question --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What do I think of ORMs?", "what do i think of  orms"),
        ("What do I think of ORMs?", "What are your thoughts on ORMs?"),
        ("How should one review code?", "How should code be reviewed?"),
        ("Can you explain how a parser works?", "How does a parser work?"),
        ("Which database do I recommend?", "What database do I recommend?"),
        ("What’s wrong with Docker?", "What is wrong with Docker?"),
        ("What have I written about tests?", "What did I say about tests?"),
    ],
)
def test_another_wording_of_a_question_is_that_question(one: str, other: str) -> None:
    assert same_question(one, other)
    assert same_question(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Should I use tabs?", "Should I never use tabs?"),
        ("Do I like Python?", "Don't I like Python?"),
        ("What did I write in 2021?", "What did I write in 2022?"),
        ("What did I publish in March?", "What did I publish in May?"),
        ("what do i think of postgres", "what do i think of mysql"),
        ("How do I split a string in C#?", "How do I split a string in C++?"),
        ("How do I increase the timeout?", "How do I decrease the timeout?"),
        ("Is Vim better than Emacs?", "Is Emacs better than Vim?"),
        ("Does Go beat Rust?", "Does Rust beat Go?"),
        ("How do I deploy with Docker?", "How do I deploy without Docker?"),
        ("Where do I live?", "Where did I live?"),
        ("Who did you learn from?", "Who learned from you?"),
        ("Was I hired?", "Did I hire?"),
        ("What do I owe you?", "What do you owe me?"),
        ("What do you think of my code?", "What do I think of your code?"),
        ("What is x + 1?", "What is x - 1?"),
        ("What costs €10?", "What costs $10?"),
        ('What does "fail fast" mean?', 'What does "fail safe" mean?'),
        ('Where did I write "the query is the program"?', "Where did I write the query is the program?"),
        ("What does `git reset` do?", "What does `git restore` do?"),
        ("How many tests do I need at least?", "How many tests do I need at most?"),
        ("Was halte ich von Tests?", "Was halte ich von Texten?"),
    ],
)
def test_a_question_that_only_looks_alike_is_another_one(one: str, other: str) -> None:
    assert not same_question(one, other)
    assert not same_question(other, one)


def test_no_pair_of_the_benchmark_that_differs_counts_as_the_same() -> None:
    text = (Path(__file__).parents[2] / "benchmarks" / "cache_pairs.txt").read_text()
    pairs = [
        line.split(" | ") for line in text.partition("\n[other]\n")[2].partition("\n[")[0].splitlines() if " | " in line
    ]
    assert len(pairs) > 150
    assert [pair for pair in pairs if same_question(*pair)] == []


@pytest.mark.parametrize("text", ["What’s  UP ?", "Ｗｈａｔ's up??", "what's up"])
def test_case_layout_and_typography_do_not_count(text: str) -> None:
    assert normalised(text) == "what's up"


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("What do I think of ORMs?", True),
        ("How do I review code in a small team?", True),
        ("Why?", False),
        ("And in production?", False),
        ("Why do you prefer it over plain SQL?", False),
        ("What did he say about tests?", False),
        ("Tell me more about the second one", False),
    ],
)
def test_a_question_that_points_at_the_conversation_does_not_stand_alone(question: str, alone: bool) -> None:
    assert stands_alone(question) is alone


# --- the memory -----------------------------------------------------------------------------------------------------


def test_a_repeated_answer_says_so_and_cost_nothing() -> None:
    answers = cache()
    keep(answers, "What do I think of ORMs?")
    same = answers.find("what do I think of ORMs", generation="g1", scope="s")
    near = answers.find("What do I think about ORMs?", generation="g1", scope="s")
    assert (same.text, same.cached, same.usage) == ("By hand.", "exact", Usage())
    assert same.notes == ("Answered from memory: this is the answer of 12:00 UTC.",)
    assert near.cached == "meaning"
    assert "the answer to “What do I think of ORMs?” of 12:00 UTC" in near.notes[-1]
    assert found(answers, "What do I think of RPCs?") is None
    assert answers.counts == {"exact": 1, "meaning": 1, "miss": 1}


def test_words_alone_are_not_enough_where_the_meaning_is_far() -> None:
    answers = cache(similarity=0.999)
    keep(answers, "What do I think of ORMs?")
    assert found(answers, "What are your thoughts on ORMs?") is None
    assert found(answers, "What do I think of ORMs?") == "By hand."


def test_nothing_is_found_under_another_scope_or_another_generation() -> None:
    answers = cache()
    keep(answers, "What about ORMs?")
    assert found(answers, "What about ORMs?", scope="other") is None
    assert found(answers, "What about ORMs?", generation="g2") is None
    assert len(answers) == 0, "a new generation drops all that was answered before"


def test_users_settings_and_filters_never_share_answers() -> None:
    answers = cache()
    about = ("prompt", "toy", Filter(sources=("github",)))
    Repeats(answers, "ada", "s1").keep("What?", Answer("x", "generated"), generation="g", about=about)
    look = [
        (Repeats(answers, "ada", "s1"), about, "x"),
        (Repeats(answers, "bob", "s1"), about, None),
        (Repeats(answers, "ada", "s2"), about, None),
        (Repeats(answers, "ada", "s1"), ("prompt", "toy", Filter()), None),
        (Repeats(answers, "ada", "s1"), ("prompt", "other", about[2]), None),
    ]
    for repeats, asked_about, text in look:
        answer = repeats.find("What?", generation="g", about=asked_about)
        assert (answer and answer.text) == text


def test_the_answer_that_was_asked_for_longest_ago_makes_room() -> None:
    answers = cache(entries=2)
    keep(answers, "First?")
    keep(answers, "Second?")
    found(answers, "First?")
    keep(answers, "Third?")
    assert [found(answers, question) for question in ("First?", "Second?", "Third?")] == ["By hand.", None, "By hand."]
    assert len(answers) == 2


def test_an_answer_that_is_too_old_is_made_anew() -> None:
    clock = Clock()
    answers = cache(max_age_s=60, now=clock)
    keep(answers, "What?")
    clock.time += timedelta(seconds=59)
    assert found(answers, "What?") == "By hand."
    clock.time += timedelta(seconds=2)
    assert found(answers, "What?") is None
    assert len(answers) == 0


def test_a_question_beyond_the_embedders_window_is_found_by_its_text_alone() -> None:
    answers = cache()
    long = "Why " + "is it so " * 40 + "slow?"
    keep(answers, long)
    assert found(answers, long) == "By hand."
    assert found(answers, long.replace("slow", "fast")) is None


def test_forgetting_drops_what_mentions_a_document() -> None:
    orms = article("orms", "I write SQL by hand.")
    answers = cache()
    passage = Passage(1, orms.header, orms.text, 0, 9, 1.0)
    answers.keep("ORMs?", Answer("x", "generated", passages=(passage,)), generation="g1", scope="s")
    keep(answers, "Boats?", "A keel.")
    assert answers.mentioning(Mentions([orms])) == 1
    answers.forget(Mentions([orms]))
    assert (found(answers, "ORMs?"), found(answers, "Boats?")) == (None, "A keel.")


def test_threads_can_share_a_cache() -> None:
    answers = cache(entries=20)
    failures = []

    def work(number: int) -> None:
        try:
            for step in range(60):
                question = f"Question {(number * 7 + step) % 30}?"
                answer = answers.find(question, generation=f"g{step // 30}", scope="s")
                assert answer is None or answer.text == question
                answers.keep(question, Answer(question, "generated"), generation=f"g{step // 30}", scope="s")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(answers) <= 20


# --- through the front door -----------------------------------------------------------------------------------------

POST = """# On ORMs

I don't like object-relational mappers. They hide the query, and the query is the program. I write SQL by hand and map
rows to small records.
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "orms.md").write_text(POST)
    with Twin.init(tmp_path / "twin", author="Test Author", addresses=["../posts"]) as twin:
        twin.sync()
    return tmp_path / "twin"


@pytest.fixture
def server() -> Iterator[ScriptedLlm]:
    with ScriptedLlm() as server:
        yield server


def opened(home: Path, server: ScriptedLlm, **arguments) -> Twin:
    model = {"llm.base_url": server.base_url, "llm.model": "toy", "llm.retries": 0}
    return Twin.open(home, arguments={"cache.enabled": True, **model, **arguments})


def test_a_repeated_question_asks_no_model_and_streams_as_ever(home: Path, server: ScriptedLlm) -> None:
    server.script = [says("They hide the query [1].")]
    with opened(home, server) as twin:
        first = twin.ask("What do I think of ORMs?")
        events = list(twin.ask_events("What are my thoughts on ORMs?"))
        trace = twin.trace(events[-1].answer.trace_id)
    assert len(server.requests) == 1
    assert [type(event).__name__ for event in events] == ["Understood", "Passages", "TextDelta", "Done"]
    again = events[-1].answer
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == again.text == first.text
    assert (again.cached, first.cached) == ("meaning", None)
    assert again.citations == first.citations
    assert again.trace_id != first.trace_id
    assert again.usage == Usage()
    assert trace[0].attributes["cached"] == "meaning"


def test_it_is_off_unless_it_is_turned_on(home: Path, server: ScriptedLlm) -> None:
    server.script = [says("They hide the query [1]."), says("They hide the query, still [1].")]
    with opened(home, server, **{"cache.enabled": False}) as twin:
        assert [twin.ask("What do I think of ORMs?").cached for _ in range(2)] == [None, None]
    assert len(server.requests) == 2


def test_another_user_another_filter_and_another_generation_are_answered_anew(home: Path, server: ScriptedLlm) -> None:
    server.always = says("They hide the query [1].")
    with opened(home, server) as twin:
        question = "What do I think of ORMs?"
        twin.ask(question)
        assert twin.ask(question).cached == "exact"
        assert twin.ask(question, user="bob").cached is None
        assert twin.ask(question, where=Filter(sources=("files",))).cached is None
        with Twin.open(home) as other:
            (home.parent / "posts" / "new.md").write_text("# New\n\nSomething about boats and keels.\n")
            other.sync()
        assert twin.ask(question).cached is None


def test_a_follow_up_is_never_taken_from_memory_and_what_stands_alone_is(home: Path, server: ScriptedLlm) -> None:
    server.script = [
        says("They hide the query [1]."),
        says("Why do I think so of ORMs?"),
        says("The query is the program [1]."),
        says("Why do I think so of ORMs?"),
        says("The query is the program [1]."),
    ]
    with opened(home, server) as twin:
        chat = twin.chat()
        answers = []
        for question in ("What do I think of ORMs?", "Why is that?", "Why is that?", "What do I think of ORMs?"):
            *_, done = chat.ask(question)
            assert isinstance(done, Done)
            answers.append(done.answer)
    assert [answer.cached for answer in answers] == [None, None, None, "exact"]
    assert len(server.requests) == 5


def test_an_answer_that_degraded_or_abstained_is_not_remembered(home: Path, server: ScriptedLlm) -> None:
    server.script = [Reply(pieces=[piece("I dis")], cut=True), says("They hide the query [1].")]
    with opened(home, server) as twin:
        question = "What do I think of ORMs?"
        assert twin.ask(question).mode == "extractive"
        assert twin.ask(question).mode == "generated"
        assert twin.ask(question).cached == "exact"
        wine = "Which wine goes well with grilled salmon?"
        assert [twin.ask(wine).mode for _ in range(2)] == ["abstained"] * 2
        assert twin.ask(wine).cached is None


def test_forgetting_reaches_the_memory(home: Path, server: ScriptedLlm) -> None:
    server.always = says("They hide the query [1].")
    with opened(home, server) as twin:
        twin.ask("What do I think of ORMs?")
        assert len(twin.cache) == 1
        assert twin.forget("On ORMs").left["cache"] == 0
        assert len(twin.cache) == 0


def test_false_hits_on_questions_that_nobody_here_wrote_are_rare(corpus) -> None:
    """Every pair of XQuAD's questions: those that count as the same are the same but for an article or a space."""
    rows = (json.loads(line) for line in corpus("xquad-en/queries.jsonl").read_text().splitlines())
    questions = [row["text"] for row in rows]
    same = [
        (one, other)
        for number, one in enumerate(questions)
        for other in questions[:number]
        if normalised(one)[:5] == normalised(other)[:5] and same_question(one, other)
    ]
    different = [
        pair for pair in same if normalised(pair[0].replace("the ", "")) != normalised(pair[1].replace("the ", ""))
    ]
    assert len(same) >= 5
    assert different == []
