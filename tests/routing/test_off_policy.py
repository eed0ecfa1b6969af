"""What other ways to choose would have been worth, told from the log alone."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from routing.off_policy import FEWEST, worths
from tenants.models import Tenant
from tests.routing.simulated_traffic import COSTS, SETTLED, Traffic, weighed

NOW = datetime.now(UTC)


def pairs(tenant: Tenant, count: int, better_by: float = 0.1, **changed: object) -> None:
    """Answers of the old model, the router's choice, with a judged challenger beside each."""
    traffic = Traffic(tenant)
    for number in range(count):
        at = NOW - SETTLED - timedelta(minutes=number)
        decision = traffic.decided(at, "old", challenger="new", challenger_propensity=0.5, **changed)
        quality = 0.4 + 0.2 * traffic.rng.random()
        traffic.judged_pair(decision, quality, quality + better_by)
    traffic.write()


def test_a_model_alone_is_held_against_the_router_with_its_interval_and_cost(tenant: Tenant) -> None:
    pairs(tenant, 400)
    requests, found = worths(tenant, NOW, 28)
    by_policy = {one.policy: one for one in found}
    router, new = by_policy["the router"], by_policy["always new"]
    assert (requests, router.ahead, found[0]) == (400, None, router)
    assert new.ahead is not None
    assert new.ahead.low < 0.1 < new.ahead.high
    assert new.ahead.low > 0
    assert router.quality.value == pytest.approx(0.5, abs=0.03)
    assert (router.usd_per_1000, new.usd_per_1000) == pytest.approx((COSTS["old"], COSTS["new"]))
    assert by_policy["always old"].ahead == pytest.approx(type(new.ahead)(0.0, 0.0, 0.0))
    assert by_policy["always other"].effective_sample_size == 0  # it was never seen


def test_where_a_model_could_not_answer_the_routers_choice_stands_in_for_it(tenant: Tenant) -> None:
    pairs(tenant, 60)
    pairs(tenant, 40, candidates=weighed(old=0.8))
    _, found = worths(tenant, NOW, 28)
    (new,) = [one for one in found if one.policy == "always new"]
    assert new.usd_per_1000 == pytest.approx(0.6 * COSTS["new"] + 0.4 * COSTS["old"])


def test_too_few_requests_and_those_of_others_tell_nothing(tenant: Tenant) -> None:
    pairs(Tenant.objects.create(slug="other"), 50)
    pairs(tenant, FEWEST - 1)
    assert worths(tenant, NOW, 28) == (FEWEST - 1, [])
    with pytest.raises(CommandError, match="19 judged requests are too few"):
        call_command("off_policy", "--tenant", tenant.slug)


def test_the_command_prints_a_table_or_json(tenant: Tenant) -> None:
    pairs(tenant, 120)
    text, data = StringIO(), StringIO()
    call_command("off_policy", "--tenant", tenant.slug, stdout=text)
    call_command("off_policy", "--tenant", tenant.slug, "--days", "7", "--json", stdout=data)
    assert "120 judged requests of the last 28 days" in text.getvalue()
    assert "under 100 effective labels are no ground to act on" in text.getvalue()
    told = json.loads(data.getvalue())
    assert told["requests"] == 120
    assert {one["policy"] for one in told["policies"]} == {"the router", "always old", "always new", "always other"}


@pytest.mark.parametrize("days", ["0", "many", "1000"])
def test_days_that_make_no_sense_are_refused(tenant: Tenant, days: str) -> None:
    with pytest.raises(CommandError, match="a whole number from 1 to 365"):
        call_command("off_policy", "--tenant", tenant.slug, f"--days={days}")
