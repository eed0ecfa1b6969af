"""Moving averages and experience come back from bytes as they were, and nothing else is taken for them."""

import pytest

from routing.ema import EmaSettings, MovingAverages
from routing.engine import UnreadableState
from routing.features import FeatureSpace
from routing.scores import Candidate, Experience, Taste
from routing.stored import averages_from_bytes, averages_to_bytes, experience_from_bytes, experience_to_bytes

SPACE = FeatureSpace()
SETTINGS = EmaSettings(alpha=0.2, epsilon=0.05, least_samples=2)
GARBAGE = (b"", b"\x00", b"no state at all", b"\x93\x01\x02\x03", experience_to_bytes(Experience())[:-1])


def averages() -> MovingAverages:
    made = MovingAverages(SETTINGS)
    for number in range(30):
        features = SPACE.features(f"question {number}", "coding" if number % 2 else "qa", "simple")
        made.learn(features, f"model-{number % 3}", number % 5 / 4)
        made.experience.observe(f"model-{number % 3}", features.task, 10 * number, 0.1 + number)
    return made


def test_averages_go_on_from_where_they_were() -> None:
    first = averages()
    again = averages_from_bytes(averages_to_bytes(first), SETTINGS)
    assert again == first
    features = SPACE.features("one more", "coding", "simple")
    for made in (first, again):
        made.learn(features, "model-1", 0.9)
        made.experience.observe("model-1", "coding", 77, 3.0)
    assert averages_to_bytes(again) == averages_to_bytes(first)


def test_equal_averages_are_equal_bytes() -> None:
    assert averages_to_bytes(averages()) == averages_to_bytes(averages())


def test_averages_go_on_by_the_settings_of_today() -> None:
    again = averages_from_bytes(averages_to_bytes(averages()), EmaSettings(least_samples=999))
    assert again.settings.least_samples == 999
    features = SPACE.features("one more", "coding", "simple")
    assert again.best(features, [Candidate("model-1", 9, 9), Candidate("model-0", 1, 1)], Taste()) == 1


def test_experience_comes_back() -> None:
    known = averages().experience
    again = experience_from_bytes(experience_to_bytes(known))
    assert (again.output_tokens, again.log_latency) == (known.output_tokens, known.log_latency)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_other_bytes_are_no_state(garbage: bytes) -> None:
    with pytest.raises(UnreadableState):
        experience_from_bytes(garbage)
    with pytest.raises(UnreadableState):
        averages_from_bytes(garbage, SETTINGS)


def test_the_bytes_of_one_engine_are_none_of_another() -> None:
    with pytest.raises(UnreadableState):
        experience_from_bytes(averages_to_bytes(averages()))
    with pytest.raises(UnreadableState):
        averages_from_bytes(experience_to_bytes(Experience()), SETTINGS)
