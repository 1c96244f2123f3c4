from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.records import Author, Filter, Message
from llm_twin.inference.understand import KINDS, Understanding, describe, in_conversation, merge, understand

NOW = datetime(2024, 5, 15, 12, 30, tzinfo=UTC)
SIMON = Author("Simon Willison", aliases=("simonw",))
JAKE = Author("Jake Archibald")
WILL = Author("Will Larson")
PLATFORMS = ("files", "medium", "github", "substack", "linkedin")


def day(year: int, month: int = 1, date: int = 1) -> datetime:
    return datetime(year, month, date, tzinfo=UTC)


def read(question: str, *, authors=(SIMON,), sources=PLATFORMS, kinds=KINDS) -> Understanding:
    return understand(question, authors=authors, sources=sources, kinds=kinds, now=NOW)


@pytest.mark.parametrize(
    ("question", "since", "until"),
    [
        ("What did he write about testing in 2021?", day(2021), day(2022)),
        ("In 2021, what did he think about testing?", day(2021), day(2022)),
        ("What did I say about ORMs before 2020?", None, day(2020)),
        ("What did I say about ORMs prior to June 2019?", None, day(2019, 6)),
        ("What did I say about ORMs until 2020?", None, day(2021)),
        ("posts after March 2019", day(2019, 4), None),
        ("posts after 2019", day(2020), None),
        ("What has he written since 2022?", day(2022), None),
        ("What has he written from 2022 onwards?", day(2022), None),
        ("What changed between 2018 and 2020?", day(2018), day(2021)),
        ("Testing, from Jan 2018 to March 2019", day(2018), day(2019, 4)),
        ("What did he write last year about Rust?", day(2023), day(2024)),
        ("What did he write this year?", day(2024), day(2025)),
        ("What did he write last month?", day(2024, 4), day(2024, 5)),
        ("What did he write last week?", day(2024, 5, 6), day(2024, 5, 13)),
        ("Caching in the last 6 months", NOW.replace(year=2023, month=11), None),
        ("Caching over the past two years", NOW.replace(year=2022), None),
        ("Caching in the past year", NOW.replace(year=2023), None),
        ("What did he publish on 15 March 2021?", day(2021, 3, 15), day(2021, 3, 16)),
        ("What did he publish on March 15th, 2021?", day(2021, 3, 15), day(2021, 3, 16)),
        ("What did he publish after 2021-03-15?", day(2021, 3, 16), None),
        ("What do his 2021 posts say about SQLite?", day(2021), day(2022)),
        ("testing after 2018 and before 2021", day(2019), day(2021)),
        ("What did he write in December 2021?", day(2021, 12), day(2022)),
    ],
)
def test_words_about_time_become_a_range_of_publication(question, since, until):
    where = read(question).where
    assert (where.since, where.until) == (since, until)


@pytest.mark.parametrize(
    "question",
    [
        "What happened in 2001: A Space Odyssey?",
        'Who directed "in 2001 with love"?',
        "What did he say about the film 2001: A Space Odyssey?",
        "How do I clean up before tests?",
        "How does the server behave after 2000 requests?",
        "What changed in 2020-style code?",
        "What changed in Rust 2021?",
        "Which port, 2021 or 8080?",
        "What will happen in 2031?",
        "Is ES2020 enough?",
        "This week in Rust",
        "What did he learn in the last year of university?",
        "What was popular in the 1990s and 2010s?",
        "May I use it since it is free?",
        "What did he publish on 31 February 2021?",
        "How do I fry onions on medium heat?",
        "Is a medium article better than a long one?",
        "How do I set up hosting on GitHub?",
        "Should I use GitHub Actions?",
        "What were the Articles of Confederation?",
        "What stood in the articles of association?",
        "How do HTTP POST requests work?",
        "What is the repository pattern?",
        "Will it scale?",
        "",
        "   ",
        "???",
    ],
)
def test_questions_that_only_look_like_filters_are_searched_everywhere(question):
    understood = read(question, authors=(SIMON, WILL))
    assert understood.where == Filter()
    assert understood.text == question
    assert understood.notes == ()


def test_dates_that_contradict_each_other_do_not_filter_and_stay_in_the_text():
    understood = read("testing after 2021 and before 2018")
    assert understood.where == Filter()
    assert understood.text == "testing after 2021 and before 2018"


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("What did I write on GitHub?", "github"),
        ("What did he write about caching on GitHub?", "github"),
        ("On GitHub, what did he say about caching?", "github"),
        ("What does he recommend in his Medium articles?", "medium"),
        ("What did he publish on Medium about ORMs?", "medium"),
        ("What does he say in his medium articles?", "medium"),
        ("What do my LinkedIn posts say about hiring?", "linkedin"),
        ("Substack posts about money", "substack"),
    ],
)
def test_a_platform_named_as_the_place_of_the_writing_is_a_filter(question, source):
    assert read(question, kinds=("article",)).where == Filter(sources=(source,))


def test_a_platform_nothing_was_collected_from_is_not_a_filter():
    assert read("What did I write on GitHub?", sources=("files",)).where == Filter()


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What does he say about tests in his repositories?", "repository"),
        ("Which posts mention hiring?", "post"),
        ("What do I say about hiring in my blog posts?", "article"),
        ("articles about hiring", "article"),
        ("Only notes about hiring", "note"),
    ],
)
def test_a_kind_of_writing_is_a_filter(question, kind):
    assert read(question).where == Filter(kinds=(kind,))


