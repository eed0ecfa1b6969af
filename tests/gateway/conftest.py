"""What the tests of the operators' pages share."""

import pytest

from audit.record import Actor
from gateway.models import Model
from tenants.models import ApiToken, User
from tests.gateway.operators_world import World, make_world


@pytest.fixture
def world(model: Model, token: ApiToken, operator: User, actor: Actor) -> World:
    """One row of every kind, by its class."""
    return make_world(token, model, operator, actor)
