"""Which keys a declaration may have.

A shape is data: a later part of the system adds a row here and a step in :mod:`gateway.declaration.applying`.
"""

from typing import Final

from billing.features import FEATURES
from billing.models import AlertChannel, AlertRule, Budget, RateLimit
from billing.pricing import SERVICE_PRICES
from gateway.declaration import document, routing
from gateway.declaration.document import Fault, Problem
from gateway.declaration.entries import Entry, Field, Shape, mapping_of, one_key_of, part_of, read_entry
from gateway.models import CAPABILITIES, MODALITIES, Model, Provider
from gateway.providers import catalog
from gateway.providers.outbound import Deadlines
from routing.features import COMPLEXITIES, TASKS
from routing.models import Experiment, RoutingSettings
from routing.scores import STRATEGIES
from tenants.roles import Role, Scope

_NAME: Final = Field(document.name, required=True)
_TEXT: Final = Field(document.text)
_ON: Final = Field(document.boolean)
_SIZE: Final = Field(document.integer, nullable=True)
_SHARE: Final = Field(routing.share)
_OWN_STRATEGY: Final = Field(routing.strategy, nullable=True)
_EVERYTHING: Final = Budget.Scope.INSTALLATION
_DEADLINES: Final = Field(
    mapping_of("deadline", {stage: Field(document.seconds) for stage in Deadlines.__struct_fields__})
)

PRICE_CLASSES: Final = (
    "input", "output", "cached_input", "cache_write_5m", "cache_write_1h", "reasoning", "audio_input", "audio_output",
)  # fmt: skip
_CLASSES: Final = {name: Field(document.money) for name in PRICE_CLASSES}
_TIER: Final = {"above_input_tokens": Field(document.integer, required=True), **_CLASSES}
_TIERS: Final = Field(document.list_of(mapping_of("price tier", _TIER)))
PRICE_FIELDS: Final = {
    **{name: Field(document.money, required=name in ("input", "output")) for name in PRICE_CLASSES},
    "per_request": Field(document.money),
    "tiers": _TIERS,
    **{name: Field(mapping_of(f"{name} price", {**_CLASSES, "tiers": _TIERS})) for name in SERVICE_PRICES},
}

