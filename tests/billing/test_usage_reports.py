"""Usage reports: exactly the ledger, by tenant and day; Stripe is told each unit once."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from audit.models import AuditEvent
from billing import stripe_api
from billing.models import Adjustment, Attempt, MeterEvent, Plan, PriceVersion, Settlement, Subscription, UsageReport
from billing.rollups import roll_up
from billing.usage_reports import usage_report
from billing.verification import verify
from gateway.models import Model, Provider
from tenants.models import ApiToken, Project, Tenant
from tests.billing import stripe_server
from tests.billing.stripe_server import API_KEY, Stripe
from tests.ledger_rows import open_attempt, settle
from tests.provision import Database

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
"""Lines are settled when they are written, so days are counted from the real one."""
CUSTOMER = "cus_acme"


@pytest.fixture
def stripe(settings: Settings) -> Iterator[Stripe]:
    with stripe_server.running() as server:
        settings.STRIPE_API_KEY = API_KEY
        settings.STRIPE_API_BASE = server.url
        yield server


def subscribe(tenant: Tenant, customer: str = CUSTOMER, **terms: Any) -> Subscription:
    plan = Plan.objects.create(name=f"plan of {tenant.slug}", **terms)
    return Subscription.objects.create(
        tenant=tenant, plan=plan, stripe_customer=customer, stripe_from=(TODAY - 400 * DAY).date()
    )


@pytest.fixture
def subscription(tenant: Tenant) -> Subscription:
    return subscribe(tenant)


def spent(token: ApiToken, model: Model, at: datetime, cost: str | None = "0.5", **values: Any) -> Attempt:
    facts = {name: values.pop(name) for name in ("purpose",) if name in values}
    line = open_attempt(token, model, at=at, **facts)
    settle(line, cost_usd=None if cost is None else Decimal(cost), **values)
    return line


def adjust(line: Attempt, amount: str) -> None:
    Adjustment.objects.create(tenant=line.tenant, attempt=line, reason="credit", amount_usd=Decimal(amount))


def report_at(now: datetime) -> dict[str, Any]:
    """As the schedule does: roll-ups first."""
    roll_up()
    return usage_report(now)


def at_stake(tenant: Tenant) -> int:
    """Micro-USD that the ledger says."""
    lines = sum((s.cost_usd or 0 for s in Settlement.objects.filter(tenant=tenant)), Decimal(0))
    changes = sum((a.amount_usd for a in Adjustment.objects.filter(tenant=tenant)), Decimal(0))
    return int((lines + changes) * 1_000_000)


def days_ago(days: int) -> datetime:
    return TODAY - days * DAY


class TestReports:
    def test_a_report_is_a_tenants_day_out_of_the_ledger(self, token: ApiToken, model: Model) -> None:
        day = days_ago(5)
        spent(token, model, day, "0.000000000001", input_tokens=7, cached_input_tokens=3, output_tokens=5)
        spent(token, model, day + HOUR, "2", purpose="retry", outcome="failed", input_tokens=1, output_tokens=0)
        spent(token, model, day - HOUR, None)
        report_at(TODAY)
        report = UsageReport.objects.get(day=day.date())
        assert (report.tenant, report.requests, report.tokens, report.unpriced) == (
            token.tenant,
            2,
            7 + 3 + 5 + 1 + 120,
            1,
        )
        assert report.spend_usd == Decimal("2.000000000001")

    def test_the_reports_add_up_to_what_the_ledger_proves(
        self, token: ApiToken, model: Model, other_tenant: Tenant
    ) -> None:
        price = PriceVersion.objects.create(
            tenant=token.tenant, model=model, effective_from=TODAY - 90 * DAY, input=Decimal("0.3"), output=2
        )
        for number in range(60):
            usage = {"input_tokens": number, "output_tokens": 20, "price_version": price}
            line = spent(token, model, TODAY - number * 13 * HOUR, f"{number * 3 + 400}e-7", **usage)
            if number % 7 == 0:
                adjust(line, "-0.0000004")
        report_at(TODAY)
        proof = verify()
        assert (proof.findings, proof.recomputed) == ([], 60)
        reports = list(UsageReport.objects.filter(tenant=token.tenant))
        lines = sum(line.cost_usd for line in Settlement.objects.all())
        assert sum(report.spend_usd for report in reports) == lines + sum(
            a.amount_usd for a in Adjustment.objects.all()
        )
        assert sum(report.requests for report in reports) == Attempt.objects.count() == 60
        tokens = sum(line.input_tokens + line.output_tokens for line in Settlement.objects.all())
        assert sum(report.tokens for report in reports) == tokens
        assert not UsageReport.objects.filter(tenant=other_tenant).exists()

    def test_a_late_line_changes_a_day_and_the_months_days_after_it(self, token: ApiToken, model: Model) -> None:
        first = days_ago(40).replace(day=3)
        since = first.date()
        for day in range(3):
            spent(token, model, first + day * DAY, "1")
        roll_up()
        usage_report(TODAY, since=since)
        spent(token, model, first + MINUTE, "4")
        report_at(TODAY)
        days = UsageReport.objects.order_by("day")
        assert [(r.spend_usd, r.month_spend_usd, r.month_requests) for r in days] == [(5, 5, 2), (1, 6, 3), (1, 7, 4)]
        assert [r.revised_at is not None for r in days] == [True, False, False]

    def test_a_correction_of_a_day_long_past_is_found(self, token: ApiToken, model: Model) -> None:
        line = spent(token, model, days_ago(200), "1")
        roll_up()
        usage_report(TODAY, since=days_ago(200).date())
        adjust(line, "-0.25")
        report_at(TODAY)
        assert UsageReport.objects.get().spend_usd == Decimal("0.75")

    def test_nothing_new_changes_nothing(self, token: ApiToken, model: Model) -> None:
        spent(token, model, days_ago(1))
        spent(token, model, days_ago(4))
        assert report_at(TODAY)["reports"] == 2
        before = list(UsageReport.objects.values())
        assert report_at(TODAY) == {"reports": 0, "closed": 0, "events": 0, "sent": 0, "failed": 0, "unclear": 0}
        assert list(UsageReport.objects.values()) == before

    def test_a_day_is_closed_two_days_after_it_ended(self, token: ApiToken, model: Model) -> None:
        spent(token, model, days_ago(3))
        spent(token, model, days_ago(2))
        assert report_at(TODAY)["closed"] == 1
        assert [(r.day, r.closed_at is None) for r in UsageReport.objects.order_by("day")] == [
            (days_ago(3).date(), False),
            (days_ago(2).date(), True),
        ]

    def test_a_day_stays_open_while_roll_ups_stand_still(self, token: ApiToken, model: Model) -> None:
        spent(token, model, days_ago(3))
        usage_report(TODAY)
        roll_up(now=days_ago(2))
        usage_report(TODAY)
        assert UsageReport.objects.get().closed_at is None
        report_at(TODAY)
        assert UsageReport.objects.get().closed_at == TODAY

    def test_two_workers_make_one_report(self, real_commits: Database, actor: Any) -> None:
        tenant = Tenant.objects.create(slug="acme")
        token, model = _speaker(tenant, actor)
        for day in range(4):
            spent(token, model, days_ago(day))
        roll_up()
        start = threading.Barrier(4)

        def work(_: int) -> None:
            try:
                start.wait(30)
                usage_report(TODAY)
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert UsageReport.objects.count() == 4
        assert sum(report.spend_usd for report in UsageReport.objects.all()) == 2


def _speaker(tenant: Tenant, actor: Any) -> tuple[ApiToken, Model]:
    """A token and a model, where the fixtures' transaction is not."""
    project = Project.objects.create(tenant=tenant, slug="web")
    token, _ = ApiToken.issue(tenant=tenant, project=project, name="ci", actor=actor)
    provider = Provider.objects.create(
        tenant=tenant, name="lab", kind="openai-compatible", base_url="https://lab.example/v1"
    )
    return token, Model.objects.create(tenant=tenant, name="small", provider=provider, vendor_model="small-1")


