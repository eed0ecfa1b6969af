"""The operators' pages of tenants, projects, people and API tokens."""

import zoneinfo
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Count, Prefetch, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.actions import Action
from audit.admin_trail import AuditedAdmin
from audit.record import changes_between, record
from gateway.admin_columns import NOTHING, badge, count_link, exact_usd, its_rows, list_link, when_column, words
from gateway.admin_forms import CheckBoxesField, LinesField, OwnedForm
from gateway.admin_pages import ReadOnlyInline, labelled
from gateway.rows import first_id
from tenants.models import ApiToken, Membership, Project, Tenant, User

admin.site.unregister(Group)  # permissions come from roles (tenants.roles), not from Django's groups

_TONES = {"active": "good", "expired": "warn", "revoked": "quiet"}


class LabelledInline(admin.TabularInline):  # type: ignore[type-arg]
    extra = 0

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return labelled(super().formfield_for_foreignkey(db_field, request, **kwargs))


class ProjectInline(LabelledInline):
    model = Project
    fields = ("slug", "name")
    show_change_link = True
    can_delete = False


class MembershipInline(LabelledInline):
    model = Membership
    fields = ("user", "role", "project")
    autocomplete_fields = ("user", "project")


class TokenInline(ReadOnlyInline):
    model = ApiToken
    fields = (
        "name", "project", "state", "visible", "allowed", "requests_per_minute",
        when_column("expires_at", "expires"), when_column("created_at", "issued"),
    )  # fmt: skip
    verbose_name_plural = "live API tokens"

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        return super().get_queryset(request).filter(revoked_at=None).select_related("project")

    @admin.display(description="status")
    def state(self, token: ApiToken) -> SafeString:
        return token_badge(token)

    @admin.display(description="token")
    def visible(self, token: ApiToken) -> str:
        return visible_part(token)

    @admin.display(description="models")
    def allowed(self, token: ApiToken) -> SafeString | str:
        return words(token.allowed_models)


class TenantForm(forms.ModelForm):  # type: ignore[type-arg]
    time_zone = forms.ChoiceField(
        choices=[(name, name) for name in sorted(zoneinfo.available_timezones())],
        initial="UTC",
        help_text="Where its calendar budgets roll over.",
    )


