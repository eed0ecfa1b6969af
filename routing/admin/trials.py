"""Experiments and ramps: begun and ended here, or by the jobs."""

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.postgres.forms import SimpleArrayField
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from gateway.admin_columns import NOTHING, badge, list_link, object_link, percent, usd, when_column, with_detail, words
from gateway.admin_forms import LinesField, OwnedForm
from gateway.admin_pages import ReadOnlyAdmin
from routing.admin.pages import (
    JsonListField,
    RoutingAdmin,
    cell_column,
    refuse_unknown,
    tenant_column,
    tenant_of,
    warn_of_unrouted,
)
from routing.experiments.guards import Guard, Metric
from routing.models import Experiment, ExperimentEvidence, Ramp
from routing.trials import NotRunning, conclusion_of, stop_experiment
from routing.trials.ramps import LIVE, end_ramp

_RAMP_TONES = {"active": "good", "done": "good", "rolled_back": "bad", "ended": "quiet"}


class CellForm(OwnedForm):
    """Of a row that there may be only one running of in a cell."""

    def _get_validation_exclusions(self) -> set[str]:
        return super()._get_validation_exclusions() - {"tenant", "task", "complexity", "status"}


class ExperimentForm(CellForm):
    arms = LinesField(help_text="Names of models, one a line; the first is the control that the others must beat.")
    shares = SimpleArrayField(
        forms.FloatField(), required=False, help_text='Of the traffic, by arm: "0.8, 0.2". Nothing: equal shares.'
    )
    guards = JsonListField(
        required=False,
        help_text='What must not get worse: [{"metric": "errors", "worst_absolute": 0.02}]. '
        "Metrics: cost, p95, errors, refusals. Nothing: the usual ones.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.arms is None:  # the row checks them even where the form could not read any
            self.instance.arms = []

    def clean_guards(self) -> list[Any]:
        guards: list[Any] = self.cleaned_data["guards"]
        if not isinstance(guards, list):
            raise ValidationError("This must be a list.")
        for place, guard in enumerate(guards, 1):
            try:
                _check_guard(guard)
            except ValueError as exc:
                raise ValidationError(f"Guard {place}: {exc}.") from None
        return guards

    def _post_clean(self) -> None:
        super()._post_clean()
        refuse_unknown(self, "arms", tenant_of(self), self.cleaned_data.get("arms") or ())


def _check_guard(guard: Any) -> None:
    """Raises ValueError with the reason."""
    metrics = ", ".join(metric.value for metric in Metric)
    if not isinstance(guard, dict) or not isinstance(guard.get("metric"), str):
        raise ValueError(f'it must say of which metric it is: {{"metric": one of {metrics}, ...}}')
    if guard["metric"] not in [metric.value for metric in Metric]:
        raise ValueError(f"there is no metric {guard['metric'][:100]!r}; there are {metrics}")
    known = [field.name for field in fields(Guard)]
    if unknown := [str(key) for key in guard if key not in known]:
        raise ValueError(f"there is no {unknown[0][:100]!r}; it takes {', '.join(known)}")
    try:
        Guard(**guard)
    except TypeError:
        raise ValueError("its limits must be numbers") from None


@admin.register(Experiment)
class ExperimentAdmin(RoutingAdmin):
    """What one compares stays as it is once it runs: its evidence is about just that."""

    noun = "experiment"
    form = ExperimentForm
    change_form_template = "admin/routing/experiment/change_form.html"
    compared = ("name", "task", "complexity", "arms", "shares", "mode", "sticky")
    list_display = ("name", tenant_column, cell_column, "arm_words", "way", "state", "outcome")
    list_filter = ("status", "mode", "automatic", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("name", "tenant__slug")
    autocomplete_fields = ("tenant",)
    fieldsets = (
        (None, {"fields": ("tenant", "name", "rows")}),
        ("Compares", {"fields": (("task", "complexity"), "arms", "shares", "mode", "sticky")}),
        ("Ends", {"fields": ("judge_rate", "most_labels", "most_days", "guards", "promotes")}),
    )
    readonly_fields = ("rows",)
    actions = ("stop",)
    object_actions = ("stop",)
    careful_actions = ("stop",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*super().get_readonly_fields(request, obj), *self.compared) if obj else self.readonly_fields

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None or obj.status == Experiment.Status.RUNNING

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Decisions refer to it: one is stopped, not deleted."""
        return False

    def offers(self, action: str, obj: Experiment) -> bool:
        return obj.status == Experiment.Status.RUNNING

    def save_model(self, request: HttpRequest, obj: Experiment, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        warn_of_unrouted(self, request, obj.tenant, obj.arms, "so the experiment never concerns a request")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        experiment = self.get_object(request, object_id)
        standing = conclusion_of(experiment, datetime.now(UTC)) if experiment else None
        return super().change_view(request, object_id, form_url, {"standing": standing, **(extra_context or {})})

    @admin.action(description="Stop")
    def stop(self, request: HttpRequest, queryset: QuerySet[Experiment]) -> None:
        stopped = 0
        for experiment in queryset.filter(status=Experiment.Status.RUNNING):
            try:
                stop_experiment(experiment, self.actor(request), datetime.now(UTC))
            except NotRunning:
                continue
            stopped += 1
        self.message_user(request, f"{stopped} stopped: the cell is the router's again.", messages.SUCCESS)

    @admin.display(description="arms")
    def arm_words(self, row: Experiment) -> SafeString | str:
        return words(row.arms)

    @admin.display(description="mode", ordering="mode")
    def way(self, row: Experiment) -> SafeString | str:
        return with_detail(row.mode, f"since {row.created_at:%Y-%m-%d}")

    @admin.display(description="status", ordering="status")
    def state(self, row: Experiment) -> SafeString | str:
        word = badge("running", "good") if row.status == Experiment.Status.RUNNING else badge("ended", "quiet")
        return with_detail(word, "begun by itself" if row.automatic else "")

    @admin.display(description="winner", ordering="winner")
    def outcome(self, row: Experiment) -> SafeString | str:
        return with_detail(row.winner or NOTHING, row.reason)

    @admin.display(description="see also")
    def rows(self, row: Experiment) -> SafeString | str:
        return NOTHING if row._state.adding else list_link("routing_decision", "its decisions", experiment_id=row.pk)


@admin.register(ExperimentEvidence)
class ExperimentEvidenceAdmin(ReadOnlyAdmin):
    """What a job has counted; the experiment's page says what that means."""

    list_display = ("experiment_", tenant_column, "labels", "position", when_column("updated_at", "looked at"))
    list_filter = ("tenant",)
    list_select_related = ("tenant", "experiment")
    fields = ("experiment_", "tenant", "labels", "position", "seen_id", when_column("updated_at", "looked at"))

    def get_model_perms(self, request: HttpRequest) -> dict[str, bool]:
        """Not on the index: experiments are."""
        return {}

    @admin.display(description="experiment")
    def experiment_(self, row: ExperimentEvidence) -> SafeString | str:
        return object_link(row.experiment)

    @admin.display(description="labels")
    def labels(self, row: ExperimentEvidence) -> int:
        return int(row.state.get("labels", 0))


class RampForm(CellForm):
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        for field in ("from_model", "to_model"):
            if field in self.fields:
                refuse_unknown(self, field, tenant_of(self), [cleaned.get(field, "")])
        if cleaned.get("to_model") and cleaned.get("to_model") == cleaned.get("from_model"):
            self.add_error("to_model", "It goes to another model than it comes from.")
        return cleaned


@admin.register(Ramp)
class RampAdmin(RoutingAdmin):
    """One that a job has begun is that job's; it can be ended."""

    noun = "ramp"
    form = RampForm
    list_display = (cell_column, tenant_column, "way", "share", "state", "saved", when_column("since", "since"))
    list_filter = ("status", "source", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("from_model", "to_model", "tenant__slug")
    autocomplete_fields = ("tenant",)
    fieldsets = ((None, {"fields": ("tenant", ("task", "complexity"), "from_model", "to_model", "percent", "reason")}),)
    facts = ("So far", {"fields": ("state", when_column("since", "since"), "steps", "saved")})
    readonly_fields = facts[1]["fields"]
    actions = ("end",)
    object_actions = ("end",)
    careful_actions = ("end",)

    def save_model(self, request: HttpRequest, obj: Ramp, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        warn_of_unrouted(self, request, obj.tenant, [obj.to_model], "so nothing is moved to it")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.fieldsets, self.facts) if obj else self.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        cell = ("task", "complexity", "from_model", "to_model") if obj else ()
        return (*super().get_readonly_fields(request, obj), *cell)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None or (obj.source == Ramp.Source.HAND and obj.status in LIVE)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was saved by it can still be looked up: one is ended, not deleted."""
        return False

    def offers(self, action: str, obj: Ramp) -> bool:
        return obj.status in LIVE

    @admin.action(description="End")
    def end(self, request: HttpRequest, queryset: QuerySet[Ramp]) -> None:
        with transaction.atomic():
            live = list(queryset.filter(status__in=LIVE).select_for_update(of=("self",)).select_related("tenant"))
            for ramp in live:
                end_ramp(ramp, self.actor(request), "ended by hand", datetime.now(UTC))
        self.message_user(request, f"{len(live)} ended: the cell is the router's again.", messages.SUCCESS)

    @admin.display(description="from, to", ordering="to_model")
    def way(self, row: Ramp) -> SafeString | str:
        return with_detail(row.to_model, f"instead of {row.from_model or 'what the router would choose'}")

    @admin.display(description="share", ordering="percent")
    def share(self, row: Ramp) -> str:
        return percent(row.percent / 100)

    @admin.display(description="status", ordering="status")
    def state(self, row: Ramp) -> SafeString | str:
        word = badge(row.get_status_display(), _RAMP_TONES[row.status])  # type: ignore[arg-type]
        return with_detail(word, row.get_source_display())

    @admin.display(description="saved", ordering="saved_usd")
    def saved(self, row: Ramp) -> str:
        return usd(row.saved_usd) if row.saved_usd else NOTHING

    @admin.display(description="steps")
    def steps(self, row: Ramp) -> SafeString | str:
        return words(_step(step) for step in row.evidence.get("steps", []))


def _step(step: Any) -> str:
    if not isinstance(step, dict):
        return str(step)
    return ", ".join(
        f"{name.replace('_', ' ')}: {value}" for name, value in step.items() if not isinstance(value, dict | list)
    )
