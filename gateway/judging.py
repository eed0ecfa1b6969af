"""Takes answers to the judge: challengers answer in the shadow, a model rates both blind, and labels come of it.

One run at a time (a job). Calls are made for a batch at once; what came of them is written sample by sample, so that a
run that dies costs a few calls again and no label twice.
"""

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import transaction

from billing.models import Subscription
from billing.pricing import to_usd
from gateway.background_calls import BackgroundCalls
from gateway.conversations import answer_in, asking, conversation_in, exchange_of
from gateway.errors import GatewayError
from gateway.own_calls import OnBehalf, Reply, is_priced
from gateway.policy import TenantPolicy
from gateway.rows import first_id
from gateway.runtime import load_policy
from gateway.wire.types import Conversation, ParseError
from routing.judge import (
    Exchange,
    UnreadableVerdict,
    choose_judge,
    pair_question,
    pair_verdict,
    question,
    score_by_rule,
    verdict,
)
from routing.judge.samples import Sample
from routing.learning import judging_usd
from routing.models import Decision, JudgeSample, Label, RouterState, RoutingSettings
from routing.states import expected_quality
from routing.steering import midnight
from tenants.crypto import DecryptionFailed, Keyring, content_purpose
from tenants.models import Tenant

logger = logging.getLogger(__name__)

BATCH: Final = 16  # samples whose calls are made at once
MOST_A_RUN: Final = 400
MOST_TRIES: Final = 4
RETRY_AFTER: Final = timedelta(seconds=30)  # doubled with each try
KEPT_FOR: Final = timedelta(hours=24)  # a sample nobody could judge by then is given up


@dataclass(slots=True)
class _Case:
    """A sample on its way: what was asked and answered, and what the judge made of it."""

    row: JudgeSample
    decision: Decision
    policy: TenantPolicy
    sample: Sample
    judge: str | None
    values: dict[str, float] = field(default_factory=dict)
    ruled: set[str] = field(default_factory=set)
    spent_pico: int = 0
    failure: str = ""
    rater_name: str = ""


def judge_samples(now: datetime) -> dict[str, Any]:
    """Judge what is due. Returns for the job's record: ``judged``, ``labels``, ``by_rule``, ``shadow``, ``failed``,
    ``given_up``, ``usd``, and ``why`` the latest failed."""
    facts: dict[str, Any] = dict.fromkeys(("judged", "labels", "by_rule", "shadow", "failed", "given_up"), 0)
    facts["given_up"] += JudgeSample.objects.filter(due_at__lt=now - KEPT_FOR, judged_at=None).delete()[0]
    if not JudgeSample.objects.filter(due_at__lte=now, judged_at=None).exists():
        return facts
    without = Subscription.without("judge")
    if waiting := JudgeSample.objects.filter(tenant__in=without, judged_at=None):
        facts["not_in_plan"] = sorted(set(waiting.values_list("tenant__slug", flat=True)))
    purses = _Purses(now, without)
    calls: BackgroundCalls | None = None
    with asyncio.Runner() as runner:
        try:
            for cases in _batches(now, purses, facts):
                if calls is None:
                    calls = BackgroundCalls("a judge")
                    runner.run(calls.__aenter__())
                runner.run(_judge_all(calls, cases))
                for case in cases:
                    purses.pay(case)
                    _write_down(case, now, facts)
        finally:
            if calls is not None:
                runner.run(calls.__aexit__(None, None, None))
    facts["usd"] = str(purses.paid_usd)
    return facts


class _Purses:
    """What judging may still cost each tenant today. Samples are taken up as the money left is expected to pay for
    them: each as much as the dearest of this run, before that as today's have cost on the whole. Such a mean may
    mislead (what failed is in it), so that the first sample of a run only needs something to be left."""

    def __init__(self, now: datetime, without: Iterable[UUID]) -> None:
        """``without``: tenants whose plan leaves judging out."""
        self._now = now
        self._left = dict.fromkeys(without, Decimal(0))
        self._one_costs: dict[UUID, Decimal] = {}
        self._paid_for: Counter[UUID] = Counter()
        self.paid_usd = Decimal(0)

    @property
    def empty(self) -> list[UUID]:
        """Tenants known to have nothing left for another sample."""
        return [tenant_id for tenant_id in self._left if self._affords(tenant_id) < 1]

    def affords(self, tenant: Tenant, routing: RoutingSettings) -> int:
        """How many samples may be taken up at once: one, and twice as many each time, while none has cost anything."""
        if tenant.pk not in self._left:
            spent = judging_usd(tenant, self._now)
            self._left[tenant.pk] = routing.judge_usd_per_day - spent
            if spent and (judged := _judged_today(tenant, self._now)):
                self._one_costs[tenant.pk] = spent / judged
        return self._affords(tenant.pk)

    def _affords(self, tenant_id: UUID) -> int:
        left = self._left[tenant_id]
        if left <= 0:
            return 0
        one_costs = self._one_costs.get(tenant_id)
        affords = int(left / one_costs) if one_costs else self._paid_for[tenant_id]
        return min(BATCH, affords if one_costs and self._paid_for[tenant_id] else max(1, affords))

    def pay(self, case: _Case) -> None:
        usd = to_usd(case.spent_pico)
        tenant_id = case.row.tenant_id
        self._left[tenant_id] -= usd
        self._paid_for[tenant_id] += 1
        self._one_costs[tenant_id] = max(self._one_costs.get(tenant_id, usd), usd)
        self.paid_usd += usd


