"""What the pages of routing share: how acts are called, fields of JSON, names of models that must exist."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.db.models import F, Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from audit.record import record
from gateway.admin_columns import when
from gateway.rows import moment_of
from tenants.models import Tenant


class RoutingAdmin(AuditedAdmin):
    """A page whose acts are called ``noun`` in the audit trail, as ``manage.py apply`` calls them."""

    noun: ClassVar[str]

    def _record(self, request: HttpRequest, verb: str, obj: Model, changes: dict[str, Any]) -> None:
        record(self.actor(request), f"{self.noun}.{verb}", obj, tenant=obj.tenant, changes=changes)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "tenant") if obj else self.readonly_fields


def filter_by(field: str, words: Sequence[str]) -> type[admin.SimpleListFilter]:
    """A list's filter by a column of known words; Django's own would read the whole table to learn which there are."""

    class KnownWords(admin.SimpleListFilter):
        title = field
        parameter_name = field

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(word, word) for word in words]

        def queryset(self, request: HttpRequest, queryset: Any) -> Any:
            return queryset.filter(**{field: self.value()}) if self.value() else queryset

    return KnownWords


class JsonListField(forms.JSONField):
    """A list in JSON, laid out to be read; nothing is an empty list."""

    widget = forms.Textarea(attrs={"rows": 8, "cols": 72, "spellcheck": "false", "class": "vLargeTextField json"})

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) else json.dumps(value or [], indent=2, ensure_ascii=False)

    def clean(self, value: Any) -> Any:
        cleaned = super().clean(value)
        return [] if cleaned is None else cleaned

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(initial or [], data or "[]")


def models_of(tenant: Tenant | None) -> QuerySet[Any]:
    """A tenant's own and the installation's."""
    models: QuerySet[Any] = apps.get_model("gateway", "Model")._default_manager.all()
    return models.filter(Q(tenant=tenant) | Q(tenant=None))


def unknown_models(tenant: Tenant | None, names: Iterable[str]) -> list[str]:
    """Those of these names that are no model of the tenant or of the installation, in their order."""
    known = set(models_of(tenant).values_list("name", flat=True))
    return [name for name in names if name and name not in known]


def refuse_unknown(form: Any, field: str, tenant: Tenant | None, names: Iterable[str]) -> None:
    if tenant is not None and (unknown := unknown_models(tenant, names)):
        form.add_error(field, f"{tenant.slug} has no model {', '.join(unknown)}.")


def warn_of_unrouted(page: Any, request: HttpRequest, tenant: Tenant, names: Iterable[str], consequence: str) -> None:
    """Tell of models that may only be asked for by name: the router does not choose them. A tenant's own goes before
    the installation's of the same name."""
    own_last = models_of(tenant).filter(name__in=list(names)).order_by(F("tenant").asc(nulls_first=True))
    for name, routed in dict(own_last.values_list("name", "routed")).items():
        if not routed:
            page.message_user(request, f"The model {name} is not routed, {consequence}.", messages.WARNING)


def tenant_of(form: Any) -> Tenant | None:
    """Whose row a form is about; None while that is not known."""
    if not form.instance._state.adding:
        return form.instance.tenant  # type: ignore[no-any-return]
    return form.cleaned_data.get("tenant")


def cell_name(row: Any) -> str:
    """Task and complexity, where empty means any."""
    return f"{row.task or 'any task'} / {row.complexity or 'any'}"


@admin.display(description="cell")
def cell_column(row: Any) -> str:
    return cell_name(row)


@admin.display(description="tenant", ordering="tenant__slug")
def tenant_column(row: Any) -> str:
    return row.tenant.slug if row.tenant else "all tenants"


@admin.display(description="request of")
def request_column(row: Any) -> SafeString | str:
    """To the decision about the request that a row is about, named by when it was asked."""
    url = reverse("admin:routing_decision_change", args=[row.request_id])
    return format_html('<a href="{}" title="{}">{}</a>', url, row.request_id, when(moment_of(row.request_id)))


def router_link(tenant: Tenant, text: str = "router") -> SafeString:
    return format_html('<a href="{}">{}</a>', reverse("admin:routing_router", args=[tenant.pk]), text)


def quality(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
