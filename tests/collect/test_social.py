"""Exports of X, Telegram and Slack: the author's own words, threads in one piece, everything else accounted for."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collect.archives import Watched, context, documents, endings, outcomes, run, write_folder, write_zip
from llm_twin.adapters.memory import MemoryWarehouse
from llm_twin.collect.slack import SlackSource
from llm_twin.collect.slack import markdown as slack_markdown
from llm_twin.collect.telegram import TelegramSource
from llm_twin.collect.telegram import markdown as telegram_markdown
from llm_twin.collect.x import XSource, expanded

LONG = "Rain is a subject of its own. " * 20

# --- X --------------------------------------------------------------------------------------------------------------

ACCOUNT = 'window.YTD.account.part0 = [{"account": {"accountId": "7", "username": "ann", "email": "a@b.example"}}]'


def tweet(number: int, text: str, *, answers: int | None = None, to: str = "7", **more) -> dict:
    reply = {"in_reply_to_status_id_str": str(answers), "in_reply_to_user_id_str": to} if answers else {}
    return {
        "tweet": {
            "id_str": str(number),
            "full_text": text,
            "created_at": "Wed Oct 10 20:19:24 +0000 2018",
            "retweeted": False,
            "entities": {"hashtags": [], "urls": []},
            **reply,
            **more,
        }
    }


def x_export(folder: Path, *tweets: dict, account: str = ACCOUNT, **files: str) -> Path:
    return write_zip(
        folder / "twitter-2026-03-14-abc.zip",
        {
            "data/tweets.js": f"window.YTD.tweets.part0 = {json.dumps(list(tweets))}",
            "data/account.js": account,
            **files,
        },
    )


def x_source(path: Path, **options) -> XSource:
    return XSource.open(path.name, context(path.parent), **options)


def test_a_post_on_x_has_its_words_links_date_and_address(tmp_path: Path) -> None:
    link = {"url": "https://t.co/abc", "expanded_url": "https://ann.example/tea?a=1&b=2"}
    picture = {"url": "https://t.co/pic", "type": "photo", "ext_alt_text": "A cup of tea."}
    post = tweet(
        10,
        "Tea &gt; coffee: https://t.co/abc #tea https://t.co/pic",
        entities={"urls": [link], "hashtags": [{"text": "tea"}], "media": [picture]},
        extended_entities={"media": [picture]},
    )
    found = documents(x_source(x_export(tmp_path, post)))["10"]
    assert found.text == "Tea > coffee: https://ann.example/tea?a=1&b=2 #tea\n\nA cup of tea."
    assert (found.url, found.kind, found.tags) == ("https://x.com/ann/status/10", "post", ("tea",))
    assert found.published_at == datetime(2018, 10, 10, 20, 19, 24, tzinfo=UTC)


def test_a_thread_is_one_document_in_its_order_wherever_its_posts_stand(tmp_path: Path) -> None:
    path = x_export(
        tmp_path,
        tweet(12, "Third.", answers=11),
        tweet(30, "Another."),
        tweet(10, "First."),
        tweet(11, "Second.", answers=10),
    )
    assert {key: found.text for key, found in documents(x_source(path)).items()} == {
        "10": "First.\n\nSecond.\n\nThird.",
        "30": "Another.",
    }


def test_posts_of_others_and_replies_to_others_are_left_out_with_their_reasons(tmp_path: Path) -> None:
    path = x_export(
        tmp_path,
        tweet(10, "Mine."),
        tweet(11, "RT @bob: Look!"),
        tweet(12, "@bob No.", answers=5, to="8"),
        tweet(13, "And never.", answers=12),
        tweet(14, "After one that I deleted.", answers=3),
        tweet(10, "Mine."),
        {"tweet": {"id_str": "15"}},
    )
    assert endings(x_source(path)) == {
        "10": ("added", ""),
        "11": ("skipped", "passes on what somebody else wrote"),
        "12": ("skipped", "replies to somebody else; set `replies = true` to collect it"),
        "14": ("added", ""),
        "10:6": ("skipped", "repeats a post of the archive"),
        "tweets.js:7": ("failed", "is no post that can be read; download it again"),
    }
    assert documents(x_source(path, replies=True))["12"].text == "@bob No.\n\nAnd never."


def test_without_the_account_a_reply_to_a_post_of_the_archive_is_a_thread(tmp_path: Path) -> None:
    path = write_folder(
        tmp_path / "export",
        {"tweets.js": json.dumps([tweet(1, "One."), tweet(2, "Two.", answers=1), tweet(3, "@bob", answers=9, to="8")])},
    )
    found = documents(x_source(path, handle="@ann"))
    assert [(key, each.text, each.url) for key, each in found.items()] == [
        ("1", "One.\n\nTwo.", "https://x.com/ann/status/1")
    ]


def test_the_whole_text_of_a_long_post_is_put_back(tmp_path: Path) -> None:
    note = {
        "noteTweetId": "99",
        "createdAt": "2024-05-01T10:00:00.000Z",
        "core": {
            "text": LONG + "https://t.co/x",
            "urls": [{"shortUrl": "https://t.co/x", "expandedUrl": "https://a.b/"}],
        },
    }
    lost = {"noteTweetId": "98", "createdAt": "2024-05-02T10:00:00.000Z", "core": {"text": "Nothing points here."}}
    notes = f"window.YTD.note_tweet.part0 = {json.dumps([{'noteTweet': note}, {'noteTweet': lost}])}"
    path = x_export(tmp_path, tweet(10, LONG[:270] + "… https://t.co/more"), **{"data/note-tweet.js": notes})
    found = documents(x_source(path))
    assert found["10"].text == LONG + "https://a.b/"
    assert (found["note:98"].text, found["note:98"].published_at) == (
        "Nothing points here.",
        datetime(2024, 5, 2, 10, tzinfo=UTC),
    )


@pytest.mark.parametrize("ring", [[(1, 2), (2, 1)], [(1, 1)], [(1, 2), (2, 3), (3, 1), (4, 1)]])
def test_answers_in_a_circle_end(tmp_path: Path, ring: list[tuple[int, int]]) -> None:
    path = x_export(tmp_path, *(tweet(number, f"Post {number}.", answers=answered) for number, answered in ring))
    assert sorted("\n\n".join(each.text for each in documents(x_source(path)).values()).split("\n\n")) == [
        f"Post {number}." for number, _ in ring
    ]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12))
def test_every_post_is_in_exactly_one_thread(tmp_path_factory: pytest.TempPathFactory, answered: list[int]) -> None:
    posts = [tweet(number, f"Post {number}.", answers=to or None) for number, to in enumerate(answered, 1)]
    found = documents(x_source(x_export(tmp_path_factory.mktemp("x"), *posts)))
    told = sorted(line for each in found.values() for line in each.text.split("\n\n"))
    assert told == sorted(f"Post {number}." for number in range(1, len(answered) + 1))


def test_a_short_link_is_not_taken_for_a_longer_one() -> None:
    urls = [{"url": "https://t.co/a", "expanded_url": r"https://x.example/\1"}]
    assert expanded("https://t.co/ab https://t.co/a.", urls) == r"https://t.co/ab https://x.example/\1."


def test_a_second_run_fetches_nothing_and_a_post_that_is_gone_is_removed(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    path = x_export(tmp_path, tweet(10, "First."), tweet(11, "Second.", answers=10), tweet(30, "Another."))
    run(x_source(path), store)
    again = Watched(x_source(path))
    assert outcomes(run(again, store)) == {"10": "unchanged", "30": "unchanged"}
    assert again.fetched == []
    x_export(tmp_path, tweet(10, "First."))
    assert outcomes(run(x_source(path), store)) == {"10": "updated", "30": "removed"}
    assert [document.text for document in store.documents()] == ["First."]


@pytest.mark.parametrize("text", ['[{"tweet": {"id_str": "1", "full', "no JSON", '[{"tweet": "\\ud800'])
def test_a_torn_archive_is_a_problem_and_nothing_is_removed(tmp_path: Path, text: str) -> None:
    store = MemoryWarehouse()
    run(x_source(x_export(tmp_path, tweet(10, "First."))), store)
    path = x_export(tmp_path, **{"data/tweets.js": text})
    assert "tweets.js cannot be read: it is not JSON" in run(x_source(path), store).problem
    assert len(list(store.documents())) == 1


def test_a_large_archive_is_read_as_a_stream(tmp_path: Path) -> None:
    path = x_export(tmp_path, *(tweet(number, f"Post {number}. " + "word " * 400) for number in range(1, 6001)))
    size = 6000 * 2000
    source = x_source(path)
    tracemalloc.start()
    count = sum(1 for _ in source.list())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 6000
    assert peak < size / 2


def test_a_record_that_never_ends_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_twin.collect.export.MAX_PAGE_BYTES", 1_000_000)
    path = x_export(tmp_path, tweet(1, "x" * 5_000_000))
    assert path.stat().st_size < 10_000
    report = run(x_source(path), MemoryWarehouse())
    assert "it has a record of more than 1,000,000 bytes" in report.problem


# --- Telegram -------------------------------------------------------------------------------------------------------


def message(number: int, text, *, sender: str = "user7", name: str = "Ann Roe", day: int = 1, **more) -> dict:
    at = datetime(2024, 5, day, 9, number % 60, tzinfo=UTC)
    return {
        "id": number,
        "type": "message",
        "date": "2024-05-01T11:00:00",
        "date_unixtime": str(int(at.timestamp())),
        "from": name,
        "from_id": sender,
        "text": text,
        **more,
    }


def chat(*messages: dict, name: str = "Tea", kind: str = "public_supergroup", number: int = 5) -> dict:
    return {"name": name, "type": kind, "id": number, "messages": list(messages)}


def telegram_export(folder: Path, content: dict) -> Path:
    return write_folder(folder / "ChatExport_2026-03-14", {"result.json": json.dumps(content)})


def telegram_source(path: Path, **options) -> TelegramSource:
    return TelegramSource.open(path.name, context(path.parent), **options)


def test_short_messages_of_a_day_are_a_note_long_ones_a_post_and_answers_to_oneself_a_thread(tmp_path: Path) -> None:
    path = telegram_export(
        tmp_path,
        chat(
            message(1, "Morning."),
            message(2, "Tea?", sender="user8", name="Bob"),
            message(3, LONG),
            message(4, "Tea."),
            message(5, "Next day.", day=2),
            message(6, "More on rain.", day=2, reply_to_message_id=3),
            message(7, "", day=2),
            {"id": 8, "type": "service", "action": "pin_message"},
        ),
    )
    found = documents(telegram_source(path))
    assert {key: (each.text, each.kind) for key, each in found.items()} == {
        "5/2024-05-01": ("Morning.\n\nTea.", "note"),
        "5/3": (LONG.strip() + "\n\nMore on rain.", "post"),
        "5/2024-05-02": ("Next day.", "note"),
    }
    assert found["5/2024-05-01"].published_at == datetime(2024, 5, 1, 9, 1, tzinfo=UTC)
    assert endings(telegram_source(path))["5: of other people"] == (
        "skipped",
        "1 message of Tea is left out",
    )


def test_entities_of_a_message_become_markdown() -> None:
    entities = [
        "See ",
        {"type": "bold", "text": "this \nand that"},
        {"type": "text_link", "text": "page", "href": "https://a.example/"},
        {"type": "plain", "text": " "},
        {"type": "code", "text": "x = 1"},
        {"type": "pre", "text": "a\n\nb", "language": "python"},
        {"type": "blockquote", "text": "I said\nso"},
        {"type": "mention", "text": "@bob"},
    ]
    assert telegram_markdown(entities) == (
        "See **this** \n**and that**[page](https://a.example/) `x = 1`\n```python\na\n\nb\n```\n"
        "\n> I said\n> so\n\n@bob"
    )
    assert telegram_markdown("Plain *text*") == "Plain *text*"


def test_every_post_of_a_channel_that_was_exported_by_itself_is_a_document(tmp_path: Path) -> None:
    posts = [message(number, f"Post {number}.", sender="channel5", name="Tea") for number in (1, 2)]
    path = telegram_export(tmp_path, chat(*posts, kind="public_channel"))
    assert {key: (each.text, each.kind) for key, each in documents(telegram_source(path)).items()} == {
        "5/1": ("Post 1.", "post"),
        "5/2": ("Post 2.", "post"),
    }


def test_of_all_chats_only_public_groups_and_named_channels_are_collected(tmp_path: Path) -> None:
    everything = {
        "personal_information": {"user_id": 7, "first_name": "A."},
        "chats": {
            "list": [
                chat(message(1, "Public.", name="A."), message(2, "Passed on.", forwarded_from="Bob")),
                chat(message(1, "Secret."), name="Bob", kind="personal_chat", number=6),
                chat(message(1, "News.", sender="channel9", name="News"), name="News", kind="public_channel", number=9),
            ]
        },
    }
    path = telegram_export(tmp_path, everything)
    assert endings(telegram_source(path)) == {
        "5/2024-05-01": ("added", ""),
        "5: forwarded from others": ("skipped", "1 message of Tea is left out"),
        "6: in a private chat": (
            "skipped",
            "1 message of Bob is left out; set `private = true` to collect what you wrote there",
        ),
        "9: in a channel that `channels` does not name": (
            "skipped",
            "1 message of News is left out; name it in `channels` if it is yours",
        ),
    }
    wide = documents(telegram_source(path, private=True, channels=("news",)))
    assert {each.text for each in wide.values()} == {"Public.", "Secret.", "News."}


def test_saved_messages_which_have_no_name_are_a_private_chat_of_their_own(tmp_path: Path) -> None:
    saved = {"type": "saved_messages", "id": 7, "messages": [message(1, "Buy a ring. Tell nobody.")]}
    public = chat(message(1, "Public."), name="Tea")
    empty = chat(name="Quiet", number=8)
    for chats in ([saved, public], [public, saved], [{**saved, "messages": []}, empty, saved, public]):
        path = telegram_export(tmp_path, {"personal_information": {"user_id": 7}, "chats": {"list": chats}})
        assert endings(telegram_source(path)) == {
            "5/2024-05-01": ("added", ""),
            "7: in a private chat": (
                "skipped",
                "1 message of 7 is left out; set `private = true` to collect what you wrote there",
            ),
        }
    assert {each.text for each in documents(telegram_source(path, private=True)).values()} == {
        "Public.",
        "Buy a ring. Tell nobody.",
    }


def test_whose_messages_they_are_can_be_said_by_name_or_number_and_must_be_known(tmp_path: Path) -> None:
    path = telegram_export(tmp_path, chat(message(1, "Mine.", sender="user9", name="Tea drinker")))
    for me in ("Tea Drinker", "user9", "9"):
        assert [each.text for each in documents(telegram_source(path, me=me)).values()] == ["Mine."]
    report = run(telegram_source(path), MemoryWarehouse())
    assert "has no message by 'Ann Roe'; set `me` to one of 'Tea drinker'" in report.problem


# --- Slack ----------------------------------------------------------------------------------------------------------

USERS = [
    {"id": "U1", "name": "ann", "profile": {"real_name": "Ann Roe", "display_name": "annr", "email": "ann@a.example"}},
    {"id": "U2", "name": "bob", "profile": {"real_name": "Bob Low", "display_name": ""}},
]


def slack(text: str, ts: str, *, user: str = "U1", **more) -> dict:
    return {"type": "message", "user": user, "text": text, "ts": ts, **more}


def slack_export(folder: Path, days: dict[str, list[dict]]) -> Path:
    files = {f"{day}.json": json.dumps(messages) for day, messages in days.items()}
    lists = {"users.json": json.dumps(USERS), "channels.json": json.dumps([{"id": "C1", "name": "general"}])}
    return write_zip(folder / "Acme Slack export Jan 1 2025 - Mar 14 2026.zip", {**lists, **files})


def slack_source(path: Path, **options) -> SlackSource:
    return SlackSource.open(path.name, context(path.parent), **options)


DAYS = {
    "general/2024-05-01": [
        slack("Morning, <@U2>.", "1714550000.000100"),
        slack("Tea?", "1714550001.000100", user="U2"),
        slack("<@U1> has joined", "1714550002.000100", subtype="channel_join"),
        slack("A question.", "1714550003.000100", thread_ts="1714550003.000100", reply_count=2),
        slack("Yes.", "1714550004.000100", user="U2", thread_ts="1714550003.000100"),
        slack("Tea.", "1714550005.000100"),
        slack(LONG, "1714550006.000100"),
    ],
    "general/2024-05-02": [slack("An answer.", "1714640000.000100", thread_ts="1714550003.000100")],
    "secret/2024-05-02": [slack("Hush.", "1714640001.000100")],
}


def test_own_messages_of_slack_are_gathered_by_thread_and_day(tmp_path: Path) -> None:
    found = documents(slack_source(slack_export(tmp_path, DAYS), workspace="acme"))
    assert {key: (each.text, each.kind, each.url) for key, each in found.items()} == {
        "general/2024-05-01": ("Morning, @Bob Low.\n\nTea.", "note", None),
        "general/1714550003.000100": (
            "A question.\n\nAn answer.",
            "post",
            "https://acme.slack.com/archives/C1/p1714550003000100",
        ),
        "general/1714550006.000100": (
            LONG.strip(),
            "post",
            "https://acme.slack.com/archives/C1/p1714550006000100",
        ),
    }


def test_what_is_left_out_of_slack_is_counted_by_channel_and_reason(tmp_path: Path) -> None:
    left_out = {key: end for key, end in endings(slack_source(slack_export(tmp_path, DAYS))).items() if ": " in key}
    assert left_out == {
        "general: of other people": ("skipped", "2 messages in general are left out"),
        "general: notices of the workspace": (
            "skipped",
            "1 message in general is left out",
        ),
        "secret: in a private channel or chat": (
            "skipped",
            "1 message in secret is left out; set `private = true` to collect what you wrote there",
        ),
    }
    assert "secret/2024-05-02" in documents(slack_source(slack_export(tmp_path, DAYS), private=True))


@pytest.mark.parametrize("me", ["U1", "ann", "annr", "Ann Roe", "ANN@a.example"])
def test_the_author_is_found_by_id_name_or_mail_address(tmp_path: Path, me: str) -> None:
    assert len(documents(slack_source(slack_export(tmp_path, DAYS), me=me))) == 3


def test_an_author_nobody_knows_is_a_problem(tmp_path: Path) -> None:
    report = run(slack_source(slack_export(tmp_path, DAYS), me="carol"), MemoryWarehouse())
    assert "knows nobody called 'carol'; set `me` to the id or mail address" in report.problem


@pytest.mark.parametrize(
    ("mrkdwn", "markdown"),
    [
        ("*bold* and _it_ and ~gone~", "**bold** and _it_ and ~~gone~~"),
        ("2*3*4 is no *emphasis *", "2*3*4 is no *emphasis *"),
        ("<https://a.example/x?a=1&amp;b=2|a page> <https://b.example>", "[a page](https://a.example/x?a=1&b=2) https://b.example"),
        ("<@U2> in <#C1|general>, <!here> and <!subteam^S1|@team>", "@Bob Low in #general, @here and @team"),
        ("<!date^1392734382^{date}|Feb 18> 1 &lt; 2 &amp;&amp; 3 &gt; 2", "Feb 18 1 < 2 && 3 > 2"),
        ("• one\n• two", "- one\n- two"),
        ("&gt; quoted", "> quoted"),
        ("Run `a *b* c` now", "Run `a *b* c` now"),
        ("See:\n```a *b*\n\n  c &lt; d```\nDone.", "See:\n\n```\na *b*\n\n  c < d\n```\n\nDone."),
    ],
)  # fmt: skip
def test_mrkdwn_becomes_markdown(mrkdwn: str, markdown: str) -> None:
    assert slack_markdown(mrkdwn, {"U2": "Bob Low"}) == markdown


def test_a_second_run_over_slack_fetches_nothing(tmp_path: Path) -> None:
    store = MemoryWarehouse()
    path = slack_export(tmp_path, DAYS)
    run(slack_source(path), store)
    again = Watched(slack_source(path))
    assert {end for key, end in outcomes(run(again, store)).items() if ": " not in key} == {"unchanged"}
    assert again.fetched == []


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (XSource, "~/Downloads/twitter-2026-03-14-0123456789abcdef.zip"),
        (TelegramSource, "~/Downloads/Telegram Desktop/ChatExport_2026-03-14/result.json"),
        (TelegramSource, "./DataExport_2026-03-14"),
        (SlackSource, "./Acme Slack export Jan 1 2025 - Mar 14 2026.zip"),
    ],
)
def test_exports_are_recognised_by_the_names_their_platforms_give_them(kind, address: str) -> None:
    assert [each for each in (XSource, TelegramSource, SlackSource) if each.recognises(address)] == [kind]
    assert not kind.recognises("./posts")
    assert not kind.recognises("https://slack.com/export")


@pytest.mark.parametrize(
    ("source", "files"),
    [
        (telegram_source, {"result.json": '{"messages": ["a message that is no object"]}'}),
        (slack_source, {"users.json": json.dumps(USERS), "general/2024-05-01.json": '["no object"]'}),
        (x_source, {"data/tweets.js": json.dumps([tweet(1, "Hi.", entities=["no object"])])}),
    ],
)
def test_a_record_in_an_unknown_form_is_a_problem_of_its_source_and_no_crash(tmp_path: Path, source, files) -> None:
    report = run(source(write_zip(tmp_path / "odd.zip", files)), MemoryWarehouse())
    assert "odd.zip holds a record in a form that is not known (AttributeError: " in report.problem


@pytest.mark.parametrize("source", [x_source, telegram_source, slack_source])
def test_another_archive_is_a_problem_that_says_what_was_expected(tmp_path: Path, source) -> None:
    path = write_zip(tmp_path / "holiday.zip", {"beach.txt": "sun"})
    assert "holiday.zip holds no " in run(source(path), MemoryWarehouse()).problem
