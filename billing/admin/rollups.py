"""Sums by the hour, as pages and spend queries read them."""

from collections.abc import Iterable
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing.models import Attempt, UsageHour, UsageHourTag, UsageHourUser
from billing.models.rollups import HourlySums
from gateway.admin_columns import NOTHING, count, exact_usd, pair, when_column, with_detail
from gateway.admin_pages import CappedPaginator, ReadOnlyAdmin
from tenants.models import Tenant

_REFERENCES = ("tenant", "project", "token", "model", "provider")
_SUMS = ("requests_", "attempts_", "failed_", "tokens", "cost", "adjusted")


class TenantFilter(admin.SimpleListFilter):
    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(tenant.pk), tenant.slug) for tenant in Tenant.objects.all()]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        chosen = {str(pk) for pk in Tenant.objects.values_list("pk", flat=True)} & {str(self.value())}
        return queryset.filter(tenant_id=chosen.pop()) if chosen else queryset


class HourlyAdmin(ReadOnlyAdmin):
    """Rows hold keys rather than references, as they outlive what they count; names are looked up for a page."""

    grain: ClassVar[tuple[str, ...]] = ()
    list_display: ClassVar[Any] = (when_column("hour", "hour, UTC"), "who", *_SUMS)
    list_filter = (("hour", admin.DateFieldListFilter), TenantFilter)
    sortable_by = ()
    ordering = ("-hour",)
    paginator = CappedPaginator
    show_facets = admin.ShowFacets.NEVER

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        figures = (field.name for field in self.opts.fields if field.name not in {"id", "latency_counts"})
        return [name for name in figures if not name.endswith("_id")] + ["who", *self.grain]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        _add_names(changelist.result_list)
        return changelist

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            _add_names([row])
        return row

    @admin.display(description="who")
    def who(self, row: Any) -> SafeString | str:
        rest = [row.names[part] for part in ("project", "token") if part in row.names]
        return with_detail(row.names.get("tenant", "the installation"), " / ".join(rest))

    @admin.display(description="requests")
    def requests_(self, row: HourlySums) -> str:
        return count(row.requests)

    @admin.display(description="calls")
    def attempts_(self, row: HourlySums) -> str:
        return count(row.attempts)

    @admin.display(description="failed")
    def failed_(self, row: HourlySums) -> str:
        return count(row.failed)

    @admin.display(description="tokens in / out")
    def tokens(self, row: HourlySums) -> SafeString:
        read = row.input_tokens + row.cached_input_tokens + row.cache_write_tokens
        return pair(read, row.output_tokens + row.reasoning_tokens)

    @admin.display(description="cost, USD")
    def cost(self, row: HourlySums) -> SafeString:
        return exact_usd(row.cost_usd)

    @admin.display(description="adjusted, USD")
    def adjusted(self, row: HourlySums) -> SafeString | str:
        return exact_usd(row.adjusted_usd) if row.adjusted_usd else NOTHING


@admin.register(UsageHour)
class UsageHourAdmin(HourlyAdmin):
    grain = ("target",)
    list_display = (when_column("hour", "hour, UTC"), "who", "target", "purpose", *_SUMS)

    @admin.display(description="target")
    def target(self, row: Any) -> SafeString | str:
        return with_detail(row.names.get("model", row.vendor_model), row.names.get("provider", ""))


@admin.register(UsageHourTag)
class UsageHourTagAdmin(HourlyAdmin):
    list_display = (when_column("hour", "hour, UTC"), "who", "tag", *_SUMS)


@admin.register(UsageHourUser)
class UsageHourUserAdmin(HourlyAdmin):
    list_display = (when_column("hour", "hour, UTC"), "who", "end_user", *_SUMS)


def _add_names(rows: Iterable[Any]) -> None:
    """What the rows' keys stand for, in one query for each kind of thing."""
    shown = list(rows)
    for row in shown:
        row.names = {}
    for part in _REFERENCES:
        keys = {getattr(row, f"{part}_id", None) for row in shown} - {None}
        names = dict(_referenced(part).filter(pk__in=keys).values_list("pk", _label(part)))
        for row in shown:
            if (key := getattr(row, f"{part}_id", None)) in names:
                row.names[part] = names[key]


def _referenced(part: str) -> QuerySet[Any]:
    model: Any = Attempt._meta.get_field(part).related_model
    return model._default_manager.all().order_by()  # type: ignore[no-any-return]


def _label(part: str) -> str:
    return "slug" if part in ("tenant", "project") else "name"
