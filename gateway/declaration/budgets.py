"""Budgets and rate limits, and the part of the traffic each holds for."""

from typing import Any, Final

from django.db.models import Q, QuerySet

from billing.models import Budget, RateLimit
from billing.models.budgets import EVERY
from gateway.declaration.entries import Entry
from gateway.declaration.owner import Owner
from gateway.models import Model, Provider
from tenants.models import ApiToken

_WITHOUT_OF: Final = frozenset({"installation", "tenant"})
_KEYS: Final = {
    "project": "of", "token": "of", "subject": "of", "tenant": "scope", "cap": "limit", "metric": "limit",
    "rolling_s": "rolling", "thresholds": "alerts",
}  # fmt: skip


class Budgets(Owner):
    """What may be spent, and how fast."""

    def apply(self) -> None:
        for entry in self.usable("budgets"):
            self._apply_budget(entry)
        for entry in self.usable("limits"):
            self._apply_limit(entry)

    def _apply_budget(self, entry: Entry) -> None:
        """A changed cap is a change of the same row: what was spent and is held stays."""
        budget = Budget.objects.filter(tenant=self.tenant, name=entry.values["name"]).first()
        subject = self._subject(entry)
        if subject is None or not self._has_one_period(entry):
            return
        if budget is None:
            budget = Budget(tenant=self.tenant)
        elif budget.is_quota:
            self.problem(entry, "name", "this budget is made by the tenant's plan; change the plan instead.")
            return
        values = {**entry.only(("name", "scope")), **subject, **_limit(entry), **_period(entry)}
        values |= entry.only(("hard", "enabled"))
        if "alerts" in entry.values:
            values["thresholds"] = sorted(set(entry.values["alerts"]))
        self.writer.write(entry, budget, values, tenant=self.tenant, key_of=_KEYS)

    def _has_one_period(self, entry: Entry) -> bool:
        if "period" in entry.values and "rolling" in entry.values:
            self.problem(entry, "rolling", "give a period or a rolling window, not both.")
            return False
        return True

    def _apply_limit(self, entry: Entry) -> None:
        subject = self._subject(entry)
        if subject is None:
            return
        limit = self._find_limit(entry, subject) or RateLimit(tenant=self.tenant)
        values = {**entry.only(("scope",)), **subject, **entry.only(RateLimit.RATES)}
        self.writer.write(entry, limit, values, tenant=self.tenant, key_of=_KEYS)

    def _find_limit(self, entry: Entry, subject: dict[str, Any]) -> RateLimit | None:
        """The limit of this scope; a token's may still name one that was replaced since."""
        limits = RateLimit.objects.filter(tenant=self.tenant, scope=entry.values["scope"])
        found = limits.filter(**subject).first()
        token = subject.get("token")
        if found is not None or token is None:
            return found
        replaced = Q(token__project=token.project, token__name=token.name, token__revoked_at__isnull=False)
        return limits.filter(replaced).order_by("-token__revoked_at").first()

    # ------------------------------------------------------------------ what "of" names

    def _subject(self, entry: Entry) -> dict[str, Any] | None:
        """What it holds for, by attribute; None, with the problem on the list, where that cannot be told."""
        scope, of = entry.values["scope"], entry.values.get("of")
        if "of" in entry.lines and of is None:
            return None
        if scope in _WITHOUT_OF:
            if of is not None:
                self.problem(entry, "of", f"the scope '{scope}' is a whole; leave 'of' out.")
                return None
            return {}
        if of is None:
            self.problem(entry, "scope", f"say which {scope}, with 'of'.")
            return None
        match scope:
            case "project":
                project = self.find_project(entry, "of")
                return {"project": project} if project else None
            case "token":
                token = self._find_token(entry, of)
                return {"token": token} if token else None
        return {"subject": of} if self._is_known(entry, scope, of) else None

    def _find_token(self, entry: Entry, of: str) -> ApiToken | None:
        """A live token by its name, or by ``project/name`` where several projects have one of that name."""
        live = ApiToken.objects.filter(tenant=self.tenant, revoked_at=None).select_related("project")
        found = [token for token in live if of in (token.name, f"{token.project.slug}/{token.name}")]
        if len(found) == 1:
            return found[0]
        if found:
            choices = ", ".join(sorted(f"{token.project.slug}/{token.name}" for token in found))
            self.problem(entry, "of", f"there are several tokens '{of}'; say which: {choices}.")
        elif of not in self._declared_tokens():
            self.writer.missing(entry, "of", of, "token", (token.name for token in live))
        return None

    def _declared_tokens(self) -> set[str]:
        names = set()
        for entry in self.entry.sections.get("tokens", ()):
            if "name" in entry.values:
                names |= {entry.values["name"], f"{entry.values.get('project')}/{entry.values['name']}"}
        return names

    def _is_known(self, entry: Entry, scope: str, of: str) -> bool:
        """Models and providers must be there; end users and budget keys are whatever callers send."""
        rows: QuerySet[Model] | QuerySet[Provider]
        match scope:
            case "model":
                rows = Model.objects.filter(self.visible)
            case "provider":
                rows = Provider.objects.filter(self.visible)
            case _:
                return True
        names = set(rows.values_list("name", flat=True))
        if of == EVERY or of in names:
            return True
        if of not in self.declared(f"{scope}s"):
            self.writer.missing(entry, "of", of, scope, names)
        return False


def _limit(entry: Entry) -> dict[str, Any]:
    [(metric, cap)] = entry.values["limit"].items()
    return {"cap": cap, "metric": str(metric)}


def _period(entry: Entry) -> dict[str, Any]:
    if "rolling" in entry.values:
        return {"period": Budget.Period.ROLLING.value, "rolling_s": entry.values["rolling"]}
    return {"period": entry.values["period"], "rolling_s": None} if "period" in entry.values else {}
