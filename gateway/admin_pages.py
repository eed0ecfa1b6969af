"""What the operators' pages have in common: buttons for one row, pages nobody can write to, lists without an end."""

import calendar
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.forms import ModelChoiceField
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.functional import cached_property

from gateway.admin_columns import list_url, owned_label
from gateway.rows import first_id, moment_of

MOST_COUNTED: Final = 10_000  # rows; beyond, a list says "more than"
MOST_MONTHS: Final = 24
PERIOD_VAR: Final = "period"
_PERIOD: Final = re.compile(r"(\d{4})-(\d{2})(?:-(\d{2}))?")


@dataclass(frozen=True, slots=True)
class ObjectAction:
    """An admin action as a button on one row's page. ``careful``: asks again before it acts."""

    url: str
    label: str
    careful: bool


class OperatorChangeList(ChangeList):
    """A list that does not offer to show all where all is shown."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if not (self.query or self.has_active_filters):
            self.full_result_count = self.result_count


class OwnedFilter(admin.RelatedFieldListFilter):
    """Names are unique within a tenant only, so the choices say whose they are."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        rows = field.remote_field.model.objects.select_related("tenant").order_by("tenant__slug", "name")
        return [(row.pk, owned_label(row)) for row in rows]


class OperatorAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The base of every page. ``object_actions`` name the list's actions that a row's own page offers as well,
    ``careful_actions`` those of them that ask again."""

    list_per_page = 50
    show_full_result_count = False
    change_form_template = "admin/operator_change_form.html"
    object_actions: ClassVar[Sequence[str]] = ()
    careful_actions: ClassVar[Sequence[str]] = ()
    has_history: ClassVar[bool] = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return OperatorChangeList

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The audit trail is the history; Django's own log of admin actions stays empty."""
        return redirect(list_url("audit_auditevent", object_id=object_id))

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return labelled(super().formfield_for_foreignkey(db_field, request, **kwargs))

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.object_action_view)
        return [path("<path:object_id>/do/<slug:name>/", view, name=self._url_name("do")), *super().get_urls()]

    def object_action_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Runs one action on one row, by POST only."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        obj = self.get_object(request, unquote(object_id))
        action = self.get_actions(request).get(name)
        if obj is None or action is None or name not in self.object_actions:
            raise Http404
        response = action[0](self, request, self.get_queryset(request).filter(pk=obj.pk))
        return response or redirect(f"admin:{self._url_name('change')}", obj.pk)

    def render_change_form(self, request: HttpRequest, context: Any, **kwargs: Any) -> Any:
        obj = kwargs.get("obj")
        context["has_history"] = self.has_history
        context["object_actions"] = list(self._buttons(request, obj)) if obj else []
        return super().render_change_form(request, context, **kwargs)

    def _buttons(self, request: HttpRequest, obj: Model) -> Iterator[ObjectAction]:
        actions = self.get_actions(request)
        for name in self.object_actions:
            if name in actions and self.offers(name, obj):
                url = reverse(f"admin:{self._url_name('do')}", args=[obj.pk, name])
                yield ObjectAction(url, str(actions[name][2]), name in self.careful_actions)

    def offers(self, action: str, obj: Any) -> bool:
        """Whether an action makes sense for this row."""
        return True

    def _url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"


