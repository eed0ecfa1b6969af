"""The bank: conversations that are asked again every week, drawn out of those that were judged."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import QuerySet

from billing.entitlements import within_plan
from routing.drift import Entry, choose_bank
from routing.drift.bank import REPLACED_SHARE
from routing.models import BankedConversation, Decision, JudgeSample, RoutingSettings
from tenants.models import Tenant

BANK_SIZE: Final = 30  # conversations of each model
SAMPLES_KEPT: Final = timedelta(days=8)  # what was judged and not banked
RENEWED_EVERY: Final = timedelta(days=6)  # a bank that is renewed faster forgets what it compares with


def populate(now: datetime) -> dict[str, Any]:
    """Fill and renew the banks of tenants who replay. Returns ``banked``, ``retired`` and ``removed`` samples."""
    facts: dict[str, Any] = {"banked": 0, "retired": 0, "removed": 0}
    wanted, skipped = within_plan(RoutingSettings.objects.filter(replay_usd_per_week__gt=0), "replay")
    banked_still = BankedConversation.objects.filter(retired_at=None)
    facts["retired"] += _retire(banked_still.exclude(tenant__routing__in=wanted), now)
    for routing in wanted.select_related("tenant"):
        banked, retired = _populate(routing.tenant, now)
        facts["banked"] += banked
        facts["retired"] += retired
    facts |= skipped
    facts["removed"] = JudgeSample.objects.filter(judged_at__lt=now - SAMPLES_KEPT).delete()[0]
    return facts


@transaction.atomic
def _populate(tenant: Tenant, now: datetime) -> tuple[int, int]:
    judged = JudgeSample.objects.filter(tenant=tenant).exclude(score=None).exclude(judged_at=None)
    samples = {str(row.pk): row for row in judged.defer("ciphertext")}
    decided = Decision.objects.only("task", "complexity", "model_name", "project_id")
    decisions = decided.in_bulk([row.pk for row in samples.values()])
    fresh: dict[str, list[Entry]] = defaultdict(list)
    for key, row in samples.items():
        if (decision := decisions.get(row.pk)) is not None and row.score is not None and row.judged_at is not None:
            entry = Entry(key, decision.task, decision.complexity, row.score, row.judged_at)
            fresh[decision.model_name].append(entry)
    count = [0, 0]
    for model, entries in fresh.items():
        kept = BankedConversation.objects.filter(tenant=tenant, model_name=model, retired_at=None)
        former = [
            Entry(str(row.request_id), row.task, row.complexity, row.score, row.banked_at)
            for row in kept.defer("ciphertext")
        ]
        renewed = BankedConversation.objects.filter(tenant=tenant, model_name=model, retired_at__gt=now - RENEWED_EVERY)
        share = 0.0 if renewed.exists() else REPLACED_SHARE
        choice = choose_bank(entries, BANK_SIZE, banked=former, replaced_share=share)
        for entry in (entry for entry in entries if entry.id in choice.add):
            row = samples[entry.id]
            BankedConversation.objects.create(
                tenant=tenant,
                request_id=row.pk,
                project_id=decisions[row.pk].project_id,
                ciphertext=row.ciphertext,
                master_key_number=row.master_key_number,
                task=entry.task,
                complexity=entry.complexity,
                model_name=model,
                score=entry.score,
            )
            row.delete()
        count[0] += len(choice.add)
        count[1] += _retire(kept.filter(request_id__in=choice.retire), now)
    return count[0], count[1]


def _retire(conversations: QuerySet[BankedConversation], now: datetime) -> int:
    """What is asked no more need not be kept; that it was, and how it was answered, stays."""
    return conversations.update(retired_at=now, ciphertext=b"")
