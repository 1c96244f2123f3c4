"""Every warehouse keeps these promises: in memory, on SQLite, on PostgreSQL, on MongoDB."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_twin.core.errors import StoreError
from llm_twin.core.records import (
    Chunk,
    Document,
    DocumentFeatures,
    Embedding,
    ItemState,
    Run,
    VoiceProfile,
    chunk_id,
    content_hash,
    document_id,
)
from llm_twin.core.vectors import PackedTokens, pack_tokens

NOON = datetime(2026, 3, 14, 12, 0, 0, 123456, tzinfo=UTC)


def make_document(locator: str = "notes/orm.md", text: str = "ORMs leak.", **changes) -> Document:
    document = Document(
        id=document_id("Ann", "files", locator),
        author="Ann",
        source="files",
        kind="article",
        title=locator,
        text=text,
        content_hash=content_hash(locator, text),
        fetched_at=NOON,
    )
    return replace(document, **changes)


def added(document: Document, *, source: str = "files:blog", key: str | None = None) -> tuple[ItemState, Document]:
    state = ItemState(source, key or document.title, "added", version="v1", document_id=document.id, seen_at=NOON)
    return state, document


def removed(document: Document, *, source: str = "files:blog", key: str | None = None) -> tuple[ItemState, None]:
    return ItemState(source, key or document.title, "removed"), None


def make_features(document: Document, *texts: str, **changes) -> DocumentFeatures:
    chunks, start = [], 0
    for number, text in enumerate(texts):
        at = document.text.index(text, start)
        identity = chunk_id(document.id, text, number)
        chunks.append(Chunk(identity, document.id, text, at, at + len(text), ("Title", "Part"), len(text.split())))
        start = at + len(text)
    return replace(DocumentFeatures(document, fingerprint="f1", chunks=tuple(chunks)), **changes)


# --- documents and items --------------------------------------------------------------------------------------------


def test_a_new_warehouse_is_empty(warehouse):
    assert list(warehouse.items()) == []
    assert list(warehouse.documents()) == []
    assert warehouse.document_hashes() == {}
    assert list(warehouse.features()) == []
    assert warehouse.feature_fingerprints() == {}
    assert warehouse.embedding_keys() == set()
    assert warehouse.runs() == []
    assert warehouse.profiles() == {}
    assert warehouse.changes() == []


def test_nothing_to_save_changes_nothing(warehouse):
    warehouse.save([])
    warehouse.save_features([])
    warehouse.save_embeddings({})
    warehouse.forget_embeddings([])
    assert warehouse.embeddings([]) == {}
    assert warehouse.tokens([]) == {}
    assert list(warehouse.documents([])) == []
    assert list(warehouse.features([])) == []


def test_a_document_comes_back_equal_with_every_field(warehouse):
    document = make_document(
        text="```python\nx = 1\n```\r\n\tnaïve — “quotes” 🧵👩‍👩‍👧\n",
        url="https://ann.example/orm?a=1&b=2",
        language="en",
        published_at=datetime(2021, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        tags=("python", "données"),
        also_at=("https://medium.com/@ann/orm",),
    )
    warehouse.save([added(document)])
    assert list(warehouse.documents()) == [document]


def test_a_document_without_optional_fields_comes_back_with_none_and_empty_tuples(warehouse):
    document = make_document(text="")
    warehouse.save([added(document)])
    (found,) = warehouse.documents()
    assert found == document
    assert (found.url, found.language, found.published_at) == (None, None, None)
    assert (found.tags, found.also_at) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "\x01\x02\x1f\x7f\x85",
        "half an emoji: \ud83e",
        "other half: \uddf5",
        "the escape itself: \ufdd00000 and \ufdd0",
        "end \U0010ffff",
    ],
)
def test_text_no_database_likes_comes_back_equal(warehouse, text):
    document = make_document(text=text, title=text, tags=(text,), author=text)
    warehouse.save([added(document, key=text)])
    warehouse.save_features([make_features(document, text, dropped=text)])
    assert list(warehouse.documents()) == [document]
    assert next(warehouse.items()).key == text
    assert list(warehouse.features()) == [make_features(document, text, dropped=text)]


any_text = st.text(st.characters(exclude_categories=()), max_size=40)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
documents = st.builds(
    Document,
    id=st.just("0123456789abcdef"),
    author=any_text,
    source=any_text,
    kind=st.sampled_from(["article", "post", "repository", "note"]),
    title=any_text,
    text=any_text,
    content_hash=any_text,
    fetched_at=moments,
    url=st.none() | any_text,
    language=st.none() | any_text,
    published_at=st.none() | moments,
    tags=st.lists(any_text, max_size=3).map(tuple),
    also_at=st.lists(any_text, max_size=3).map(tuple),
)
chunks = st.builds(
    Chunk,
    id=any_text,
    document_id=st.just("0123456789abcdef"),
    text=any_text,
    start=st.integers(0, 2**31 - 1),
    end=st.integers(0, 2**31 - 1),
    heading_path=st.lists(any_text, max_size=3).map(tuple),
    token_count=st.integers(0, 2**31 - 1),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
def test_any_document_comes_back_equal(warehouse, document):
    warehouse.save([added(document, key="k")])
    assert list(warehouse.documents([document.id])) == [document]
    assert warehouse.document_hashes() == {document.id: document.content_hash}


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.builds(
        DocumentFeatures,
        document=documents,
        fingerprint=any_text,
        chunks=st.lists(chunks, max_size=4).map(tuple),
        dropped=st.none() | any_text,
        signatures=st.lists(st.binary(max_size=9), max_size=3).map(tuple),
    )
)
def test_any_features_come_back_equal(warehouse, made):
    warehouse.save([added(made.document, key="k")])
    warehouse.save_features([made])
    assert list(warehouse.features([made.document.id])) == [made]


def test_a_time_of_another_zone_comes_back_as_the_same_moment_and_aware(warehouse):
    zone = timezone(timedelta(hours=5, minutes=30))
    document = make_document(published_at=datetime(2020, 1, 1, 2, 0, tzinfo=zone))
    warehouse.save([added(document)])
    (found,) = warehouse.documents()
    assert found.published_at == datetime(2019, 12, 31, 20, 30, tzinfo=UTC)
    assert found.published_at.tzinfo is not None


def test_documents_come_in_the_order_of_their_ids_whatever_order_they_were_saved_in(warehouse):
    made = [make_document(f"p{number}") for number in range(30)]
    warehouse.save([added(document) for document in made])
    assert [found.id for found in warehouse.documents()] == sorted(document.id for document in made)


def test_thousands_of_ids_can_be_asked_for_and_unknown_ones_are_left_out(warehouse):
    made = [make_document(f"p{number}") for number in range(2500)]
    warehouse.save([added(document) for document in made])
    wanted = {document.id for document in made[:2100]}
    found = list(warehouse.documents([*wanted, "no-such-document", *wanted]))
    assert [document.id for document in found] == sorted(wanted)


def test_a_warehouse_can_be_written_while_documents_are_read(warehouse):
    made = [make_document(f"p{number}") for number in range(450)]
    warehouse.save([added(document) for document in made])
    reading = warehouse.documents()
    first = next(reading)
    warehouse.save([removed(first)])
    assert len(list(reading)) >= 449 - 200
    assert first.id not in warehouse.document_hashes()


def test_items_come_back_equal_ordered_by_source_and_key_in_code_point_order(warehouse):
    states = [
        ItemState("web", "https://b.example/Z", "skipped", reason="empty", tries=0),
        ItemState("web", "https://b.example/a", "failed", reason="HTTP 500", tries=3, seen_at=NOON, next_try=NOON),
        ItemState("files", "ä.md", "unchanged", version="7", document_id="d1"),
        ItemState("files", "z.md", "added", document_id="d2", seen_at=NOON),
        ItemState("Files", "z.md", "updated", version=""),
    ]
    warehouse.save([(state, None) for state in states])
    assert list(warehouse.items()) == sorted(states, key=lambda state: (state.source, state.key))
    assert [state.key for state in warehouse.items("files")] == ["z.md", "ä.md"]
    assert list(warehouse.items("nowhere")) == []


def test_the_latest_state_of_an_item_replaces_the_one_before(warehouse):
    state, document = added(make_document())
    later = replace(state, outcome="unchanged", reason="", tries=0, seen_at=NOON + timedelta(days=1))
    warehouse.save([(state, document)])
    warehouse.save([(later, None)])
    assert list(warehouse.items()) == [later]
    assert list(warehouse.documents()) == [document]


def test_an_updated_document_replaces_the_one_before(warehouse):
    old, new = make_document(text="ORMs leak."), make_document(text="ORMs are fine.")
    warehouse.save([added(old)])
    warehouse.save([added(new)])
    assert list(warehouse.documents()) == [new]
    assert warehouse.document_hashes() == {new.id: new.content_hash}


def test_the_last_of_two_states_of_one_item_in_one_call_wins(warehouse):
    old, new = make_document(text="first"), make_document(text="second")
    warehouse.save([added(old), added(new)])
    assert [found.text for found in warehouse.documents()] == ["second"]
    assert len(list(warehouse.items())) == 1


def test_removing_an_item_removes_its_document_and_features(warehouse):
    gone, kept = make_document("gone.md"), make_document("kept.md")
    warehouse.save([added(gone), added(kept)])
    warehouse.save_features([make_features(gone, "ORMs"), make_features(kept, "leak")])
    warehouse.save([removed(gone)])
    assert [state.key for state in warehouse.items()] == ["kept.md"]
    assert warehouse.document_hashes() == {kept.id: kept.content_hash}
    assert list(warehouse.features()) == [make_features(kept, "leak")]


def test_a_document_two_items_refer_to_lives_until_both_are_removed(warehouse):
    document = make_document()
    warehouse.save([added(document, source="medium", key="m"), added(document, source="substack", key="s")])
    warehouse.save([removed(document, source="medium", key="m")])
    assert list(warehouse.documents()) == [document]
    warehouse.save([removed(document, source="substack", key="s")])
    assert list(warehouse.documents()) == []


def test_an_item_that_moves_to_another_document_lets_go_of_the_one_before(warehouse):
    before, after = make_document("before"), make_document("after")
    warehouse.save([added(before, key="post.md")])
    warehouse.save([added(after, key="post.md")])
    assert list(warehouse.documents()) == [after]


def test_a_document_that_changes_hands_within_one_call_stays(warehouse):
    document = make_document()
    warehouse.save([added(document, key="old.md")])
    warehouse.save_features([make_features(document, "leak")])
    warehouse.save([removed(document, key="old.md"), added(document, key="new.md")])
    assert list(warehouse.documents()) == [document]
    assert list(warehouse.features()) == [make_features(document, "leak")]


def test_a_failed_fetch_keeps_the_document_and_a_later_removal_still_finds_it(warehouse):
    document = make_document()
    warehouse.save([added(document)])
    warehouse.save([(ItemState("files:blog", document.title, "failed", reason="timeout", tries=1), None)])
    assert list(warehouse.documents()) == [document]
    assert next(warehouse.items()).document_id == document.id
    warehouse.save([removed(document)])
    assert list(warehouse.documents()) == []


def test_removing_what_is_not_there_is_harmless(warehouse):
    document = make_document()
    warehouse.save([added(document)])
    warehouse.save([(ItemState("files:blog", "never.md", "removed", document_id="unknown"), None)])
    assert list(warehouse.documents()) == [document]


@pytest.mark.parametrize("wrong", ["removed with a document", "another document"])
def test_a_contradiction_between_state_and_document_saves_nothing_of_the_call(warehouse, wrong):
    state, document = added(make_document("b.md"))
    bad = (
        replace(state, outcome="removed") if wrong == "removed with a document" else replace(state, document_id="other")
    )
    with pytest.raises(StoreError, match=r"b\.md"):
        warehouse.save([added(make_document("a.md")), (bad, document)])
    assert list(warehouse.items()) == []
    assert list(warehouse.documents()) == []


# --- features -------------------------------------------------------------------------------------------------------


def test_new_features_replace_the_old_with_all_their_chunks(warehouse):
    document = make_document(text="one two three four")
    warehouse.save([added(document)])
    warehouse.save_features([make_features(document, "one", "two", "three")])
    shorter = make_features(document, "four", fingerprint="f2", signatures=(b"\x00\xff", b""))
    warehouse.save_features([shorter])
    assert list(warehouse.features()) == [shorter]
    assert warehouse.feature_fingerprints() == {document.id: "f2"}


def test_chunks_keep_their_order(warehouse):
    words = [f"w{number}" for number in range(40)]
    document = make_document(text=" ".join(words))
    warehouse.save([added(document)])
    warehouse.save_features([make_features(document, *words)])
    (found,) = warehouse.features()
    assert [chunk.text for chunk in found.chunks] == words


def test_a_refused_document_has_a_reason_and_no_chunks(warehouse):
    document = make_document()
    warehouse.save([added(document)])
    warehouse.save_features([make_features(document, dropped="too short: 2 words")])
    (found,) = warehouse.features()
    assert (found.dropped, found.chunks) == ("too short: 2 words", ())


def test_cleaned_text_does_not_touch_the_document_as_collected(warehouse):
    document = make_document(text="Subscribe!\nORMs leak.")
    cleaned = replace(document, text="ORMs leak.", language="en")
    warehouse.save([added(document)])
    warehouse.save_features([make_features(cleaned, "leak")])
    assert list(warehouse.documents()) == [document]
    assert next(warehouse.features()).document == cleaned


def test_an_updated_document_keeps_its_features_until_new_ones_are_saved(warehouse):
    old, new = make_document(text="ORMs leak."), make_document(text="ORMs are fine.")
    warehouse.save([added(old)])
    warehouse.save_features([make_features(old, "leak")])
    warehouse.save([added(new)])
    assert list(warehouse.features()) == [make_features(old, "leak")]


def test_features_can_be_asked_for_by_id_and_come_ordered(warehouse):
    made = [make_document(f"p{number}", text=f"text {number}") for number in range(250)]
    warehouse.save([added(document) for document in made])
    warehouse.save_features([make_features(document, "text") for document in made])
    wanted = [document.id for document in made[10:240]]
    assert [found.document.id for found in warehouse.features([*wanted, "unknown"])] == sorted(wanted)
    assert len(list(warehouse.features())) == 250


def test_features_of_an_unknown_document_are_refused_and_nothing_of_the_call_is_saved(warehouse):
    known, unknown = make_document("known"), make_document("unknown")
    warehouse.save([added(known)])
    with pytest.raises(StoreError, match=unknown.id):
        warehouse.save_features([make_features(known, "leak"), make_features(unknown, "leak")])
    assert list(warehouse.features()) == []


# --- embeddings -----------------------------------------------------------------------------------------------------


def vector(seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal(384).astype(np.float32)
    return made / np.linalg.norm(made)


def test_vectors_come_back_bit_for_bit_as_float32(warehouse):
    warehouse.save_embeddings({"a": Embedding(vector(1)), "b": Embedding(vector(2))})
    found = warehouse.embeddings({"a", "b", "missing"})
    assert found.keys() == {"a", "b"}
    assert found["a"].vector.dtype == np.float32
    assert np.array_equal(found["a"].vector, vector(1))
    assert found["a"].tokens is None


def test_tokens_come_back_alone_and_with_their_vector(warehouse):
    tokens = pack_tokens(np.stack([vector(number)[:48] for number in range(7)]))
    warehouse.save_embeddings({"with": Embedding(vector(1), tokens), "without": Embedding(vector(2))})
    assert warehouse.tokens(["with", "without", "missing"]) == {"with": tokens}
    assert warehouse.embeddings(["with"])["with"].tokens == tokens
    assert (tokens.count, tokens.dim) == (7, 48)


def test_a_text_without_tokens_keeps_its_zero_rows(warehouse):
    nothing = PackedTokens(b"", 0, 48)
    warehouse.save_embeddings({"empty": Embedding(vector(1), nothing)})
    assert warehouse.tokens(["empty"]) == {"empty": nothing}


def test_an_equal_key_is_replaced(warehouse):
    warehouse.save_embeddings({"a": Embedding(vector(1), PackedTokens(b"12", 1, 2))})
    warehouse.save_embeddings({"a": Embedding(vector(2))})
    assert np.array_equal(warehouse.embeddings(["a"])["a"].vector, vector(2))
    assert warehouse.tokens(["a"]) == {}


def test_embeddings_outlive_documents_and_go_only_when_forgotten(warehouse):
    document = make_document()
    warehouse.save([added(document)])
    warehouse.save_embeddings({key: Embedding(vector(3)) for key in ("a", "b", "c")})
    warehouse.save([removed(document)])
    assert warehouse.embedding_keys() == {"a", "b", "c"}
    warehouse.forget_embeddings({"a", "c", "unknown"})
    assert warehouse.embedding_keys() == {"b"}


def test_a_thousand_keys_come_in_one_call(warehouse):
    keys = [f"key-{number:04}" for number in range(1000)]
    warehouse.save_embeddings({key: Embedding(vector(1)[:4], PackedTokens(key.encode(), 4, 2)) for key in keys})
    assert warehouse.tokens(keys) == {key: PackedTokens(key.encode(), 4, 2) for key in keys}
    assert warehouse.embeddings(keys).keys() == set(keys)


# --- runs and profiles ----------------------------------------------------------------------------------------------


def test_runs_come_newest_first_and_no_more_than_asked(warehouse):
    for hour in (3, 1, 2):
        warehouse.save_run(Run(f"r{hour}", "sync", NOON + timedelta(hours=hour)))
    assert [run.id for run in warehouse.runs()] == ["r3", "r2", "r1"]
    assert [run.id for run in warehouse.runs(limit=2)] == ["r3", "r2"]


def test_a_finished_run_replaces_the_running_one(warehouse):
    running = Run("r1", "sync", NOON, code_version="0.1.0", settings={"sources": ["files:blog"], "k": None})
    done = replace(
        running,
        status="done",
        finished_at=NOON + timedelta(seconds=9),
        inputs={"documents": 3, "ratio": 0.1},
        outputs={"generation": "0007\x00 🧵", "nested": {"empty": {}, "list": [1, 2.5, True, None]}},
        report={"steps": []},
    )
    warehouse.save_run(running)
    assert warehouse.runs() == [running]
    warehouse.save_run(done)
    assert warehouse.runs() == [done]


def test_what_a_run_used_comes_back_as_plain_data_however_it_was_typed(warehouse):
    warehouse.save_run(Run("r1", "sync", NOON, settings={"tags": ("a", "b"), "since": NOON, 7: "seven"}))
    (found,) = warehouse.runs()
    assert found.settings == {"tags": ["a", "b"], "since": NOON.isoformat(), "7": "seven"}


def test_a_run_that_holds_no_plain_data_is_refused(warehouse):
    for wrong in (object(), float("nan"), b"bytes"):
        with pytest.raises(StoreError, match="finite numbers"):
            warehouse.save_run(Run("r1", "sync", NOON, settings={"value": wrong}))
    assert warehouse.runs() == []


def test_changing_a_mapping_after_saving_does_not_change_what_was_saved(warehouse):
    outputs = {"generation": "0001"}
    warehouse.save_run(Run("r1", "sync", NOON, outputs=outputs))
    outputs["generation"] = "0002"
    assert warehouse.runs()[0].outputs == {"generation": "0001"}


def test_a_voice_profile_comes_back_equal_and_is_replaced_by_author(warehouse):
    profile = VoiceProfile(
        author="Ann O’Brien",
        documents=3,
        words=1200,
        measures={"contractions": 8.4, "sentence_words": 1 / 3},
        function_words={"the": 51.25, "don't": 0.0},
        openers=("So", "Et"),
        phrases=("to be fair",),
    )
    other = VoiceProfile("Bob", 1, 10, {}, {})
    warehouse.save_profile(replace(profile, words=1))
    warehouse.save_profile(profile)
    warehouse.save_profile(other)
    assert warehouse.profiles() == {"Ann O’Brien": profile, "Bob": other}


def test_a_forgotten_profile_is_gone_and_the_others_stay(warehouse):
    ann, bob = (VoiceProfile(author, 1, 10, {}, {}) for author in ("Ann O’Brien", "Bob"))
    warehouse.save_profile(ann)
    warehouse.save_profile(bob)
    warehouse.forget_profiles({"Ann O’Brien", "Nobody"})
    assert warehouse.profiles() == {"Bob": bob}


# --- together -------------------------------------------------------------------------------------------------------


def test_threads_may_write_at_once_and_nothing_is_lost(warehouse):
    failures = []

    def write(worker: int) -> None:
        try:
            for number in range(10):
                document = make_document(f"w{worker}-{number}")
                warehouse.save([added(document)])
                warehouse.save_features([make_features(document, "leak")])
                warehouse.save_embeddings({document.id: Embedding(vector(number))})
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert len(warehouse.document_hashes()) == len(list(warehouse.items())) == 40
    assert warehouse.feature_fingerprints().keys() == warehouse.embedding_keys() == warehouse.document_hashes().keys()