def test_a_kind_is_no_filter_where_everything_is_of_one_kind():
    assert read("articles about hiring", kinds=("article",)).where == Filter()


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("What does Simon think about SQLite?", ("Simon Willison",)),
        ("What does Simon Willison think about SQLite?", ("Simon Willison",)),
        ("What is simonw's view of SQLite?", ("Simon Willison",)),
        ("articles by Archibald about streams", ("Jake Archibald",)),
        ("Do Simon and Jake agree about SQLite?", ("Simon Willison", "Jake Archibald")),
        ("What does Will Larson think about teams?", ("Will Larson",)),
        ("Will SQLite scale?", ()),
        ("What did the simonsays game teach?", ()),
    ],
)
def test_names_choose_among_several_authors(question, names):
    assert read(question, authors=(SIMON, JAKE, WILL), kinds=("article",)).where.authors == names


def test_the_name_of_the_only_author_is_no_filter_and_does_not_disturb_the_search():
    understood = read("What does Simon think about SQLite?")
    assert understood == Understanding("What does they think about SQLite?")


def test_a_first_name_two_authors_share_chooses_neither():
    assert read("What does Simon think?", authors=(SIMON, Author("Simon Late"))).where == Filter()


def test_what_became_a_filter_is_not_searched_for():
    understood = read("What did Simon write about SQLite on GitHub in 2021?", authors=(SIMON, JAKE))
    assert understood.text == "What did they write about SQLite?"
    assert understood.where == Filter(
        authors=("Simon Willison",), sources=("github",), since=day(2021), until=day(2022)
    )
    assert understood.notes == (
        "Searched only what was published by Simon Willison.",
        "Searched only what was published on GitHub.",
        "Searched only what was published in 2021.",
    )


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [
        (day(2021), day(2022), "in 2021"),
        (day(2019), day(2022), "from 2019 to 2021"),
        (day(2021, 12), day(2022), "in December 2021"),
        (day(2021), day(2021, 7), "from 2021-01-01 up to 2021-06-30"),
        (day(2021, 1, 2), day(2022), "from 2021-01-02 up to 2021-12-31"),
        (day(2021), None, "from 2021-01-01"),
        (None, day(2022), "up to 2021-12-31"),
    ],
)
def test_a_time_is_told_as_people_write_it(since, until, words):
    assert describe(Filter(since=since, until=until)) == words


def test_quoted_phrases_are_kept_and_never_read_as_filters():
    understood = read('Where does he say "tests in 2021 were  slow" or “boring technology”?')
    assert understood.phrases == ("tests in 2021 were slow", "boring technology")
    assert understood.where == Filter()


def test_an_explicit_filter_wins_over_what_the_question_says():
    inferred = Filter(authors=("Simon",), sources=("github",), since=day(2021), until=day(2022))
    explicit = Filter(sources=("medium",), since=day(2023))
    assert merge(inferred, explicit) == Filter(authors=("Simon",), sources=("medium",), since=day(2023))
    assert merge(inferred, Filter()) == inferred
    assert describe(Filter(kinds=("post",), document_ids=("a", "b"))) == "among posts, in 2 chosen documents"


@pytest.mark.parametrize(
    ("question", "searched"),
    [
        ("And in production?", "What does he think of SQLite? And in production?"),
        ("Why does he prefer it?", "What does he think of SQLite? Why does he prefer it?"),
        ("What does he think of Postgres?", "What does he think of Postgres?"),
        (
            "Why are Rust compile times so slow on large code bases?",
            "Why are Rust compile times so slow on large code bases?",
        ),
    ],
)
def test_a_question_that_leans_on_the_one_before_is_searched_together_with_it(question, searched):
    history = [Message("user", "What does he think of SQLite?"), Message("assistant", "He likes it.")]
    assert in_conversation(question, history) == searched
    assert in_conversation(question, []) == question


VOCABULARY = (
    "in before after since between and 2021 2001: March May 31 last this year months past Simon Jake Will on GitHub "
    'Medium posts articles my his “ ” " the from to 0 99 2020-02-30 6 ? , by'
)
WORDS = st.sampled_from(VOCABULARY.split())


@given(
    st.one_of(st.text(), st.lists(WORDS, max_size=12).map(" ".join)),
    st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1)),
)
def test_understanding_never_fails_and_yields_only_filters_that_hold_together(question, moment):
    understood = understand(
        question, authors=(SIMON, JAKE, WILL), sources=PLATFORMS, kinds=KINDS, now=moment.replace(tzinfo=UTC)
    )
    where = understood.where
    assert set(where.authors) <= {SIMON.name, JAKE.name, WILL.name}
    assert set(where.sources) <= set(PLATFORMS)
    assert where.since is None or where.until is None or where.since < where.until
    assert where.since is None or where.since <= moment.replace(tzinfo=UTC) + timedelta(days=366)
    assert understood.text.strip() or not question.strip()


@given(
    st.text(alphabet=st.characters(exclude_categories=("Nd", "Nl", "No"))).filter(
        lambda text: "year" not in text.lower()
    )
)
def test_there_is_no_date_without_a_date_in_the_question(question):
    where = read(question).where
    dated = any(word in question.lower() for word in ("week", "month", "day"))
    assert dated or (where.since is None and where.until is None)
