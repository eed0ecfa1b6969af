"""From a file to rows: installation first, then each tenant, in the order its parts refer to each other."""

from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection, transaction

from audit.actions import Action
from audit.record import Actor, changes_between, record
from billing.models import PriceVersion
from billing.models.budgets import follow_token
from billing.pricing import SERVICE_PRICES
from gateway.declaration import shapes
from gateway.declaration.alerting import Alerting
from gateway.declaration.budgets import Budgets
from gateway.declaration.document import Problem, Secret
from gateway.declaration.entries import Entry
from gateway.declaration.outcome import DeclarationRefused, NewToken, Outcome, shown
from gateway.declaration.owner import Owner
from gateway.declaration.plans import apply_plan, apply_subscription
from gateway.declaration.routing import Published, Routing, apply_strategy
from gateway.declaration.writing import Writer
from gateway.models import Alias, Deployment, Model, Provider, ProviderKey
from gateway.policy import VIRTUAL_NAMES
from gateway.providers import catalog
from routing.strategies import keep_strategy
from tenants.crypto import DecryptionFailed
from tenants.models import ApiToken, Membership, Project, Tenant, User, content_is_kept
from tenants.tokens import Peppers, matches

_PROVIDER_VALUES = ("kind", "on_disconnect", "deadlines", "region", "weight", "enabled")
_MODEL_VALUES = (
    "vendor_model", "fallbacks", "capabilities", "modality", "context_window", "max_output_tokens", "deadlines",
    "balancing", "hedging", "routed", "enabled",
)  # fmt: skip
_TOKEN_ATTRIBUTES = {
    "models": "allowed_models",
    "cidrs": "allowed_cidrs",
    "scopes": "scopes",
    "requests_per_minute": "requests_per_minute",
    "expires_at": "expires_at",
}


def apply(text: str, actor: Actor, *, plan: bool = False) -> Outcome:
    """Make the database agree with the declaration ``text``, wholly or not at all.

    What the text does not mention stays as it is. With ``plan`` everything is done and then rolled back, so
    that a plan is exactly what would happen. Raises DeclarationRefused.
    """
    root, problems = shapes.read(text)
    if root is None:
        raise DeclarationRefused(problems)
    writer = Writer(actor)
    with transaction.atomic():
        _one_at_a_time()
        _Installation(writer, root).apply()
        for entry in root.sections.get("tenants", ()):
            _apply_tenant(writer, entry, root)
        problems += writer.problems
        if problems:
            raise DeclarationRefused(problems)
        transaction.set_rollback(plan)
    return Outcome(plan, list(writer.changes.values()), writer.warnings, [] if plan else writer.new_tokens)


def _one_at_a_time() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('pointsman_apply'))")


def _apply_tenant(writer: Writer, entry: Entry, root: Entry) -> None:
    slug = entry.values.get("slug")
    if slug is None or not entry.usable:
        return
    tenant = Tenant.objects.filter(slug=slug).first() or Tenant()
    values = entry.only(("slug", "name", "enabled", "time_zone", "log_content"))
    is_new = tenant._state.adding
    if not is_new:
        _apply_plan_of(writer, entry, tenant, root)
    if writer.write(entry, tenant, values, tenant=tenant):
        if is_new:
            _apply_plan_of(writer, entry, tenant, root)
            _refuse_beyond_plan(writer, entry, tenant)
        _TenantParts(writer, entry, tenant).apply()


def _apply_plan_of(writer: Writer, entry: Entry, tenant: Tenant, root: Entry) -> None:
    """Before whatever needs a feature of it."""
    if "plan" in entry.values:
        plans = {plan.values["name"] for plan in root.sections.get("plans", ()) if "name" in plan.values}
        apply_subscription(writer, entry.values["plan"], tenant, plans)


def _refuse_beyond_plan(writer: Writer, entry: Entry, tenant: Tenant) -> None:
    """A new tenant had no plan yet when it was checked."""
    if not tenant.log_content:
        return
    try:
        content_is_kept.send(Tenant, tenant=tenant)
    except ValidationError as exc:
        writer.refuse(entry, exc)


