from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.records import Answer, Hit
from llm_twin.inference.context import assemble
from llm_twin.inference.guardrails import as_published
from small_parts import article, chunks_of

POST = article("post", "Alpha one is first.\n\nBeta two follows it.\n\nGamma three ends it.", title="Greek")
OTHER = article("other", "Delta four stands alone.", title="Alone")


def words(text: str) -> int:
    return len(text.split())


def hits_of(*picked) -> list[Hit]:
    """Hits on (document, paragraph) in the order given, best first."""
    return [
        Hit(chunks_of(document)[paragraph], document.header, score=1.0 - place / 100)
        for place, (document, paragraph) in enumerate(picked)
    ]


def passages(hits, *, budget=100, documents=(POST, OTHER)):
    texts = {document.id: document.text for document in documents}
    return assemble(hits, budget_tokens=budget, count=words, texts=texts)


def test_neighbours_of_a_document_become_one_passage_with_exact_offsets():
    first, second = passages(hits_of((POST, 1), (OTHER, 0), (POST, 2)))
    assert first.text == "Beta two follows it.\n\nGamma three ends it."
    assert POST.text[first.start : first.end] == first.text
    assert first.chunk_ids == tuple(chunk.id for chunk in chunks_of(POST)[1:])
    assert (first.number, second.number) == (1, 2)
    assert second.document == OTHER.header


def test_a_chain_of_neighbours_becomes_one_passage_whatever_their_order():
    (whole,) = passages(hits_of((POST, 0), (POST, 2), (POST, 1)))
    assert whole.text == POST.text
    assert whole.score == 1.0


def test_passages_stand_in_the_order_of_their_best_hit():
    assert [passage.document.id for passage in passages(hits_of((OTHER, 0), (POST, 0)))] == ["other", "post"]


def test_far_parts_of_one_document_stay_apart():
    long = article("long", "Alpha begins.\n\n" + "Filler goes on. " * 30 + "\n\nOmega ends.")
    assert len(passages(hits_of((long, 0), (long, 2)), documents=(long,))) == 2


def test_the_budget_is_kept_by_leaving_out_whole_passages():
    kept = passages(hits_of((OTHER, 0), (POST, 0), (POST, 1)), budget=8)
    assert [passage.text for passage in kept] == ["Delta four stands alone.", "Alpha one is first."]


def test_the_best_passage_is_cut_after_a_sentence_where_it_alone_is_too_long():
    long = article("long", "One two three. Four five six. Seven eight nine.")
    (cut,) = passages(hits_of((long, 0)), budget=7, documents=(long,))
    assert cut.text == "One two three. Four five six."
    assert long.text[cut.start : cut.end] == cut.text


def test_what_an_earlier_passage_says_is_not_repeated():
    copy = article("copy", "Delta four stands  alone!", title="A cross-post")
    kept = passages(hits_of((OTHER, 0), (copy, 0), (POST, 0)), documents=(POST, OTHER, copy))
    assert [passage.document.id for passage in kept] == ["other", "post"]


def test_words_that_moved_within_their_document_are_found_again():
    edited = article("post", "A new beginning.\n\n" + POST.text, title="Greek")
    (moved,) = passages(hits_of((POST, 1)), documents=(edited,))
    assert moved.text == "Beta two follows it."
    assert edited.text[moved.start : moved.end] == moved.text


def test_words_that_are_no_longer_in_their_document_stand_as_the_index_knows_them_and_are_called_outdated():
    edited = article("post", POST.text.replace("Beta two", "Epsilon five"), title="Greek")
    changed, kept = passages(hits_of((POST, 1), (POST, 2)), documents=(edited,))
    assert (changed.text, changed.outdated) == ("Beta two follows it.", True)
    assert POST.text[changed.start : changed.end] == changed.text
    assert (kept.text, kept.outdated) == ("Gamma three ends it.", False)
    assert edited.text[kept.start : kept.end] == kept.text
    assert changed.cite(0, 8).outdated
    assert not kept.cite(0, 5).outdated


def test_outdated_neighbours_stay_apart_because_what_stood_between_them_is_not_known():
    edited = article("post", "Everything was rewritten.", title="Greek")
    kept = passages(hits_of((POST, 0), (POST, 1)), documents=(edited,))
    assert [passage.text for passage in kept] == ["Alpha one is first.", "Beta two follows it."]


def test_a_quote_of_the_version_before_is_not_looked_up_in_the_later_one_at_the_same_place():
    edited = article("post", "Gamma three ends it.\n\nEverything else was rewritten.", title="Greek")
    moved, outdated = passages(hits_of((POST, 2), (POST, 0)), documents=(edited,))
    assert (moved.start, outdated.start, outdated.outdated) == (0, 0, True)
    cited = Answer("", "extractive", citations=(outdated.cite(0, 9),), passages=(moved, outdated))
    assert as_published(cited, [moved, outdated]) == cited


def test_a_document_that_is_gone_is_no_passage():
    assert passages(hits_of((POST, 1)), documents=()) == []


@given(
    st.lists(st.tuples(st.sampled_from([POST, OTHER]), st.integers(0, 2)), max_size=6, unique=True),
    st.integers(0, 30),
)
def test_every_passage_stands_in_its_document_and_the_budget_holds(picked, budget):
    picked = [(document, paragraph) for document, paragraph in picked if paragraph < len(chunks_of(document))]
    made = passages(hits_of(*picked), budget=budget)
    texts = {POST.id: POST.text, OTHER.id: OTHER.text}
    for number, passage in enumerate(made, start=1):
        assert passage.number == number
        assert texts[passage.document.id][passage.start : passage.end] == passage.text
    assert sum(words(passage.text) for passage in made) <= budget
    spans = sorted((p.document.id, p.start, p.end) for p in made)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(spans))