def _judged_today(tenant: Tenant, now: datetime) -> int:
    labels = Label.objects.filter(tenant=tenant, id__gte=first_id(midnight(now)), rater=Label.Rater.JUDGE)
    return labels.values("request_id").distinct().count()


# ---------------------------------------------------------------------- what is due


@dataclass(frozen=True, slots=True)
class _Bench:
    """Of one tenant: what its models are expected to be worth, and what judging with them costs."""

    policy: TenantPolicy
    routing: RoutingSettings
    quality: Mapping[str, float]
    prices: Mapping[str, float]

    @classmethod
    def of(cls, tenant: Tenant, routing: RoutingSettings) -> "_Bench | None":
        """None for a tenant that is switched off."""
        try:
            policy = load_policy(str(tenant.pk))
        except GatewayError:
            return None
        state = RouterState.objects.filter(tenant=tenant, engine=routing.engine).first()
        contestants = policy.routing.contestants.values()
        prices = {one.name: one.output_price for one in contestants if one.output_price is not None}
        return cls(policy, routing, expected_quality(state, policy.routing), prices)

    def judge_of(self, decision: Decision) -> str | None:
        judged = {decision.model_name, decision.challenger} - {""}
        pinned = self.routing.judge_model
        return choose_judge(self.quality, self.prices, judged, pinned if is_priced(self.policy, pinned) else "")


def _batches(now: datetime, purses: _Purses, facts: dict[str, Any]) -> Iterable[list[_Case]]:
    """Batches of cases, as their tenants' money lasts. What cannot be judged at all is removed."""
    benches: dict[UUID, _Bench | None] = {}
    seen: set[UUID] = set()
    while len(seen) < MOST_A_RUN:
        waiting = JudgeSample.objects.filter(due_at__lte=now, judged_at=None).exclude(tenant__in=purses.empty)
        due = waiting.exclude(pk__in=seen).select_related("tenant")
        rows = list(due.order_by("due_at", "request_id")[:BATCH])
        if not rows:
            return
        routing = {row.tenant_id: RoutingSettings.of(row.tenant) for row in rows}
        decisions = Decision.objects.in_bulk([row.pk for row in rows])
        payable = _payable(rows, routing, purses)
        seen.update(row.pk for row in payable)
        cases = []
        for row in payable:
            if row.tenant_id not in benches:
                benches[row.tenant_id] = _Bench.of(row.tenant, routing[row.tenant_id])
            case = _case(row, decisions.get(row.pk), benches[row.tenant_id])
            if case is not None:
                cases.append(case)
            elif row.due_at < now - RETRY_AFTER:  # its decision is written beside it, or never
                facts["given_up"] += row.delete()[0]
        if cases:
            yield cases


def _payable(
    rows: Iterable[JudgeSample], routing: Mapping[UUID, RoutingSettings], purses: _Purses
) -> list[JudgeSample]:
    """As many of each tenant's as its money is expected to pay for; the others wait."""
    taken: Counter[UUID] = Counter()
    payable = []
    for row in rows:
        if taken[row.tenant_id] < purses.affords(row.tenant, routing[row.tenant_id]):
            taken[row.tenant_id] += 1
            payable.append(row)
    return payable


def _case(row: JudgeSample, decision: Decision | None, bench: _Bench | None) -> _Case | None:
    if decision is None or bench is None or decision.model_name not in bench.policy.routing.contestants:
        return None
    keyring = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(row.tenant_id))
    try:
        sample = Sample.unseal(keyring, str(row.tenant_id), str(row.pk), bytes(row.ciphertext))
    except (DecryptionFailed, msgspec.DecodeError):
        logger.warning("the sample of request %s cannot be read", row.pk)
        return None
    if sample.answer_is == "text" and sample.finish_reason == "tool_calls":
        return None  # of a stream only the text is kept: nobody can tell what it called
    return _Case(row, decision, bench.policy, sample, bench.judge_of(decision))


