"""When the periods of budgets begin and end: by the calendar of a tenant's time zone, or rolling."""

from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

Kind = Literal["hour", "day", "week", "month", "quarter", "rolling", "total"]

SLICES = 60  # of a rolling window: what was used in one of them counts until all of it has left the window
_EPOCH = datetime.fromtimestamp(0, UTC)


class Window(Struct, frozen=True):
    """How often a budget starts over. ``rolling_s`` is the length of a rolling window, in seconds."""

    kind: Kind
    time_zone: str = "UTC"
    rolling_s: int | None = None

    def period(self, now: datetime) -> tuple[datetime, datetime | None]:
        """Start and end (None: never) of the period ``now`` is in; of a rolling window, of the present slice."""
        if self.kind == "total":
            return _EPOCH, None
        if self.kind == "rolling":
            slice_s = self.slice_s
            start = _EPOCH + timedelta(seconds=int(now.timestamp()) // slice_s * slice_s)
            return start, start + timedelta(seconds=slice_s)
        zone = ZoneInfo(self.time_zone)
        start, end = _calendar(self.kind, now.astimezone(zone).replace(minute=0, second=0, microsecond=0))
        return start.astimezone(UTC), end.astimezone(UTC)

    @property
    def slice_s(self) -> int:
        """Seconds of one slice of a rolling window, rounded up so that no more than :data:`SLICES` cover it."""
        return max(1, -(-(self.rolling_s or SLICES) // SLICES))

    def leaves_at(self, slice_end: datetime) -> datetime:
        """When a slice that ends then is no longer counted in a rolling window, which moves on by whole slices."""
        slice_s = self.slice_s
        return _EPOCH + timedelta(seconds=-(-(int(slice_end.timestamp()) + (self.rolling_s or 0)) // slice_s) * slice_s)


def span_in_words(seconds: int) -> str:
    """The length of a rolling window, for reading: ``2 hours``."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds % length == 0:
            number = seconds // length
            return f"{number} {unit}{'s' if number != 1 else ''}"
    return f"{seconds} seconds"


def _calendar(kind: Kind, hour: datetime) -> tuple[datetime, datetime]:
    """``hour`` is local and whole. Days and longer follow the calendar, so one with a change of clocks has 23 or 25
    hours; an hour is one that passes."""
    if kind == "hour":
        start = hour.astimezone(UTC)
        return start, start + timedelta(hours=1)
    day = hour.replace(hour=0, fold=0)
    if kind == "day":
        return day, day + timedelta(days=1)
    if kind == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    if kind == "month":
        return first, _months_later(first, 1)
    quarter = first.replace(month=(first.month - 1) // 3 * 3 + 1)
    return quarter, _months_later(quarter, 3)


def _months_later(first: datetime, months: int) -> datetime:
    years, month = divmod(first.month - 1 + months, 12)
    return first.replace(year=first.year + years, month=month + 1)
