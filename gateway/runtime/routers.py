"""Tenants' routers in this process's memory: read copies of what the one applier has learned.

A newer state is noticed within seconds. Until the first label there is no state: then a router starts from published
scores and prices, alike in every process.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from uuid import UUID

from django.db import DatabaseError, InterfaceError, close_old_connections

from billing.allowances import budgets_of
from gateway.policy import ModelFacts, TenantPolicy
from gateway.providers.health import TargetHealth
from routing.candidates import Condition
from routing.engine import Engine, UnreadableState
from routing.facts import RoutingFacts
from routing.features import shipped_basis
from routing.models import RouterState
from routing.routers import (
    AveragingRouter,
    FixedRouter,
    LearningRouter,
    Router,
    new_averages,
    new_engine,
    pool_of,
    with_models,
)
from routing.rules import budget_remaining
from routing.scores import Experience
from routing.stored import averages_from_bytes, experience_from_bytes
from tenants.models import Tenant

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
FIRST_LOOK_S = 1.0  # that a tenant's first routed request waits for what was learned; then it goes by what it has
MOST_ROUTERS = 2_000
CONDITION_KEPT_S = 0.25
MOST_CONDITIONS = 20_000


@dataclass(slots=True)
class _Known:
    """A tenant's router, by the facts it was made for and the version of the state that was last read. ``looked``:
    whether there is one has been found out."""

    router: Router
    facts: RoutingFacts
    version: int
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    left: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def budget_left(self, model: ModelFacts) -> float | None:
        """Of the scarcest budget that holds for this model or its provider alone, 0-1."""
        return _best(min, (self.left.get(("model", model.name)), self.left.get(("provider", model.provider_name))))


@dataclass(frozen=True, slots=True)
class _Read:
    """What there is to know of a state, and the state itself where it is newer than what is known."""

    version: int
    judge_probability: float
    cost_weight: float | None
    state: bytes | None


class RouterStore:
    """One per process. Decides nothing itself."""

    def __init__(self, health: TargetHealth) -> None:
        self._health = health
        self._known: dict[str, _Known] = {}
        self._conditions: dict[tuple[str, str], tuple[float, Condition]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="routers")
        self._following: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    def open(self) -> None:
        self._thread.submit(shipped_basis)  # takes a while to read: before the first request that is routed, not in it
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait((self._following,))
        self._thread.shutdown(wait=False, cancel_futures=True)

    def router_of(self, policy: TenantPolicy) -> Router:
        """The tenant's router as of the newest state that was read. Never waits."""
        known = self._known.get(policy.id)
        if known is None or (known.facts is not policy.routing and known.facts != policy.routing):
            return self._make(policy).router
        known.facts = policy.routing
        return known.router

    def has_looked(self, policy: TenantPolicy) -> bool:
        """Whether :meth:`router_of` goes by what the tenant's present engine has learned."""
        known = self._known.get(policy.id)
        return known is not None and known.looked.is_set() and known.facts.engine == policy.routing.engine

    async def look(self, policy: TenantPolicy) -> None:
        """Wait for that, ``FIRST_LOOK_S`` seconds at most: a process that has just started chooses as the others do."""
        self.router_of(policy)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._known[policy.id].looked.wait()

    @property
    def all_well(self) -> bool:
        """Whether no circuit is open, and no vendor has asked to be left alone."""
        return self._health.all_well

    def condition_of(self, policy: TenantPolicy, model: ModelFacts) -> Condition:
        """How a model does, as its best deployment; looked up anew a few times a second."""
        key = (policy.id, model.name)
        now = time.monotonic()
        known = self._conditions.get(key)
        if known is not None and known[0] > now:
            return known[1]
        if len(self._conditions) >= MOST_CONDITIONS:
            self._conditions.clear()
        condition = self._condition(policy, model)
        self._conditions[key] = (now + CONDITION_KEPT_S, condition)
        return condition

    def _condition(self, policy: TenantPolicy, model: ModelFacts) -> Condition:
        health = self._health
        circuits = [target.circuit for target in model.targets]
        closed = [circuit for circuit in circuits if health.admits(circuit)]
        known = self._known.get(policy.id)
        return Condition(
            circuit_open=not closed,
            paused_s=min(map(health.paused_for, closed), default=0.0),
            first_token_s=_best(min, (health.first_token_s(circuit, 0.5) for circuit in circuits)),
            success_rate=_best(max, map(health.success_rate, circuits)),
            headroom=_best(max, map(health.headroom, circuits)),
            budget_left=known.budget_left(model) if known is not None else None,
        )

    # ------------------------------------------------------------------ made, and kept up to date

    def _make(self, policy: TenantPolicy) -> _Known:
        """A router without a state yet, or the one before by the tenant's new wishes; its state is read next."""
        if len(self._known) >= MOST_ROUTERS:
            self._known.clear()
        known = _Known(_fresh(policy.routing), policy.routing, -1)
        former = self._known.get(policy.id)
        if former is not None and former.facts.engine == policy.routing.engine:
            known.router = _carried_over(former.router, policy.routing)
            known.version, known.looked = former.version, former.looked
        self._known[policy.id] = known
        self._woken.set()
        return known

    async def _follow(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._look()
            except (DatabaseError, InterfaceError) as exc:
                logger.debug("states of routers cannot be read: %s", exc)
                self._give_up_looking()
            except Exception:
                logger.exception("states of routers cannot be read")
                self._give_up_looking()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Read once what is new of the routers that are in use."""
        versions = {tenant_id: (str(known.facts.engine), known.version) for tenant_id, known in self._known.items()}
        if not versions:
            return
        loop = asyncio.get_running_loop()
        for tenant_id, read in (await loop.run_in_executor(self._thread, _read_states, versions)).items():
            known = self._known.get(tenant_id)
            if known is not None and known.facts.engine == versions[tenant_id][0]:
                _take(tenant_id, known, read)
        for tenant_id, (engine, _) in versions.items():
            if (known := self._known.get(tenant_id)) is not None and known.facts.engine == engine:
                known.looked.set()
        left = await loop.run_in_executor(self._thread, _read_budgets, self._budgeted())
        for tenant_id, shares in left.items():
            if (known := self._known.get(tenant_id)) is not None:
                known.left = shares

    def _give_up_looking(self) -> None:
        """Nobody is to wait for a database that cannot be read."""
        for known in self._known.values():
            known.looked.set()

    def _budgeted(self) -> list[str]:
        """Tenants whose rules ask what budgets have left."""
        return [tenant_id for tenant_id, known in self._known.items() if _asks_for_budgets(known.facts)]


def _take(tenant_id: str, known: _Known, read: _Read) -> None:
    """The router of a newer state, in the place of the former; one that cannot be read changes nothing."""
    if read.state is not None:
        known.version = read.version
        try:
            known.router = _restored(known.facts, read.state) if read.state else _fresh(known.facts)
        except UnreadableState:
            logger.exception("the state of tenant %s's router cannot be read", tenant_id)
        else:
            known.router.version = read.version
    known.router.judge_probability = read.judge_probability
    if isinstance(known.router, LearningRouter):
        known.router.weigh_cost(read.cost_weight)


def _best(choose: Callable[..., float], values: Iterable[float | None]) -> float | None:
    """The least or the greatest of those that are known."""
    known = [value for value in values if value is not None]
    return choose(known) if known else None


def _fresh(facts: RoutingFacts) -> Router:
    """A router that nothing has been learned for."""
    if facts.engine == "fixed":
        return FixedRouter(facts.published, Experience())
    if facts.engine == "ema":
        return AveragingRouter(new_averages(facts))
    return LearningRouter(new_engine(facts), pool_of(facts), quality_floor=facts.quality_floor)


def _restored(facts: RoutingFacts, state: bytes) -> Router:
    """The router of a state. Raises UnreadableState."""
    if facts.engine == "fixed":
        return FixedRouter(facts.published, experience_from_bytes(state))
    if facts.engine == "ema":
        return AveragingRouter(averages_from_bytes(state, new_averages(facts).settings))
    engine = with_models(Engine.from_bytes(state), facts)
    return LearningRouter(engine, pool_of(facts), quality_floor=facts.quality_floor)


def _carried_over(router: Router, facts: RoutingFacts) -> Router:
    """The same beliefs under a tenant's new wishes, until its state is read again."""
    made: Router
    if isinstance(router, LearningRouter):
        engine = with_models(router.engine, facts)
        made = LearningRouter(engine, pool_of(facts), cost_weight=router.cost_weight, quality_floor=facts.quality_floor)
    elif isinstance(router, AveragingRouter):
        made = AveragingRouter(replace(router.averages, settings=new_averages(facts).settings))
    elif isinstance(router, FixedRouter):
        made = FixedRouter(facts.published, router.experience)
    else:
        return _fresh(facts)
    made.judge_probability, made.version = router.judge_probability, router.version
    return made


def _read_states(versions: dict[str, tuple[str, int]]) -> dict[str, _Read]:
    """In a thread: what is new of these tenants' states."""
    close_old_connections()
    try:
        rows = RouterState.objects.filter(tenant_id__in=versions).values_list(
            "pk", "tenant_id", "engine", "version", "judge_probability", "cost_weight"
        )
        wanted = [row for row in rows if versions[str(row[1])][0] == row[2]]
        newer = [row[0] for row in wanted if versions[str(row[1])][1] != row[3]]
        states = dict(RouterState.objects.filter(pk__in=newer).values_list("pk", "state")) if newer else {}
        return {
            str(tenant_id): _Read(version, probability, weight, bytes(states[pk]) if pk in states else None)
            for pk, tenant_id, _, version, probability, weight in wanted
        }
    finally:
        close_old_connections()


def _asks_for_budgets(facts: RoutingFacts) -> bool:
    return any(rule["rule"] == budget_remaining.NAME for rule in facts.rules)


def _read_budgets(tenants: list[str]) -> dict[str, dict[tuple[str, str], float]]:
    """In a thread: what is left of budgets of models and providers, 0-1, by tenant."""
    if not tenants:
        return {}
    close_old_connections()
    try:
        left: dict[str, dict[tuple[str, str], float]] = {tenant_id: {} for tenant_id in tenants}
        slugs = {tenant.slug: str(tenant.pk) for tenant in Tenant.objects.filter(pk__in=tenants)}
        for budget in budgets_of([UUID(tenant_id) for tenant_id in tenants]):
            tenant_id = slugs.get(budget.tenant or "")
            if tenant_id is not None and budget.scope in ("model", "provider") and budget.cap:
                share = float(budget.remaining / budget.cap)
                of_tenant = left[tenant_id]
                key = (budget.scope, budget.subject)
                of_tenant[key] = min(share, of_tenant.get(key, 1.0))
        return left
    finally:
        close_old_connections()
