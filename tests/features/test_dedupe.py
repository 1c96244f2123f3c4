"""Near-duplicates are found by how much of the wording two texts share, and the first of them stays."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.records import Chunk, Document, DocumentFeatures, chunk_id
from llm_twin.features import dedupe
from llm_twin.features.dedupe import near_duplicates, signature, similarity, text_similarity

WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ro", "su", "ti") for b in ("dan", "fel", "gor", "hin", "jup")
]


def essay(seed, count=400):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(99)) for _ in range(count))


def edited(text, share, seed=0):
    """The text with that share of its words, single ones all over it, replaced."""
    rng = random.Random(seed)
    found = text.split()
    for place in rng.sample(range(len(found)), round(share * len(found))):
        found[place] = f"other{place}"
    return " ".join(found)


def document(name, text, *, day=None, author="Mira"):
    return Document(
        id=name,
        author=author,
        source="files",
        kind="article",
        title=name,
        text=text,
        content_hash=name,
        fetched_at=datetime(2026, 1, 2, tzinfo=UTC),
        published_at=datetime(2025, 1, day, tzinfo=UTC) if day else None,
    )


def features(name, *paragraphs, day=None, author="Mira"):
    """A document whose chunks are its paragraphs."""
    text = "\n\n".join(paragraphs)
    chunks = tuple(
        Chunk(chunk_id(name, paragraph, paragraphs[:n].count(paragraph)), name, paragraph, 0, len(paragraph))
        for n, paragraph in enumerate(paragraphs)
    )
    signatures = (signature(text), *map(signature, paragraphs))
    return DocumentFeatures(document(name, text, day=day, author=author), "f", chunks, signatures=signatures)


# --- signatures -----------------------------------------------------------------------------------------------------


def test_a_signature_is_512_bytes_and_always_the_same():
    assert len(signature("one two three four")) == 512
    assert signature("one two three four") == signature("one two three four")
    # Stored signatures outlive a release: if this changes, `dedupe.VERSION` has to.
    assert signature("one two three four")[:8].hex() == "64bd5ed83081e9c6"


@pytest.mark.parametrize(
    "other",
    [
        "---\ntitle: Backups\n---\nDon't trust one disk -- read the manual, and test it.",
        "DON’T TRUST ONE DISK — READ THE MANUAL, AND TEST IT!",
        'Don\'t **trust** one\ndisk,\n\nread the [manual](https://example.org/m?x=1 "The manual") and `test` it.',
        "# Don't trust one disk\n\n* read <em>the</em> [manual][m]\n* and test it\n\n[m]: https://example.org/manual",
        "Don't trust one disk (https://example.org/disk): read the ｍａｎｕａｌ and test it ",
    ],
)
def test_markup_links_case_and_typography_do_not_count(other):
    text = "Don't trust one disk: read the manual and test it."
    assert signature(other) == signature(text)
    assert text_similarity(text, other) == 1.0


@pytest.mark.parametrize(("one", "other"), [("", "!"), ("?!", "!!"), ("Yes", "No"), ("a b", "b a"), ("雨", "雪")])
def test_texts_too_short_for_a_shingle_are_compared_as_they_are(one, other):
    assert similarity(signature(one), signature(one)) == 1.0
    assert similarity(signature(one), signature(other)) == 0.0


def test_writing_without_spaces_is_compared_by_characters():
    one = "我们上周把所有的服务都从一台旧机器搬到了新的机器上面，过程比想象的要顺利得多。"
    other = one.replace("上周", "昨天")
    assert 0.85 < text_similarity(one, other) < 1
    assert text_similarity(one, "今天天气很好，我想去公园散步，然后回家做饭。") == 0.0


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_similarity_is_about_the_share_of_words_that_stayed(share):
    text = essay(1, 2000)
    assert text_similarity(text, edited(text, share)) == pytest.approx(1 - share, abs=0.02)
    assert similarity(signature(text), signature(edited(text, share))) == pytest.approx(1 - share, abs=0.06)


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_between_zero_and_one(one, other):
    assert text_similarity(one, other) == text_similarity(other, one)
    assert 0.0 <= text_similarity(one, other) <= 1.0
    assert text_similarity(one, one) == 1.0
    assert similarity(signature(one), signature(one)) == 1.0


# --- groups ---------------------------------------------------------------------------------------------------------


def test_the_first_of_a_group_stays_and_the_others_name_it():
    text = essay(2)
    items = [("a", text), ("x", essay(3)), ("b", edited(text, 0.05)), ("c", text)]
    found = near_duplicates([(name, signature(each)) for name, each in items], threshold=0.8)
    assert found.kept == {"a", "x"}
    assert found.dropped == {"b": "a", "c": "a"}
    assert found.similarity["c"] == 1.0
    assert found.similarity["b"] == pytest.approx(0.95, abs=0.05)


def test_similarity_does_not_chain_through_what_is_dropped():
    steps = [essay(4, 1000)]
    for seed in range(1, 4):
        steps.append(edited(steps[-1], 0.12, seed))
    items = [(str(n), signature(text)) for n, text in enumerate(steps)]
    found = near_duplicates(items, threshold=0.8)
    assert all(leader in found.kept for leader in found.dropped.values())
    assert all(score >= 0.8 for score in found.similarity.values())
    assert len(found.kept) > 1


def test_nothing_and_one_are_no_duplicates():
    assert near_duplicates([], threshold=0.8).kept == frozenset()
    assert near_duplicates([("a", signature("one"))], threshold=0.8).kept == {"a"}


def test_the_same_id_twice_is_refused_because_it_is_an_update():
    with pytest.raises(ValueError, match="'a' stands for two items"):
        near_duplicates([("a", signature("one")), ("a", signature("two"))], threshold=0.8)


def test_ten_thousand_copies_of_one_footer_leave_one():
    sketch = signature("Thanks for reading, and see you next week.")
    items = [(str(n), sketch) for n in range(10_000)] + [("other", signature(essay(5)))]
    found = near_duplicates(items, threshold=0.9)
    assert found.kept == {"0", "other"}
    assert set(found.dropped.values()) == {"0"}


def test_two_hundred_variants_of_one_text_all_go_for_the_first():
    text = essay(17, 300)
    items = [("original", signature(text))] + [(str(n), signature(edited(text, 0.03, n))) for n in range(200)]
    assert near_duplicates(items, threshold=0.8).kept == {"original"}


def test_a_verifier_has_the_last_word():
    text = essay(6)
    items = [("a", signature(text)), ("b", signature(text)), ("c", signature(text))]
    found = near_duplicates(items, threshold=0.8, verify=lambda one, other: 0.0 if other == "b" else 0.9)
    assert found.kept == {"a", "b"}
    assert (found.dropped, found.similarity) == ({"c": "a"}, {"c": 0.9})


@given(st.lists(st.sampled_from([essay(7, 60), edited(essay(7, 60), 0.1), essay(8, 60), "short", ""]), max_size=12))
def test_every_item_is_kept_or_dropped_for_a_kept_one_before_it(texts):
    items = [(f"{n:02}", signature(text)) for n, text in enumerate(texts)]
    found = near_duplicates(items, threshold=0.8)
    assert found.kept | found.dropped.keys() == {name for name, _ in items}
    assert found.kept.isdisjoint(found.dropped)
    assert all(leader in found.kept and leader < name for name, leader in found.dropped.items())


# --- documents ------------------------------------------------------------------------------------------------------


def test_of_a_cross_post_the_earliest_published_stays():
    text = essay(9)
    late = features("a-medium", f"Originally on my site.\n\n{text}\n\nFollow me!", day=9)
    early, undated = features("z-own", text, day=3), features("b-copy", text)
    found = dedupe.documents([late, undated, early])
    assert found.kept == {"z-own"}
    assert found.dropped == {"a-medium": "z-own", "b-copy": "z-own"}


def test_documents_that_name_the_same_address_are_one_however_much_their_texts_differ():
    blog, copy, other = (
        features("blog", essay(1), day=3),
        features("copy", essay(2), day=9),
        features("other", essay(3)),
    )
    at = "https://example.org/posts/one"
    found = dedupe.documents(
        [
            replace(each, document=replace(each.document, url=at)) if each is not other else each
            for each in (copy, blog, other)
        ]
    )
    assert found.dropped == {"copy": "blog"}
    assert found.kept == {"blog", "other"}


def test_published_together_the_longest_stays_and_then_the_least_id():
    text = essay(10)
    assert dedupe.documents([features("a", text, day=1), features("b", text + " one more", day=1)]).kept == {"b"}
    assert dedupe.documents([features("b", text, day=1), features("a", text, day=1)]).kept == {"a"}


def test_the_order_in_which_documents_come_does_not_matter():
    texts = [essay(n) for n in range(5)] + [edited(essay(n), 0.1) for n in range(5)]
    pool = [features(f"d{n}", text, day=n + 1) for n, text in enumerate(texts)]
    forward, backward = dedupe.documents(pool), dedupe.documents(pool[::-1])
    assert forward == backward
    assert forward.dropped == {f"d{n + 5}": f"d{n}" for n in range(5)}


def test_two_articles_that_share_a_long_quotation_are_both_kept():
    quotation = essay(11, 300)
    pool = [features("a", essay(12, 300), quotation), features("b", quotation, essay(13, 300))]
    assert dedupe.documents(pool).kept == {"a", "b"}


def test_a_short_post_that_is_quoted_whole_in_an_article_is_kept():
    post = essay(14, 80)
    assert dedupe.documents([features("article", essay(15, 600), post), features("post", post)]).kept == {
        "article",
        "post",
    }


def test_different_authors_never_duplicate_each_other():
    text = essay(16)
    pool = [features("a", text, author="Mira"), features("b", text, author="Jon")]
    assert dedupe.documents(pool).kept == {"a", "b"}
    assert dedupe.chunks(pool).dropped == {}


# --- chunks ---------------------------------------------------------------------------------------------------------

BIOGRAPHY = "Mira builds databases by day and clocks by night. She lives in Bern with two cats and 40 clocks."


def test_a_biography_under_every_article_stays_under_the_first():
    pool = [features(f"d{n}", essay(20 + n, 60), BIOGRAPHY, day=n) for n in (3, 1, 2)]
    found = dedupe.chunks(pool)
    kept = chunk_id("d1", BIOGRAPHY)
    assert found.dropped == {chunk_id("d2", BIOGRAPHY): kept, chunk_id("d3", BIOGRAPHY): kept}
    assert len(found.kept) == 4


def test_a_passage_that_differs_in_a_number_is_kept():
    text = essay(30, 300).translate(str.maketrans("", "", "0123456789"))
    pool = [features("a", f"{text} It took 12 ms.", day=1), features("b", f"{text} It took 95 ms.", day=2)]
    assert dedupe.chunks(pool).dropped == {}
    pool = [features("a", f"{text} It took 12 ms.", day=1), features("b", f"{text} It took 12 ms!", day=2)]
    assert len(dedupe.chunks(pool).dropped) == 1


def test_a_passage_with_one_word_in_ten_changed_is_kept_where_the_document_is_not():
    text = essay(31, 200)
    pool = [features("a", text, day=1), features("b", edited(text, 0.1), day=2)]
    assert dedupe.documents(pool, similarity=0.8).dropped == {"b": "a"}
    assert dedupe.chunks(pool).dropped == {}


def test_within_a_document_only_identical_passages_go():
    refrain, variant = f"{essay(32, 200)}. Again!", f"{essay(32, 200)}. Again?"
    found = dedupe.chunks([features("song", refrain, variant, refrain)])
    assert found.dropped == {chunk_id("song", refrain, 1): chunk_id("song", refrain)}


def test_chunks_without_signatures_are_an_error_of_the_caller():
    whole = features("a", "One two three four.")
    with pytest.raises(ValueError, match="zip"):
        dedupe.chunks([DocumentFeatures(whole.document, "f", whole.chunks, signatures=whole.signatures[:1])])