PROVIDER: Final = Shape(
    "provider",
    {
        "name": _NAME,
        "kind": Field(document.one_of(catalog.KINDS), required=True),
        "base_url": _TEXT,
        "api_key": Field(document.secret),
        "on_disconnect": Field(document.one_of(Provider.OnDisconnect.values)),
        "deadlines": _DEADLINES,
        "region": _TEXT,
        "weight": Field(document.integer),
        "enabled": _ON,
    },
)
DEPLOYMENT: Final = Shape(
    "deployment",
    {"provider": _NAME, "vendor_model": Field(document.name), "weight": Field(document.integer, nullable=True)},
    identity=("provider", "vendor_model"),
)
MODEL: Final = Shape(
    "model",
    {
        "name": _NAME,
        "provider": _NAME,
        "vendor_model": Field(document.name),
        "price": Field(mapping_of("price", PRICE_FIELDS)),
        "fallbacks": Field(document.list_of(document.name)),
        "balancing": Field(document.one_of(Model.Balancing.values)),
        "hedging": _ON,
        "routed": _ON,
        "capabilities": Field(document.list_of(document.one_of(CAPABILITIES))),
        "modality": Field(document.one_of(MODALITIES)),
        "context_window": _SIZE,
        "max_output_tokens": _SIZE,
        "deadlines": _DEADLINES,
        "enabled": _ON,
    },
    sections={"deployments": DEPLOYMENT},
)
PRICE: Final = Shape(
    "price",
    {
        "kind": Field(document.one_of(catalog.KINDS), required=True),
        "vendor_model": _NAME,
        "effective_from": Field(document.moment),
        **PRICE_FIELDS,
    },
    identity=("kind", "vendor_model", "effective_from"),
)
PROJECT: Final = Shape("project", {"slug": _NAME, "name": _TEXT, "strategy": _OWN_STRATEGY}, identity=("slug",))
ALIAS: Final = Shape("alias", {"name": _NAME, "model": _NAME})
TOKEN: Final = Shape(
    "token",
    {
        "name": _NAME,
        "project": _NAME,
        "value": Field(document.secret),
        "models": Field(document.list_of(document.name)),
        "cidrs": Field(document.list_of(document.network)),
        "scopes": Field(document.list_of(document.one_of(Scope))),
        "requests_per_minute": Field(document.integer),
        "strategy": _OWN_STRATEGY,
        "expires_at": Field(document.moment, nullable=True),
    },
    identity=("project", "name"),
)
MEMBER: Final = Shape(
    "member",
    {
        "email": _NAME,
        "role": Field(document.one_of(Role), required=True),
        "project": Field(document.name, nullable=True),
    },
    identity=("email", "project"),
)
_PLAN_TERMS: Final = {
    "monthly_requests": _SIZE,
    "monthly_tokens": _SIZE,
    "overage": _ON,
    "seats": _SIZE,
    "retention_days": Field(document.integer),
    "audit_retention_days": Field(document.integer),
    "features": Field(document.list_of(document.one_of(FEATURES)), nullable=True),
}
PLAN: Final = Shape("plan", {"name": _NAME, **_PLAN_TERMS})
SUBSCRIPTION: Final = Shape(
    "subscription",
    {
        "name": _NAME,
        "overrides": Field(mapping_of("plan", _PLAN_TERMS)),
        "discount_percent": Field(document.per_cent),
        "stripe_customer": Field(document.text),
    },
    identity=(),
)
_BUDGET_FIELDS: Final = {
    "name": _NAME,
    "limit": Field(
        one_key_of(
            "limit",
            {
                Budget.Metric.USD: Field(document.amount),
                Budget.Metric.TOKENS: Field(document.integer),
                Budget.Metric.REQUESTS: Field(document.integer),
            },
        ),
        required=True,
    ),
    "period": Field(document.one_of(period for period in Budget.Period.values if period != Budget.Period.ROLLING)),
    "rolling": Field(document.span),
    "hard": _ON,
    "alerts": Field(document.list_of(document.integer)),
    "enabled": _ON,
}
BUDGET: Final = Shape(
    "budget",
    {
        "scope": Field(document.one_of(scope for scope in Budget.Scope.values if scope != _EVERYTHING), required=True),
        "of": Field(document.name),
        **_BUDGET_FIELDS,
    },
)
INSTALLATION_BUDGET: Final = Shape(
    "budget", {"scope": Field(document.one_of([_EVERYTHING]), required=True), **_BUDGET_FIELDS}
)
LIMIT: Final = Shape(
    "rate limit",
    {
        "scope": Field(document.one_of(RateLimit.Scope.values), required=True),
        "of": Field(document.name),
        **dict.fromkeys(RateLimit.RATES, _SIZE),
    },
    identity=("scope", "of"),
)
CHANNEL: Final = Shape(
    "alert channel",
    {
        "name": _NAME,
        "kind": Field(document.one_of(AlertChannel.Kind.values), required=True),
        "address": Field(document.name, required=True),
        "secret": Field(document.secret),
        "enabled": _ON,
    },
)
ALERT_RULE: Final = Shape(
    "alert rule",
    {
        "name": _NAME,
        "kind": Field(document.one_of(AlertRule.Kind.values), required=True),
        "threshold": Field(document.amount, nullable=True),
        "window": Field(document.minutes),
        "cooldown": Field(document.minutes),
        "least_requests": Field(document.integer),
        "budget": Field(document.name),
        "project": Field(document.name, nullable=True),
        "model": Field(document.name, nullable=True),
        "channels": Field(document.list_of(document.name)),
        "enabled": _ON,
    },
)
_JUDGE: Final = {
    "usd_per_day": Field(document.money),
    "rate": _SHARE,
    "model": Field(document.text, nullable=True),
    "shadow": _ON,
}
_SHARED_POOL: Final = {"reads": _ON, "feeds": _ON}
_REPLAY: Final = {"usd_per_week": Field(document.money)}
_EMA: Final = {"alpha": _SHARE, "epsilon": _SHARE, "least_samples": Field(document.integer)}
ROUTING: Final = Shape(
    "routing",
    {
        "engine": Field(document.one_of(RoutingSettings.Engine.values)),
        "strategy": Field(document.one_of(STRATEGIES)),
        "rules": Field(routing.rules),
        "judge": Field(part_of(Shape("judge", _JUDGE))),
        "shared_pool": Field(part_of(Shape("shared pool", _SHARED_POOL))),
        "quality_floor": Field(routing.share, nullable=True),
        "usd_per_1000_requests": Field(routing.figure, nullable=True),
        "auto_ab": _ON,
        "auto_migrate": _ON,
        "replay": Field(part_of(Shape("replay", _REPLAY))),
        "ema": Field(part_of(Shape("moving average", _EMA))),
    },
    identity=(),
)
EXPERIMENT: Final = Shape(
    "experiment",
    {
        "name": _NAME,
        "task": Field(document.one_of(TASKS), nullable=True),
        "complexity": Field(document.one_of(COMPLEXITIES), nullable=True),
        "arms": Field(document.list_of(document.name), required=True),
        "shares": Field(document.list_of(routing.figure)),
        "mode": Field(document.one_of(Experiment.Mode.values)),
        "sticky": Field(document.one_of(Experiment.Sticky.values)),
        "judge_rate": _SHARE,
        "guards": Field(document.list_of(routing.guard)),
        "most_labels": Field(routing.count),
        "most_days": Field(routing.count),
        "promotes": _ON,
    },
)
PUBLISHED_SCORE: Final = Shape(
    "published score",
    {
        "vendor_model": _NAME,
        "quality": Field(routing.share, required=True),
        "source": Field(document.name, required=True),
    },
    identity=("vendor_model",),
)
TENANT: Final = Shape(
    "tenant",
    {
        "slug": _NAME,
        "name": _TEXT,
        "enabled": _ON,
        "time_zone": Field(document.name),
        "log_content": _ON,
        "plan": Field(part_of(SUBSCRIPTION)),
        "routing": Field(part_of(ROUTING)),
    },
    sections={
        "projects": PROJECT,
        "providers": PROVIDER,
        "models": MODEL,
        "aliases": ALIAS,
        "tokens": TOKEN,
        "members": MEMBER,
        "budgets": BUDGET,
        "limits": LIMIT,
        "channels": CHANNEL,
        "alert_rules": ALERT_RULE,
        "experiments": EXPERIMENT,
        "published_scores": PUBLISHED_SCORE,
    },
    identity=("slug",),
)
FILE: Final = Shape(
    "declaration",
    {},
    sections={
        "providers": PROVIDER,
        "models": MODEL,
        "prices": PRICE,
        "plans": PLAN,
        "budgets": INSTALLATION_BUDGET,
        "channels": CHANNEL,
        "alert_rules": ALERT_RULE,
        "published_scores": PUBLISHED_SCORE,
        "tenants": TENANT,
    },
    identity=(),
)


def read(text: str) -> tuple[Entry | None, list[Problem]]:
    """A file's content, read as far as it can be, and what is wrong with it.

    None stands for a file that is not YAML, or holds nothing.
    """
    problems: list[Problem] = []
    try:
        root = document.compose(text)
    except Fault as found:
        return None, list(found.problems)
    if root is None:
        return None, [Problem(1, "the file declares nothing.")]
    return read_entry(root, FILE, problems), problems