# ---------------------------------------------------------------------- the calls


async def _judge_all(calls: BackgroundCalls, cases: Sequence[_Case]) -> None:
    await asyncio.gather(*(_judge(calls, case) for case in cases))


async def _judge(calls: BackgroundCalls, case: _Case) -> None:
    """Whatever fails is kept in the case: the others go on."""
    try:
        conversation = conversation_in(case.sample)
        served = exchange_of(conversation, answer_in(case.sample), case.sample.finish_reason)
        answers = {case.decision.model_name: served}
        if is_priced(case.policy, challenger := case.decision.challenger):
            reply = await _ask(calls, case, challenger, conversation, "shadow")
            answers[challenger] = exchange_of(conversation, reply.text, reply.finish_reason)
        await _rate(calls, case, answers)
    except (GatewayError, ParseError, UnreadableVerdict, UnicodeError) as exc:
        case.failure = f"{type(exc).__name__}: {exc}"[:300]
    except Exception as exc:
        logger.exception("request %s cannot be judged", case.row.pk)
        case.failure = type(exc).__name__


async def _rate(calls: BackgroundCalls, case: _Case, answers: Mapping[str, Exchange]) -> None:
    """Values by model: by rule where no judge is needed, else by the judge."""
    for model, exchange in answers.items():
        if (ruled := score_by_rule(exchange)) is not None:
            case.values[model] = ruled.value
            case.ruled.add(model)
    open_ones = [model for model in answers if model not in case.values]
    if not open_ones:
        return
    if case.judge is None:
        case.failure = "there is no model to judge with but those to be judged"
        return
    case.rater_name, nonce = case.judge, secrets.token_hex(8)
    if len(open_ones) == 1:
        (model,) = open_ones
        reply = await _ask(calls, case, case.judge, asking(question(answers[model], nonce)), "judge")
        case.values[model] = verdict(reply.text)
        return
    one, other = open_ones
    swap = random.random() < 0.5  # noqa: S311 - which comes first is no secret
    asked = pair_question(answers[one], answers[other], nonce, swap=swap)
    reply = await _ask(calls, case, case.judge, asking(asked), "judge")
    case.values[one], case.values[other] = pair_verdict(reply.text, swap=swap)


async def _ask(calls: BackgroundCalls, case: _Case, model: str, conversation: Conversation, purpose: Any) -> Reply:
    decision = case.decision
    for_whom = OnBehalf(str(decision.request_id), str(decision.project_id), decision.end_user)
    reply = await calls.ask(case.policy, model, conversation, purpose, for_whom)
    case.spent_pico += reply.cost_pico or 0
    return reply


# ---------------------------------------------------------------------- what came of it


@transaction.atomic
def _write_down(case: _Case, now: datetime, facts: dict[str, Any]) -> None:
    """Labels for what was rated, and the end of the sample; one that failed is tried again later."""
    row = case.row
    if case.failure:
        facts["failed"] += 1
        facts["why"] = f"{row.tenant.slug}: {case.failure}"
        logger.info("request %s is not judged: %s", row.pk, case.failure)
        if row.tries + 1 >= MOST_TRIES:
            facts["given_up"] += row.delete()[0]
            return
        delay = RETRY_AFTER * 2**row.tries
        JudgeSample.objects.filter(pk=row.pk).update(tries=row.tries + 1, due_at=now + delay)
        return
    decision, routing = case.decision, RoutingSettings.of(row.tenant)
    for model, value in case.values.items():
        rater = Label.Rater.RULE if model in case.ruled else Label.Rater.JUDGE
        _, is_new = Label.objects.get_or_create(
            tenant=row.tenant,
            request_id=row.pk,
            model_name=model,
            rater=rater,
            rater_name=case.rater_name if rater is Label.Rater.JUDGE else "",
            defaults={
                "value": value,
                "variance": 0.0 if rater is Label.Rater.RULE else None,
                "task": decision.task,
                "complexity": decision.complexity,
                "vector": bytes(decision.vector),
                "end_user": decision.end_user,
                "paired": len(case.values) > 1,
                "shared": routing.feeds_shared,
            },
        )
        facts["labels"] += is_new
        facts["by_rule"] += rater is Label.Rater.RULE
    facts["judged"] += 1
    facts["shadow"] += len(case.values) > 1
    if routing.replay_usd_per_week:
        score = case.values[decision.model_name]
        JudgeSample.objects.filter(pk=row.pk).update(judged_at=now, score=score)
    else:
        row.delete()
