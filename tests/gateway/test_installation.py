"""Settings that an installation is started with."""

import pytest

from gateway import installation


def asked(name: str = "BREAKER_FAILURES") -> int:
    return installation.whole_number(name, 5, at_least=1)


def test_a_whole_number_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BREAKER_FAILURES", raising=False)
    assert asked() == 5
    monkeypatch.setenv("BREAKER_FAILURES", " 7 ")
    assert asked() == 7


@pytest.mark.parametrize("value", ["0", "-3", "", "five", "2.5", "--1", "²"])
def test_nothing_is_started_with_a_number_that_cannot_be_meant(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BREAKER_FAILURES", value)
    with pytest.raises(SystemExit) as refused:
        asked()
    assert str(refused.value) == f"error: BREAKER_FAILURES must be a whole number of 1 or more, and is '{value}'."


def test_numbers_beyond_what_there_can_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "65536")
    with pytest.raises(SystemExit, match="PORT must be a whole number from 1 to 65535, and is '65536'"):
        installation.whole_number("PORT", 4000, at_least=1, at_most=65_535)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "", "soon", "1e999"])
def test_seconds_are_a_number_that_a_clock_can_wait_for(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DRAIN_S", value)
    with pytest.raises(SystemExit, match="DRAIN_S must be a number of seconds, 0 or more"):
        installation.seconds("DRAIN_S", 30.0)


@pytest.mark.parametrize(("value", "meant"), [("TRUE", True), ("1", True), ("on", True), ("no", False), ("", False)])
def test_switches_are_understood_in_common_words(monkeypatch: pytest.MonkeyPatch, value: str, meant: bool) -> None:
    monkeypatch.setenv("HTTPS", value)
    assert installation.switch("HTTPS", not meant) is meant


def test_an_address_that_is_refused_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:secret@db/x")
    with pytest.raises(SystemExit) as refused:
        installation.url("DATABASE_URL", installation.POSTGRES_SCHEMES)
    assert "secret" not in str(refused.value)