class TestOverage:
    MONTH = days_ago(45).replace(day=1, hour=0)

    def overage(self) -> list[tuple[int, int]]:
        return [(r.overage_requests, r.overage_tokens) for r in UsageReport.objects.order_by("day")]

    def use(self, token: ApiToken, model: Model, *requests_a_day: int) -> None:
        for day, count in enumerate(requests_a_day):
            for number in range(count):
                spent(token, model, self.MONTH + day * DAY + number * MINUTE, input_tokens=90, output_tokens=10)
        roll_up()
        usage_report(TODAY, since=self.MONTH.date())

    def test_what_is_beyond_the_months_share_is_counted_where_it_happens(self, token: ApiToken, model: Model) -> None:
        subscribe(token.tenant, overage=True, monthly_requests=5, monthly_tokens=800)
        self.use(token, model, 3, 4, 2)
        assert self.overage() == [(0, 0), (2, 0), (2, 100)]

    def test_a_new_month_has_a_share_of_its_own(self, token: ApiToken, model: Model) -> None:
        subscribe(token.tenant, overage=True, monthly_requests=1)
        spent(token, model, self.MONTH - HOUR)
        self.use(token, model, 1)
        usage_report(TODAY, since=(self.MONTH - DAY).date())
        assert self.overage() == [(0, 0), (0, 0)]

    def test_a_plan_that_refuses_what_is_beyond_has_no_overage(self, token: ApiToken, model: Model) -> None:
        subscribe(token.tenant, overage=False, monthly_requests=1)
        self.use(token, model, 3)
        assert self.overage() == [(0, 0)]

    def test_a_changed_plan_leaves_days_that_are_over(self, token: ApiToken, model: Model) -> None:
        subscription = subscribe(token.tenant, overage=True, monthly_requests=2)
        self.use(token, model, 3)
        subscription.overrides = {"monthly_requests": 100}
        subscription.save()
        usage_report(TODAY, since=self.MONTH.date())
        assert self.overage() == [(1, 0)]