class _Catalogue(Owner):
    """What models there are, who serves them and what they cost."""

    # ------------------------------------------------------------------ providers

    def apply_provider(self, entry: Entry) -> None:
        name = entry.values["name"]
        provider = Provider.objects.filter(tenant=self.tenant, name=name).first()
        values = entry.only(_PROVIDER_VALUES)
        if provider is None:
            provider = Provider(tenant=self.tenant)
            values = {"name": name, **entry.only(("base_url",)), **values}
        elif not self._move_provider(entry, provider):
            return
        if self.writer.write(entry, provider, values, tenant=self.tenant):
            self._apply_key(entry, provider)

    def _move_provider(self, entry: Entry, provider: Provider) -> bool:
        """A provider's address changes by a step of its own, which clears the key bound to the old one."""
        address, before = entry.values.get("base_url", provider.base_url), provider.base_url
        if address == before:
            return True
        try:
            provider.change_base_url(address, self.writer.actor)
        except ValidationError as exc:
            self.writer.refuse(entry, exc)
            return False
        self.writer.differ(entry, self.tenant, "base_url", shown(before), shown(address))
        return True

    def _apply_key(self, entry: Entry, provider: Provider) -> None:
        given: Secret | None = entry.values.get("api_key")
        key = provider.active_key()
        if key is not None and key.base_url != provider.effective_base_url:  # another kind may mean another address
            key.revoke(self.writer.actor)
            key = None
        if given is None or given.value is None:
            self._warn_about_key(provider, key, given)
            return
        if key is not None and _holds(key, given.value):
            return
        try:
            provider.set_key(given.value, self.writer.actor)
        except ValidationError as exc:
            self.writer.refuse(entry, exc, {"secret": "api_key"})
            return
        self.writer.differ(entry, self.tenant, "api_key", "(set)" if key else "(none)", "(changed)" if key else "(set)")

    def _warn_about_key(self, provider: Provider, key: ProviderKey | None, given: Secret | None) -> None:
        label = f"{self.tenant.slug}/{provider.name}" if self.tenant else provider.name
        if given is not None:
            state = "keeps its key" if key else "has no key"
            self.writer.warnings.append(
                f"provider {label} {state}: the environment variable {given.variable} is not set."
            )
        elif key is None and catalog.get(provider.kind).key_required:
            self.writer.warnings.append(f"provider {label} has no key and cannot be used until it is given one.")

    # ------------------------------------------------------------------ models

    def apply_model(self, entry: Entry) -> None:
        name = entry.values["name"]
        provider = self._find_provider(entry)
        if provider is None:
            return
        model = Model.objects.filter(tenant=self.tenant, name=name).first()
        values = {"provider": provider, **entry.only(_MODEL_VALUES)}
        if model is None:
            model = Model(tenant=self.tenant)
            values = {"name": name, "vendor_model": name, **values}
        if self.writer.write(entry, model, values, tenant=self.tenant):
            if "price" in entry.values:
                self._apply_price(entry, entry.values["price"], model=model)
            if "deployments" in entry.sections:
                self._apply_deployments(entry, model)

    def _apply_deployments(self, entry: Entry, model: Model) -> None:
        """The list as a whole: what it does not name goes."""
        former = {(row.provider_id, row.vendor_model): row for row in model.deployments.select_related("provider")}
        for position, part in enumerate(entry.sections["deployments"]):
            provider = self._find_provider(part) if part.usable else None
            if provider is None:
                continue
            vendor_model = part.values.get("vendor_model", "")
            row = former.pop((provider.pk, vendor_model), None) or Deployment(model=model)
            values = {"provider": provider, "vendor_model": vendor_model, "weight": None, "position": position}
            self.writer.write(part, row, values | part.only(("weight",)), tenant=self.tenant, within=model.name)
        for row in former.values():
            record(
                self.writer.actor,
                Action.DEPLOYMENT_REMOVED,
                row,
                tenant=self.tenant,
                changes=changes_between(row, None),
            )
            row.delete()
            self.writer.differ(entry, self.tenant, "deployments", row.provider.name, "(removed)")

    def _find_provider(self, entry: Entry) -> Provider | None:
        wanted = entry.values["provider"]
        visible = Provider.objects.filter(self.visible)
        own_first = sorted(visible.filter(name=wanted), key=lambda provider: provider.tenant_id is None)
        if own_first:
            return own_first[0]
        if wanted not in self.declared("providers"):
            self.writer.missing(entry, "provider", wanted, "provider", visible.values_list("name", flat=True))
        return None

    def check_references(self) -> None:
        """Fallbacks and alias targets, once every model is there."""
        models = Model.objects.filter(self.visible).select_related("provider")
        names = self.declared("models") | self.declared("aliases") | {model.name for model in models}
        names |= set(Alias.objects.filter(tenant=self.tenant).values_list("name", flat=True))
        qualified = {f"{model.provider.name}/{name}" for model in models for name in (model.name, model.vendor_model)}
        for entry in self.entry.sections.get("models", ()):
            for wanted in entry.values.get("fallbacks", ()):
                if wanted not in names | qualified:
                    self.writer.missing(entry, "fallbacks", wanted, "model", names)
        for entry in self.entry.sections.get("aliases", ()):
            wanted = entry.values.get("model")
            known = {model.name for model in models} | self.declared("models") | VIRTUAL_NAMES
            if wanted is not None and wanted not in known:
                self.writer.missing(entry, "model", wanted, "model", known)

    # ------------------------------------------------------------------ prices

    def _apply_price(self, entry: Entry, price: dict[str, Any], **applies_to: Any) -> None:
        try:
            version, is_new = PriceVersion.set_price(actor=self.writer.actor, **applies_to, **_price_values(price))
        except ValidationError as exc:
            self.writer.refuse(entry, exc)
            return
        if is_new:
            before = _predecessor(version)
            creates = before is None and entry.shape is shapes.PRICE
            self.writer.differ(
                entry, self.tenant, "price", _price_shown(before), _price_shown(version), creates=creates
            )


