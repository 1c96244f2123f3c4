"""Presidio's patterns as a finder of personal data: the same port as ours, without a model and without network."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest

from llm_twin import Twin
from llm_twin.adapters.presidio import PresidioFinder
from llm_twin.core.errors import ConfigError, MissingExtra
from llm_twin.core.records import Document, PersonalSpan
from llm_twin.features.personal import PersonalRedactor

KINDS = ("email", "iban", "card", "ssn", "ip", "phone")


@pytest.fixture(scope="module")
def finder():
    pytest.importorskip("presidio_analyzer", reason="presidio is not installed; run: pip install 'llm-twin[presidio]'")
    return PresidioFinder(KINDS)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "mira@noon.ch"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
        ("card", "4454794511390933"),
        ("ssn", "460-89-9847"),
        ("ip", "106.31.73.20"),
        ("phone", "(579) 888-3058"),
    ],
)
def test_each_kind_is_found_where_it_stands(finder, kind, value):
    text = f"She wrote {value} down."
    assert PersonalSpan(kind, 10, 10 + len(value)) in finder.find(text)


def test_only_the_chosen_kinds_are_found(finder):
    found = PresidioFinder(["ip"]).find("mira@noon.ch at 106.31.73.20, 905-674-3793")
    assert [span.kind for span in found] == ["ip"]


def test_nine_digits_alone_are_no_social_security_number(finder):
    assert finder.find("id 460899847") == []


def test_the_redactor_takes_it_like_the_patterns(finder):
    redactor = PersonalRedactor(finder, keep=["me@noon.ch"])
    text = "me@noon.ch, mira@noon.ch, GB82 WEST 1234 5698 7654 32"
    given = Document("d", "Mira", "files", "article", "T", text, "h", datetime(2026, 1, 2, tzinfo=UTC))
    assert redactor.redact(given)[0].text == "me@noon.ch, [redacted:email], [redacted:iban]"


def test_addresses_are_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="presidio has no pattern for 'address'; leave it out"):
        PresidioFinder(["email", "address"])


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingExtra, match=r"pip install 'llm-twin\[presidio\]'"):
        PresidioFinder(["email"])


def test_a_twin_uses_it_by_its_name(finder, tmp_path):
    Twin.init(tmp_path, author="Mira").close()
    with (tmp_path / "twin.toml").open("a", encoding="utf-8") as file:
        file.write('\n[collect]\nredact_personal = ["email"]\npersonal_engine = "presidio"\n')
    with Twin.open(tmp_path) as twin:
        given = Document("d", "Mira", "files", "article", "T", "mira@noon.ch", "h", datetime(2026, 1, 2, tzinfo=UTC))
        assert twin.redactor.redact(given)[0].text == "[redacted:email]"
        assert isinstance(twin.redactor.redactors[1].finder, PresidioFinder)
