"""The operators' pages of the audit trail and of what ran in the background."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from audit.jobs import in_words
from audit.models import AuditCheckpoint, AuditEvent, JobRun
from audit.record import verify_chain
from audit.schedule import BrokerAway, UnknownJob, jobs, run_now
from gateway.admin_columns import NOTHING, badge, duration, when_column, with_detail, words
from gateway.admin_pages import ReadOnlyAdmin

MOST_NAMED = 3  # fields in one line of the list
LONGEST_FACT = 40  # characters
_JOB_TONES = {"running": "warn", "done": "good", "failed": "bad", "skipped": "quiet"}


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """Who did what to what, with a button that proves nobody has tampered with it."""

    change_list_template = "admin/audit/auditevent/change_list.html"
    list_display = (when_column("at", "at"), "who", "action_", "what", "tenant_", "summary")
    list_filter = ("action", "object_type", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("actor_label", "object_label", "=object_id")
    date_hierarchy = "at"
    fields = (
        "at", "actor_label", "client_ip", "action_", "object_type", "object_label", "object_id", "tenant_", "changed",
        "sequence", "digest_", "previous_digest_",
    )  # fmt: skip

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """The History button of every page links to the events of one row."""
        return lookup == "object_id" or super().lookup_allowed(lookup, value, request)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.verify_view)
        return [path("verify/", view, name="audit_auditevent_verify"), *super().get_urls()]

    def verify_view(self, request: HttpRequest) -> HttpResponse:
        """Recomputes every chain; reads all events, so by POST only."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        chains = AuditEvent.objects.order_by("tenant__slug").distinct("tenant__slug").select_related("tenant")
        broken = {_chain(event): sequences for event in chains if (sequences := verify_chain(event.tenant))}
        for chain, sequences in broken.items():
            shown = ", ".join(str(sequence) for sequence in sequences[:10])
            self.message_user(request, f"The chain of {chain} is broken at {shown}.", messages.ERROR)
        if not broken:
            self.message_user(
                request, "Every chain is whole: no event was changed, removed or moved.", messages.SUCCESS
            )
        return redirect("admin:audit_auditevent_changelist")

    @admin.display(description="action", ordering="action")
    def action_(self, event: AuditEvent) -> SafeString:
        gone = event.action.endswith((".removed", ".revoked"))
        return badge(event.action, "warn" if gone else "quiet")

    @admin.display(description="who", ordering="actor_label")
    def who(self, event: AuditEvent) -> SafeString | str:
        return with_detail(event.actor_label, event.client_ip or "")

    @admin.display(description="what", ordering="object_label")
    def what(self, event: AuditEvent) -> SafeString | str:
        return with_detail(event.object_label or NOTHING, event.object_type)

    @admin.display(description="tenant", ordering="tenant__slug")
    def tenant_(self, event: AuditEvent) -> str:
        return _chain(event)

    @admin.display(description="changed")
    def summary(self, event: AuditEvent) -> str:
        names = [name.replace("_", " ") for name in event.changes]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return ", ".join(names[:MOST_NAMED]) + more or NOTHING

    @admin.display(description="changes")
    def changed(self, event: AuditEvent) -> SafeString | str:
        if not event.changes:
            return NOTHING
        rows = ((name.replace("_", " "), *map(_shown, _before_after(value))) for name, value in event.changes.items())
        lines = format_html_join("", "<tr><th>{}</th><td>{}</td><td>{}</td></tr>", rows)
        head = "<thead><tr><th>field</th><th>before</th><th>after</th></tr></thead>"
        return format_html('<table class="changes">' + head + "<tbody>{}</tbody></table>", lines)

    @admin.display(description="digest")
    def digest_(self, event: AuditEvent) -> str:
        return bytes(event.digest).hex()

    @admin.display(description="digest before")
    def previous_digest_(self, event: AuditEvent) -> str:
        return bytes(event.previous_digest).hex()


