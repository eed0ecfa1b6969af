"""What the pipeline asks before it has anything to do."""

from ipaddress import ip_network
from typing import Any, cast

import pytest

from gateway.call import Call
from gateway.errors import PermissionDenied
from gateway.pipeline import Limits, Pipeline
from gateway.policy import NamePatterns, TenantPolicy, TokenFacts
from gateway.selection import Selector

NEARBY, FAR_AWAY = "192.0.2.7", "198.51.100.7"


def policy(epoch: int) -> TenantPolicy:
    return TenantPolicy("t", "acme", epoch, models={}, aliases={}, log_content=False)


def key(network: str) -> TokenFacts:
    scopes = frozenset({"inference"})
    return TokenFacts("k", "ci", "t", "p", scopes, NamePatterns(["*"]), (ip_network(network),), 0, None, revoked=False)


class Policies:
    """A tenant whose key is for one network, and for all of them once somebody has changed that."""

    def __init__(self) -> None:
        self.asked = 0
        self.changed = False
        self._known = (policy(1), key("192.0.2.0/24"))

    async def find(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        return self._known

    async def overtaken(self, known: TenantPolicy) -> bool:
        self.asked += 1
        return self.changed and known.epoch == 1

    def forget(self, tenant_id: str) -> None:
        self._known = (policy(2), key("0.0.0.0/0"))


def pipeline_of(policies: Policies) -> Pipeline:
    nothing: Any = None
    return Pipeline(
        cast("Any", policies),
        nothing,
        nothing,
        nothing,
        journal=nothing,
        stored=nothing,
        idempotent=nothing,
        limits=Limits(),
        selector=Selector(nothing, nothing),
    )


def call_from(address: str) -> Call:
    return Call("r", cast("Any", None), b"{}", {}, "gw_key", address, received=0.0)


async def test_a_key_that_is_let_in_costs_no_question() -> None:
    policies = Policies()
    for _ in range(5):
        await pipeline_of(policies)._authenticate(call_from(NEARBY))
    assert policies.asked == 0


async def test_a_refused_key_is_looked_up_now_and_then_however_often_it_is_sent() -> None:
    policies = Policies()
    pipeline = pipeline_of(policies)
    for _ in range(50):
        with pytest.raises(PermissionDenied):
            await pipeline._authenticate(call_from(FAR_AWAY))
    assert policies.asked < 10  # 1 where all of it takes less than a second


async def test_a_refused_key_is_let_in_once_it_is_given_more() -> None:
    policies = Policies()
    policies.changed = True
    known, _ = await pipeline_of(policies)._authenticate(call_from(FAR_AWAY))
    assert known.epoch == 2
