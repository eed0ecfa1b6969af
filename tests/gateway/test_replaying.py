"""Banked conversations are asked again every week: what is banked, what it costs, and what is noticed."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError
from msgspec import Raw

from audit.record import Actor
from billing.models import Attempt, PriceVersion
from gateway.models import Model, Provider
from gateway.replaying import execute, populate, weekly
from gateway.replaying.bank import BANK_SIZE
from gateway.rows import new_id
from gateway.runtime import routing_facts_of
from routing.engine import Engine
from routing.judge.samples import Sample
from routing.learning import rebuild
from routing.models import (
    BankedConversation,
    DriftWatch,
    JudgeSample,
    PublishedScore,
    ReplayVerdict,
    RouterState,
    RoutingSettings,
)
from tenants.crypto import Keyring, content_purpose
from tenants.models import Project, Tenant
from tests.e2e.graded_vendor import PRICES, QUESTIONS, GradedVendor
from tests.provision import Database
from tests.routing.simulated_traffic import Traffic

NOW = datetime.now(UTC)
WEEK = timedelta(days=7)
DAY = timedelta(days=1)
# Before anything is learned: of those nearly as good as the best, the control is the cheapest.
PUBLISHED = {"gem": 0.6, "middle": 0.8, "grand": 0.82}
EACH = 8


class Organisation:
    """A tenant with the graded vendor's models, which replays; ``middle`` is the control."""

    def __init__(self, slug: str, url: str, **wishes: Any) -> None:
        self.tenant = Tenant.objects.create(slug=slug)
        self.project = Project.objects.create(tenant=self.tenant, slug="web")
        provider = Provider.objects.create(
            tenant=self.tenant, name="lab", kind="openai-compatible", base_url=f"{url}/v1"
        )
        for name in (*PUBLISHED, "judge"):
            model = Model.objects.create(
                tenant=self.tenant, name=name, provider=provider, vendor_model=name, routed=name != "judge"
            )
            usd = PRICES[name]
            PriceVersion.set_price(model=model, actor=Actor("tests"), input=str(usd / 4), output=str(usd))
        for name, quality in PUBLISHED.items():
            PublishedScore.objects.create(
                tenant=self.tenant, vendor_model_pattern=name, quality=quality, source="tests"
            )
        values = {"replay_usd_per_week": Decimal(10), "judge_model": "judge", "judge_usd_per_day": Decimal(1)}
        self.wishes = RoutingSettings.objects.create(tenant=self.tenant, **(values | wishes))

    def sealed(self, request_id: Any, number: int) -> bytes:
        question = {"role": "user", "content": QUESTIONS["coding"].format(number=number)}
        body = json.dumps({"model": "auto", "messages": [question]}).encode()
        keyring = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(self.tenant.pk))
        return Sample("openai_chat", Raw(body), "RIGHT#1", "text", "stop").seal(
            keyring, str(self.tenant.pk), str(request_id)
        )

    def bank(self, *models: str, each: int = EACH) -> None:
        for model in models:
            for number in range(each):
                request_id = new_id()
                BankedConversation.objects.create(
                    tenant=self.tenant, request_id=request_id, project_id=self.project.pk,
                    ciphertext=self.sealed(request_id, number), master_key_number=1, task="coding",
                    complexity="simple", model_name=model, score=0.5,
                )  # fmt: skip

    def judged(self, count: int, *, at: datetime = NOW, model: str = "gem") -> None:
        """Answers that were judged at a moment, and are kept for the bank."""
        traffic, rows = Traffic(self.tenant), []
        for number in range(count):
            decision = traffic.decided(at, model, project_id=self.project.pk)
            rows.append(
                JudgeSample(
                    request_id=decision.request_id, tenant=self.tenant, master_key_number=1, due_at=at, judged_at=at,
                    ciphertext=self.sealed(decision.request_id, number), score=number % 5 / 4,
                )
            )  # fmt: skip
        traffic.write()
        JudgeSample.objects.bulk_create(rows)

    def lines(self) -> list[tuple[str, str]]:
        """(purpose, model) of the ledger's lines."""
        rows = Attempt.objects.filter(tenant=self.tenant).values_list("purpose", "model__name")
        return [(purpose, str(name)) for purpose, name in rows]


@pytest.fixture(scope="module")
def steady() -> Iterator[GradedVendor]:
    """A vendor that never changes."""
    with GradedVendor() as server:
        yield server


@pytest.fixture
def vendor() -> Iterator[GradedVendor]:
    """A vendor to be changed."""
    with GradedVendor() as server:
        yield server