class _Installation(_Catalogue):
    """What is offered to all tenants."""

    def __init__(self, writer: Writer, entry: Entry) -> None:
        super().__init__(writer, entry, None)

    def apply(self) -> None:
        for entry in self.usable("providers"):
            self.apply_provider(entry)
        for entry in self.usable("models"):
            self.apply_model(entry)
        for entry in self.usable("prices"):
            self._apply_price(
                entry,
                entry.only(shapes.PRICE_FIELDS),
                provider_kind=entry.values["kind"],
                vendor_model_pattern=entry.values["vendor_model"],
                **entry.only(("effective_from",)),
            )
        self.check_references()
        for entry in self.usable("plans"):
            apply_plan(self.writer, entry)
        Budgets(self.writer, self.entry, None).apply()
        Alerting(self.writer, self.entry, None).apply()
        Published(self.writer, self.entry, None).apply()


class _TenantParts(_Catalogue):
    """What one tenant owns."""

    tenant: Tenant

    def apply(self) -> None:
        for entry in self.usable("projects"):
            self._apply_project(entry)
        for entry in self.usable("providers"):
            self.apply_provider(entry)
        for entry in self.usable("models"):
            self.apply_model(entry)
        for entry in self.usable("aliases"):
            self._apply_alias(entry)
        for entry in self.usable("tokens"):
            self._apply_token(entry)
        for entry in self.usable("members"):
            self._apply_member(entry)
        self.check_references()
        Budgets(self.writer, self.entry, self.tenant).apply()
        Alerting(self.writer, self.entry, self.tenant).apply()
        Routing(self.writer, self.entry, self.tenant).apply()

    def _apply_project(self, entry: Entry) -> None:
        slug = entry.values["slug"]
        project = Project.objects.filter(tenant=self.tenant, slug=slug).first() or Project(tenant=self.tenant)
        if self.writer.write(entry, project, entry.only(("slug", "name")), tenant=self.tenant):
            apply_strategy(self.writer, entry, self.tenant, project)

    def _apply_alias(self, entry: Entry) -> None:
        name = entry.values["name"]
        alias = Alias.objects.filter(tenant=self.tenant, name=name).first() or Alias(tenant=self.tenant)
        values = {"name": name, "model_name": entry.values["model"]}
        self.writer.write(entry, alias, values, tenant=self.tenant, key_of={"model_name": "model"})

    def _apply_member(self, entry: Entry) -> None:
        project = self.find_project(entry)
        if project is None and entry.values.get("project") is not None:
            return
        user = self._find_or_create_user(entry)
        if user is None:
            return
        membership = Membership.objects.filter(tenant=self.tenant, user=user, project=project).first()
        membership = membership or Membership(tenant=self.tenant, user=user, project=project)
        self.writer.write(entry, membership, entry.only(("role",)), tenant=self.tenant)

    def _find_or_create_user(self, entry: Entry) -> User | None:
        """A person who is new here gets an account without a password; an operator sets one, or mails a link."""
        email = entry.values["email"]
        user = User.objects.filter(email__iexact=email).first()
        if user is not None:
            return user
        user = User(email=User.objects.normalize_email(email))
        user.set_unusable_password()
        try:
            user.full_clean()
        except ValidationError as exc:
            self.writer.refuse(entry, exc)
            return None
        user.save()
        record(self.writer.actor, Action.USER_CREATED, user, tenant=None, changes=changes_between(None, user))
        return user

    # ------------------------------------------------------------------ tokens

    def _apply_token(self, entry: Entry) -> None:
        project = self.find_project(entry)
        value = self._token_value(entry)
        if project is None or ("value" in entry.lines and value is None):
            return
        token = ApiToken.objects.filter(
            tenant=self.tenant, project=project, name=entry.values["name"], revoked_at=None
        ).first()
        if token is None:
            token = self._issue(entry, project, value)
        elif value is not None and not matches(value, bytes(token.digest), _peppers()[token.pepper_number]):
            token.revoke(self.writer.actor)
            token = self._issue(entry, project, value, previous=token)
        else:
            values = {_TOKEN_ATTRIBUTES[key]: given for key, given in entry.only(_TOKEN_ATTRIBUTES).items()}
            key_of = {attribute: key for key, attribute in _TOKEN_ATTRIBUTES.items()}
            self.writer.write(entry, token, values, tenant=self.tenant, key_of=key_of)
        if token is not None:
            apply_strategy(self.writer, entry, self.tenant, token)

    def _token_value(self, entry: Entry) -> str | None:
        given: Secret | None = entry.values.get("value")
        if given is None:
            return None
        if given.value is None:
            message = f"value: the environment variable {given.variable} is not set."
            self.writer.problems.append(Problem(entry.line_of("value"), message))
        return given.value

    def _issue(
        self, entry: Entry, project: Project, value: str | None, previous: ApiToken | None = None
    ) -> ApiToken | None:
        attributes = _TOKEN_ATTRIBUTES.items()
        kept = {attribute: getattr(previous, attribute) for _, attribute in attributes} if previous else {}
        kept |= {attribute: entry.values[key] for key, attribute in attributes if key in entry.values}
        try:
            issued, text = ApiToken.issue(
                tenant=self.tenant,
                project=project,
                name=entry.values["name"],
                actor=self.writer.actor,
                value=value,
                **kept,
            )
        except ValidationError as exc:
            self.writer.refuse(entry, exc, {attribute: key for key, attribute in attributes})
            return None
        if previous:
            follow_token(previous, issued, self.writer.actor)
            keep_strategy(previous, issued, self.writer.actor)
            self.writer.differ(entry, self.tenant, "value", "(set)", "(changed: the old one is revoked)")
        else:
            self.writer.change("create", "token", f"{self.tenant.slug}/{entry.label}")
        if value is None:
            self.writer.new_tokens.append(NewToken(self.tenant.slug, project.slug, entry.values["name"], text))
        return issued


