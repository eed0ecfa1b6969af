"""What the router may know of a tenant, out of its rows."""

import fnmatch
import logging
from collections.abc import Iterable, Mapping
from typing import cast

from django.db.models import Q

from billing.features import Entitlement
from billing.pricing import Price
from gateway.models import Provider
from gateway.policy import ModelFacts
from routing.candidates import Contestant
from routing.facts import EngineName, Ramp, RoutingFacts, RunningExperiment
from routing.models import Experiment, PublishedScore, RoutingSettings, StrategyChoice
from routing.models import Ramp as RampRow
from tenants.models import Tenant

logger = logging.getLogger(__name__)

# Kinds of which the same name means another model elsewhere.
ANYBODYS_NAMES = frozenset({"openai-compatible", "vllm", "azure-openai", "demo"})
PICO_PER_MILLION_TOKENS = 1e-6  # pico-USD a token are millionths of USD a million tokens


def load_routing(tenant: Tenant, models: Mapping[str, ModelFacts], entitlement: Entitlement) -> RoutingFacts:
    """A tenant's router: its wishes as far as its plan goes, and the models it may choose from: those that have a
    provider to serve them."""
    row = RoutingSettings.of(tenant)
    contenders = [model for model in models.values() if model.routed and model.targets]
    providers = Provider.objects.filter(pk__in={model.targets[0].provider_id for model in contenders})
    regions = {str(provider_id): region for provider_id, region in providers.values_list("pk", "region")}
    choices = StrategyChoice.objects.filter(tenant=tenant)
    return RoutingFacts(
        engine=cast("EngineName", row.engine),
        strategy=row.strategy,
        strategies={str(choice.token_id or choice.project_id): choice.strategy for choice in choices},
        rules=tuple(row.rules),
        judges=row.judge_usd_per_day > 0 and entitlement.allows("judge"),
        judge_rate=row.judge_rate,
        shadow=row.shadow,
        quality_floor=row.quality_floor,
        ema_alpha=row.ema_alpha,
        ema_epsilon=row.ema_epsilon,
        ema_least_samples=row.ema_least_samples,
        published=_published(tenant, contenders),
        contestants={model.name: _contestant(model, regions) for model in contenders},
        identities={
            model.name: f"{model.targets[0].kind}/{model.vendor_model}"
            for model in contenders
            if model.targets[0].kind not in ANYBODYS_NAMES
        },
        experiments=tuple(_experiments(tenant)) if entitlement.allows("experiments") else (),
        ramps=tuple(_ramps(tenant)) if entitlement.allows("experiments") else (),
    )


def _contestant(model: ModelFacts, regions: Mapping[str, str]) -> Contestant:
    """By its first deployment: the others serve the same model when that one cannot."""
    target = model.targets[0]
    price = target.price if isinstance(target.price, Price) else None
    kept = 1 - price.discount_bp / 10_000 if price else 1.0
    return Contestant(
        name=model.name,
        provider=target.provider_name,
        kind=target.kind,
        input_price=price.prices.input * PICO_PER_MILLION_TOKENS * kept if price else None,
        output_price=price.prices.output * PICO_PER_MILLION_TOKENS * kept if price else None,
        context_window=model.context_window,
        max_output_tokens=target.max_output_tokens,
        capabilities=model.capabilities,
        region=regions.get(target.provider_id, ""),
    )


def _published(tenant: Tenant, models: Iterable[ModelFacts]) -> dict[str, float]:
    """Quality by model, of the most telling pattern; a tenant's own before the installation's."""
    rows = sorted(
        PublishedScore.objects.filter(Q(tenant=tenant) | Q(tenant=None)),
        key=lambda row: (row.tenant_id is None, -len(row.vendor_model_pattern)),
    )
    found: dict[str, float] = {}
    for model in models:
        vendor_model = model.vendor_model.rpartition("/")[2]  # as OpenRouter and others name it: vendor/model
        for row in rows:
            if fnmatch.fnmatchcase(vendor_model, row.vendor_model_pattern):
                found[model.name] = row.quality
                break
    return found


def _experiments(tenant: Tenant) -> Iterable[RunningExperiment]:
    """Those of one cell before those of a whole task, and these before those of everything."""
    running = Experiment.objects.filter(tenant=tenant, status=Experiment.Status.RUNNING)
    for row in sorted(running, key=lambda row: (row.task == "", row.complexity == "", row.pk)):
        try:
            yield RunningExperiment(row.design(), row.judge_rate)
        except ValueError as exc:  # nobody's requests fail for it
            logger.warning("the experiment %s cannot be run: %s", row.pk, exc)


def _ramps(tenant: Tenant) -> Iterable[Ramp]:
    active = RampRow.objects.filter(
        tenant=tenant, status__in=(RampRow.Status.ACTIVE, RampRow.Status.DONE), percent__gt=0
    )
    for row in sorted(active, key=lambda row: (row.task == "", row.complexity == "", row.pk)):
        yield Ramp(str(row.pk), row.task, row.complexity, row.from_model, row.to_model, row.percent)