class ReadOnly:
    """For pages and inlines: nobody adds, changes or deletes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyAdmin(ReadOnly, OperatorAdmin):
    pass


class ReadOnlyInline(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]
    """Rows of another table on a row's page, as facts."""

    extra = 0
    show_change_link = True
    can_delete = False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than ``MOST_COUNTED`` rows: nobody pages that far, and counting a ledger takes minutes."""

    @cached_property
    def count(self) -> int:
        return self.object_list.order_by()[:MOST_COUNTED].count()  # type: ignore[union-attr]

    @property
    def is_capped(self) -> bool:
        return self.count >= MOST_COUNTED


@dataclass(frozen=True, slots=True)
class Period:
    """A link of the date hierarchy."""

    label: str
    query: str
    selected: bool = False


class PartitionedChangeList(OperatorChangeList):
    """A list of a partitioned table: its date hierarchy is arithmetic on the UUIDv7 key, which prunes partitions,
    where Django's would look at every row to learn which days there are."""

    def get_filters_params(self, params: Any = None) -> Any:
        remaining = super().get_filters_params(params)
        remaining.pop(PERIOD_VAR, None)
        return remaining

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        rows = super().get_queryset(request, exclude_parameters)
        if bounds := self._bounds():
            start, end = bounds
            rows = rows.filter(pk__gte=first_id(start), pk__lt=first_id(end))
        return rows

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str]:
        """Newest first, whatever the address asks for: any other order sorts the whole table."""
        return ["-pk"]

    @cached_property
    def periods(self) -> list[Period]:
        """Months that may have rows; within a chosen month its days."""
        chosen = self.params.get(PERIOD_VAR, "")
        if bounds := self._bounds():
            year, month = bounds[0].year, bounds[0].month
            days = calendar.monthrange(year, month)[1]
            name = f"{year}-{month:02}"
            return [
                Period("All dates", self._query(None)),
                Period(f"{bounds[0]:%B %Y}", self._query(name), selected=chosen == name),
                *(
                    Period(str(day), self._query(key := f"{name}-{day:02}"), selected=chosen == key)
                    for day in range(1, days + 1)
                ),
            ]
        return [Period(f"{month:%b %Y}", self._query(f"{month:%Y-%m}")) for month in self._months()]

    def _months(self) -> Iterator[datetime]:
        """From the current one back to the first row's."""
        oldest = self.root_queryset.order_by("pk").values_list("pk", flat=True).first()
        if oldest is None:
            return
        month, first = _month_of(datetime.now(UTC)), _month_of(moment_of(oldest))
        for _ in range(MOST_MONTHS):
            yield month
            if month <= first:
                return
            month = datetime(month.year - (month.month == 1), (month.month - 2) % 12 + 1, 1, tzinfo=UTC)

    def _bounds(self) -> tuple[datetime, datetime] | None:
        """The chosen month or day. Raises IncorrectLookupParameters."""
        text = self.params.get(PERIOD_VAR)
        if not text:
            return None
        match = _PERIOD.fullmatch(text)
        try:
            year, month, day = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
            start = datetime(year, month, day or 1, tzinfo=UTC)
        except ValueError:
            raise IncorrectLookupParameters from None
        length = 1 if day else calendar.monthrange(year, month)[1]
        return start, datetime.fromtimestamp(start.timestamp() + length * 86_400, UTC)

    def _query(self, period: str | None) -> str:
        return self.get_query_string({PERIOD_VAR: period} if period else None, remove=[] if period else [PERIOD_VAR])


class PartitionedAdmin(ReadOnlyAdmin):
    """Facts without an end: newest first, never sorted otherwise, found by identifier and by day.

    ``searched_ids`` are the indexed UUID columns that the search box looks in.
    """

    change_list_template = "admin/partitioned_change_list.html"
    paginator = CappedPaginator
    sortable_by: ClassVar[Sequence[str]] = ()
    ordering: ClassVar[Sequence[str]] = ("-pk",)
    searched_ids: ClassVar[Sequence[str]] = ("pk",)
    show_facets = admin.ShowFacets.NEVER
    search_help_text = "A request's or attempt's identifier, as in the x-request-id header and in exports."

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PartitionedChangeList

    def get_search_fields(self, request: HttpRequest) -> Sequence[str]:
        return self.searched_ids

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        identifier = _parse_id(search_term)
        if identifier is None:
            return queryset.none(), False
        return queryset.filter(Q(*((name, identifier) for name in self.searched_ids), _connector=Q.OR)), False


def labelled(field: Any) -> Any:
    """Choices of a foreign key name their tenant."""
    if isinstance(field, ModelChoiceField):
        field.label_from_instance = owned_label  # type: ignore[method-assign]
    return field


def _month_of(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _parse_id(text: str) -> uuid.UUID | None:
    """Of a UUID, also behind a prefix such as ``req_``."""
    try:
        return uuid.UUID(text.strip().rpartition("_")[2])
    except ValueError:
        return None