@pytest.fixture(autouse=True)
def database(real_commits: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(settings, "DATABASE_URL", real_commits.url)
    return real_commits


@pytest.fixture
def acme(steady: GradedVendor) -> Organisation:
    return Organisation("acme", steady.url)


def run(week: int = 0, days: int = 0) -> dict[str, Any]:
    return execute(datetime.now(UTC) + week * WEEK + days * DAY)  # what it spends, it spends now


# ---------------------------------------------------------------------- a week


def test_each_conversation_is_asked_of_its_model_and_of_the_control_and_judged(acme: Organisation) -> None:
    acme.bank("gem", "middle", each=3)
    told = run()
    # gem's conversations by gem and by the control, the control's own only once; each with a judge
    assert (told["asked"], told["failed"], told["reviewed"], told["alarms"]) == (9, 0, 1, [])
    assert sorted(acme.lines()) == sorted(
        [("replay", "gem")] * 3 + [("replay", "middle")] * 6 + [("replay", "judge")] * 9
    )
    rows = ReplayVerdict.objects.values_list("model_name", "control", "conversation__model_name")
    assert sorted(rows) == sorted(
        [("gem", False, "gem")] * 3 + [("middle", True, "gem")] * 3 + [("middle", True, "middle")] * 3
    )
    row = ReplayVerdict.objects.filter(model_name="gem").first()
    assert row is not None
    assert row.value is not None
    assert (row.output_tokens, row.refused, row.valid_json) == (60, False, None)
    assert row.cost_usd
    assert Decimal(told["usd"]) == sum(row.cost_usd for row in ReplayVerdict.objects.all() if row.cost_usd)


def test_a_week_is_run_once(acme: Organisation) -> None:
    acme.bank("gem", each=2)
    monday = -NOW.weekday()
    assert run(days=monday)["asked"] == 4
    for day in range(1, 7):
        assert run(days=monday + day)["asked"] == 0
    assert run(days=monday + 7)["asked"] == 4


def test_a_run_that_broke_off_is_gone_on_with_and_nothing_is_asked_twice(
    acme: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.bank("gem", "grand")
    answers, batches = weekly._answers, [0]

    async def broken(*arguments: Any) -> Any:
        batches[0] += 1
        if batches[0] > 2:
            raise OperationalError("killed")
        return await answers(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(weekly, "_answers", broken)
        with pytest.raises(OperationalError):
            run()
    assert ReplayVerdict.objects.count() == 2 * weekly.AT_ONCE
    assert not DriftWatch.objects.exists()
    told = run()
    assert (told["asked"], told["reviewed"]) == (4 * EACH - 2 * weekly.AT_ONCE, 1)
    assert ReplayVerdict.objects.count() == 4 * EACH
    assert len(acme.lines()) == 8 * EACH


def test_the_weeks_money_holds_but_for_one_batch_and_comes_back_next_week(acme: Organisation) -> None:
    acme.wishes.replay_usd_per_week = Decimal("0.0001")
    acme.wishes.save()
    acme.bank("gem", "grand")
    told = run()
    assert (told["asked"], told["reviewed"]) == (weekly.AT_ONCE, 1)
    assert Decimal(told["usd"]) > Decimal("0.0001")
    assert run()["asked"] == 0
    assert run(week=1)["asked"] == weekly.AT_ONCE


def test_a_conversation_of_a_model_that_is_gone_is_not_asked(acme: Organisation) -> None:
    acme.bank("gone", "gem", each=2)
    assert run()["asked"] == 4


def test_what_gives_no_answer_is_noted_and_not_asked_again_that_week(acme: Organisation) -> None:
    acme.bank("gem", each=2)
    BankedConversation.objects.update(ciphertext=b"of another key")
    told = run()
    assert (told["asked"], told["failed"], told["reviewed"]) == (4, 4, 1)
    assert set(ReplayVerdict.objects.values_list("value", flat=True)) == {None}
    assert run()["asked"] == 0


def test_what_is_wrong_with_one_tenant_is_that_tenants_alone(
    acme: Organisation, steady: GradedVendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    umbrella = Organisation("umbrella", steady.url)
    for one in (acme, umbrella):
        one.bank("gem", each=1)
    week_of = weekly._week_of

    def breaking(routing: RoutingSettings, now: datetime) -> Any:
        if routing.tenant_id == acme.tenant.pk:
            raise RuntimeError("a bug")
        return week_of(routing, now)

    monkeypatch.setattr(weekly, "_week_of", breaking)
    told = run()
    assert (told["broken_off"], told["asked"], told["reviewed"]) == (["acme"], 2, 1)


def test_a_tenant_without_a_bank_or_switched_off_asks_nobody(acme: Organisation) -> None:
    assert run() == {"asked": 0, "failed": 0, "reviewed": 0, "alarms": [], "broken_off": [], "usd": "0"}
    acme.bank("gem", each=1)
    Tenant.objects.update(enabled=False)
    assert run()["asked"] == 0


def test_a_watch_that_cannot_be_read_begins_anew(acme: Organisation) -> None:
    acme.bank("gem", each=1)
    DriftWatch.objects.create(tenant=acme.tenant, model_name="gem", state={"series": 7})
    assert run()["reviewed"] == 1
    assert DriftWatch.objects.get(model_name="gem").state["runs"] == 1


def test_the_yardstick_stays_while_both_its_models_are_there(acme: Organisation) -> None:
    acme.bank("gem", each=1)
    run()
    PublishedScore.objects.filter(vendor_model_pattern="grand").update(quality=0.1)
    PublishedScore.objects.filter(vendor_model_pattern="gem").update(quality=0.9)
    run(week=1)
    Model.objects.filter(name="middle").update(enabled=False)
    run(week=2)
    controls = ReplayVerdict.objects.filter(control=True).order_by("week").values_list("model_name", flat=True)
    assert list(controls) == ["middle", "middle", "gem"]


# ---------------------------------------------------------------------- what is noticed


Learned = Callable[[Organisation], RouterState]


def learned(organisation: Organisation) -> RouterState:
    facts = routing_facts_of(organisation.tenant.pk)
    assert facts is not None
    rebuild(organisation.tenant, facts, NOW)
    return RouterState.objects.get(tenant=organisation.tenant)


def doubt(organisation: Organisation, model: str) -> float | None:
    """How many labels the router had when this model was opened again."""
    state = RouterState.objects.get(tenant=organisation.tenant)
    return next(row.reopened for row in Engine.from_bytes(bytes(state.state)).pool_summary() if row.model == model)


def test_eight_weeks_as_ever_raise_nothing_and_a_worse_model_an_alarm_within_three(vendor: GradedVendor) -> None:
    acme = Organisation("acme", vendor.url)
    learned(acme)
    acme.bank("gem", "grand", each=12)
    for week in range(8):
        told = run(week)
        assert (told["reviewed"], told["alarms"]) == (1, [])
    assert not DriftWatch.objects.exclude(alarmed_at=None).exists()
    assert doubt(acme, "gem") is None
    vendor.set_quality("gem", 0.3)
    alarms = [alarm for week in (8, 9, 10) for alarm in run(week)["alarms"]]
    assert any(alarm.startswith("acme: gem: answers are judged worse") for alarm in alarms)
    assert not any("grand" in alarm for alarm in alarms)
    assert DriftWatch.objects.get(model_name="gem").alarmed_at is not None
    assert doubt(acme, "gem") is not None
    assert doubt(acme, "grand") is None


def test_a_control_that_changes_is_noticed_once_and_nobody_else_is_blamed(vendor: GradedVendor) -> None:
    acme = Organisation("acme", vendor.url)
    learned(acme)
    vendor.set_quality("middle", 0.95)
    acme.bank("gem", "grand", each=12)
    for week in range(5):
        assert run(week)["alarms"] == []
    vendor.set_quality("middle", 0.2)
    alarms = [alarm for week in range(5, 10) for alarm in run(week)["alarms"]]
    assert len(alarms) == 1
    assert alarms[0].startswith("acme: middle, the control of replays: The control's answers are judged worse")
    watch = DriftWatch.objects.exclude(alarmed_at=None).get()
    assert watch.model_name == "middle"
    assert doubt(acme, "middle") is not None


# ---------------------------------------------------------------------- the bank


def banked() -> int:
    return BankedConversation.objects.filter(retired_at=None).count()


def test_the_bank_is_filled_from_what_was_judged(acme: Organisation) -> None:
    acme.judged(BANK_SIZE + 10)
    assert populate(NOW + DAY) == {"banked": BANK_SIZE, "retired": 0, "removed": 0}
    assert JudgeSample.objects.count() == 10
    row = BankedConversation.objects.first()
    assert row is not None
    assert (row.model_name, row.project_id, row.task) == ("gem", acme.project.pk, "coding")
    keyring = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(acme.tenant.pk))
    Sample.unseal(keyring, str(acme.tenant.pk), str(row.request_id), bytes(row.ciphertext))
    assert len(set(BankedConversation.objects.values_list("score", flat=True))) == 5


def test_the_bank_is_renewed_once_a_week_and_little(acme: Organisation) -> None:
    acme.judged(2 * BANK_SIZE)
    populate(NOW)
    retired = [populate(NOW + day * DAY)["retired"] for day in range(1, 8)]
    assert sum(retired) == 2  # one of thirty on the first day, and one six days later
    assert banked() == BANK_SIZE


def test_what_is_asked_no_more_is_not_kept(acme: Organisation) -> None:
    acme.judged(2 * BANK_SIZE)
    populate(NOW)
    populate(NOW + DAY)
    gone = BankedConversation.objects.exclude(retired_at=None).get()
    assert bytes(gone.ciphertext) == b""
    RoutingSettings.objects.update(replay_usd_per_week=0)
    assert populate(NOW + 2 * DAY)["retired"] == BANK_SIZE
    assert not BankedConversation.objects.exclude(ciphertext=b"").exists()


def test_what_was_judged_and_not_banked_is_removed_after_eight_days(acme: Organisation) -> None:
    acme.judged(BANK_SIZE + 10)
    populate(NOW)
    assert populate(NOW + 7 * DAY)["removed"] == 0
    RoutingSettings.objects.update(replay_usd_per_week=0)
    populate(NOW + 9 * DAY)
    assert not JudgeSample.objects.exists()


def test_what_waits_for_the_judge_is_not_banked(acme: Organisation) -> None:
    acme.judged(5)
    JudgeSample.objects.update(judged_at=None, score=None)
    assert populate(NOW) == {"banked": 0, "retired": 0, "removed": 0}
