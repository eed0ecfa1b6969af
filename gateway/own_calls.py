"""Calls of models that the gateway makes by itself: on whose behalf, and as what lines of the ledger.

Each has its purpose, and holds and is held by the tenant's budgets like every other call.
"""

from dataclasses import dataclass

import msgspec

from billing.admission import Demand
from billing.budgets import Spender, prompt_bound
from billing.pricing import Price
from gateway.conversations import told
from gateway.dispatch import Job
from gateway.dispatch.attempt import Purpose
from gateway.policy import TenantPolicy
from gateway.providers.client import CANONICAL
from gateway.wire.types import Completion, Conversation, Extensions, Needs, Request, Text


@dataclass(frozen=True, slots=True)
class OnBehalf:
    """Whom a call is made for: the request it belongs to, and who asked that."""

    request_id: str
    project_id: str
    end_user: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer. ``text`` has tool calls named in words; ``cost_pico`` is in pico-USD, None where no price is
    known."""

    text: str
    finish_reason: str
    output_tokens: int
    latency_s: float
    cost_pico: int | None


def demand_of(policy: TenantPolicy, spender: Spender, request: Request, body: bytes) -> Demand:
    """What a request needs of budgets; ``body`` is what was sent, or stands for it."""
    return Demand(
        budgets=policy.budgets,
        spender=spender,
        prompt_bound=prompt_bound(body, request.input_chars, request.needs),
        max_tokens=request.max_tokens,
        choices=request.choices,
        generates=request.operation in ("chat", "completions"),
    )


def is_priced(policy: TenantPolicy, model: str) -> bool:
    """Whether the tenant has this model, and it is known what calls of it cost: else no sum of money can hold them."""
    known = policy.models.get(model)
    return known is not None and bool(known.targets) and all(isinstance(one.price, Price) for one in known.targets)


def own_job(
    policy: TenantPolicy,
    model: str,
    conversation: Conversation,
    purpose: Purpose,
    for_whom: OnBehalf,
    *,
    timeout_s: float,
) -> Job:
    """A call of one of the tenant's models. Raises KeyError for one it does not have."""
    chars = sum(len(part.text) for message in conversation.messages for part in message.parts if isinstance(part, Text))
    request = Request(
        dialect=CANONICAL,
        fields={},
        model=model,
        stream=False,
        include_usage=False,
        max_tokens=conversation.sampling.max_tokens,
        choices=1,
        end_user=for_whom.end_user or None,
        needs=Needs(),
        input_chars=chars,
        extensions=Extensions(tags=for_whom.tags),
        _conversation=conversation,
    )
    spender = Spender(project_id=for_whom.project_id, token_id="", end_user=for_whom.end_user, budget_key="")
    return Job(
        request=request,
        request_id=for_whom.request_id,
        tenant_id=policy.id,
        policy_epoch=policy.epoch,
        project_id=for_whom.project_id,
        token_id=None,
        targets=policy.models[model].targets,
        timeout_s=timeout_s,
        demand=demand_of(policy, spender, request, msgspec.json.encode(conversation)) if policy.budgets else None,
        purpose=purpose,
    )


def reply_of(job: Job, completion: Completion, latency_s: float) -> Reply:
    """What came of it."""
    served = job.served
    parts = completion.choices[0].parts if completion.choices else ()
    return Reply(
        text=told(parts),
        finish_reason=completion.choices[0].finish_reason if completion.choices else completion.finish_reason or "",
        output_tokens=served.usage.total_output if served else 0,
        latency_s=latency_s,
        cost_pico=served.cost_pico if served else None,
    )
