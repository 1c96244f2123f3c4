"""What every vector index promises, checked on each adapter that is there."""

from __future__ import annotations

import dataclasses
import math
import os
import uuid
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_twin.adapters.bm25 import Bm25Encoder
from llm_twin.adapters.qdrant_edge import QdrantEdgeIndex
from llm_twin.core.errors import IndexMismatch, StoreError
from llm_twin.core.records import (
    Chunk,
    DocumentHeader,
    Filter,
    IndexEntry,
    Query,
    SparseVector,
    chunk_id,
    fingerprint,
)

DIM = 16
ENCODERS = {"embedder": "minilm@1", "sparse": "bm25-1", "dim": DIM}
# Read here, because the suite takes every TWIN_ variable out of a test's environment.
SERVER = os.environ.get("TWIN_TEST_QDRANT_URL")

ADAPTERS = [
    "qdrant_edge",
    "qdrant_local",
    pytest.param(
        "qdrant_server",
        marks=[
            pytest.mark.service,
            pytest.mark.skipif(not SERVER, reason="no Qdrant server: set TWIN_TEST_QDRANT_URL to the URL of one"),
        ],
    ),
]


@pytest.fixture(scope="module", params=ADAPTERS)
def new_index(request, tmp_path_factory):
    """Makes an empty index; called with an index, opens that one a second time, as another process would."""
    if request.param == "qdrant_edge":
        folders = {}

        def make(same_as=None):
            folder = folders.get(id(same_as)) or tmp_path_factory.mktemp("index") / "index"
            index = QdrantEdgeIndex(folder)
            folders[id(index)] = folder
            keep.append(index)
            return index

        keep = []
        yield make
        return

    qdrant_client = pytest.importorskip("qdrant_client", reason="needs the extra llm-twin[qdrant]")
    from llm_twin.adapters.qdrant import QdrantIndex

    local = request.param == "qdrant_local"
    client = qdrant_client.QdrantClient(":memory:") if local else qdrant_client.QdrantClient(url=SERVER)
    names = {}

    def make(same_as=None):
        name = names.get(id(same_as)) or f"test-{uuid.uuid4().hex}"
        index = QdrantIndex(SERVER or "memory", collection=name, client=client)
        names[id(index)] = name
        keep.append(index)
        return index

    keep = []
    yield make
    for collection in client.get_collections().collections:
        if collection.name.startswith(tuple(names.values())):
            client.delete_collection(collection.name)
    client.close()


@pytest.fixture
def index(new_index):
    return new_index()


