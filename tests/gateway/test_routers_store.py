"""Read copies of routers in gateway processes: they follow what the applier learns, and agree."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import redis.asyncio
from django.conf import settings
from django.db import OperationalError, connections

from audit.record import Actor
from billing.models import PriceVersion
from gateway.models import Model, Provider
from gateway.policy import TenantPolicy
from gateway.providers.breaker import BreakerRules
from gateway.providers.health import TargetHealth
from gateway.runtime import load_policy, routers
from gateway.runtime.routers import RouterStore
from routing.decision import Label
from routing.engine import Engine
from routing.features import FeatureSpace
from routing.models import Experiment, RouterState, RoutingSettings
from routing.routers import AveragingRouter, FixedRouter, LearningRouter, Question, new_averages, new_engine, pool_of
from routing.scores import Experience
from routing.stored import averages_to_bytes, experience_to_bytes
from tenants.models import Tenant
from tests.provision import Database

FEATURES = FeatureSpace().features("sort a list", "coding", "simple", input_tokens=500)
PRICES = {"small": "0.5", "large": "5"}
PICKED_UP_WITHIN_S = 3.0

Found = TypeVar("Found")


async def in_database(work: Callable[..., Found], *arguments: Any) -> Found:
    def call() -> Found:
        try:
            return work(*arguments)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


def organisation(slug: str = "acme") -> Tenant:
    tenant = Tenant.objects.create(slug=slug)
    provider = Provider.objects.create(
        tenant=tenant, name="lab", kind="openai-compatible", base_url="https://lab.example/v1"
    )
    for name, usd in PRICES.items():
        model = Model.objects.create(tenant=tenant, name=name, provider=provider, vendor_model=name)
        PriceVersion.set_price(model=model, actor=Actor("tests"), input=usd, output=usd)
    return tenant


@pytest.fixture
async def tenant(real_commits: Database) -> Tenant:
    return await in_database(organisation)


Stores = Callable[[], Awaitable[RouterStore]]


@pytest.fixture
def usual_pace() -> None:
    """Asked for where looking at the usual intervals is what is tested."""


@pytest.fixture
async def started(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stores]:
    """Starts the store of one more gateway, which looks for news more often than usual."""
    if "usual_pace" not in request.fixturenames:
        monkeypatch.setattr(routers, "LOOK_EVERY_S", 0.1)
    stores: list[RouterStore] = []
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL)

    async def start() -> RouterStore:
        store = RouterStore(TargetHealth(client, BreakerRules()))
        store.open()
        stores.append(store)
        return store

    yield start
    for store in stores:
        await store.close()
    await client.aclose()


@pytest.fixture
async def store(started: Stores) -> RouterStore:
    return await started()


async def policy_of(tenant: Tenant) -> TenantPolicy:
    return await in_database(load_policy, str(tenant.pk))


def taught(policy: TenantPolicy, better: str = "small", count: int = 30) -> Engine:
    engine = new_engine(policy.routing)
    for _ in range(count):
        for name in PRICES:
            engine.learn(Label(name, FEATURES.vector, 0.9 if name == better else 0.1, 0.0))
    return engine


def write_state(tenant: Tenant, state: bytes, engine: str = "hier", **changed: Any) -> int:
    row = RouterState.objects.filter(tenant=tenant, engine=engine).first()
    row = row or RouterState(tenant=tenant, engine=engine)
    row.state, row.version = state, row.version + 1
    for name, value in changed.items():
        setattr(row, name, value)
    row.save()
    return row.version


async def until(holds: Callable[[], bool], within_s: float = PICKED_UP_WITHIN_S) -> None:
    async with asyncio.timeout(within_s + 2.0):  # and something for a busy machine
        while not holds():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0.05)


def decided(store: RouterStore, policy: TenantPolicy, strategy: str = "quality") -> Any:
    question = Question(FEATURES, pool_of(policy.routing), strategy)
    return store.router_of(policy).decide(question, np.random.default_rng(0))


async def test_a_router_begins_with_what_is_published_and_priced(tenant: Tenant, store: RouterStore) -> None:
    policy = await policy_of(tenant)
    router = store.router_of(policy)
    assert isinstance(router, LearningRouter)
    assert router.engine.to_bytes() == new_engine(policy.routing).to_bytes()
    assert (router.version, router.judge_probability, router.cost_weight) == (0, 0.0, None)


async def test_a_newer_state_is_picked_up_within_seconds(usual_pace: None, tenant: Tenant, store: RouterStore) -> None:
    policy = await policy_of(tenant)
    assert decided(store, policy).model == "large"
    await in_database(lambda: write_state(tenant, taught(policy).to_bytes(), judge_probability=0.25, cost_weight=0.5))
    await until(lambda: store.router_of(policy).version == 1)
    router = store.router_of(policy)
    assert decided(store, policy).model == "small"
    assert isinstance(router, LearningRouter)
    assert (router.judge_probability, router.cost_weight) == (0.25, 0.5)


async def test_a_state_that_is_there_already_is_waited_for_at_the_first_request(
    usual_pace: None, tenant: Tenant, store: RouterStore
) -> None:
    policy = await policy_of(tenant)
    await in_database(lambda: write_state(tenant, taught(policy).to_bytes()))
    assert not store.has_looked(policy)
    await store.look(policy)
    assert store.has_looked(policy)
    assert (store.router_of(policy).version, decided(store, policy).model) == (1, "small")
    other_engine = replace(policy, routing=replace(policy.routing, engine="ema"))
    assert not store.has_looked(other_engine)
    await store.look(other_engine)
    assert store.has_looked(other_engine)


async def test_where_there_is_no_state_or_no_database_nobody_waits_for_long(
    usual_pace: None, tenant: Tenant, store: RouterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = await policy_of(tenant)
    await store.look(policy)
    assert (store.has_looked(policy), store.router_of(policy).version) == (True, 0)

    def away(versions: Any) -> Any:
        raise OperationalError("gone")

    monkeypatch.setattr(routers, "_read_states", away)
    other = replace(policy, id="00000000-0000-0000-0000-000000000000")
    await store.look(other)
    assert store.has_looked(other)


async def test_two_gateways_agree_whatever_they_were_asked_first(tenant: Tenant, started: Stores) -> None:
    policy = await policy_of(tenant)
    one, other = await started(), await started()
    one.router_of(policy).decide(Question(FEATURES, pool_of(policy.routing)[:1], "balanced"), np.random.default_rng(0))
    await in_database(lambda: write_state(tenant, taught(policy, count=3).to_bytes()))
    for store in (one, other):
        store.router_of(policy)
        await until(lambda store=store: store.router_of(policy).version == 1)  # type: ignore[misc]
    for strategy in ("balanced", "quality", "cost", "latency"):
        assert decided(one, policy, strategy).table() == decided(other, policy, strategy).table()


async def test_a_state_that_cannot_be_read_leaves_the_former_in_place(tenant: Tenant, store: RouterStore) -> None:
    policy = await policy_of(tenant)
    await in_database(lambda: write_state(tenant, taught(policy).to_bytes()))
    store.router_of(policy)
    await until(lambda: store.router_of(policy).version == 1)
    await in_database(lambda: write_state(tenant, b"garbage", judge_probability=0.5))
    await until(lambda: store.router_of(policy).judge_probability == 0.5)
    assert store.router_of(policy).version == 1
    assert decided(store, policy).model == "small"
    await in_database(lambda: write_state(tenant, taught(policy, "large").to_bytes()))
    await until(lambda: store.router_of(policy).version == 3)
    assert decided(store, policy).model == "large"


async def test_an_empty_state_is_a_router_that_has_learned_nothing(
    tenant: Tenant, store: RouterStore, caplog: pytest.LogCaptureFixture
) -> None:
    policy = await policy_of(tenant)
    await in_database(lambda: write_state(tenant, taught(policy).to_bytes()))
    store.router_of(policy)
    await until(lambda: store.router_of(policy).version == 1)
    await in_database(lambda: write_state(tenant, b""))
    await until(lambda: store.router_of(policy).version == 2)
    assert decided(store, policy).model == "large"
    assert "cannot be read" not in caplog.text


async def test_each_tenant_has_the_state_of_its_own_engine(real_commits: Database, store: RouterStore) -> None:
    """One tenant has left an engine that another uses: its old state is nobody's."""

    def prepare() -> tuple[TenantPolicy, TenantPolicy]:
        acme, umbrella = organisation("acme"), organisation("umbrella")
        RoutingSettings.objects.create(tenant=umbrella, engine="ema")
        policies = load_policy(str(acme.pk)), load_policy(str(umbrella.pk))
        averages = averages_to_bytes(new_averages(policies[1].routing))
        write_state(acme, taught(policies[0]).to_bytes())
        write_state(acme, averages, "ema")
        write_state(umbrella, averages, "ema")
        write_state(umbrella, taught(policies[1]).to_bytes())
        return policies

    acme, umbrella = await in_database(prepare)
    for policy in (acme, umbrella):
        store.router_of(policy)
    await until(lambda: all(store.router_of(policy).version == 1 for policy in (acme, umbrella)))
    assert decided(store, acme).model == "small"
    assert isinstance(store.router_of(umbrella), AveragingRouter)


