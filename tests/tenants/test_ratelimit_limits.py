"""Which limits hold for a request, and what its caller is told of them."""

from datetime import UTC, datetime

import pytest

from tenants.ratelimit import Asked, LimitFacts, Rule, Slots, Verdict, rules_of, telling, that_may_hold
from tenants.ratelimit.rules import Answer, Scope

HERE = Asked("ann", "small", 50)


def keys(*limits: LimitFacts, asked: Asked | None = HERE) -> list[str]:
    rules, slots = rules_of(limits, asked)
    return [limit.key for limit in (*rules, *slots)]


def test_only_limits_of_this_token_and_project_may_hold() -> None:
    limits = [
        LimitFacts("1", "tenant", ""),
        LimitFacts("2", "project", "web"),
        LimitFacts("3", "project", "other"),
        LimitFacts("4", "token", "ci"),
        LimitFacts("5", "token", "web"),
        LimitFacts("6", "user", "*"),
        LimitFacts("7", "model", "small"),
    ]

    assert [limit.id for limit in that_may_hold(limits, "web", "ci")] == ["1", "2", "4", "6", "7"]


def test_each_figure_is_a_rule_of_its_own() -> None:
    rules, slots = rules_of([LimitFacts("1", "project", "web", 60, 1_000, 5)], HERE)

    assert rules == [
        Rule("r:1", 60, 60.0, scope="project"),
        Rule("t:1", 1_000, 60.0, 50, unit="tokens", scope="project"),
    ]
    assert slots == [Slots("c:1", 5, "project")]


def test_each_end_user_or_model_by_itself_has_a_bucket_by_itself() -> None:
    every_user, every_model = LimitFacts("1", "user", "*", 60), LimitFacts("2", "model", "*", 60)

    assert keys(every_user, every_model) == ["r:1:ann", "r:2:small"]
    assert keys(every_user, every_model, asked=Asked("", "", 50)) == []


def test_a_named_end_user_or_model_is_no_other() -> None:
    ann, bob = LimitFacts("1", "user", "ann", 60), LimitFacts("2", "user", "bob", 60)
    small, large = LimitFacts("3", "model", "small", 60), LimitFacts("4", "model", "large", 60)

    assert keys(ann, bob, small, large) == ["r:1", "r:3"]


@pytest.mark.parametrize("name", ["x" * 100_000, "jürgen", "\ud800"], ids=["long", "accented", "surrogate"])
def test_a_callers_name_for_its_user_makes_a_short_plain_key(name: str) -> None:
    (key,) = keys(LimitFacts("1", "user", "*", 60), asked=Asked(name, "", 1))

    assert len(key) < 80
    assert key.isascii()


def test_what_needs_the_body_is_left_out_without_it() -> None:
    limits = [LimitFacts("1", "tenant", "", 60, 1_000, 5), LimitFacts("2", "user", "*", 60)]

    assert keys(*limits, asked=None) == ["r:1", "c:1"]


def test_nobody_can_ask_for_more_tokens_than_redis_can_count() -> None:
    ((rule,), _) = rules_of([LimitFacts("1", "tenant", "", 0, 1_000)], Asked("", "", 10**30))

    assert rule.cost < 1 << 53


@pytest.mark.parametrize(
    ("limit", "needs_body"),
    [
        (LimitFacts("1", "tenant", "", 60, 0, 5), False),
        (LimitFacts("1", "project", "web", 60), False),
        (LimitFacts("1", "token", "ci", 0, 1_000), True),
        (LimitFacts("1", "user", "*", 60), True),
        (LimitFacts("1", "model", "small", 0, 0, 5), True),
    ],
)
def test_tokens_users_and_models_are_in_the_body(limit: LimitFacts, needs_body: bool) -> None:
    assert limit.needs_body == needs_body


# --------------------------------------------------------------------------- what is told

REQUESTS = Rule("r:1", 60, 60.0, scope="project")
TOKENS = Rule("t:1", 1_000, 60.0, 400, unit="tokens", scope="tenant")
FLOOR = Rule("ip:::1", 200, 1.0, scope="ip")


def test_headers_tell_the_tightest_limit_of_each_kind() -> None:
    tighter = Rule("r:2", 10, 60.0, scope="token")
    verdict = Verdict(True, (FLOOR, REQUESTS, tighter, TOKENS), (), Answer(True, [199.0, 6.0, 5.0, 250.0]))

    assert telling.headers(verdict, "openai_chat") == [
        (b"x-ratelimit-limit-requests", b"10"),
        (b"x-ratelimit-remaining-requests", b"5"),
        (b"x-ratelimit-reset-requests", b"30.000s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"750"),
        (b"x-ratelimit-reset-tokens", b"15.000s"),
    ]


def test_the_anthropic_dialect_has_that_vendors_names_as_well() -> None:
    verdict = Verdict(True, (REQUESTS, TOKENS), (), Answer(True, [30.0, 500.0]))
    asked_at = datetime.now(UTC)

    told = dict(telling.headers(verdict, "anthropic_messages"))

    assert told[b"anthropic-ratelimit-requests-limit"] == b"60"
    assert told[b"anthropic-ratelimit-tokens-remaining"] == b"500"
    assert told[b"x-ratelimit-remaining-tokens"] == b"500"
    reset = datetime.fromisoformat(told[b"anthropic-ratelimit-requests-reset"].decode())
    assert 30 <= (reset - asked_at).total_seconds() < 45


def test_the_floor_of_a_network_address_alone_is_not_told() -> None:
    assert telling.headers(Verdict(True, (FLOOR,), (), Answer(True, [1.0])), "openai_chat") == []


@pytest.mark.parametrize(
    ("scope", "words"),
    [("ip", "your network address"), ("tenant", "your organisation"), ("project", "this project"),
     ("token", "this API key"), ("user", "this end user"), ("model", "this model")],
)  # fmt: skip
def test_a_refusal_names_scope_and_limit(scope: Scope, words: str) -> None:
    rule = Rule("r:1", 60, 60.0, scope=scope)

    error = telling.refusal(Verdict(False, (rule,), (), Answer(False, [60.0])))

    assert error.message == f"Rate limit reached for {words}: 60 requests per minute. Try again in 1.0 s."
    assert error.retry_after_s == pytest.approx(1)
    assert error.details == {"scope": scope, "unit": "requests", "limit": 60}


def test_a_refusal_by_slots_says_how_many_at_a_time() -> None:
    error = telling.refusal(Verdict(False, (), (Slots("c:1", 1, "token"),), Answer(False, [], [1])))

    assert error.message == "Rate limit reached for this API key: 1 request at a time. Wait for one to end."
    assert error.retry_after_s == 1


def test_a_request_larger_than_the_limit_is_told_not_to_come_again() -> None:
    rule = Rule("t:1", 1_000, 60.0, 1_500, unit="tokens", scope="project")

    error = telling.refusal(Verdict(False, (rule,), (), Answer(False, [0.0])))

    assert error.should_retry is False
    assert error.status == 429
    assert "about 1500 tokens, where 1000 tokens per minute are allowed" in error.message