def unit(rng, rows):
    vectors = rng.normal(size=(rows, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def header(number, **known):
    defaults = {"author": "Ann", "source": "files", "kind": "post", "title": f"Title {number}"}
    return DocumentHeader(id=f"{number:016x}", **(defaults | known))


def entry(number, *, text=None, vector=None, sparse=None, document=None):
    text = f"text of chunk {number}" if text is None else text
    document = document or header(number)
    return IndexEntry(
        chunk=Chunk(chunk_id(document.id, text, number), document.id, text, 0, len(text)),
        document=document,
        vector=unit(np.random.default_rng(number), 1)[0] if vector is None else vector,
        sparse=sparse or SparseVector((1, number + 2), (1.0, 2.0)),
        digest=fingerprint(number, text),
    )


def publish(index, entries, *, copy=False, delete=(), digest="d1", **encoders):
    with index.draft(**(ENCODERS | encoders), copy=copy) as draft:
        draft.upsert(entries)
        draft.delete(delete)
        return draft.publish(digest=digest)


def ids(hits):
    return [hit.chunk.id for hit in hits]


def everything(index):
    return sorted(ids(index.search(Query("", vector=np.ones(DIM, np.float32)), k=1000)["dense"]))


def test_before_the_first_publication_there_is_nothing_to_find(index):
    query = Query("anything", vector=np.ones(DIM, np.float32), sparse=SparseVector((1,), (1.0,)))
    assert index.info() is None
    assert index.search(query, k=5) == {"dense": [], "bm25": []}
    assert index.digests() == {}
    assert index.count() == 0
    assert index.count(Filter(authors=("Ann",))) == 0


def test_a_published_generation_says_what_it_was_made_from(index):
    before = datetime.now(UTC)
    entries = [entry(1, document=header(1, language="en")), entry(2, document=header(2, language="de")), entry(3)]
    returned = publish(index, entries, digest="all three")
    info = index.info()
    assert returned == info
    assert (info.embedder, info.sparse, info.dim) == ("minilm@1", "bm25-1", DIM)
    assert (info.count, info.digest, info.languages) == (3, "all three", ("de", "en"))
    assert before <= info.built_at <= datetime.now(UTC)
    assert info.generation


def test_chunks_and_headers_come_back_equal_to_the_last_character(index):
    document = DocumentHeader(
        id="0" * 15 + "7",
        author="Zoë Łukasz",
        source="medium",
        kind="article",
        title="Ünïcödé — “quotes”, 日本語, 👩‍👩‍👧, عربى",
        url="https://example.org/%C3%A9?a=1&b=2#c",
        language="ja",
        published_at=datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        tags=("日本", "c++", ""),
        also_at=("https://example.com/x",),
    )
    text = 'Line\r\n\ttab "quote" \\ back\u2028slash \x7f null:\x00 end'
    chunk = Chunk("f" * 32, document.id, text, 10, 10 + len(text), ("Häding > one", "two"), 42)
    bare = entry(2, text="")
    publish(
        index,
        [IndexEntry(chunk, document, unit(np.random.default_rng(1), 1)[0], SparseVector((5,), (1.0,)), "x"), bare],
    )
    hits = {hit.chunk.id: hit for hit in index.search(Query("", vector=bare.vector), k=2)["dense"]}
    assert hits[chunk.id].chunk == chunk
    assert hits[chunk.id].document == document
    assert hits[chunk.id].document.published_at.utcoffset() == timedelta(hours=5, minutes=45)
    assert hits[bare.chunk.id].chunk == bare.chunk
    assert hits[bare.chunk.id].document == bare.document


def test_only_methods_the_query_has_an_encoding_for_are_searched(index):
    one = entry(1)
    publish(index, [one])
    dense = index.search(Query("", vector=one.vector), k=1)
    assert [hit.found_by for hit in dense.pop("dense")] == [("dense",)]
    assert dense == {}
    bm25 = index.search(Query("", sparse=one.sparse), k=1)
    assert [hit.found_by for hit in bm25.pop("bm25")] == [("bm25",)]
    assert bm25 == {}
    assert index.search(Query(""), k=1) == {}


def test_dense_hits_are_the_nearest_by_cosine_in_order(index):
    rng = np.random.default_rng(7)
    vectors, questions = unit(rng, 300), unit(rng, 20)
    entries = [entry(number, vector=vector) for number, vector in enumerate(vectors)]
    publish(index, entries)
    for question in questions:
        cosines = vectors @ question
        best = np.argsort(-cosines)[:10]
        hits = index.search(Query("", vector=question), k=10)["dense"]
        assert ids(hits) == [entries[row].chunk.id for row in best]
        assert [hit.score for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-5)


def test_dense_scores_are_cosines_whatever_the_length_of_the_question(index):
    one = entry(1)
    publish(index, [one, entry(2, vector=-one.vector)])
    scores = [hit.score for hit in index.search(Query("", vector=one.vector * 3), k=2)["dense"]]
    assert scores == pytest.approx([1.0, -1.0], abs=1e-6)
    assert all(-1.0 <= score <= 1.0 for score in scores)


WORDS = ["kaf", "lum", "mib", "nop", "pim", "rud", "sog", "tav"]


def textbook_bm25(question, texts, *, k1=1.2, b=0.75, average_length=100.0):
    """Robertson & Zaragoza 2009, eq. 3.15, with the idf of Lucene."""
    documents = [Counter(text.split()) for text in texts]
    scores = []
    for document in documents:
        saturation = k1 * (1 - b + b * document.total() / average_length)
        scores.append(
            sum(
                math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
                * document[word]
                * (k1 + 1)
                / (document[word] + saturation)
                for word in set(question.split())
                if (n := sum(word in other for other in documents))
            )
        )
    return scores


def bm25_entries(texts, *, first=0):
    encoder = Bm25Encoder()
    return [entry(first + n, text=text, sparse=encoder.encode(text)) for n, text in enumerate(texts)]


def random_texts(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 60))) for _ in range(count)]


