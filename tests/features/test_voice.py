"""A voice profile is measured from the author's own words alone, and is the same every time."""

from datetime import UTC, datetime

from llm_twin.core.records import Document, VoiceProfile
from llm_twin.core.stylometry import FUNCTION_WORDS
from llm_twin.features.voice import voice_profile

NOUNS = ["boat", "tree", "clock", "glass", "wool", "salt"]


def document(name, text, language="en"):
    return Document(
        name, "Ann", "files", "article", name, text, "hash", datetime(2026, 1, 2, tzinfo=UTC), language=language
    )


def post(noun):
    return (
        f"---\ntitle: The {noun}\n---\n# The {noun}\n\n"
        f"As far as I can tell, the {noun} works. So I don't touch it. So it is.\n\n"
        f"> Someone else; wrote this; with semicolons; about the {noun}.\n\n```\nint {noun}; int x; int y;\n```\n\n"
        f"See https://example.com/{noun};a for more.\n"
    )


def test_the_profile_holds_what_the_author_wrote_and_not_what_they_quote():
    profile = voice_profile("Ann", [document(noun, post(noun)) for noun in NOUNS])
    assert (profile.author, profile.documents) == ("Ann", 6)
    assert profile.words == 6 * 20
    assert profile.measures["semicolons"] == 0.0
    assert profile.measures["code_blocks"] > 0
    assert round(profile.measures["contractions"] * profile.words / 1000) == 6
    assert set(profile.function_words) == set(FUNCTION_WORDS)
    assert profile.openers == ("So", "As", "See")
    assert "as i can tell the" in profile.phrases


def test_the_order_of_documents_does_not_matter():
    documents = [document(noun, post(noun)) for noun in NOUNS]
    assert voice_profile("Ann", documents) == voice_profile("Ann", reversed(documents))


def test_an_author_in_another_language_is_measured_by_their_own_frequent_words():
    german = [document(f"d{n}", f"Das ist das {noun}. Und das ist gut so.", "de") for n, noun in enumerate(NOUNS)]
    profile = voice_profile("Ann", [*german, document("e", "One English note.")])
    assert profile.documents == 6
    assert max(profile.function_words, key=profile.function_words.get) == "das"
    assert "contractions" not in profile.measures


def test_documents_of_unknown_language_count_and_no_words_make_an_empty_profile():
    assert voice_profile("Ann", [document("a", "It is so.", None)]).words == 3
    assert voice_profile("Ann", [document("a", "```\ncode\n```")]) == VoiceProfile(
        "Ann", 1, 0, {}, dict.fromkeys(FUNCTION_WORDS, 0.0)
    )