@admin.register(Tenant)
class TenantAdmin(AuditedAdmin):
    form = TenantForm
    list_display = ("slug", "name", "state", "projects_", "live_tokens", "requests_today", "spend_this_month")
    list_filter = ("enabled", "log_content")
    search_fields = ("slug", "name")
    fieldsets = (
        (None, {"fields": ("slug", "name", "enabled", "rows")}),
        ("Settings", {"fields": ("time_zone", "log_content")}),
    )
    readonly_fields = ("rows",)
    inlines = (ProjectInline, MembershipInline, TokenInline)
    actions = ("switch_on", "switch_off")
    object_actions = ("switch_on", "switch_off")
    careful_actions = ("switch_off",)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        _add_figures(changelist.result_list)
        return changelist

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Its ledger and audit trail outlive it: a tenant is switched off, not deleted."""
        return False

    def offers(self, action: str, obj: Tenant) -> bool:
        return obj.enabled == (action == "switch_off")

    @admin.display(description="status", ordering="enabled")
    def state(self, tenant: Tenant) -> SafeString:
        return badge("on", "good") if tenant.enabled else badge("off", "quiet")

    @admin.display(description="projects")
    def projects_(self, tenant: Any) -> SafeString:
        return count_link(tenant.figures["projects"], "tenants_project", tenant__id__exact=tenant.pk)

    @admin.display(description="live tokens")
    def live_tokens(self, tenant: Any) -> SafeString:
        return count_link(tenant.figures["tokens"], "tenants_apitoken", tenant__id__exact=tenant.pk, status="live")

    @admin.display(description="requests today")
    def requests_today(self, tenant: Any) -> SafeString:
        return count_link(tenant.figures["requests"], "gateway_requestlog", tenant__id__exact=tenant.pk)

    @admin.display(description="spend this month, USD")
    def spend_this_month(self, tenant: Any) -> SafeString:
        return exact_usd(tenant.figures["spend"])

    @admin.display(description="see also")
    def rows(self, tenant: Tenant) -> SafeString | str:
        if tenant._state.adding:
            return NOTHING
        lists = its_rows(
            tenant,
            "tenant__id__exact",
            ("tenants_apitoken", "tokens"),
            ("gateway_provider", "providers"),
            ("gateway_model", "models"),
            ("billing_budget", "budgets"),
            ("billing_ratelimit", "limits"),
            ("billing_alertrule", "alert rules"),
            ("billing_alert", "alerts"),
            ("gateway_requestlog", "requests"),
            ("billing_attempt", "ledger"),
            ("billing_usagereport", "spend by the day"),
            ("audit_auditevent", "audit"),
        )
        spend = list_link("billing_usagehour", "spend by the hour", tenant=tenant.pk)
        router = reverse("admin:routing_router", args=[tenant.pk])
        return format_html('{} · {} · <a href="{}">router</a>', lists, spend, router)

    @admin.action(description="Switch on")
    def switch_on(self, request: HttpRequest, queryset: QuerySet[Tenant]) -> None:
        changed = self.set_on_all(request, queryset, enabled=True)
        self.message_user(request, f"{changed} switched on: their tokens work again.", messages.SUCCESS)

    @admin.action(description="Switch off")
    def switch_off(self, request: HttpRequest, queryset: QuerySet[Tenant]) -> None:
        changed = self.set_on_all(request, queryset, enabled=False)
        self.message_user(request, f"{changed} switched off: all their tokens are refused.", messages.SUCCESS)


def _add_figures(tenants: Iterable[Any]) -> None:
    """What the list says about each, in one grouped query for each figure."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    midnight, month = first_id(today), first_id(today.replace(day=1))
    shown = Tenant.objects.filter(pk__in=[tenant.pk for tenant in tenants]).order_by()

    def grouped(figure: Any, **condition: Any) -> dict[UUID, Any]:
        return dict(shown.filter(**condition).values_list("pk").annotate(figure))

    projects = grouped(Count("projects"))
    tokens = grouped(Count("tokens"), tokens__revoked_at=None)
    requests = grouped(Count("requests"), requests__id__gte=midnight)
    spent = grouped(Sum("settlements__cost_usd"), settlements__attempt__gte=month)
    adjusted = grouped(Sum("adjustments__amount_usd"), adjustments__id__gte=month)
    for tenant in tenants:
        tenant.figures = {
            "projects": projects.get(tenant.pk, 0),
            "tokens": tokens.get(tenant.pk, 0),
            "requests": requests.get(tenant.pk, 0),
            "spend": (spent.get(tenant.pk) or 0) + (adjusted.get(tenant.pk) or 0),
        }