def assert_bm25_is_by_the_book(index, entries, question):
    expected = textbook_bm25(question, [each.chunk.text for each in entries])
    best = sorted(range(len(entries)), key=lambda n: (-expected[n], entries[n].chunk.id))[:10]
    hits = index.search(Query("", sparse=Bm25Encoder().encode_query(question)), k=10)["bm25"]
    found = [n for n in best if expected[n] > 0]
    assert [hit.score for hit in hits] == pytest.approx([expected[n] for n in found], rel=1e-4)
    by_id = {each.chunk.id: n for n, each in enumerate(entries)}
    assert [expected[by_id[chunk]] for chunk in ids(hits)] == pytest.approx([expected[n] for n in found], rel=1e-4)


def test_bm25_hits_are_those_of_the_textbook_in_order(index):
    entries = bm25_entries(random_texts(60, seed=3))
    publish(index, entries)
    for question in ("kaf", "lum mib", "nop pim rud absent", "absent"):
        assert_bm25_is_by_the_book(index, entries, question)


def test_term_rarity_is_that_of_what_is_left_after_edits(index):
    entries = bm25_entries(random_texts(60, seed=4))
    publish(index, entries)
    new = bm25_entries(["kaf zzyzx", "lum"], first=100)
    publish(index, new, copy=True, delete=[each.chunk.id for each in entries[:40]])
    for question in ("kaf", "lum mib zzyzx"):
        assert_bm25_is_by_the_book(index, entries[40:] + new, question)


def test_a_filter_does_not_change_how_rare_a_term_is(index):
    entries = bm25_entries(["kaf lum", "kaf", "lum", "mib"])
    publish(index, entries)
    encoded = Bm25Encoder().encode_query("kaf")
    everywhere = index.search(Query("", sparse=encoded), k=10)["bm25"]
    where = Filter(document_ids=(entries[1].document.id,))
    alone = index.search(Query("", sparse=encoded, where=where), k=10)["bm25"]
    assert [(hit.chunk.id, hit.score) for hit in alone] == [
        (hit.chunk.id, pytest.approx(hit.score)) for hit in everywhere if hit.chunk.id == entries[1].chunk.id
    ]


def test_equal_scores_are_ordered_by_chunk_id_even_where_the_list_is_cut(index):
    vector, sparse = unit(np.random.default_rng(5), 1)[0], SparseVector((9,), (1.5,))
    twins = [entry(number, vector=vector, sparse=sparse) for number in range(40)]
    publish(index, [*twins, entry(99, sparse=SparseVector((8,), (1.0,)))])
    expected = sorted(each.chunk.id for each in twins)[:7]
    found = index.search(Query("", vector=vector, sparse=SparseVector((9,), (1.0,))), k=7)
    assert ids(found["dense"]) == expected
    assert ids(found["bm25"]) == expected
    assert all(hit.document.author == "Ann" for hit in found["dense"])


def test_entries_and_questions_without_terms_are_no_error(index):
    wordless = entry(1, sparse=SparseVector((), ()))
    publish(index, [wordless, entry(2)])
    found = index.search(Query("", vector=wordless.vector, sparse=SparseVector((), ())), k=1)
    assert ids(found["dense"]) == [wordless.chunk.id]
    assert found["bm25"] == []


def test_an_empty_generation_is_searched_in_vain(index):
    assert publish(index, []).count == 0
    query = Query("", vector=np.ones(DIM, np.float32), sparse=SparseVector((1,), (1.0,)))
    assert index.search(query, k=5) == {"dense": [], "bm25": []}
    assert index.info().languages == ()


# --- generations ----------------------------------------------------------------------------------------------------


def test_nobody_reads_a_draft(index):
    old, new = entry(1), entry(2)
    first = publish(index, [old])
    with index.draft(**ENCODERS, copy=True) as draft:
        draft.upsert([new])
        draft.delete([old.chunk.id])
        assert everything(index) == [old.chunk.id]
        assert index.info() == first
        assert index.digests() == {old.chunk.id: old.digest}
        draft.publish(digest="d2")
    assert everything(index) == [new.chunk.id]


