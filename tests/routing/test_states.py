"""What a kept state says of models, for whoever does not decide about requests."""

from typing import Any

import pytest

from routing.candidates import Contestant
from routing.decision import Label
from routing.engine import Engine
from routing.facts import RoutingFacts
from routing.features import FeatureSpace
from routing.models import RouterState
from routing.routers import new_averages, new_engine
from routing.states import engine_of, expected_quality
from routing.stored import averages_to_bytes
from tenants.models import Tenant

VECTOR = FeatureSpace().features("sort a list", "coding", "simple").vector


def facts(**changed: Any) -> RoutingFacts:
    known = {"contestants": {name: Contestant(name) for name in ("good", "bad")}, "published": {"good": 0.8}}
    return RoutingFacts(**(known | changed))


def learned() -> Engine:
    engine = new_engine(facts())
    for _ in range(40):
        engine.learn(Label("good", VECTOR, 0.9, 0.0))
        engine.learn(Label("bad", VECTOR, 0.1, 0.0))
    return engine


def kept(tenant: Tenant, state: bytes, engine: str = "hier") -> RouterState:
    return RouterState(tenant=tenant, engine=engine, state=state)


def test_what_was_learned_is_expected(tenant: Tenant) -> None:
    quality = expected_quality(kept(tenant, learned().to_bytes()), facts())
    assert quality["good"] > 0.7
    assert quality["bad"] < 0.4


def test_models_that_came_later_are_expected_too(tenant: Tenant) -> None:
    wider = facts(contestants={name: Contestant(name) for name in ("good", "bad", "fresh")})
    assert set(expected_quality(kept(tenant, learned().to_bytes()), wider)) == {"good", "bad", "fresh"}


@pytest.mark.parametrize("state", [b"", b"garbage"])
def test_without_a_state_that_can_be_read_it_is_what_was_published(tenant: Tenant, state: bytes) -> None:
    for row in (None, kept(tenant, state)):
        assert engine_of(row, facts()).to_bytes() == new_engine(facts()).to_bytes()


def test_engines_that_keep_no_beliefs_have_those_before_the_first_label(tenant: Tenant) -> None:
    row = kept(tenant, averages_to_bytes(new_averages(facts())), "ema")
    assert expected_quality(row, facts()) == expected_quality(None, facts())
