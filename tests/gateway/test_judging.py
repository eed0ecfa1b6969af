"""Answers go to the judge: what is asked of whom, what it costs, what is learned, and what is left of the content."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from msgspec import Raw

from audit.record import Actor
from billing.models import Attempt, Budget, PriceVersion, Settlement
from gateway import judging
from gateway.background_calls import BackgroundCalls
from gateway.judging import BATCH, MOST_TRIES, RETRY_AFTER, judge_samples
from gateway.models import Model, Provider
from routing.judge.samples import Sample
from routing.models import Decision, JudgeSample, Label, RoutingSettings
from tenants.crypto import Keyring, content_purpose
from tenants.models import ApiToken, Project, Tenant
from tests.e2e.graded_vendor import PRICES, GradedVendor, is_right
from tests.provision import Database
from tests.routing.simulated_traffic import Traffic

NOW = datetime.now(UTC)
GOOD, BAD = "RIGHT#1: here you are", "WRONG#1: here you are"


@pytest.fixture(scope="module")
def vendor() -> Iterator[GradedVendor]:
    with GradedVendor() as server:
        yield server


class Organisation:
    """A tenant with the graded vendor's models, whose answers wait for the judge."""

    def __init__(self, slug: str, url: str, **wishes: Any) -> None:
        self.tenant = Tenant.objects.create(slug=slug)
        project = Project.objects.create(tenant=self.tenant, slug="web")
        self.token, _ = ApiToken.issue(tenant=self.tenant, project=project, name="ci", actor=Actor("tests"))
        self.provider = self._provider("lab", f"{url}/v1")
        self._provider("nowhere", "http://127.0.0.1:9/v1")
        for name in PRICES:
            self.add_model(name, routed=name != "judge")
        values = {"judge_usd_per_day": Decimal(10), "judge_model": "judge"}
        self.wishes = RoutingSettings.objects.create(tenant=self.tenant, **(values | wishes))
        self.traffic = Traffic(self.tenant)

    def _provider(self, name: str, url: str) -> Provider:
        return Provider.objects.create(tenant=self.tenant, name=name, kind="openai-compatible", base_url=url)

    def add_model(self, name: str, *, provider: str = "lab", priced: bool = True, routed: bool = True) -> None:
        of = Provider.objects.get(tenant=self.tenant, name=provider)
        model = Model.objects.create(tenant=self.tenant, name=name, provider=of, vendor_model=name, routed=routed)
        if priced:
            usd = PRICES.get(name, 1.0)
            PriceVersion.set_price(model=model, actor=Actor("tests"), input=str(usd / 4), output=str(usd))

    def wish(self, **wishes: Any) -> None:
        for name, value in wishes.items():
            setattr(self.wishes, name, value)
        self.wishes.save()

    def answered(self, answer: str = GOOD, number: int = 1, *, model: str = "gem", **changed: Any) -> Decision:
        """A judged request: its decision, and the sample that waits."""
        sample = changed.pop("sample", None) or sampled(answer, number)
        values = {"project_id": self.token.project_id, "token_id": self.token.pk, "end_user": "ann"}
        decision = self.traffic.decided(changed.pop("at", NOW), model, **(values | changed))
        self.traffic.write()
        keyring = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(self.tenant.pk))
        sealed = sample.seal(keyring, str(self.tenant.pk), str(decision.request_id))
        JudgeSample.objects.create(
            request_id=decision.request_id, tenant=self.tenant, ciphertext=sealed, master_key_number=1, due_at=NOW
        )
        return decision

    def lines(self) -> list[tuple[str, str]]:
        """(purpose, model) of the ledger's lines, sorted."""
        rows = Attempt.objects.filter(tenant=self.tenant).values_list("purpose", "model__name")
        return sorted((purpose, str(name)) for purpose, name in rows)

    def values(self) -> dict[str, float]:
        """Labels by model, of one request."""
        return dict(Label.objects.filter(tenant=self.tenant).values_list("model_name", "value"))

    def spent_usd(self) -> Decimal:
        costs = Settlement.objects.filter(tenant=self.tenant).values_list("cost_usd", flat=True)
        return sum((cost for cost in costs if cost is not None), Decimal(0))


