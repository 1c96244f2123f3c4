"""Offsets are exact and nothing but prose is a sentence, on clean and on broken Markdown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.text import blocks, code_spans, headings, plain, prose, sentences, word_count, words

LINES = st.sampled_from(
    [
        "",
        "Plain prose. It has two sentences!",
        "# Heading",
        "### Deep *heading* ###",
        "Setext",
        "======",
        "---",
        "- item one. Twice.",
        "  - nested",
        "      - [x] deep task",
        "1. first",
        "> quoted. Also this",
        "> > - deeper",
        "```python",
        "```",
        "~~~~",
        "    indented code",
        "\ttabbed",
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
        "<div>",
        "</div>",
        "<!-- comment",
        "[ref]: https://example.com/a.b",
        "![image](a.png)",
        "Mr. T. said “no.” Then (yes.) left…",
        "今日は天気がいい。散歩に行きます。",
        "e\u0301cole 👩‍👩‍👧 नमस्ते",
        "`unclosed *and **half_",
        "+++",
        "title: x",
    ]
)
MARKDOWN = st.one_of(st.lists(LINES, max_size=14).map("\n".join), st.text(max_size=120))


@given(MARKDOWN)
def test_blocks_are_ordered_and_cover_every_visible_character(text):
    position = 0
    for block in blocks(text):
        assert not text[position : block.start].strip()
        assert position <= block.start < block.end
        position = block.end
    assert not text[position:].strip()


@given(MARKDOWN)
def test_nested_blocks_lie_inside_their_parent_in_order(text):
    def check(found, start, end):
        for block in found:
            assert start <= block.start < block.end <= end
            start = block.start
            check(block.children, block.start, block.end)

    check(blocks(text), 0, len(text))


@given(MARKDOWN)
def test_sentences_are_trimmed_ordered_and_never_in_code_or_headings(text):
    closed = [*code_spans(text), *((heading.start, heading.end) for heading in headings(text))]
    position = 0
    for start, end in sentences(text):
        assert position <= start < end
        assert text[start:end] == text[start:end].strip()
        assert all(end <= a or start >= b for a, b in closed)
        position = end


def spoken(text, language=None):
    return [text[start:end] for start, end in sentences(text, language)]


def test_a_list_item_is_a_sentence_of_its_own_without_its_marker():
    text = "Use one of:\n\n- [ ] Postgres\n- SQLite. It is small.\n  1. WAL mode\n"
    assert spoken(text) == ["Use one of:", "Postgres", "SQLite.", "It is small.", "WAL mode"]


def test_code_tables_headings_html_and_images_are_no_sentences():
    text = (
        "# Why. Not\n\n![A. b](x.png)\n\n```py\nprint('Hi. There.')\n```\n\n| a. | b |\n|--|--|\n| c. | d |\n\n"
        "<div>Raw. Html.</div>\n\nOnly this.\n"
    )
    assert spoken(text) == ["Only this."]


def test_dots_in_code_links_and_addresses_end_no_sentence():
    text = "Call `a. B` or [see. That](http://x.y/Z.W). Read https://x.org/v1.2. Then stop."
    assert spoken(text) == ["Call `a. B` or [see. That](http://x.y/Z.W).", "Read https://x.org/v1.2.", "Then stop."]


def test_abbreviations_and_numbers_end_no_sentence():
    assert spoken("Mr. Pi paid 3.14 dollars, e.g. in coins. He left.") == [
        "Mr. Pi paid 3.14 dollars, e.g. in coins.",
        "He left.",
    ]


def test_closing_emphasis_and_citation_marks_stay_with_their_sentence():
    assert spoken("*It is so.* **Really.** It was.[1] And will be. [2] End") == [
        "*It is so.*",
        "**Really.**",
        "It was.[1]",
        "And will be. [2]",
        "End",
    ]


def test_a_sentence_over_quoted_lines_keeps_the_marks_between_and_drops_them_before():
    assert spoken("> One goes\n> on. Two\n> too.\n> Three.") == ["One goes\n> on.", "Two\n> too.", "Three."]


def test_chinese_and_japanese_sentences_end_without_spaces():
    assert spoken("今日は天気がいい。散歩に行きます。", "ja") == ["今日は天気がいい。", "散歩に行きます。"]


def test_headings_are_found_with_their_source_and_not_inside_code_or_quotes():
    text = "Title `x`\n===\n\n```\n# no\n```\n\n> # nor this\n\n## [Two](http://a.b) ##\n"
    found = headings(text)
    assert [(h.level, h.title, text[h.start : h.end]) for h in found] == [
        (1, "Title x", "Title `x`\n==="),
        (2, "Two", "## [Two](http://a.b) ##"),
    ]


def test_code_spans_are_whole_fences_wherever_they_stand():
    text = "a\n\n- item\n  ```sh\n  ls\n  ```\n\n> ~~~\n> x\n> ~~~\n\n    indented\n\n```\nnever closed"
    assert [text[start:end] for start, end in code_spans(text)] == [
        "```sh\n  ls\n  ```",
        "~~~\n> x\n> ~~~",
        "    indented",
        "```\nnever closed",
    ]


def test_front_matter_is_neither_heading_nor_sentence():
    text = "---\ntitle: A. B\ndate: 2020-01-01\n---\nReal text."
    assert [block.kind for block in blocks(text)] == ["meta", "paragraph"]
    assert spoken(text) == ["Real text."]
    assert prose(text) == ["Real text."]


def test_a_text_that_opens_with_a_rule_loses_nothing():
    assert spoken("---\nNot a key.\n\nMore.\n\n---\n") == ["Not a key.", "More."]


def test_windows_line_ends_do_not_open_code_for_ever():
    assert spoken("```\r\ncode\r\n```\r\n\r\nAfter.\r\n") == ["After."]


def test_plain_text_is_what_a_reader_sees():
    text = "---\na: b\n---\n## The *point*\n\nSee [the docs][d] at <https://x.y>, ![pic](p.png)`x = 1`.<br>\n\n"
    text += "- [x] done\n\n```\nkept\n```\n"
    assert plain(text) == "The point\n\nSee the docs at https://x.y, x = 1.\n\ndone\n\nkept"


def test_citation_marks_survive_plain_text():
    assert plain("It is so [1][2], as [said][ref].") == "It is so [1][2], as said."


def test_prose_is_the_authors_running_text_alone():
    text = "# H\n\nMine, at https://a.b/c today.\n\n> Theirs.\n\n- Also *mine*.\n\n"
    text += "```\ncode\n```\n\n| t | u |\n|--|--|\n| v | w |\n"
    assert prose(text) == ["Mine, at  today.", "Also mine."]


def test_where_no_spaces_are_written_every_character_counts_as_a_word():
    assert word_count("Two words.") == 2
    assert word_count("東京 is big") == 4
    assert word_count("สวัสดี") == 6
    assert word_count("Größe über alles") == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't, you’re well-known in 2020.", ["I", "don't", "you’re", "well", "known", "in"]),
        ("e\u0301cole नमस्ते", ["école", "नमस्ते"]),
        ("東京 is", ["東", "京", "is"]),
        ("snake_case x2 …", ["snake", "case", "x"]),
    ],
)
def test_words(text, expected):
    assert words(text) == expected