@admin.register(AuditCheckpoint)
class AuditCheckpointAdmin(ReadOnlyAdmin):
    """Where each chain begins since its oldest events were removed."""

    list_display = (
        "chain", "sequence", "events_removed", when_column("removed_before", "older than"),
        when_column("removed_at", "removed at"),
    )  # fmt: skip
    list_filter = ("tenant",)
    list_select_related = ("tenant",)
    fields = (
        "chain", "sequence", "digest_", "events_removed", when_column("removed_before", "older than"),
        when_column("removed_at", "removed at"),
    )  # fmt: skip

    @admin.display(description="chain of", ordering="tenant__slug")
    def chain(self, checkpoint: AuditCheckpoint) -> str:
        return _chain(checkpoint)

    @admin.display(description="digest")
    def digest_(self, checkpoint: AuditCheckpoint) -> str:
        return bytes(checkpoint.digest).hex()


@admin.register(JobRun)
class JobRunAdmin(ReadOnlyAdmin):
    """What runs in the background: each job of the schedule, and every run with what it saw and how it ended."""

    change_list_template = "admin/audit/jobrun/change_list.html"
    list_display = ("job", "state", when_column("started_at", "started at"), "took", "started_by", "summary")
    list_filter = ("outcome", "job")
    search_fields = ("job",)
    fields = ("id", "job", "state", "started_by", "started_at", "ended_at", "took", "facts_", "error")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.run_view)
        return [path("run/", view, name="audit_jobrun_run"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The schedule stands above the runs, but not above those that were asked for."""
        shown = [] if request.GET else [(job, self._last(job.last)) for job in jobs(datetime.now(UTC))]
        return super().changelist_view(request, {"jobs": shown, **(extra_context or {})})

    def run_view(self, request: HttpRequest) -> HttpResponse:
        """Starts one job of the schedule, by POST only."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        name = request.POST.get("job", "")
        try:
            run_now(name, self.admin_site.actor(request))
        except UnknownJob:
            raise Http404 from None
        except BrokerAway:
            self.message_user(
                request, "Redis, which hands work over, does not answer: nothing was started.", messages.ERROR
            )
        else:
            self.message_user(request, f"A worker was asked to run {name}; its record appears below.", messages.SUCCESS)
        return redirect("admin:audit_jobrun_changelist")

    def _last(self, run: JobRun | None) -> dict[str, Any] | None:
        """A run's columns, as the list below writes them."""
        return run and {"run": run, "state": self.state(run), "took": self.took(run), "summary": self.summary(run)}

    @admin.display(description="outcome", ordering="outcome")
    def state(self, run: JobRun) -> SafeString | str:
        word = badge(run.outcome, _JOB_TONES[run.outcome])  # type: ignore[arg-type]
        return with_detail(word, run.error)

    @admin.display(description="took")
    def took(self, run: JobRun) -> str:
        return duration((run.ended_at - run.started_at) / timedelta(milliseconds=1)) if run.ended_at else NOTHING

    @admin.display(description="facts")
    def summary(self, run: JobRun) -> SafeString | str:
        return words(fact[:LONGEST_FACT] for fact in _facts(run, most_telling_first=True)[:MOST_NAMED])

    @admin.display(description="facts")
    def facts_(self, run: JobRun) -> SafeString | str:
        return words(_facts(run))


def _facts(run: JobRun, *, most_telling_first: bool = False) -> list[str]:
    """In words. Most telling is what was done, then what there was to say, then what there was none of."""
    facts = list(run.facts.items())
    if most_telling_first:
        facts.sort(key=lambda fact: (not fact[1], not isinstance(fact[1], int)))
    return [f"{name.replace('_', ' ')}: {_shown(value)}" for name, value in facts]


def _before_after(value: Any) -> tuple[Any, Any]:
    """Of a change; where an act has a figure and no change, the figure is what came of it."""
    if isinstance(value, list) and len(value) == 2:
        return value[0], value[1]
    return None, value


def _chain(row: Any) -> str:
    return row.tenant.slug if row.tenant else "the installation"


def _shown(value: Any) -> str:
    return in_words(value) or NOTHING