def test_an_abandoned_draft_leaves_the_live_generation_as_it_was(index):
    one = entry(1)
    first = publish(index, [one])
    with index.draft(**ENCODERS, copy=True) as draft:
        draft.delete([one.chunk.id])
    with suppress(KeyError), index.draft(**ENCODERS, copy=False) as draft:
        draft.upsert([entry(2)])
        raise KeyError("the embedder failed")
    assert index.info() == first
    assert everything(index) == [one.chunk.id]


def test_a_copy_takes_edits_and_keeps_the_rest(index):
    kept, replaced, removed, added = entry(1), entry(2), entry(3), entry(4)
    publish(index, [kept, replaced, removed])
    newer = dataclasses.replace(replaced, document=header(2, title="A better title"), digest="newer")
    info = publish(index, [newer, added], copy=True, delete=[removed.chunk.id, "0" * 32], digest="d2")
    assert everything(index) == sorted(each.chunk.id for each in (kept, newer, added))
    assert index.digests() == {each.chunk.id: each.digest for each in (kept, newer, added)}
    assert (info.count, info.digest, index.count()) == (3, "d2", 3)
    assert index.search(Query("", vector=newer.vector), k=1)["dense"][0].document.title == "A better title"


def test_a_draft_without_copy_starts_empty(index):
    publish(index, [entry(1), entry(2)])
    publish(index, [entry(3)])
    assert everything(index) == [entry(3).chunk.id]


def test_a_chunk_given_twice_counts_once(index):
    publish(index, [entry(1), entry(1)])
    assert index.count() == index.info().count == 1


def test_every_chunk_can_be_deleted_and_new_ones_added_later(index):
    publish(index, [entry(1), entry(2)])
    assert publish(index, [], copy=True, delete=[entry(1).chunk.id, entry(2).chunk.id]).count == 0
    assert everything(index) == []
    publish(index, [entry(3)], copy=True)
    assert everything(index) == [entry(3).chunk.id]


def test_a_reader_opened_before_sees_each_publication_at_its_next_call(new_index):
    writer = new_index()
    reader = new_index(same_as=writer)
    assert reader.info() is None
    for number in range(4):
        info = publish(writer, [entry(number)])
        assert reader.info() == info
        assert everything(reader) == [entry(number).chunk.id]


def test_a_draft_that_another_publication_overtook_cannot_undo_it(new_index):
    slow = new_index()
    fast = new_index(same_as=slow)
    publish(slow, [entry(1)])
    with slow.draft(**ENCODERS, copy=True) as draft:
        draft.upsert([entry(2)])
        info = publish(fast, [entry(3)], copy=True)
        with pytest.raises(StoreError, match="another process published"):
            draft.publish(digest="late")
    assert slow.info() == info
    assert everything(slow) == sorted([entry(1).chunk.id, entry(3).chunk.id])


# --- mismatches -----------------------------------------------------------------------------------------------------


def test_a_question_of_another_dimension_names_both_and_the_way_out(index):
    publish(index, [entry(1)])
    with pytest.raises(IndexMismatch, match=r"has 8 dimensions.* has 16 .*minilm@1.*twin sync --rebuild"):
        index.search(Query("", vector=np.ones(8, np.float32)), k=1)


def test_an_entry_of_another_dimension_is_refused(index):
    with index.draft(**ENCODERS, copy=False) as draft, pytest.raises(IndexMismatch, match=r"has 4 dimensions"):
        draft.upsert([entry(1, vector=np.ones(4, np.float32))])


@pytest.mark.parametrize("other", [{"embedder": "bge@2"}, {"sparse": "bm25-2"}, {"dim": 8}])
def test_a_copy_for_other_encoders_is_refused_and_the_live_generation_stays(index, other):
    first = publish(index, [entry(1)])
    with pytest.raises(IndexMismatch, match="twin sync --rebuild"), index.draft(**(ENCODERS | other), copy=True):
        pytest.fail("the draft was given out")
    assert index.info() == first