def sampled(
    answer: str, number: int = 1, *, finish_reason: str = "stop", answer_is: Any = "text", **fields: Any
) -> Sample:
    question = {"role": "user", "content": f"Write a Python function. #{number}"}
    body = json.dumps({"model": "auto", "messages": [question]} | fields).encode()
    return Sample("openai_chat", Raw(body), answer, answer_is, finish_reason)


Founded = Callable[..., Organisation]


@pytest.fixture
def found(real_commits: Database, vendor: GradedVendor, monkeypatch: pytest.MonkeyPatch) -> Founded:
    monkeypatch.setattr(settings, "DATABASE_URL", real_commits.url)
    return lambda slug="acme", **wishes: Organisation(slug, vendor.url, **wishes)


@pytest.fixture
def acme(found: Founded) -> Organisation:
    return found()


def judge(after: timedelta = timedelta(seconds=1)) -> dict[str, Any]:
    return judge_samples(NOW + after)


# ---------------------------------------------------------------------- what is asked of whom


def test_one_answer_is_rated_by_the_judge(acme: Organisation) -> None:
    decision = acme.answered(GOOD)
    told = judge()
    assert (told["judged"], told["labels"], told["by_rule"], told["shadow"], told["failed"]) == (1, 1, 0, 0, 0)
    label = Label.objects.get()
    assert (label.request_id, label.model_name, label.rater, label.rater_name) == (
        decision.request_id, "gem", "judge", "judge",
    )  # fmt: skip
    assert label.value > 0.7
    assert (label.variance, label.paired, label.shared, label.end_user, label.position) == (
        None, False, False, "ann", None,
    )  # fmt: skip
    assert bytes(label.vector) == bytes(decision.vector)
    attempt = Attempt.objects.get()
    assert (attempt.purpose, attempt.project_id, attempt.request_id, attempt.token_id) == (
        "judge", acme.token.project_id, decision.request_id, None,
    )  # fmt: skip
    assert Decimal(told["usd"]) == acme.spent_usd() > 0


def test_nothing_of_the_content_is_left_when_it_is_judged(acme: Organisation) -> None:
    acme.answered()
    judge()
    assert not JudgeSample.objects.exists()


def test_where_conversations_are_banked_the_content_stays_with_its_score(acme: Organisation) -> None:
    acme.wish(replay_usd_per_week=Decimal(1))
    acme.answered(GOOD)
    judge()
    row = JudgeSample.objects.get()
    assert row.judged_at == NOW + timedelta(seconds=1)
    assert row.score == acme.values()["gem"]
    assert judge(timedelta(minutes=5))["judged"] == 0
    assert len(acme.lines()) == 1


def test_of_a_pair_each_value_belongs_to_its_model_whichever_comes_first(
    acme: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [number for number in range(400) if is_right("gem", "coding", number, 0.85)][:10]
    wanted = {
        acme.answered(f"WRONG#{number}", number, model="grand", challenger="gem").request_id for number in numbers
    }
    orders: list[bool] = []
    asked = judging.pair_question

    def noted(*arguments: Any, swap: bool) -> str:
        orders.append(swap)
        return asked(*arguments, swap=swap)

    monkeypatch.setattr(judging, "pair_question", noted)
    told = judge()
    assert (told["judged"], told["labels"], told["shadow"]) == (10, 20, 10)
    for label in Label.objects.all():
        assert (label.value > 0.6) == (label.model_name == "gem")
        assert label.paired
        assert label.request_id in wanted
    assert acme.lines() == sorted([("judge", "judge"), ("shadow", "gem")] * 10)
    assert len(set(orders)) == 2


def test_what_a_rule_tells_costs_nothing(acme: Organisation) -> None:
    acme.answered("I'm sorry, but I can't help with that.")
    told = judge()
    assert (told["judged"], told["labels"], told["by_rule"]) == (1, 1, 1)
    label = Label.objects.get()
    assert (label.value, label.rater, label.rater_name, label.variance) == (0.0, "rule", "", 0.0)
    assert acme.lines() == []


def test_of_a_pair_that_a_rule_decides_half_only_the_other_half_is_judged(acme: Organisation) -> None:
    acme.answered("", 1, model="grand", challenger="gem")
    judge()
    assert acme.values()["grand"] == 0.0
    assert set(Label.objects.values_list("model_name", "rater")) == {("grand", "rule"), ("gem", "judge")}


def test_an_answer_is_read_out_of_the_body_it_was_rendered_in(acme: Organisation) -> None:
    body = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "gem",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": GOOD}}],
    }  # fmt: skip
    acme.answered(sample=sampled(json.dumps(body), answer_is="body"))
    judge()
    assert acme.values()["gem"] > 0.7


