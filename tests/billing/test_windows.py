from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.windows import SLICES, Window

KINDS = ("hour", "day", "week", "month", "quarter", "rolling", "total")
ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia")
MOMENTS = st.integers(1_420_070_400, 2_050_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
WINDOWS = st.builds(
    lambda kind, zone, rolling_s: Window(kind, zone, rolling_s if kind == "rolling" else None),
    st.sampled_from(KINDS),
    st.sampled_from(ZONES),
    st.integers(60, 40_000_000),
)


@given(window=WINDOWS, now=MOMENTS)
def test_now_is_within_its_period_and_the_next_one_begins_where_it_ends(window: Window, now: datetime) -> None:
    start, end = window.period(now)
    assert start <= now
    if end is None:
        assert window.kind == "total"
        return
    assert now < end
    assert window.period(end)[0] == end
    assert window.period(start) == (start, end)
    assert window.period(end - timedelta(microseconds=1)) == (start, end)


@pytest.mark.parametrize(
    ("kind", "zone", "now", "start", "end"),
    [
        ("day", "Europe/Berlin", "2026-03-29T12:00+00:00", "2026-03-28T23:00+00:00", "2026-03-29T22:00+00:00"),  # 23 h
        ("day", "Europe/Berlin", "2026-10-25T12:00+00:00", "2026-10-24T22:00+00:00", "2026-10-25T23:00+00:00"),  # 25 h
        ("week", "UTC", "2026-11-21T08:00+00:00", "2026-11-16T00:00+00:00", "2026-11-23T00:00+00:00"),
        ("month", "America/New_York", "2026-11-01T03:00+00:00", "2026-10-01T04:00+00:00", "2026-11-01T04:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("quarter", "UTC", "2026-11-21T08:00+00:00", "2026-10-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("hour", "Asia/Kathmandu", "2026-11-21T08:20+00:00", "2026-11-21T08:15+00:00", "2026-11-21T09:15+00:00"),
    ],
)
def test_periods_follow_the_tenants_calendar(kind: str, zone: str, now: str, start: str, end: str) -> None:
    expected = datetime.fromisoformat(start), datetime.fromisoformat(end)
    assert Window(kind, zone).period(datetime.fromisoformat(now)) == expected


def test_a_month_begins_at_local_midnight() -> None:
    start, _ = Window("month", "Europe/Berlin").period(datetime(2026, 7, 14, tzinfo=UTC))
    assert start.astimezone(ZoneInfo("Europe/Berlin")).isoformat() == "2026-07-01T00:00:00+02:00"


@given(rolling_s=st.integers(60, 40_000_000))
def test_no_more_slices_than_that_cover_a_rolling_window(rolling_s: int) -> None:
    slice_s = Window("rolling", rolling_s=rolling_s).slice_s
    assert rolling_s <= slice_s * SLICES < rolling_s + SLICES
