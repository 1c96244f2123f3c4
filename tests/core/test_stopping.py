from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from llm_twin.core.stopping import StopTexts


@given(st.text("abc"), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3), st.data())
@example("aab", ["ab"], None)
def test_stop_texts_cut_at_the_same_place_however_the_text_comes(text: str, stop: list[str], data: Any) -> None:
    ends = sorted((at + len(each), at) for each in stop if (at := text.find(each)) >= 0)
    expected = text[: ends[0][1]] if ends else text
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text))))) if data else [1, 2]
    stops = StopTexts(stop)
    shown = "".join(stops.before(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))
    assert shown + stops.rest() == expected
    assert stops.found == bool(ends)