def test_a_stream_that_called_tools_is_not_taken_for_silence(acme: Organisation) -> None:
    """Of a stream only its text is kept."""
    acme.answered(sample=sampled("", finish_reason="tool_calls"))
    judge()
    assert judge(RETRY_AFTER + timedelta(seconds=1))["given_up"] == 1
    assert acme.values() == {}
    assert not JudgeSample.objects.exists()


@pytest.mark.parametrize("pinned", ["gem", "", "gone", "unpriced"])
def test_no_model_judges_itself_nor_one_whose_price_nobody_knows(acme: Organisation, pinned: str) -> None:
    acme.add_model("unpriced", priced=False)
    acme.wish(judge_model=pinned)
    acme.answered(model="gem", challenger="grand")
    assert judge()["judged"] == 0  # whoever was asked is no judge of this vendor's
    judges = {model for purpose, model in acme.lines() if purpose == "judge"}
    assert len(judges) == 1
    assert not judges & {"gem", "grand", "unpriced"}


def test_a_challenger_that_is_gone_or_unpriced_is_not_asked(acme: Organisation) -> None:
    acme.add_model("unpriced", priced=False)
    for challenger in ("gone", "unpriced"):
        acme.answered(challenger=challenger)
    told = judge()
    assert (told["judged"], told["shadow"]) == (2, 0)
    assert acme.lines() == [("judge", "judge")] * 2


def test_a_label_is_of_the_model_that_answered_and_not_of_the_one_that_was_chosen(acme: Organisation) -> None:
    acme.answered(model="gem", chosen="grand", arm="grand")
    judge()
    assert list(acme.values()) == ["gem"]


# ---------------------------------------------------------------------- money


def test_a_day_is_overspent_by_no_more_than_one_answer(acme: Organisation) -> None:
    for number in range(3 * BATCH):
        acme.answered(GOOD, number)
    acme.wish(judge_usd_per_day=Decimal("0.000001"))  # less than one costs, which nobody knows yet
    assert judge_samples(datetime.now(UTC))["judged"] == 1
    limit = acme.spent_usd() * Decimal("5.5")
    acme.wish(judge_usd_per_day=limit)
    judged = [judge_samples(datetime.now(UTC))["judged"] for _ in range(4)]
    assert judged == [4, 1, 0, 0]
    assert acme.spent_usd() <= limit * 6 / Decimal("5.5")
    assert len(acme.lines()) == 6


def test_where_there_is_money_many_are_judged_at_once(acme: Organisation, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2 * BATCH):
        acme.answered(GOOD, number)
    sizes, judged = [], judging._judge_all

    async def counted(calls: Any, cases: Any) -> None:
        sizes.append(len(cases))
        await judged(calls, cases)

    monkeypatch.setattr(judging, "_judge_all", counted)
    assert judge_samples(datetime.now(UTC))["judged"] == 2 * BATCH
    assert sizes == [1, BATCH, BATCH - 1]