async def test_a_change_of_policy_keeps_beliefs(tenant: Tenant, store: RouterStore) -> None:
    policy = await policy_of(tenant)
    await in_database(lambda: write_state(tenant, taught(policy).to_bytes(), judge_probability=0.25, cost_weight=0.5))
    store.router_of(policy)
    await until(lambda: store.router_of(policy).version == 1)

    def change() -> None:
        RoutingSettings.objects.create(tenant=tenant, quality_floor=0.5)
        provider = Provider.objects.get(tenant=tenant)
        added = Model.objects.create(tenant=tenant, name="added", provider=provider, vendor_model="added")
        PriceVersion.set_price(model=added, actor=Actor("tests"), input="1", output="1")

    await in_database(change)
    changed = await policy_of(tenant)
    assert changed.epoch > policy.epoch
    router = store.router_of(changed)
    assert isinstance(router, LearningRouter)
    assert set(router.engine.models) == {"small", "large", "added"}
    assert (router.version, router.judge_probability, router.cost_weight, router.quality_floor) == (1, 0.25, 0.5, 0.5)
    assert decided(store, changed).model == "small"


async def test_a_new_epoch_that_changes_nothing_of_the_router_keeps_the_very_router(
    tenant: Tenant, store: RouterStore
) -> None:
    policy = await policy_of(tenant)
    router = store.router_of(policy)
    await in_database(lambda: Tenant.objects.filter(pk=tenant.pk).update(log_content=True))
    changed = await policy_of(tenant)
    assert store.router_of(changed) is router