def _holds(key: ProviderKey, secret: str) -> bool:
    """Whether a stored key is ``secret``; one that cannot be read any more is not."""
    try:
        return key.reveal() == secret
    except DecryptionFailed:
        return False


def _peppers() -> Peppers:
    return Peppers.parse(settings.TOKEN_PEPPERS)


def _predecessor(version: PriceVersion) -> PriceVersion | None:
    """What held until ``version`` does."""
    same_subject = PriceVersion.objects.filter(
        tenant=version.tenant_id,
        model=version.model_id,
        provider_kind=version.provider_kind,
        vendor_model_pattern=version.vendor_model_pattern,
    )
    return same_subject.filter(effective_from__lt=version.effective_from).order_by("-effective_from").first()


def _price_values(price: dict[str, Any]) -> dict[str, Any]:
    """Tiers and further prices are kept as JSON, their amounts as text so that they stay exact."""
    return price | {key: _all_exact(price[key]) for key in ("tiers", *SERVICE_PRICES) if key in price}


def _all_exact(value: Any) -> Any:
    if isinstance(value, list):
        return [_all_exact(item) for item in value]
    if isinstance(value, dict):
        return {key: _all_exact(item) for key, item in value.items()}
    return _exact(value)


def _exact(value: Any) -> Any:
    return format(value.normalize(), "f") if isinstance(value, Decimal) else value


def _price_shown(version: PriceVersion | None) -> str:
    if version is None:
        return shown(None)
    parts = {key: getattr(version, key) for key in shapes.PRICE_FIELDS}
    told = {key: _exact(value) for key, value in parts.items() if value not in (None, [], {})}
    if not version.per_request:
        del told["per_request"]
    return shown(told)
