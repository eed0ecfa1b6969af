"""Roll-ups: the sums of the lines there are, however late, whatever was cut short."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from billing import rollups
from billing.models import Adjustment, Attempt, RollupMark, UsageHour, UsageHourTag, UsageHourUser
from billing.rollups import (
    LATENCY_BOUNDS_MS,
    PERCENTILE_ERROR,
    bucket_of,
    floor_hour,
    hours_between,
    percentile,
    roll_up,
    roll_up_hours,
)
from gateway.models import Model
from tenants.models import ApiToken
from tests.ledger_rows import id_at, open_attempt, settle

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def spent(token: ApiToken, model: Model, at: datetime, cost: str | None = "0.5", **values: Any) -> Attempt:
    """A settled line of that moment."""
    facts = {name: values.pop(name) for name in ("tags", "end_user", "purpose", "task_type") if name in values}
    line = open_attempt(token, model, at=at, **facts)
    settle(line, cost_usd=None if cost is None else Decimal(cost), **values)
    return line


def adjust(line: Attempt, amount: str, reason: str = "reprice") -> None:
    Adjustment.objects.create(tenant=line.tenant, attempt=line, reason=reason, amount_usd=Decimal(amount))


def day_sums() -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT day, attempts, cost_usd, adjusted_usd FROM billing_usageday ORDER BY day")
        return cursor.fetchall()


def test_an_hour_has_the_sums_of_its_lines(token: ApiToken, model: Model) -> None:
    usage = {"input_tokens": 5, "cached_input_tokens": 4, "cache_write_5m_tokens": 1, "cache_write_1h_tokens": 2}
    answer = {"output_tokens": 7, "reasoning_tokens": 6, "audio_input_tokens": 10, "audio_output_tokens": 20}
    spent(token, model, NOON, "0.000000000001", **usage, **answer, saved_usd=Decimal("0.1"))
    spent(token, model, NOON + MINUTE, "0.3", outcome="failed", purpose="retry", usage_source="estimated")
    spent(token, model, NOON + 59 * MINUTE, "0.3", outcome="failed", usage_source="estimated")
    spent(token, model, NOON + HOUR, "7")
    open_attempt(token, model, at=NOON)  # not settled: nothing is known of it
    roll_up()
    row = UsageHour.objects.get(hour=NOON, purpose="serve")
    assert (row.tenant_id, row.project_id, row.token_id, row.model_id, row.provider_id, row.vendor_model) == (
        token.tenant_id, token.project_id, token.pk, model.pk, model.provider_id, "small-1",
    )  # fmt: skip
    assert (row.attempts, row.requests, row.failed, row.estimated, row.cache_hits) == (2, 2, 1, 1, 1)
    assert (row.cost_usd, row.saved_usd) == (Decimal("0.300000000001"), Decimal("0.1"))
    assert (row.input_tokens, row.output_tokens) == (5 + 10 + 100, 7 + 20 + 20)
    assert (row.cached_input_tokens, row.cache_write_tokens, row.reasoning_tokens) == (4, 3, 6)
    retry = UsageHour.objects.get(hour=NOON, purpose="retry")
    assert (retry.attempts, retry.requests, retry.failed) == (1, 0, 1)
    assert UsageHour.objects.filter(hour=NOON + HOUR).get().cost_usd == 7


def test_rolling_up_again_changes_nothing(token: ApiToken, model: Model) -> None:
    for minute in range(5):
        spent(token, model, NOON + minute * MINUTE, tags=["a"], end_user="u")
    roll_up()
    before = list(UsageHour.objects.values_list("hour", "attempts", "cost_usd")), day_sums()
    roll_up()
    assert (list(UsageHour.objects.values_list("hour", "attempts", "cost_usd")), day_sums()) == before
    assert (UsageHourTag.objects.count(), UsageHourUser.objects.count()) == (1, 1)


def test_a_late_line_is_taken_in(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON)
    late = open_attempt(token, model, at=NOON + MINUTE)
    roll_up()
    settle(late, cost_usd=Decimal(2))
    assert roll_up()["hours"] >= 1
    assert UsageHour.objects.get().cost_usd == Decimal("2.5")
    assert day_sums() == [(NOON.replace(hour=0), 2, Decimal("2.5"), 0)]


def test_an_adjustment_counts_in_the_hour_of_its_line(token: ApiToken, model: Model) -> None:
    line = spent(token, model, NOON - DAY, "1")
    other = spent(token, model, NOON, "1")
    roll_up()
    adjust(line, "-0.25")
    adjust(line, "-0.25", "credit")
    adjust(other, "0.1")
    roll_up()
    found = dict(UsageHour.objects.values_list("hour", "adjusted_usd"))
    assert found == {NOON - DAY: Decimal("-0.5"), NOON: Decimal("0.1")}
    assert [row[3] for row in day_sums()] == [Decimal("-0.5"), Decimal("0.1")]


def test_only_what_was_touched_is_made_again(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON - DAY)
    roll_up()
    RollupMark.objects.update(rolled_up_to=datetime.now(UTC) + DAY)
    assert roll_up() | {"rolled_up_to": None} == {"hours": 0, "days": 0, "rolled_up_to": None}


def test_the_mark_never_passes_what_the_caller_knows(token: ApiToken) -> None:
    assert roll_up(NOON)["rolled_up_to"] == NOON.isoformat()
    assert RollupMark.objects.get().rolled_up_to == NOON


def test_what_used_something_at_an_unknown_price_is_unpriced_until_it_is_priced(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON, None)
    spent(token, model, NOON, None, outcome="failed", input_tokens=0, output_tokens=0)
    priced = spent(token, model, NOON, None)
    roll_up()
    assert UsageHour.objects.get().unpriced == 2
    adjust(priced, "0.1")
    roll_up()
    assert UsageHour.objects.get().unpriced == 1


def test_a_call_counts_once_under_each_of_its_tags(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON, "1", tags=["night", "batch", "night"])
    spent(token, model, NOON, "2", tags=["night"])
    spent(token, model, NOON, "4")
    roll_up()
    assert dict(UsageHourTag.objects.values_list("tag", "cost_usd")) == {"night": 3, "batch": 1}


def test_calls_without_an_end_user_are_nobodys(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON, "1", end_user="alice")
    spent(token, model, NOON, "2")
    roll_up()
    assert list(UsageHourUser.objects.values_list("end_user", "cost_usd")) == [("alice", 1)]


def test_a_line_whose_key_is_of_the_hour_before_counts_in_the_hour_it_started(token: ApiToken, model: Model) -> None:
    line = Attempt.objects.create(
        id=id_at(NOON - timedelta(seconds=2)), tenant=token.tenant, project=token.project, token=token,
        provider=model.provider, model=model, vendor_model="small-1", process_id=id_at(NOON), request_id=id_at(NOON),
        purpose="serve", started_at=NOON + timedelta(milliseconds=1),
    )  # fmt: skip
    settle(line)
    roll_up()
    assert UsageHour.objects.get().hour == NOON


def test_latencies_of_answers_are_counted_by_bucket(token: ApiToken, model: Model) -> None:
    for latency in (5, 400, 410, 3_000_000):
        spent(token, model, NOON, ended_at=NOON + timedelta(milliseconds=latency))
    spent(token, model, NOON, outcome="failed", ended_at=NOON + timedelta(milliseconds=70))
    roll_up()
    counts = UsageHour.objects.get().latency_counts
    expected = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for latency in (5, 400, 410, 3_000_000):
        expected[bucket_of(latency)] += 1
    assert counts == expected
    with connection.cursor() as cursor:
        cursor.execute("SELECT latency_counts FROM billing_usageday")
        assert cursor.fetchone() == (expected,)


def test_any_hours_can_be_made_again_by_hand(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON - HOUR)
    spent(token, model, NOON)
    roll_up()
    UsageHour.objects.update(cost_usd=9)
    assert roll_up_hours(hours_between(NOON - HOUR, NOON + MINUTE)) == 1
    assert set(UsageHour.objects.values_list("cost_usd", flat=True)) == {Decimal("0.5")}


def test_sums_agree_with_the_lines_however_they_came(token: ApiToken, model: Model) -> None:
    """Lines, settlements and adjustments in any order, rolled up now and then; in the end nothing is missing."""
    chance = random.Random(4)
    waiting: list[Attempt] = []
    settled: list[Attempt] = []
    expected: dict[datetime, Decimal] = {}
    for _ in range(120):
        act = chance.random()
        if act < 0.5:
            at = NOON - chance.randrange(6) * HOUR - chance.randrange(60) * MINUTE
            waiting.append(open_attempt(token, model, at=at))
        elif act < 0.85 and waiting:
            line, cost = waiting.pop(chance.randrange(len(waiting))), Decimal(chance.randrange(1, 10**12)) / 10**12
            settle(line, cost_usd=cost)
            settled.append(line)
            expected[floor_hour(line.started_at)] = expected.get(floor_hour(line.started_at), Decimal(0)) + cost
        elif act < 0.92 and settled:
            line = chance.choice(settled)
            adjust(line, "-0.000000000007")
            expected[floor_hour(line.started_at)] -= Decimal("0.000000000007")
        else:
            roll_up()
    roll_up()
    found = {row.hour: row.cost_usd + row.adjusted_usd for row in UsageHour.objects.all()}
    assert found == expected
    assert sum(cost + adjusted for _, _, cost, adjusted in day_sums()) == sum(expected.values())


@given(st.lists(st.floats(LATENCY_BOUNDS_MS[0], LATENCY_BOUNDS_MS[-1] * 0.999), min_size=1, max_size=50))
def test_percentiles_are_as_exact_as_said(latencies: list[float]) -> None:
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for latency in latencies:
        counts[bucket_of(latency)] += 1
    ranked = sorted(latencies)
    for share in (0.5, 0.95, 0.99, 1.0):
        exact = ranked[max(1, -int(-share * len(ranked) // 1)) - 1]
        found = percentile(counts, share)
        assert found is not None
        assert exact / (1 + PERCENTILE_ERROR + 1e-3) <= found <= exact * (1 + PERCENTILE_ERROR + 1e-3)


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert percentile([0, 0], 0.5) is None


def test_what_is_beyond_the_bounds_is_told_by_them() -> None:
    fastest = [1] + [0] * len(LATENCY_BOUNDS_MS)
    assert percentile(fastest, 0.5) == LATENCY_BOUNDS_MS[0]
    assert percentile(fastest[::-1], 0.5) == LATENCY_BOUNDS_MS[-1]


def test_every_sum_by_the_hour_is_one_by_the_day() -> None:
    with connection.cursor() as cursor:
        for grain in rollups.GRAINS:
            cursor.execute(
                "SELECT table_name, array_agg(column_name::text) FROM information_schema.columns "
                "WHERE table_name IN (%s, %s) GROUP BY 1",
                [grain.hours, grain.days],
            )
            columns = dict(cursor.fetchall())
            assert set(columns[grain.hours]) - {"hour"} == set(columns[grain.days]) - {"day"}