async def test_new_wishes_for_moving_averages_hold_at_once(tenant: Tenant, store: RouterStore) -> None:
    settings_row = await in_database(lambda: RoutingSettings.objects.create(tenant=tenant, engine="ema"))
    policy = await policy_of(tenant)
    averages = new_averages(policy.routing)
    averages.learn(FEATURES, "small", 0.9)
    await in_database(lambda: write_state(tenant, averages_to_bytes(averages), "ema"))
    store.router_of(policy)
    await until(lambda: store.router_of(policy).version == 1)
    settings_row.ema_epsilon, settings_row.ema_least_samples = 0.0, 1
    await in_database(settings_row.save)
    router = store.router_of(await policy_of(tenant))
    assert isinstance(router, AveragingRouter)
    assert (router.averages.settings.epsilon, router.averages.labels, router.version) == (0.0, 1, 1)


async def test_another_engine_begins_from_its_own_state(tenant: Tenant, store: RouterStore) -> None:
    policy = await policy_of(tenant)
    experience = Experience()
    experience.observe("small", "coding", 70, 1.0)

    def write() -> None:
        write_state(tenant, taught(policy).to_bytes())
        write_state(tenant, experience_to_bytes(experience), "fixed")

    await in_database(write)
    store.router_of(policy)
    await until(lambda: store.router_of(policy).version == 1)
    await in_database(lambda: RoutingSettings.objects.create(tenant=tenant, engine="fixed"))
    changed = await policy_of(tenant)
    assert isinstance(store.router_of(changed), FixedRouter)

    def known() -> bool:
        router = store.router_of(changed)
        return isinstance(router, FixedRouter) and bool(router.experience.output_tokens)

    await until(known)


async def test_what_goes_wrong_at_one_look_does_not_end_looking(
    tenant: Tenant, store: RouterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = await policy_of(tenant)
    with monkeypatch.context() as patched:
        patched.setattr("gateway.runtime.routers._read_states", lambda versions: 1 / 0)
        store.router_of(policy)
        await asyncio.sleep(0.3)
    await in_database(lambda: write_state(tenant, taught(policy).to_bytes()))
    await until(lambda: store.router_of(policy).version == 1)


async def test_an_experiment_that_cannot_be_run_is_nobodys_loss(tenant: Tenant) -> None:
    def add() -> None:
        Experiment.objects.create(tenant=tenant, name="one arm", task="math", arms=["small"])
        Experiment.objects.create(tenant=tenant, name="fine", arms=["small", "large"])

    await in_database(add)
    assert [running.design.name for running in (await policy_of(tenant)).routing.experiments] == ["fine"]
