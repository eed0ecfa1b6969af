"""Plans, and which tenant is on which."""

from collections.abc import Iterable

from django.core.exceptions import ValidationError

from billing.models import Budget, Plan, Subscription
from gateway.declaration.entries import Entry
from gateway.declaration.outcome import shown
from gateway.declaration.writing import Writer
from tenants.models import Tenant


def apply_plan(writer: Writer, entry: Entry) -> None:
    """A tier, and the quotas of every tenant that is on it."""
    plan = Plan.objects.filter(name=entry.values["name"]).first() or Plan()
    if not writer.write(entry, plan, entry.values, tenant=None):
        return
    try:
        changed = plan.sync_quotas(writer.actor)
    except ValidationError as exc:
        writer.refuse(entry, exc)
        return
    if changed:
        owners = sorted({quota.tenant.slug for quota in changed if quota.tenant})
        writer.differ(entry, None, "quotas", "", f"changed for {', '.join(owners)}")


def apply_subscription(writer: Writer, entry: Entry, tenant: Tenant, declared: Iterable[str]) -> None:
    """``declared`` are the plans in the file, also those that cannot be used."""
    wanted = entry.values["name"]
    plan = Plan.objects.filter(name=wanted).first()
    if plan is None:
        if wanted not in declared:
            writer.missing(entry, "name", wanted, "plan", Plan.objects.values_list("name", flat=True))
        return
    subscription = Subscription.objects.filter(tenant=tenant).first() or Subscription(tenant=tenant)
    values = {"plan": plan, **entry.only(("overrides", "discount_percent", "stripe_customer"))}
    if not writer.write(entry, subscription, values, tenant=tenant, key_of={"plan": "name"}):
        return
    try:
        changed = subscription.sync_quotas(writer.actor)
    except ValidationError as exc:
        writer.refuse(entry, exc)
        return
    for quota in changed:
        writer.differ(entry, tenant, quota.name, "", _quota_shown(quota))


def _quota_shown(quota: Budget) -> str:
    if not quota.enabled:
        return "(no limit)"
    return f"{shown(quota.cap)} a month, {'refused' if quota.hard else 'billed'} beyond"
