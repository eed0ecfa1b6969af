"""What a kept state says of models, for whoever does not decide about requests."""

from routing.engine import Engine, UnreadableState
from routing.facts import RoutingFacts
from routing.models import RouterState
from routing.routers import new_engine, usual_request, with_models


def engine_of(state: RouterState | None, facts: RoutingFacts) -> Engine:
    """The beliefs of a state, or those before the first label: of a tenant whose engine keeps none, too."""
    if state is not None and state.engine == "hier" and state.state:
        try:
            return with_models(Engine.from_bytes(bytes(state.state)), facts)
        except UnreadableState:
            pass
    return new_engine(facts)


def expected_quality(state: RouterState | None, facts: RoutingFacts) -> dict[str, float]:
    """Expected quality (0-1) of each model for a usual request."""
    engine = engine_of(state, facts)
    means, _ = engine.posterior.combined().expected(usual_request(engine.space).vector)
    return dict(zip(engine.models, means.tolist(), strict=True))
