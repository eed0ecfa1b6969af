"""A week's run: every banked conversation answered by its model and by a control, and both judged."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction

from billing.entitlements import within_plan
from billing.pricing import to_usd
from billing.spend import spend_of
from gateway.background_calls import BackgroundCalls
from gateway.conversations import asking, conversation_in, exchange_of
from gateway.errors import GatewayError
from gateway.own_calls import OnBehalf, Reply, is_priced
from gateway.policy import TenantPolicy
from gateway.replaying.findings import CONTROL, Week, take_in
from gateway.runtime import load_policy
from gateway.wire.types import Conversation
from routing.judge import UnreadableVerdict, choose_judge, is_json, is_refusal, question, score_by_rule, verdict
from routing.judge.samples import Sample
from routing.models import BankedConversation, DriftWatch, ReplayVerdict, RouterState, RoutingSettings
from routing.states import expected_quality
from tenants.crypto import DecryptionFailed, Keyring, content_purpose

logger = logging.getLogger(__name__)

AT_ONCE: Final = 8


def execute(now: datetime) -> dict[str, Any]:
    """Replay what this week has not replayed yet, as far as each tenant's money goes, and review what is complete.

    Returns ``asked``, ``failed``, ``reviewed``, ``alarms`` (in words) and ``usd``. One that breaks off is gone on with.
    """
    wanted, skipped = within_plan(RoutingSettings.objects.filter(replay_usd_per_week__gt=0), "replay")
    facts: dict[str, Any] = {"asked": 0, "failed": 0, "reviewed": 0, "alarms": [], "broken_off": [], **skipped}
    spent = Decimal(0)
    calls: BackgroundCalls | None = None
    with asyncio.Runner() as runner:
        try:
            for routing in wanted.select_related("tenant"):
                week = None
                try:
                    if (week := _week_of(routing, now)) is None:
                        continue
                    if calls is None:
                        calls = BackgroundCalls("a replay")
                        runner.run(calls.__aenter__())
                    _replay(runner, calls, week)
                    facts["alarms"] += take_in(week, now)
                    facts["reviewed"] += 1
                except (OperationalError, InterfaceError):
                    raise
                except Exception:
                    logger.exception("the replay of tenant %s breaks off", routing.tenant.slug)
                    facts["broken_off"].append(routing.tenant.slug)
                finally:
                    if week is not None:
                        facts["asked"] += week.asked
                        facts["failed"] += week.failed
                        spent += week.spent_usd
        finally:
            if calls is not None:
                runner.run(calls.__aexit__(None, None, None))
    facts["usd"] = str(spent)
    return facts


def _week_of(routing: RoutingSettings, now: datetime) -> Week | None:
    """The run that is due: of a tenant who has a bank, and whose week is not reviewed."""
    tenant = routing.tenant
    monday = now.date() - timedelta(days=now.weekday())
    if DriftWatch.objects.filter(tenant=tenant, model_name=CONTROL, last_week__gte=monday).exists():
        return None
    if not BankedConversation.objects.filter(tenant=tenant, retired_at=None).exists():
        return None
    try:
        policy = load_policy(str(tenant.pk))
    except GatewayError:
        return None
    judge, control = judge_and_control(routing, policy)
    if judge is None or control is None:
        logger.warning("tenant %s has too few models to replay with a control and a judge", tenant.slug)
        return None
    begun = datetime.combine(monday, datetime.min.time(), now.tzinfo)
    spent = spend_of(tenant, begun, now, where={"purpose": ("replay",)}, now=now).total.spend_usd
    return Week(routing, policy, monday, control, judge, routing.replay_usd_per_week - spent)


def judge_and_control(routing: RoutingSettings, policy: TenantPolicy) -> tuple[str | None, str | None]:
    """The judge, and the model whose answers show whether the judge has changed: the same as the week before, as long
    as there are these two."""
    kept = DriftWatch.objects.filter(tenant=routing.tenant_id, model_name=CONTROL).first()
    former = kept.state.get("yardstick", "").split(" judged by ") if kept else []
    if len(former) == 2 and all(is_priced(policy, name) for name in former):
        return former[1], former[0]
    contestants = policy.routing.contestants
    prices = {name: one.output_price for name, one in contestants.items() if one.output_price is not None}
    state = RouterState.objects.filter(tenant=routing.tenant_id, engine=routing.engine).first()
    quality = expected_quality(state, policy.routing)
    pinned = routing.judge_model if is_priced(policy, routing.judge_model) else ""
    judge = choose_judge(quality, prices, (), pinned)
    return judge, choose_judge(quality, prices, {judge} if judge else ())


def _replay(runner: asyncio.Runner, calls: BackgroundCalls, week: Week) -> None:
    """Have answers given and judged that are not yet, as far as the week's money goes. The control's own conversations
    are asked as the control's."""
    tenant = week.routing.tenant
    bank = BankedConversation.objects.filter(tenant=tenant, retired_at=None).order_by("request_id")
    done = set(ReplayVerdict.objects.filter(tenant=tenant, week=week.monday).values_list("conversation_id", "control"))
    due = [
        (row, control)
        for row in bank
        if is_priced(week.policy, row.model_name)
        for control in (False, True)
        if (row.pk, control) not in done and (control or row.model_name != week.control)
    ]
    for start in range(0, len(due), AT_ONCE):
        if week.left_usd <= 0:
            logger.info(
                "the week's money of tenant %s is spent; %d replays are left out", tenant.slug, len(due) - start
            )
            return
        answered = runner.run(_answers(calls, week, due[start : start + AT_ONCE]))
        with transaction.atomic():
            for verdict_row in answered:
                verdict_row.save(force_insert=True)
                cost = verdict_row.cost_usd or Decimal(0)
                week.left_usd -= cost
                week.spent_usd += cost
                week.asked += 1
                week.failed += verdict_row.value is None


