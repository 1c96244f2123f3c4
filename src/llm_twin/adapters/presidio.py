"""Personal data by the recognizers of Presidio (https://microsoft.github.io/presidio), patterns only.

Presidio's own engine loads a language model to find names, and downloads it where it is missing; the recognizers asked
here are patterns with checksums, called directly. Without a model Presidio's context words have no effect. Its e-mail
recognizer would fetch the list of public suffixes: here the list that comes with `tldextract` is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import TYPE_CHECKING

from llm_twin.core.errors import ConfigError, MissingExtra
from llm_twin.core.records import PersonalSpan, fingerprint

if TYPE_CHECKING:
    from presidio_analyzer import LocalRecognizer

MIN_SCORE = 0.4
"""Presidio's weakest patterns, such as any nine digits for a social security number, score below 0.1."""
_VERSION = 1
_ENTITIES = {
    "email": "EMAIL_ADDRESS",
    "iban": "IBAN_CODE",
    "card": "CREDIT_CARD",
    "ssn": "US_SSN",
    "ip": "IP_ADDRESS",
    "phone": "PHONE_NUMBER",
}


class PresidioFinder:
    """A `PersonalFinder` on Presidio's patterns.

    It has none for street addresses. Raises `ConfigError` for a kind it has no pattern for, `MissingExtra` without the
    package. No network is used.
    """

    fingerprint: str

    def __init__(self, kinds: Iterable[str]) -> None:
        self.kinds = frozenset(kinds)
        if unknown := sorted(self.kinds - _ENTITIES.keys()):
            raise ConfigError(
                f"presidio has no pattern for {unknown[0]!r}; leave it out of collect.redact_personal, or set "
                f'collect.personal_engine = "patterns". It has: {", ".join(_ENTITIES)}'
            )
        self._recognizers = {kind: recognizer for kind, recognizer in _recognizers().items() if kind in self.kinds}
        versions = [metadata.version(package) for package in ("presidio-analyzer", "phonenumbers", "tldextract")]
        self.fingerprint = fingerprint("presidio", _VERSION, sorted(self.kinds), versions)

    def find(self, text: str) -> list[PersonalSpan]:
        """Where personal data of the chosen kinds stands; spans of different kinds may overlap."""
        return [
            PersonalSpan(kind, result.start, result.end)
            for kind, recognizer in self._recognizers.items()
            for result in recognizer.analyze(text, [_ENTITIES[kind]], None)  # type: ignore[arg-type] # patterns need no model's output
            if result.score >= MIN_SCORE
        ]


def _recognizers() -> dict[str, LocalRecognizer]:
    try:
        from presidio_analyzer import predefined_recognizers as presidio
        from tldextract import TLDExtract
    except ImportError as error:
        raise MissingExtra("the engine presidio", "presidio", "presidio-analyzer") from error
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(presidio.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return suffixes(pattern_text).fqdn != ""

    return {
        "email": OfflineEmailRecognizer(),
        "iban": presidio.IbanRecognizer(),
        "card": presidio.CreditCardRecognizer(),
        "ssn": presidio.UsSsnRecognizer(),
        "ip": presidio.IpRecognizer(),
        "phone": presidio.PhoneRecognizer(),
    }