def test_a_tenant_whose_money_is_spent_holds_up_nobody(found: Founded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MOST_A_RUN", 8)
    broke, other = found("acme", judge_usd_per_day=Decimal(0)), found("umbrella")
    for number in range(20):
        broke.answered(GOOD, number)
    other.answered()
    assert judge()["judged"] == 1
    assert (broke.lines(), other.lines()) == ([], [("judge", "judge")])


def test_nothing_is_opened_where_nobody_can_pay(acme: Organisation, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.wish(judge_usd_per_day=Decimal(0))
    acme.answered()
    monkeypatch.setattr(BackgroundCalls, "__init__", lambda *_: pytest.fail("nobody is to be asked"))
    assert judge()["judged"] == 0


def test_a_hard_budget_of_the_tenant_holds_for_judging_too(acme: Organisation) -> None:
    Budget.objects.create(tenant=acme.tenant, name="all", scope="tenant", metric="usd", cap=0, hard=True)
    acme.answered(challenger="grand")
    told = judge()
    assert (told["judged"], told["failed"], acme.values()) == (0, 1, {})
    assert acme.spent_usd() == 0
    assert not Settlement.objects.filter(outcome="settled").exists()


# ---------------------------------------------------------------------- what goes wrong


def test_failures_are_tried_again_more_and_more_patiently_and_then_given_up(acme: Organisation) -> None:
    acme.add_model("deaf", provider="nowhere")
    acme.wish(judge_model="deaf")
    acme.answered()
    after = timedelta(seconds=1)
    for tried in range(1, MOST_TRIES):
        told = judge(after)
        assert (told["judged"], told["failed"], told["given_up"]) == (0, 1, 0)
        row = JudgeSample.objects.get()
        assert row.tries == tried
        assert row.due_at == NOW + after + RETRY_AFTER * 2 ** (tried - 1)
        assert judge(after + timedelta(seconds=5))["failed"] == 0
        after = row.due_at - NOW
    assert judge(after)["given_up"] == 1
    assert (JudgeSample.objects.count(), Label.objects.count()) == (0, 0)


def test_a_verdict_that_cannot_be_read_is_asked_for_again(acme: Organisation) -> None:
    acme.answered("RIGHT#1 and WRONG#2")  # takes the judge for asked about a pair
    told = judge()
    assert (told["judged"], told["failed"]) == (0, 1)
    assert told["why"] == "acme: UnreadableVerdict: the judge's answer holds no ratings"
    assert JudgeSample.objects.get().tries == 1
    assert Decimal(told["usd"]) > 0


def test_what_nobody_foresaw_fails_alone(acme: Organisation, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = acme.answered(number=1), acme.answered(number=2)
    asked = judging.conversation_in

    def breaking(sample: Sample) -> Any:
        if b"#1" in bytes(sample.request):
            raise RuntimeError("a bug")
        return asked(sample)

    monkeypatch.setattr(judging, "conversation_in", breaking)
    told = judge()
    assert (told["judged"], told["failed"]) == (1, 1)
    assert Label.objects.get().request_id == good.request_id
    assert JudgeSample.objects.get().request_id == bad.request_id


def test_a_request_in_a_form_that_makes_no_sense_is_judged_or_given_up_but_stops_nobody(acme: Organisation) -> None:
    schema = {"type": "object", "required": [{"a": 1}], "properties": []}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    acme.answered(sample=sampled('{"RIGHT#1": 1}', response_format=wanted))
    acme.answered()
    assert judge()["judged"] == 2


def test_a_sample_that_cannot_be_read_any_more_is_removed(acme: Organisation, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.answered()
    monkeypatch.setattr(settings, "MASTER_KEYS", "2:" + base64.b64encode(b"k" * 32).decode())
    judge()
    assert judge(RETRY_AFTER + timedelta(seconds=1))["given_up"] == 1
    assert not JudgeSample.objects.exists()


def test_the_samples_of_a_tenant_that_is_switched_off_are_removed(acme: Organisation) -> None:
    acme.answered()
    Tenant.objects.update(enabled=False)
    assert judge(RETRY_AFTER + timedelta(seconds=1))["given_up"] == 1
    assert acme.lines() == []


def test_a_sample_waits_for_its_decision_for_a_while(acme: Organisation) -> None:
    decision = acme.answered()
    Decision.objects.all().delete()
    assert judge()["judged"] == 0
    assert JudgeSample.objects.exists()
    acme.traffic.decisions.append(decision)
    acme.traffic.write()
    assert judge()["judged"] == 1


def test_what_nobody_could_judge_for_a_day_is_removed(acme: Organisation) -> None:
    acme.wish(judge_usd_per_day=Decimal(0))
    acme.answered()
    assert judge(timedelta(hours=23))["given_up"] == 0
    assert judge(timedelta(hours=25))["given_up"] == 1


def test_judging_again_labels_nothing_twice(acme: Organisation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that died after its labels were written."""
    acme.answered()
    sealed = JudgeSample.objects.get()
    judge()
    JudgeSample.objects.create(
        request_id=sealed.request_id, tenant=acme.tenant, ciphertext=sealed.ciphertext, master_key_number=1, due_at=NOW
    )
    before = acme.values()
    told = judge()
    assert (told["judged"], told["labels"]) == (1, 0)
    assert acme.values() == before