async def _answers(
    calls: BackgroundCalls, week: Week, due: Sequence[tuple[BankedConversation, bool]]
) -> list[ReplayVerdict]:
    return list(await asyncio.gather(*(_answer(calls, week, row, control=control) for row, control in due)))


async def _answer(calls: BackgroundCalls, week: Week, row: BankedConversation, *, control: bool) -> ReplayVerdict:
    """Today's answer and its judgement; without one of them the value is empty."""
    model = week.control if control else row.model_name
    told = ReplayVerdict(
        tenant=week.routing.tenant, conversation=row, week=week.monday, model_name=model, control=control
    )
    keyring = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(row.tenant_id))
    decision_id = str(row.request_id)
    for_whom = OnBehalf(decision_id, str(row.project_id))
    spent_pico = 0
    try:
        sample = Sample.unseal(keyring, str(row.tenant_id), decision_id, bytes(row.ciphertext))
        conversation = conversation_in(sample)
        reply = await calls.ask(week.policy, model, conversation, "replay", for_whom)
        spent_pico += reply.cost_pico or 0
        _note(told, conversation, reply)
        exchange = exchange_of(conversation, reply.text, reply.finish_reason)
        if (ruled := score_by_rule(exchange)) is not None:
            told.value = ruled.value
        else:
            asked = asking(question(exchange, secrets.token_hex(8)))
            judged = await calls.ask(week.policy, week.judge, asked, "replay", for_whom)
            spent_pico += judged.cost_pico or 0
            told.value = verdict(judged.text)
    except (GatewayError, DecryptionFailed, msgspec.DecodeError, UnreadableVerdict) as exc:
        logger.info("the replay of %s by %s gives nothing: %s", row.pk, model, exc)
    except Exception:
        logger.exception("the replay of %s by %s gives nothing", row.pk, model)
    told.cost_usd = to_usd(spent_pico)
    return told


def _note(told: ReplayVerdict, conversation: Conversation, reply: Reply) -> None:
    wanted = conversation.response_format
    told.output_tokens = reply.output_tokens
    told.refused = is_refusal(reply.text)
    told.latency_ms = reply.latency_s * 1000
    told.valid_json = is_json(reply.text) if wanted is not None and wanted.kind != "text" else None