class TestStripe:
    def test_without_a_key_reports_are_only_kept(
        self, token: ApiToken, model: Model, subscription: Subscription, settings: Settings
    ) -> None:
        settings.STRIPE_API_KEY = ""
        spent(token, model, days_ago(4))
        facts = report_at(TODAY)
        assert (facts["closed"], facts["events"], MeterEvent.objects.count()) == (1, 0, 0)

    def test_closed_days_are_told_in_micro_usd(
        self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription
    ) -> None:
        spent(token, model, days_ago(4), "0.1234567")
        spent(token, model, days_ago(3), "0.0000004")
        spent(token, model, days_ago(1), "7")
        assert report_at(TODAY)["sent"] == 1
        (call,) = stripe.calls
        day = days_ago(3).date()
        assert call == {
            "event_name": "pointsman_usage",
            "identifier": f"pointsman:{token.tenant_id}:spend:{day}:1",
            "payload[stripe_customer_id]": CUSTOMER,
            "payload[value]": "123457",
        }
        event = MeterEvent.objects.get()
        assert (event.state, event.meter, event.tries, event.error) == ("sent", "pointsman_usage", 1, "")

    def test_what_was_told_is_not_told_again(
        self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription
    ) -> None:
        spent(token, model, days_ago(4))
        for _ in range(3):
            report_at(TODAY)
        assert len(stripe.calls) == 1

    def test_a_late_line_is_told_as_a_difference(
        self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription
    ) -> None:
        spent(token, model, days_ago(4), "1")
        report_at(TODAY)
        spent(token, model, days_ago(4), "0.25")
        report_at(TODAY)
        assert [(e.revision, e.value) for e in MeterEvent.objects.order_by("id")] == [(1, 1_000_000), (2, 250_000)]
        assert stripe.billed(CUSTOMER) == at_stake(token.tenant)

    def test_a_credit_is_set_off_against_what_follows(
        self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription
    ) -> None:
        line = spent(token, model, days_ago(5), "1")
        report_at(TODAY)
        adjust(line, "-0.75")
        report_at(TODAY)
        assert stripe.billed(CUSTOMER) == 1_000_000
        spent(token, model, days_ago(4), "0.5")
        report_at(TODAY)
        assert stripe.billed(CUSTOMER) == 1_000_000
        spent(token, model, days_ago(3), "2")
        report_at(TODAY)
        assert stripe.billed(CUSTOMER) == at_stake(token.tenant) == 2_750_000

    def test_only_days_from_the_agreed_one_on_are_told(self, stripe: Stripe, token: ApiToken, model: Model) -> None:
        subscription = subscribe(token.tenant)
        subscription.stripe_from = days_ago(3).date()
        subscription.save()
        spent(token, model, days_ago(4), "1")
        spent(token, model, days_ago(3), "2")
        report_at(TODAY)
        assert stripe.billed(CUSTOMER) == 2_000_000

    def test_a_customer_is_billed_from_the_day_on_it_is_entered(self, tenant: Tenant) -> None:
        plan = Plan.objects.create(name="free")
        subscription = Subscription.objects.create(tenant=tenant, plan=plan)
        assert subscription.stripe_from is None
        subscription.stripe_customer = CUSTOMER
        subscription.save(update_fields=["stripe_customer"])
        subscription.refresh_from_db()
        assert subscription.stripe_from == datetime.now(UTC).date()

    def test_days_that_are_over_stay_with_the_customer_they_had(
        self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription
    ) -> None:
        spent(token, model, days_ago(4), "1")
        spent(token, model, days_ago(1), "2")
        report_at(TODAY)
        subscription.stripe_customer = "cus_other"
        subscription.save()
        spent(token, model, days_ago(4), "0.5")
        report_at(TODAY)
        assert (stripe.billed(CUSTOMER), stripe.billed("cus_other")) == (1_500_000, 0)

    @pytest.mark.parametrize(
        "value_and_units", [("requests", 3), ("tokens", 360), ("overage_requests", 1), ("overage_tokens", 60)]
    )
    def test_other_units_can_be_told(
        self, stripe: Stripe, token: ApiToken, model: Model, settings: Settings, value_and_units: tuple[str, int]
    ) -> None:
        subscribe(token.tenant, overage=True, monthly_requests=2, monthly_tokens=300)
        settings.STRIPE_METER_VALUE, units = value_and_units
        settings.STRIPE_METER = "own_meter"
        for number in range(3):
            spent(token, model, days_ago(4) + number * MINUTE)
        report_at(TODAY)
        assert (stripe.calls[0]["event_name"], stripe.billed(CUSTOMER)) == ("own_meter", units)

    def test_a_unit_nobody_knows_is_refused(self, db: None, settings: Settings) -> None:
        settings.STRIPE_METER_VALUE = "smiles"
        with pytest.raises(ImproperlyConfigured, match="spend, requests"):
            usage_report(TODAY)