@admin.register(Project)
class ProjectAdmin(AuditedAdmin):
    form = OwnedForm
    list_display = ("slug", "name", "tenant", "live_tokens")
    list_filter = ("tenant",)
    list_select_related = ("tenant",)
    search_fields = ("slug", "name", "tenant__slug")
    ordering = ("tenant__slug", "slug")
    fields = ("tenant", "slug", "name", "rows")
    readonly_fields = ("rows",)
    autocomplete_fields = ("tenant",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        live = Count("tokens", filter=Q(tokens__revoked_at=None))
        return super().get_queryset(request).annotate(live_tokens=live)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "tenant") if obj else self.readonly_fields

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tokens, requests and the ledger refer to it."""
        return False

    @admin.display(description="live tokens", ordering="live_tokens")
    def live_tokens(self, project: Any) -> SafeString:
        return count_link(project.live_tokens, "tenants_apitoken", project__id__exact=project.pk, status="live")

    @admin.display(description="see also")
    def rows(self, project: Project) -> SafeString | str:
        return its_rows(
            project,
            "project__id__exact",
            ("tenants_apitoken", "tokens"),
            ("gateway_requestlog", "requests"),
            ("billing_attempt", "ledger"),
        )


class TokenForm(OwnedForm):
    """A token belongs to its project's tenant, so only the project is asked for."""

    scopes = CheckBoxesField(
        ApiToken.Scope.values, initial=[ApiToken.Scope.INFERENCE], help_text="What it may be used for."
    )
    allowed_models = LinesField(
        required=False,
        initial=["*"],
        help_text='One a line: names or patterns ("gpt-*"); "*" allows all, nothing allows none.',
    )
    allowed_cidrs = LinesField(
        label="Allowed networks",
        required=False,
        help_text='One a line ("203.0.113.0/24"); nothing: usable from anywhere.',
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if project := cleaned.get("project"):
            self.instance.tenant = project.tenant
        return cleaned

    def _get_validation_exclusions(self) -> set[str]:
        """A live token's name is unique in its project, which takes these two to see."""
        excluded = super()._get_validation_exclusions()
        return excluded - {"tenant", "revoked_at"} if self.instance.tenant_id else excluded


class LiveFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "not revoked"), ("revoked", "revoked")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(revoked_at__isnull=self.value() == "live") if self.value() else queryset


