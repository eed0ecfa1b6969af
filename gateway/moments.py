"""Moments as people write them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_SPAN: Final = re.compile(r"([1-9][0-9]{0,4})([dhm])")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}


def parse_moment(text: str) -> datetime:
    """A date or time in ISO 8601, in UTC unless it names a zone. Raises ValueError."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"must be a date or time like 2027-01-31T12:00Z, not '{text}'.") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def parse_moment_ahead(text: str) -> datetime:
    """As :func:`parse_moment`, or a span from now: ``30d``, ``12h``, ``15m``. Raises ValueError."""
    span = _SPAN.fullmatch(text)
    if span is None:
        return parse_moment(text)
    return datetime.now(UTC) + timedelta(**{_UNITS[span[2]]: int(span[1])})
