"""Texts at which a reply ends, found while it comes in pieces: for engines that write one, and doors that cut one."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Finds the first of some texts in one that comes in pieces, wherever it is cut."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.found = False
        self._texts = [text for text in texts if text]
        self._held = ""

    def before(self, piece: str) -> str:
        """What of the text so far can be shown and was not; nothing more once `found` is set."""
        if self.found:
            return ""
        self._held += piece
        # The one that is complete first counts, as it does where a text comes letter by letter.
        ends = [(at + len(text), at) for text in self._texts if (at := self._held.find(text)) >= 0]
        if ends:
            self.found = True
            return self._let_go(min(ends)[1])
        return self._let_go(len(self._held) - max((_begun(text, self._held) for text in self._texts), default=0))

    def rest(self) -> str:
        """What was held back because a stop text might have begun in it."""
        return self._let_go(len(self._held))

    def _let_go(self, end: int) -> str:
        ready, self._held = self._held[:end], "" if self.found else self._held[end:]
        return ready


def _begun(text: str, held: str) -> int:
    """How many characters at the end of `held` are the beginning of `text`."""
    return next((size for size in range(min(len(text) - 1, len(held)), 0, -1) if held.endswith(text[:size])), 0)