@admin.register(ApiToken)
class ApiTokenAdmin(AuditedAdmin):
    form = TokenForm
    list_display = (
        "name", "owner", "visible", "state", "models", when_column("expires_at", "expires"),
        when_column("created_at", "issued"),
    )  # fmt: skip
    list_filter = (LiveFilter, "tenant")
    list_select_related = ("tenant", "project")
    search_fields = ("name", "=public_id", "=last_four", "tenant__slug")
    date_hierarchy = "created_at"
    autocomplete_fields = ("project",)
    fieldsets = (
        (None, {"fields": ("project", "name", "scopes", "allowed_models")}),
        ("Limits", {"fields": ("requests_per_minute", "expires_at", "allowed_cidrs")}),
    )
    facts = (
        "Facts", {"fields": ("tenant", "visible", "state", "created_by", "created_at", "revoked_at", "rows")}
    )  # fmt: skip
    readonly_fields = ("tenant", "visible", "state", "created_by", "created_at", "revoked_at", "rows")
    actions = ("rotate", "revoke")
    object_actions = ("rotate", "revoke")
    careful_actions = ("rotate", "revoke")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.fieldsets, self.facts) if obj else self.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "project") if obj else self.readonly_fields

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None or obj.revoked_at is None

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """The ledger refers to it: a token is revoked, not deleted."""
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """A project's page links to its tokens."""
        return lookup == "project__id__exact" or super().lookup_allowed(lookup, value, request)

    def offers(self, action: str, obj: ApiToken) -> bool:
        return obj.revoked_at is None

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        chosen = ("project", "name", "scopes", "allowed_models", "allowed_cidrs", "requests_per_minute", "expires_at")
        issued, obj.shown_once = ApiToken.issue(
            tenant=obj.project.tenant, actor=self.actor(request), **{name: form.cleaned_data[name] for name in chosen}
        )
        obj.pk = issued.pk

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        return self._show_once(request, "Token issued", [(obj, obj.shown_once)])

    @admin.action(description="Rotate")
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> HttpResponse:
        """New tokens with the same rights; the old ones are refused from the next request on."""
        chosen = queryset.filter(revoked_at=None).select_related("tenant", "project")
        with transaction.atomic():
            rotated = [token.rotate(self.actor(request)) for token in chosen if token.status == "active"]
        return self._show_once(request, "Tokens rotated", rotated)

    @admin.action(description="Revoke")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        with transaction.atomic():
            live = list(queryset.filter(revoked_at=None))
            for token in live:
                token.revoke(self.actor(request))
        self.message_user(request, f"{len(live)} revoked: refused from the next request on.", messages.SUCCESS)

    def _show_once(self, request: HttpRequest, title: str, issued: list[tuple[ApiToken, str]]) -> HttpResponse:
        """The one page that ever holds a token's text; nothing keeps it (the site's pages are never cached)."""
        context = {**self.admin_site.each_context(request), "title": title, "opts": self.opts, "issued": issued}
        response = TemplateResponse(request, "admin/tenants/apitoken/issued.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @admin.display(description="token")
    def visible(self, token: ApiToken) -> str:
        return visible_part(token)

    @admin.display(description="status")
    def state(self, token: ApiToken) -> SafeString:
        return token_badge(token)

    @admin.display(description="of", ordering="tenant__slug")
    def owner(self, token: ApiToken) -> str:
        return f"{token.tenant} / {token.project}"

    @admin.display(description="models")
    def models(self, token: ApiToken) -> SafeString | str:
        return words(token.allowed_models)

    @admin.display(description="see also")
    def rows(self, token: ApiToken) -> SafeString | str:
        return its_rows(token, "token__id__exact", ("gateway_requestlog", "requests"), ("billing_attempt", "ledger"))


@admin.register(Membership)
class MembershipAdmin(AuditedAdmin):
    list_display = ("user", "tenant", "role", "project", "created_at")
    list_filter = ("role", "tenant")
    list_select_related = ("user", "tenant", "project")
    search_fields = ("user__email", "tenant__slug")
    autocomplete_fields = ("user", "tenant", "project")
    fields = ("tenant", "user", "role", "project")


class UserCreationForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("email",)


class UserMembershipInline(LabelledInline):
    model = Membership
    fields = ("tenant", "role", "project")
    autocomplete_fields = ("tenant", "project")


@admin.register(User)
class OperatorUserAdmin(AuditedAdmin, UserAdmin):  # type: ignore[type-arg]
    """People sign in with their e-mail address; operators are superusers, members have roles in tenants."""

    add_form = UserCreationForm
    list_display = ("email", "name", "operator", "member_of", "is_active", when_column("last_login", "last sign-in"))
    list_filter = ("is_superuser", "is_active", "memberships__tenant")
    search_fields = ("email", "first_name", "last_name")
    ordering = ("email",)
    date_hierarchy = None
    fieldsets = (
        (None, {"fields": ("email", "password", "first_name", "last_name")}),
        ("Access", {"fields": ("is_active", "is_staff", "is_superuser")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "usable_password", "password1", "password2")}),)
    readonly_fields = ("last_login", "date_joined")
    filter_horizontal = ()
    inlines: ClassVar[Any] = (UserMembershipInline,)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj else ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        memberships = Membership.objects.select_related("tenant")
        return super().get_queryset(request).prefetch_related(Prefetch("memberships", memberships))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """The audit trail names them: people are made inactive, not deleted."""
        return False

    @transaction.atomic
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        before = self.get_object(request, id)
        response = super().user_change_password(request, id, form_url)
        after = self.get_object(request, id)
        if after is not None and (changes := changes_between(before, after)):
            record(self.actor(request), Action.USER_CHANGED, after, tenant=None, changes=changes)
        return response

    @admin.display(description="name")
    def name(self, user: User) -> str:
        return user.get_full_name()

    @admin.display(description="operator", ordering="is_superuser")
    def operator(self, user: User) -> SafeString | str:
        return badge("operator", "good") if user.is_staff and user.is_superuser else NOTHING

    @admin.display(description="member of")
    def member_of(self, user: User) -> SafeString | str:
        return words(f"{member.tenant.slug}: {member.role}" for member in user.memberships.all())


def token_badge(token: ApiToken) -> SafeString:
    return badge(token.status, _TONES[token.status])  # type: ignore[arg-type]


def visible_part(token: ApiToken) -> str:
    """What may be shown of a token for ever."""
    return f"gw_{token.public_id}_…{token.last_four}" if token.public_id else f"…{token.last_four}"
