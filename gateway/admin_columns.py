"""How the admin writes things: money, durations, states and links, the same in every list and on every page.

Everything that is not markup made here is escaped.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Model
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

Tone = Literal["good", "warn", "bad", "quiet"]

NOTHING: Final = "\N{EN DASH}"
_MILLISECOND_S: Final = 1000.0
_MINUTE_MS: Final = 60_000.0


def badge(text: str, tone: Tone) -> SafeString:
    """A coloured word; the word alone says it all, for those who do not see the colour."""
    return format_html('<span class="badge badge-{}">{}</span>', tone, text)


def exact_usd(amount: Decimal | None) -> SafeString:
    """Every digit that matters, right-aligned; an unknown price is not 0 and does not look like it."""
    if amount is None:
        return format_html('<span class="number">{}</span>', badge("unpriced", "warn"))
    return format_html('<span class="number">{}</span>', plain_decimal(amount))


def plain_decimal(amount: Decimal) -> str:
    """Without exponent and trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def usd(amount: Decimal | None) -> str:
    """Rounded for reading, with as many decimals as small sums need."""
    if amount is None:
        return NOTHING
    if amount == 0 or abs(amount) >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if abs(amount) >= Decimal("0.0001") else f"${plain_decimal(amount)}"


def count(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def count_link(number: int, model: str, /, **lookups: Any) -> SafeString:
    """A right-aligned count that leads to what was counted."""
    return format_html('<span class="number">{}</span>', list_link(model, count(number), **lookups))


def pair(first: int, second: int) -> SafeString:
    """Two counts that belong together, such as tokens in and out."""
    return format_html('<span class="number">{} / {}</span>', count(first), count(second))


def duration(ms: float | None) -> str:
    if ms is None:
        return NOTHING
    if ms >= _MINUTE_MS:
        return str(timedelta(seconds=round(ms / _MILLISECOND_S)))
    if ms >= _MILLISECOND_S:
        return f"{ms / _MILLISECOND_S:.2f} s"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def when(moment: datetime | None) -> SafeString | str:
    """To the second, in UTC, in a form that sorts and lines up."""
    if moment is None:
        return NOTHING
    return format_html('<time class="when" datetime="{}">{}</time>', moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S}")


def when_column(field: str, label: str) -> Callable[[Any], SafeString | str]:
    """A list's column for a moment."""

    @admin.display(description=label, ordering=field)
    def column(row: Any) -> SafeString | str:
        return when(getattr(row, field))

    column.__name__ = field
    return column


def with_detail(main: SafeString | str, detail: str) -> SafeString | str:
    """A cell with a second, quieter line."""
    return format_html('{}<span class="detail">{}</span>', main, detail) if detail else main


def percent(share: float | None) -> str:
    """Of a share between 0 and 1."""
    return NOTHING if share is None else f"{share:.1%}"


def object_link(obj: Model | None, text: str | None = None) -> SafeString | str:
    """To the page of one row."""
    if obj is None:
        return NOTHING
    url = reverse(f"admin:{obj._meta.app_label}_{obj._meta.model_name}_change", args=[obj.pk])
    return format_html('<a href="{}">{}</a>', url, text or str(obj))


def list_url(model: str, /, **lookups: Any) -> str:
    """Of a list of rows; ``model`` is ``app_modelname``, ``lookups`` are what the list is narrowed to."""
    url = reverse(f"admin:{model}_changelist")
    return f"{url}?{urlencode(lookups)}" if lookups else url


def list_link(model: str, text: str, /, **lookups: Any) -> SafeString:
    return format_html('<a href="{}">{}</a>', list_url(model, **lookups), text)


def add_link(model: str, text: str, /, **initial: Any) -> SafeString:
    """To the form of a new row, with some of its fields filled in."""
    return format_html('<a href="{}?{}">{}</a>', reverse(f"admin:{model}_add"), urlencode(initial), text)


def links(items: Iterable[SafeString]) -> SafeString:
    return format_html_join(" · ", "{}", ((item,) for item in items))


def its_rows(obj: Model, lookup: str, *listed: tuple[str, str]) -> SafeString | str:
    """To lists of what belongs to a row: ``listed`` are (model, text), ``lookup`` is how each finds its own."""
    if obj._state.adding:
        return NOTHING
    return links(list_link(model, text, **{lookup: obj.pk}) for model, text in listed)


def words(items: Iterable[str]) -> SafeString | str:
    """Names, each as a chip."""
    return format_html_join(" ", '<span class="chip">{}</span>', ((item,) for item in items)) or NOTHING


def owned_label(obj: Model) -> str:
    """A row with its tenant, for choices: names are unique within a tenant only."""
    if not hasattr(obj, "tenant_id"):
        return str(obj)
    return f"{obj.tenant or 'all tenants'} / {obj}"  # type: ignore[attr-defined]
