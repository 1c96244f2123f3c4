from __future__ import annotations

from pathlib import Path

import pytest

from llm_twin import settings
from llm_twin.core.errors import ConfigError


def _toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "twin.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_argument_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    path = _toml(tmp_path, "[search]\nk = 3\ncandidates = 30\n[ask]\npassages = 4\n")
    environment = {"TWIN_SEARCH_K": "4", "TWIN_SEARCH_CANDIDATES": "40"}
    loaded = settings.load(path, environment=environment, arguments={"search.k": 5})
    assert loaded.values.search.k == 5
    assert loaded.values.search.candidates == 40
    assert loaded.values.ask.passages == 4
    assert loaded.values.ask.max_tokens == 800


def test_every_value_knows_where_it_came_from(tmp_path: Path) -> None:
    path = _toml(tmp_path, "\n[search]\n# how many\nk = 3\n")
    loaded = settings.load(path, environment={"TWIN_LLM_MODEL": "small"}, arguments={"ask.passages": 2})
    origins = {setting.key: setting.origin for setting in loaded.explain()}
    assert origins["search.k"] == f"{path}:4"
    assert origins["llm.model"] == "$TWIN_LLM_MODEL"
    assert origins["ask.passages"] == "argument"
    assert origins["ask.max_tokens"] == "default"


def test_every_setting_says_what_it_means() -> None:
    unexplained = [setting.key for setting in settings.load(None, environment={}).explain() if not setting.meaning]
    assert unexplained == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[llm]\nmodell = 'x'\n", ["llm.modell", "twin.toml:2", "llm.model"]),
        ("[lm]\nmodel = 'x'\n", ["lm", "twin.toml:1"]),
        ("[search]\n\nk = 'many'\n", ["search.k", "twin.toml:3", "many"]),
        ("[[sources]]\nauthor = 'x'\n", ["twin.toml:1 has no address; give it one, as in address ="]),
        ("[[sources]]\naddress = 'a'\n\n[[sources]]\nadress = 'b'\n", ["twin.toml:4 has", "mean that by 'adress'?"]),
        ("[search\nk = 1\n", ["twin.toml", "TOML", "line 1"]),
        ("search = 3\n", ["search", "twin.toml:1"]),
    ],
)
def test_a_mistake_names_key_place_and_the_nearest_right_one(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.load(_toml(tmp_path, text), environment={})
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message


def test_a_misspelt_environment_variable_is_an_error() -> None:
    with pytest.raises(ConfigError, match="TWIN_LLM_MODELL names no setting; did you mean TWIN_LLM_MODEL"):
        settings.load(None, environment={"TWIN_LLM_MODELL": "x"})


def test_lists_come_from_the_environment_separated_by_commas() -> None:
    loaded = settings.load(None, environment={"TWIN_AUTHOR_ALIASES": "Jo, J. Doe", "TWIN_SOURCES": "posts,notes"})
    assert loaded.values.author.aliases == ("Jo", "J. Doe")
    assert [source.address for source in loaded.values.sources] == ["posts", "notes"]


def test_a_file_that_is_not_utf_8_is_a_mistake_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "twin.toml").write_bytes("[author]\nname = 'Zoë'\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"twin\.toml is not UTF-8: .*; save it in that encoding"):
        settings.load(tmp_path / "twin.toml", environment={})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hunter2@db/twin", "postgresql://me:***@db/twin"),
        ("mongodb://me:hunt@er2@db/twin", "mongodb://me:***@db/twin"),
        ("mongodb://me:hu/nter2@db/twin", "mongodb://me:***@db/twin"),
        ("redis://:hunter2@db", "redis://:***@db"),
        ("postgresql://db:5432/twin?options=a@b", "postgresql://db:5432/twin?options=a@b"),
    ],
)
def test_passwords_in_urls_are_never_shown(url: str, shown: str) -> None:
    loaded = settings.load(None, environment={"TWIN_WAREHOUSE_URL": url, "TWIN_SOURCES": url})
    values = {setting.key: setting.value for setting in loaded.explain()}
    assert (values["warehouse.url"], values["sources"]) == (shown, [{"address": shown}])
    assert "hunter2" not in repr(loaded.values.warehouse)


def test_a_password_is_not_repeated_where_a_setting_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"warehouse\.url.*me:\*\*\*@db") as caught:
        settings.load(_toml(tmp_path, "[warehouse]\nurl = ['mongodb://me:hunter2@db']\n"), environment={})
    assert "hunter2" not in str(caught.value)
