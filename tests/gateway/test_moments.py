from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.moments import parse_moment, parse_moment_ahead


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31T12:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31 12:00+02:00", datetime(2027, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_reads_iso_8601_as_utc_unless_it_names_a_zone(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment
    assert parse_moment(text).tzinfo is not None


@pytest.mark.parametrize("text", ["", "soon", "2027-13-01", "0d", "d", "-3d", "100000d", "3w"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a date or time"):
        parse_moment_ahead(text)


@pytest.mark.parametrize(
    ("text", "span"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("15m", timedelta(minutes=15))]
)
def test_a_span_counts_from_now(text: str, span: timedelta) -> None:
    assert abs(parse_moment_ahead(text) - datetime.now(UTC) - span) < timedelta(seconds=5)