class TestFailures:
    """Whatever happens to a call, its units are counted once."""

    @pytest.fixture(autouse=True)
    def owed(self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription) -> None:
        spent(token, model, days_ago(4), "1")

    @pytest.mark.parametrize("behaviour", ["fails", "refuses", "is busy", "garbles"])
    def test_what_stripe_did_not_take_is_sent_with_the_next_run(self, stripe: Stripe, behaviour: Any) -> None:
        stripe.goes(behaviour)
        assert (report_at(TODAY)["failed"], stripe.taken) == (1, [])
        assert MeterEvent.objects.get().error
        assert (report_at(TODAY + HOUR)["sent"], stripe.billed(CUSTOMER)) == (1, 1_000_000)
        assert MeterEvent.objects.get().error == ""

    @pytest.mark.parametrize("behaviour", ["takes and hangs up", "takes and breaks"])
    def test_what_stripe_took_without_saying_so_is_counted_once(self, stripe: Stripe, behaviour: Any) -> None:
        stripe.goes(behaviour)
        assert report_at(TODAY)["failed"] == 1
        assert MeterEvent.objects.get().state == "sending"
        assert report_at(TODAY + HOUR)["sent"] == 1
        assert (len(stripe.calls), stripe.billed(CUSTOMER)) == (2, 1_000_000)
        assert MeterEvent.objects.get().state == "sent"

    def test_an_answer_that_takes_too_long_is_not_waited_for(
        self, stripe: Stripe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stripe_api, "ANSWER_S", 0.3)
        stripe.goes("takes and hangs")
        assert report_at(TODAY)["failed"] == 1
        stripe.released.set()
        assert (report_at(TODAY + HOUR)["sent"], stripe.billed(CUSTOMER)) == (1, 1_000_000)

    def test_a_crash_between_call_and_record_counts_once(self, stripe: Stripe, monkeypatch: pytest.MonkeyPatch) -> None:
        def take_and_die(*told: Any) -> None:
            stripe_api.send_meter_event(*told)
            raise SystemExit

        with monkeypatch.context() as patched:
            patched.setattr("billing.meter_events.send_meter_event", take_and_die)
            with pytest.raises(SystemExit):
                report_at(TODAY)
        assert MeterEvent.objects.get().state == "sending"
        assert (report_at(TODAY + HOUR)["sent"], stripe.billed(CUSTOMER)) == (1, 1_000_000)

    def test_a_doubt_that_outlives_stripes_memory_is_not_sent_but_asked_about(self, stripe: Stripe) -> None:
        stripe.goes("takes and hangs up")
        report_at(TODAY)
        stripe.a_day_passes()
        facts = usage_report(TODAY + 23 * HOUR + MINUTE)
        assert (facts["unclear"], facts["sent"], stripe.billed(CUSTOMER)) == (1, 0, 1_000_000)
        assert MeterEvent.objects.get().state == "unclear"

    def test_a_refusal_settles_no_doubt_about_an_earlier_call(self, stripe: Stripe) -> None:
        stripe.goes("takes and hangs up", "refuses")
        report_at(TODAY)
        report_at(TODAY + HOUR)
        event = MeterEvent.objects.get()
        assert (event.state, event.in_doubt_since) == ("sending", TODAY)

    def test_what_could_not_leave_is_in_no_doubt(self, settings: Settings) -> None:
        settings.STRIPE_API_BASE = "http://127.0.0.1:1"
        report_at(TODAY)
        event = MeterEvent.objects.get()
        assert (event.state, event.in_doubt_since) == ("due", None)
        assert "did not answer" in event.error

    def test_a_wrong_key_is_said_and_not_kept(self, stripe: Stripe, settings: Settings) -> None:
        settings.STRIPE_API_KEY = "sk_test_wrong"
        report_at(TODAY)
        event = MeterEvent.objects.get()
        assert (event.state, "STRIPE_API_KEY" in event.error, "sk_" in event.error) == ("due", True, False)

    def test_one_refused_event_holds_up_no_other(
        self, stripe: Stripe, other_tenant: Tenant, actor: Any, token: ApiToken
    ) -> None:
        subscribe(other_tenant, "cus_umbrella")
        theirs, model = _speaker(other_tenant, actor)
        spent(theirs, model, days_ago(4), "3")
        stripe.goes("refuses")
        facts = report_at(TODAY)
        assert (facts["sent"], facts["failed"]) == (1, 1)
        report_at(TODAY + HOUR)
        assert (stripe.billed(CUSTOMER), stripe.billed("cus_umbrella")) == (1_000_000, 3_000_000)

    def test_after_three_calls_without_an_answer_the_rest_waits(self, stripe: Stripe, actor: Any) -> None:
        for number in range(5):
            tenant = Tenant.objects.create(slug=f"t{number}")
            subscribe(tenant, f"cus_{number}")
            spent(*_speaker(tenant, actor), days_ago(4), "1")
        stripe.goes(*["fails"] * 6)
        assert (report_at(TODAY)["failed"], len(stripe.calls)) == (3, 3)


