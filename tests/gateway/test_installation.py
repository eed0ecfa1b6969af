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
