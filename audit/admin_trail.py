"""Every change an operator makes through the admin is in the audit trail, or it does not happen.

Django's admin writes in one transaction per form; the event is recorded inside it, so an audit trail that cannot
be written rolls the change back. Django's own log of admin actions is a second, weaker trail and stays empty; the
History button leads to the audit trail of the row.
"""

from typing import Any

from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from audit.record import Actor, changes_between, record
from gateway.admin_pages import OperatorAdmin

_NOUNS = {
    "membership": "member",
    "apitoken": "token",
    "ratelimit": "rate_limit",
    "alertchannel": "alert_channel",
    "alertrule": "alert_rule",
}


class AuditedAdmin(OperatorAdmin):
    """A page whose rows can be changed. The model's own audited methods are called with :meth:`actor`."""

    has_history = True

    def actor(self, request: HttpRequest) -> Actor:
        """Whom the events name."""
        return self.admin_site.actor(request)  # type: ignore[attr-defined]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        self.save_audited(request, obj, is_new=not change)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_audited(request, obj)

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for obj in queryset:
            self.delete_audited(request, obj)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        formset.save(commit=False)
        for obj in formset.deleted_objects:
            self.delete_audited(request, obj)
        for obj in formset.new_objects:
            self.save_audited(request, obj, is_new=True)
        for obj, _ in formset.changed_objects:
            self.save_audited(request, obj, is_new=False)
        formset.save_m2m()

    @transaction.atomic
    def save_audited(self, request: HttpRequest, obj: Model, *, is_new: bool) -> None:
        """Save one row and record it, with what changed; a save that changes nothing leaves no trace."""
        before = None if is_new else type(obj)._default_manager.get(pk=obj.pk)
        obj.save()
        changes = changes_between(before, obj)
        if is_new or changes:
            self._record(request, "created" if is_new else "changed", obj, changes)

    @transaction.atomic
    def delete_audited(self, request: HttpRequest, obj: Model) -> None:
        self._record(request, "removed", obj, changes_between(obj, None))
        obj.delete()

    def set_on_all(self, request: HttpRequest, queryset: QuerySet[Any], **values: Any) -> int:
        """Give rows of a list the same values; returns how many of them that changed."""
        changed = 0
        for obj in queryset:
            if all(getattr(obj, name) == value for name, value in values.items()):
                continue
            for name, value in values.items():
                setattr(obj, name, value)
            self.save_audited(request, obj, is_new=False)
            changed += 1
        return changed

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Recorded where it is saved."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Recorded where it is saved."""

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Recorded where it is deleted."""

    def _record(self, request: HttpRequest, verb: str, obj: Model, changes: dict[str, Any]) -> None:
        record(self.actor(request), f"{_noun(obj)}.{verb}", obj, tenant=_tenant_of(obj), changes=changes)


def _noun(obj: Model) -> str:
    """As :class:`audit.actions.Action` calls it."""
    return _NOUNS.get(obj._meta.model_name, obj._meta.model_name)  # type: ignore[arg-type,return-value]


def _tenant_of(obj: Any) -> Any:
    """The chain that an event about this row belongs to; None is the installation's."""
    return obj if obj._meta.label == "tenants.Tenant" else getattr(obj, "tenant", None)