class TestChaos:
    def test_whatever_is_cut_short_the_meter_has_what_the_ledger_has(
        self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription
    ) -> None:
        behaviours: list[Any] = [
            "takes and hangs up", "fails", "refuses", "takes", "takes and breaks", "is busy", "garbles",
        ]  # fmt: skip
        for round_ in range(21):
            stripe.goes(behaviours[round_ % len(behaviours)])
            line = spent(token, model, days_ago(3 + round_ % 5) + round_ * MINUTE, f"0.{round_ + 1:07}")
            if round_ % 4 == 3:
                adjust(line, "-0.0000009")
            report_at(TODAY + round_ * HOUR)
        report_at(TODAY + 22 * HOUR)
        report_at(TODAY + 22 * HOUR + MINUTE)
        assert set(MeterEvent.objects.values_list("state", flat=True)) == {"sent"}
        assert stripe.billed(CUSTOMER) == at_stake(token.tenant)
        assert set(stripe.identifiers().values()) == {1}

    def test_workers_at_the_same_time_tell_once(self, real_commits: Database, stripe: Stripe, actor: Any) -> None:
        tenant = Tenant.objects.create(slug="acme")
        subscribe(tenant)
        token, model = _speaker(tenant, actor)
        for day in range(3, 7):
            spent(token, model, days_ago(day), "1")
        roll_up()
        start = threading.Barrier(4)

        def work(_: int) -> None:
            try:
                start.wait(30)
                usage_report(TODAY)
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert stripe.billed(CUSTOMER) == at_stake(tenant) == 4_000_000
        assert set(MeterEvent.objects.values_list("state", flat=True)) == {"sent"}