def test_another_embedder_is_built_beside_the_live_one_and_then_takes_over(index):
    publish(index, [entry(1)])
    smaller = entry(2, vector=np.array([0, 1, 0, 0], np.float32))
    with index.draft(embedder="small@1", sparse="bm25-1", dim=4, copy=False) as draft:
        draft.upsert([smaller])
        assert everything(index) == [entry(1).chunk.id]
        draft.publish(digest="d2")
    assert (index.info().embedder, index.info().dim) == ("small@1", 4)
    assert ids(index.search(Query("", vector=smaller.vector), k=5)["dense"]) == [smaller.chunk.id]


# --- filters --------------------------------------------------------------------------------------------------------

AUTHORS, SOURCES, LANGUAGES = ("Ann", "Zoë", 'o\'Neil "x"'), ("files", "medium", "github"), ("en", "de", None)
KINDS = ("article", "post", "repository", "note")
EAST = timezone(timedelta(hours=9))
DATES = (
    None,
    datetime(1969, 7, 20, 20, 17, tzinfo=UTC),
    datetime(2020, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2020, 3, 1, 9, 0, tzinfo=EAST),
    datetime(2020, 3, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(2024, 12, 31, tzinfo=EAST),
)


@pytest.fixture(scope="module")
def library(new_index):
    """240 chunks of 120 documents that differ in everything a filter looks at, and the entries themselves."""
    rng = np.random.default_rng(11)
    entries = []
    for number in range(120):
        document = header(
            number,
            author=AUTHORS[rng.integers(3)],
            source=SOURCES[rng.integers(3)],
            kind=KINDS[rng.integers(4)],
            language=LANGUAGES[rng.integers(3)],
            published_at=DATES[rng.integers(len(DATES))],
        )
        entries += [entry(2 * number, document=document), entry(2 * number + 1, document=document)]
    index = new_index()
    publish(index, entries)
    return index, entries


def some(values, unknown="nowhere"):
    return st.lists(st.sampled_from([*(v for v in values if v), unknown]), max_size=3, unique=True).map(tuple)


MOMENTS = (
    st.none()
    | st.sampled_from([date for date in DATES if date])
    | st.datetimes(datetime(1960, 1, 1), datetime(2030, 1, 1), timezones=st.sampled_from([UTC, EAST]))
)
FILTERS = st.builds(
    Filter,
    authors=some(AUTHORS),
    sources=some(SOURCES),
    kinds=some(KINDS),
    languages=some(LANGUAGES),
    document_ids=st.lists(st.integers(0, 130).map(lambda n: f"{n:016x}"), max_size=40, unique=True).map(tuple),
    since=MOMENTS,
    until=MOMENTS,
)
NARROW = st.sampled_from([f.name for f in dataclasses.fields(Filter)])


@given(where=FILTERS, kept=st.sets(NARROW, max_size=2))
@settings(max_examples=100)
def test_a_filter_finds_exactly_the_documents_it_matches(library, where, kept):
    index, entries = library
    # All conditions at once match next to nothing, so one or two at a time.
    where = Filter(**{name: getattr(where, name) for name in kept})
    passing = sorted(each.chunk.id for each in entries if where.matches(each.document))
    query = Query("", vector=np.ones(DIM, np.float32), sparse=SparseVector((1,), (1.0,)), where=where)
    found = index.search(query, k=len(entries))
    assert sorted(ids(found["dense"])) == passing
    assert sorted(ids(found["bm25"])) == passing
    assert index.count(where) == len(passing)


@given(where=FILTERS)
@settings(max_examples=30)
def test_all_conditions_of_a_filter_hold_together(library, where):
    index, entries = library
    assert index.count(where) == sum(where.matches(each.document) for each in entries)


def test_a_document_without_a_date_never_passes_a_date_bound(library):
    index, entries = library
    dated = sum(each.document.published_at is not None for each in entries)
    assert 0 < dated < len(entries)
    assert index.count(Filter(since=datetime(1, 1, 1, tzinfo=UTC))) == dated
    assert index.count(Filter(until=datetime(9999, 12, 31, tzinfo=UTC))) == dated