class TestOperators:
    @pytest.fixture
    def unclear(self, stripe: Stripe, token: ApiToken, model: Model, subscription: Subscription) -> MeterEvent:
        spent(token, model, days_ago(4), "1")
        stripe.goes("takes and hangs up")
        report_at(TODAY)
        stripe.a_day_passes()
        usage_report(TODAY + DAY)
        return MeterEvent.objects.get()

    def decide(self, browser: Client, event: MeterEvent, name: str) -> None:
        url = reverse("admin:billing_meterevent_do", args=[event.pk, name])
        assert browser.post(url, follow=True).status_code == 200
        event.refresh_from_db()

    def test_what_was_found_at_stripe_is_sent(self, browser: Client, stripe: Stripe, unclear: MeterEvent) -> None:
        self.decide(browser, unclear, "confirm")
        assert usage_report(TODAY + DAY)["sent"] == 0
        assert (unclear.state, stripe.billed(CUSTOMER)) == ("sent", 1_000_000)
        event = AuditEvent.objects.get(action="meter_event.confirmed")
        assert (event.actor_label, event.object_id, event.tenant) == (
            "olga@example.com", str(unclear.pk), unclear.tenant,
        )  # fmt: skip

    def test_what_was_not_found_is_sent_again(self, browser: Client, stripe: Stripe, unclear: MeterEvent) -> None:
        stripe.taken.clear()
        self.decide(browser, unclear, "repeat")
        assert usage_report(TODAY + DAY)["sent"] == 1
        assert stripe.billed(CUSTOMER) == 1_000_000

    def test_what_is_not_unclear_is_nobodys_to_decide(
        self, browser: Client, stripe: Stripe, unclear: MeterEvent
    ) -> None:
        self.decide(browser, unclear, "confirm")
        self.decide(browser, unclear, "repeat")
        assert unclear.state == "sent"
        assert not AuditEvent.objects.filter(action="meter_event.repeated").exists()

    def test_pages_show_reports_and_events(self, browser: Client, unclear: MeterEvent) -> None:
        report = UsageReport.objects.get()
        for page in (
            reverse("admin:billing_usagereport_changelist"),
            reverse("admin:billing_usagereport_change", args=[report.pk]),
            reverse("admin:billing_meterevent_changelist"),
            reverse("admin:billing_meterevent_change", args=[unclear.pk]),
        ):
            answer = browser.get(page)
            assert (answer.status_code, "acme" in answer.content.decode()) == (200, True)

    def test_the_command_says_what_it_did(self, token: ApiToken, model: Model) -> None:
        spent(token, model, days_ago(4))
        roll_up()
        out = StringIO()
        call_command("usage_report", "--since", str(days_ago(60).date()), stdout=out)
        assert out.getvalue() == "1 reports made or changed, 1 closed.\nStripe: 0 new, 0 sent, 0 failed, 0 unclear.\n"

    def test_the_command_explains_a_wrong_setting(self, db: None, settings: Settings) -> None:
        settings.STRIPE_METER_VALUE = "smiles"
        with pytest.raises(CommandError, match="STRIPE_METER_VALUE"):
            call_command("usage_report")


def test_a_report_belongs_to_the_day_by_utc(token: ApiToken, model: Model) -> None:
    token.tenant.time_zone = "Asia/Tokyo"
    token.tenant.save()
    midnight = days_ago(4).replace(hour=0)
    spent(token, model, midnight)
    spent(token, model, midnight - MINUTE)
    report_at(TODAY)
    assert set(UsageReport.objects.values_list("day", flat=True)) == {
        date.fromordinal(midnight.date().toordinal() - offset) for offset in (0, 1)
    }
