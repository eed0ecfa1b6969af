"""The one applier: labels in one order into each tenant's beliefs, whatever breaks off or goes wrong elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import OperationalError

from gateway.models import Model
from gateway.rows import first_id
from routing import learning
from routing.candidates import Contestant
from routing.decision import Label as Lesson
from routing.decision_log import read_vector, stored_vector
from routing.ema import EmaSettings
from routing.engine import Engine
from routing.facts import EngineName, RoutingFacts
from routing.features import FeatureSpace
from routing.feedback import LONGEST_COMMENT, UnusableRating, rate
from routing.learning import give_positions, learn, rebuild, reopen
from routing.models import Decision, DriftWatch, Feedback, Label, RouterState, RoutingSettings
from routing.scores import Experience
from routing.states import engine_of
from routing.stored import averages_from_bytes, experience_from_bytes
from tenants.models import ApiToken, Project, Tenant
from tests.ledger_rows import id_at, open_attempt, settle
from tests.routing.simulated_traffic import Traffic, facts_of_all

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
SPACE = FeatureSpace()
TEXTS = ("write a sorting function", "what is the capital of Peru", "solve 3x = 12", "a poem about rain")


def facts(engine: EngineName = "hier", **changed: Any) -> RoutingFacts:
    known: dict[str, Any] = {
        "engine": engine,
        "contestants": {name: Contestant(name, input_price=1.0, output_price=4.0) for name in ("one", "two", "three")},
        "identities": {"one": "openai/one-1", "two": "openai/two-1"},
    }
    return RoutingFacts(**(known | changed))


def vector(number: int = 0) -> bytes:
    text = TEXTS[number % len(TEXTS)]
    return stored_vector(SPACE.features(text, "coding", "simple", input_tokens=20).vector)


def labelled(tenant: Tenant, model: str = "one", value: float = 0.5, **changed: Any) -> Label:
    values: dict[str, Any] = {
        "id": id_at(changed.pop("at", NOON)),
        "tenant": tenant,
        "request_id": id_at(NOON),
        "model_name": model,
        "rater": Label.Rater.JUDGE,
        "rater_name": "judge",
        "value": value,
        "task": "coding",
        "complexity": "simple",
        "vector": vector(),
    }
    return Label.objects.create(**(values | changed))


def some_labels(tenant: Tenant, count: int = 40, start: int = 0) -> None:
    for number in range(start, start + count):
        labelled(
            tenant,
            ("one", "two", "three")[number % 3],
            number * 7 % 11 / 10,
            vector=vector(number),
            at=NOON + timedelta(milliseconds=number),
        )


def answered(tenant: Tenant, at: datetime = NOON, model: str = "one", **changed: Any) -> Decision:
    traffic = Traffic(tenant)
    decision = traffic.decided(at, model, **({"latency_ms": 500.0} | changed))
    traffic.write()
    return decision


def state_of(tenant: Tenant, engine: str = "hier") -> RouterState:
    return RouterState.objects.get(tenant=tenant, engine=engine)


def beliefs(tenant: Tenant) -> bytes:
    return bytes(state_of(tenant).state)


def learned(tenant: Tenant, model: str) -> int:
    return Engine.from_bytes(beliefs(tenant)).labels_of.get(model, 0)


def of_each(known: dict[UUID, RoutingFacts]) -> Any:
    return lambda tenant_id: known[tenant_id]


ALL = facts_of_all(facts())


# ---------------------------------------------------------------------- one order


def test_labels_take_effect_in_the_order_of_their_positions(tenant: Tenant) -> None:
    some_labels(tenant)
    learn(NOON, ALL)
    positions = list(Label.objects.order_by("id").values_list("position", flat=True))
    assert positions == sorted(positions)
    engine = Engine.from_bytes(beliefs(tenant))
    expected = engine_of(None, facts())
    for label in Label.objects.order_by("position"):
        expected.learn(Lesson(label.model_name, read_vector(bytes(label.vector)), label.value))
    assert engine.to_bytes() == expected.to_bytes()


def test_running_again_changes_nothing(tenant: Tenant) -> None:
    some_labels(tenant)
    assert learn(NOON, ALL)["labels"] == 40
    before = state_of(tenant)
    again = learn(NOON, ALL)
    after = state_of(tenant)
    assert (again["labels"], again["decisions"]) == (0, 0)
    assert (bytes(after.state), after.version, after.position) == (bytes(before.state), before.version, before.position)


def test_two_tenants_with_the_same_labels_hold_the_same_bytes(tenant: Tenant, other_tenant: Tenant) -> None:
    """However the labels came in lots: the one's all at once, the other's in three."""
    some_labels(tenant, 45)
    for start, count in ((0, 7), (7, 14), (21, 24)):
        some_labels(other_tenant, count, start)
        learn(NOON, ALL)
    assert beliefs(tenant) == beliefs(other_tenant)
    assert state_of(tenant).labels == 45


@contextmanager
def breaking_off(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """The database is lost while the state is about to be written."""
    kept, count = learning._keep, [0]

    def keep(*arguments: Any) -> None:
        count[0] += 1
        if count[0] > after:
            raise OperationalError("the connection is lost")
        kept(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(learning, "_keep", keep)
        yield


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_run_that_breaks_off_anywhere_is_gone_on_with(
    tenant: Tenant, other_tenant: Tenant, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(learning, "MOST_LABELS", 10)
    some_labels(tenant)
    some_labels(other_tenant)
    for _ in range(6):
        learn(NOON, facts_of_all(facts()))
    whole = beliefs(tenant)
    assert beliefs(other_tenant) == whole
    RouterState.objects.all().delete()
    with breaking_off(monkeypatch, steps):
        for _ in range(3):
            with suppress(OperationalError):
                learn(NOON, ALL)
        with pytest.raises(OperationalError):
            learn(NOON, ALL)
    for _ in range(6):
        learn(NOON, ALL)
    assert beliefs(tenant) == whole
    assert beliefs(other_tenant) == whole


def test_labels_that_are_passed_do_not_hold_up_those_behind_them(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole lot of labels of a model that is gone, or that were left out."""
    monkeypatch.setattr(learning, "MOST_LABELS", 5)
    for _ in range(12):
        labelled(tenant, "gone")
    labelled(tenant, "two")
    for _ in range(4):
        learn(NOON, ALL)
    assert learned(tenant, "two") == 1
    assert state_of(tenant).labels == 1
    assert learn(NOON, ALL)["tenants"] == 0


def test_a_label_that_does_not_fit_is_passed(tenant: Tenant) -> None:
    labelled(tenant, "one", vector=b"\x00" * 24)
    labelled(tenant, "one", vector=b"\x00" * 3)
    labelled(tenant, "two")
    assert learn(NOON, ALL)["labels"] == 1
    assert (learned(tenant, "one"), learned(tenant, "two")) == (0, 1)


def test_a_rebuild_ends_in_the_same_beliefs(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(tenant, NOON - timedelta(minutes=5))
    for start in (0, 15, 33):
        some_labels(tenant, 15, start)
        learn(NOON, ALL)
    before = state_of(tenant)
    monkeypatch.setattr(learning, "MOST_LABELS", 10)
    assert rebuild(tenant, facts(), NOON) == 45
    after = state_of(tenant)
    assert bytes(after.state) == bytes(before.state)
    assert (after.labels, after.position) == (before.labels, before.position)
    assert after.version > before.version
    assert Engine.from_bytes(beliefs(tenant)).experience.output_tokens


def test_the_command_rebuilds_by_the_tenants_name(tenant: Tenant, model: Model) -> None:
    labelled(tenant, model.name)
    out = StringIO()
    call_command("learn", stdout=out)
    call_command("learn", rebuild="acme", stdout=out)
    assert [line.partition(":")[0] for line in out.getvalue().splitlines()] == ["done", "done"]


def test_a_tenant_that_is_switched_off_keeps_its_labels_for_later(tenant: Tenant) -> None:
    labelled(tenant)
    Tenant.objects.filter(pk=tenant.pk).update(enabled=False)
    assert learn(NOON, lambda tenant_id: None)["tenants"] == 0
    Tenant.objects.filter(pk=tenant.pk).update(enabled=True)
    assert learn(NOON, ALL)["labels"] == 1


# ---------------------------------------------------------------------- each tenant by itself


def test_a_state_that_cannot_be_read_is_learned_anew_and_stops_nobody(tenant: Tenant, other_tenant: Tenant) -> None:
    some_labels(tenant, 20)
    some_labels(other_tenant, 20)
    learn(NOON, ALL)
    whole = beliefs(tenant)
    RouterState.objects.filter(tenant=tenant).update(state=b"garbage")
    labelled(other_tenant, "two")
    some_labels(tenant, 1, 20)
    told = learn(NOON, ALL)
    assert told["failed"] == []
    assert "acme: its beliefs could not be read and are learned anew" in told["noticed"]
    assert state_of(tenant).labels == 21
    assert state_of(other_tenant).labels == 21
    Label.objects.filter(tenant=tenant).order_by("-position").first().delete()  # type: ignore[union-attr]
    rebuild(tenant, facts(), NOON)
    assert beliefs(tenant) == whole


def test_a_tenant_whose_facts_cannot_be_told_stops_nobody(tenant: Tenant, other_tenant: Tenant) -> None:
    labelled(tenant, shared=True)
    labelled(other_tenant)

    def facts_of(tenant_id: UUID) -> RoutingFacts:
        if tenant_id == tenant.pk:
            raise RuntimeError("no such thing")
        return facts()

    told = learn(NOON, facts_of)
    assert (told["failed"], told["labels"]) == (["acme"], 1)
    assert learn(NOON, ALL)["labels"] == 1


def test_a_lost_database_is_not_taken_for_a_tenants_fault(tenant: Tenant) -> None:
    labelled(tenant)

    def facts_of(tenant_id: UUID) -> RoutingFacts:
        raise OperationalError("gone")

    with pytest.raises(OperationalError):
        learn(NOON, facts_of)


# ---------------------------------------------------------------------- who may teach how much


def by_user(tenant: Tenant, user: str, count: int, **changed: Any) -> None:
    for _ in range(count):
        labelled(tenant, rater=Label.Rater.USER, rater_name=user, end_user=user, variance=0.0, **changed)


def test_an_end_user_gives_three_labels_a_day_and_model_and_then_a_twentieth(tenant: Tenant) -> None:
    by_user(tenant, "ann", 10)
    by_user(tenant, "ann", 2, model="two")
    assert give_positions(NOON, ALL) == 7
    assert learn(NOON, ALL)["labels"] == 5
    for number in range(120):
        labelled(tenant, at=NOON + timedelta(seconds=1 + number))
    by_user(tenant, "ann", 10, at=NOON + timedelta(minutes=5))
    told = learn(NOON, ALL)
    assert told["left_out"] == 7  # 5 % of 126 are 6, and 3 were learned before
    assert Label.objects.exclude(left_out="").filter(position=None).count() == 0


def test_another_day_is_another_share(tenant: Tenant) -> None:
    by_user(tenant, "ann", 4)
    tomorrow = NOON + timedelta(days=1)
    assert give_positions(NOON, ALL) == 1
    by_user(tenant, "ann", 4, at=tomorrow)
    assert give_positions(tomorrow, ALL) == 1


def test_what_judges_say_of_a_users_answers_is_not_the_users(tenant: Tenant) -> None:
    for _ in range(10):
        labelled(tenant, end_user="ann")
    by_user(tenant, "ann", 3)
    assert give_positions(NOON, ALL) == 0
    by_user(tenant, "ann", 1)
    assert give_positions(NOON, ALL) == 1


def test_judges_and_users_without_a_name_are_not_limited(tenant: Tenant) -> None:
    for _ in range(20):
        labelled(tenant, end_user="ann")
        labelled(tenant, rater=Label.Rater.USER, end_user="")
    assert give_positions(NOON, ALL) == 0


def test_the_first_opinion_is_learned_and_what_is_said_after_that_is_only_kept(tenant: Tenant) -> None:
    request_id = answered(tenant).request_id
    assert rate(tenant, request_id, rater="ann", value=0.0).learned
    assert rate(tenant, request_id, rater="ann", value=1.0).learned  # nobody has learned it yet
    assert learn(NOON, ALL)["labels"] == 1
    whole = beliefs(tenant)
    assert not rate(tenant, request_id, rater="ann", value=0.0).learned
    assert learn(NOON, ALL)["labels"] == 0
    assert (beliefs(tenant), Feedback.objects.get().value, Label.objects.get().value) == (whole, 0.0, 1.0)
    assert rate(tenant, request_id, rater="ben", value=0.0).learned


def test_a_comment_that_is_too_long_is_refused_and_nothing_is_kept(tenant: Tenant) -> None:
    request_id = answered(tenant).request_id
    assert rate(tenant, request_id, rater="ann", value=1.0, comment="x" * LONGEST_COMMENT).learned
    with pytest.raises(UnusableRating, match="2000 characters"):
        rate(tenant, request_id, rater="ben", value=1.0, comment="x" * (LONGEST_COMMENT + 1))
    assert (Feedback.objects.count(), Label.objects.count()) == (1, 1)


def test_a_rating_of_a_request_that_nobody_knows_is_kept_and_teaches_nothing(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    theirs = answered(other_tenant).request_id
    for request_id in (id_at(NOON), theirs, answered(tenant, model="").request_id):
        assert not rate(tenant, request_id, rater="ann", value=1.0).learned
    assert (Feedback.objects.count(), Label.objects.count()) == (3, 0)


# ---------------------------------------------------------------------- the shared pool


def test_nothing_is_shared_unless_it_is_asked_for(tenant: Tenant, other_tenant: Tenant) -> None:
    labelled(tenant, shared=False)
    labelled(other_tenant, shared=True)
    RoutingSettings.objects.create(tenant=other_tenant, reads_shared=True)
    learn(NOON, ALL)
    assert learned(tenant, "one") == 1
    assert learned(other_tenant, "one") == 1


def test_who_reads_learns_others_models_by_their_identity_and_with_more_doubt(
    tenant: Tenant, other_tenant: Tenant
) -> None:
    """Their "one" is called "theirs" here; "three" means nothing elsewhere."""
    ours = facts(
        contestants={"theirs": Contestant("theirs"), "three": Contestant("three")},
        identities={"theirs": "openai/one-1"},
    )
    known = of_each({tenant.pk: facts(), other_tenant.pk: ours})
    RoutingSettings.objects.create(tenant=other_tenant, reads_shared=True)
    for _ in range(5):
        labelled(tenant, "one", 0.1, shared=True, end_user="ann", rater_name="carla")
        labelled(tenant, "three", 0.1, shared=True)
    learn(NOON, known)
    assert (learned(other_tenant, "theirs"), learned(other_tenant, "three")) == (5, 0)
    engine = Engine.from_bytes(beliefs(other_tenant))
    doubt = {row.model: row.sd for row in (*Engine.from_bytes(beliefs(tenant)).pool_summary(), *engine.pool_summary())}
    assert doubt["theirs"] > doubt["one"]
    for name in (b"ann", b"carla", b"one-1"):
        assert name not in beliefs(other_tenant)


def test_a_reader_learns_without_labels_of_its_own(tenant: Tenant, other_tenant: Tenant) -> None:
    RoutingSettings.objects.create(tenant=other_tenant, reads_shared=True)
    labelled(tenant, "one", shared=True)
    assert learn(NOON, ALL)["labels"] == 2
    assert learn(NOON, ALL)["tenants"] == 0


def test_the_identity_of_a_label_is_that_of_when_it_was_taken_up(tenant: Tenant) -> None:
    labels = [
        labelled(tenant, "one", shared=True),
        labelled(tenant, "three", shared=True),
        labelled(tenant, "one", shared=False),
    ]
    give_positions(NOON, ALL)
    assert [Label.objects.get(pk=label.pk).identity for label in labels] == ["openai/one-1", "", ""]


# ---------------------------------------------------------------------- engines


def test_the_other_engines_keep_and_restore_what_they_know(tenant: Tenant) -> None:
    answered(tenant)
    some_labels(tenant, 12)
    learn(NOON + timedelta(minutes=1), facts_of_all(facts("ema")))
    some_labels(tenant, 12, 12)
    learn(NOON + timedelta(minutes=1), facts_of_all(facts("ema")))
    averages = averages_from_bytes(bytes(state_of(tenant, "ema").state), EmaSettings())
    assert averages.labels == 24
    assert averages.experience.output_tokens["one", "coding"] == (100.0, 1)
    answered(tenant)
    learn(NOON + timedelta(minutes=1), facts_of_all(facts("fixed")))
    assert isinstance(experience_from_bytes(bytes(state_of(tenant, "fixed").state)), Experience)


def test_a_tenant_that_changes_its_engine_has_it_learn_everything(tenant: Tenant) -> None:
    some_labels(tenant, 12)
    learn(NOON, ALL)
    RoutingSettings.objects.create(tenant=tenant, engine="ema")
    assert learn(NOON, facts_of_all(facts("ema")))["labels"] == 12
    assert state_of(tenant, "hier").labels == 12


def test_models_that_are_new_are_learned_and_those_that_are_gone_are_passed(tenant: Tenant) -> None:
    labelled(tenant, "one")
    learn(NOON, ALL)
    labelled(tenant, "one")
    labelled(tenant, "fresh")
    fewer = facts(contestants={"fresh": Contestant("fresh"), "two": Contestant("two")})
    assert learn(NOON, facts_of_all(fewer))["labels"] == 1
    assert (learned(tenant, "one"), learned(tenant, "fresh")) == (1, 1)


def test_a_model_that_falls_off_is_noticed_with_an_alarm(tenant: Tenant) -> None:
    for number in range(80):
        labelled(tenant, "one", 0.95, variance=0.0, at=NOON + timedelta(milliseconds=number))
    learn(NOON, ALL)
    for number in range(60):
        labelled(tenant, "one", 0.0, variance=0.0, at=NOON + timedelta(seconds=1, milliseconds=number))
    told = learn(NOON, ALL)
    assert "acme: one answers worse than expected" in told["noticed"]
    assert DriftWatch.objects.get(model_name="one").alarmed_at == NOON


def test_a_model_is_opened_again_with_the_same_mean(tenant: Tenant) -> None:
    some_labels(tenant, 60)
    learn(NOON, ALL)
    before, version = Engine.from_bytes(beliefs(tenant)).pool_summary(), state_of(tenant).version
    assert reopen(tenant, "one")
    after = Engine.from_bytes(beliefs(tenant)).pool_summary()
    assert state_of(tenant).version == version + 1
    assert [row.quality for row in after] == [row.quality for row in before]
    changed = [mine.model for mine, theirs in zip(before, after, strict=True) if theirs.sd > mine.sd]
    assert changed == ["one"]
    assert not reopen(tenant, "nobody")
    RouterState.objects.update(state=b"garbage")
    assert not reopen(tenant, "one")


# ---------------------------------------------------------------------- lengths, latencies, money


def experience(tenant: Tenant) -> Experience:
    return Engine.from_bytes(beliefs(tenant)).experience


def test_every_answer_is_observed_once_however_long_it_took(tenant: Tenant) -> None:
    answered(tenant, NOON, output_tokens=100, latency_ms=400.0)
    learn(NOON + timedelta(seconds=10), ALL)
    answered(tenant, NOON + timedelta(seconds=1), output_tokens=900, latency_ms=60_000.0)  # written a minute later
    answered(tenant, NOON + timedelta(seconds=30), output_tokens=200, latency_ms=500.0)
    for later in (40, 50, 70, 80, 600):
        learn(NOON + timedelta(seconds=later), ALL)
    assert experience(tenant).output_tokens["one", "coding"] == (pytest.approx(400.0), 3)


def test_failed_answers_and_those_of_models_that_are_gone_are_not_observed(tenant: Tenant) -> None:
    answered(tenant, status=502)
    answered(tenant, model="gone")
    answered(tenant, output_tokens=0)
    answered(tenant, model="two")
    told = learn(NOON + timedelta(seconds=10), ALL)
    assert told["decisions"] == 3
    assert set(experience(tenant).output_tokens) == {("two", "coding"), ("", "coding")}


def test_a_backlog_of_answers_is_observed_in_lots_without_a_gap(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing.observed_answers.MOST_AT_ONCE", 10)
    traffic = Traffic(tenant)
    for number in range(37):
        at = NOON + timedelta(minutes=10 * number)  # over six hours
        traffic.decided(at, "one", latency_ms=float(1 + 1000 * (number % 7)))
    traffic.write()
    later = NOON + timedelta(hours=6, minutes=2)
    seen = [learn(later, ALL)["decisions"] for _ in range(40)]
    assert sum(seen) == 37
    assert max(seen) <= 10
    assert experience(tenant).output_tokens["one", "coding"][1] == 37


def test_whoever_has_observed_nothing_yet_reads_back_a_day(tenant: Tenant) -> None:
    answered(tenant, NOON - timedelta(days=3))
    answered(tenant, NOON - timedelta(hours=20))
    labelled(tenant)
    for _ in range(3):
        learn(NOON, ALL)
    assert experience(tenant).output_tokens["one", "coding"][1] == 1


def spend_target(tenant: Tenant, target: float) -> None:
    RoutingSettings.objects.update_or_create(tenant=tenant, defaults={"usd_per_1000_requests": target})


def spending(tenant: Tenant, start: datetime, count: int, usd_per_1000: float) -> datetime:
    traffic = Traffic(tenant)
    for number in range(count):
        cost = Decimal(repr(usd_per_1000)) / 1000
        traffic.decided(start + timedelta(milliseconds=number), "one", latency_ms=5.0, cost_usd=cost)
    traffic.write()
    return start + timedelta(seconds=10)


def weight(tenant: Tenant) -> float:
    known = state_of(tenant).cost_weight
    assert known is not None
    return known


def test_a_spend_target_raises_the_weight_of_cost_while_too_much_is_spent(tenant: Tenant) -> None:
    spend_target(tenant, 2.0)
    now, weights = NOON, [0.0]
    for _ in range(4):
        now = spending(tenant, now, 60, usd_per_1000=4.0)
        learn(now, ALL)
        weights.append(weight(tenant))
    assert weights == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    for _ in range(6):
        now = spending(tenant, now, 60, usd_per_1000=0.5)
        learn(now, ALL)
    assert weight(tenant) == 0.0


def test_few_requests_at_a_time_move_the_weight_as_far_in_the_end(tenant: Tenant) -> None:
    spend_target(tenant, 2.0)
    now = NOON
    for _ in range(10):
        now = spending(tenant, now, 5, usd_per_1000=4.0)
        learn(now, ALL)
    assert weight(tenant) == pytest.approx(0.05)


def test_without_a_target_there_is_no_weight(tenant: Tenant) -> None:
    spend_target(tenant, 2.0)
    learn(spending(tenant, NOON, 60, 4.0), ALL)
    RoutingSettings.objects.update(usd_per_1000_requests=None)
    learn(spending(tenant, NOON + timedelta(minutes=1), 60, 4.0), ALL)
    assert state_of(tenant).cost_weight is None


@pytest.fixture
def asking(project: Project, model: Model, token: ApiToken) -> tuple[ApiToken, Model]:
    return token, model


def judging_cost(asking: tuple[ApiToken, Model], usd: str, at: datetime, purpose: str = "judge") -> None:
    token, model = asking
    settle(open_attempt(token, model, at, purpose=purpose), cost_usd=Decimal(usd))


def probability(tenant: Tenant, now: datetime) -> float:
    labelled(tenant, at=now - timedelta(minutes=1))
    learn(now, ALL)
    return state_of(tenant).judge_probability


def test_answers_are_judged_as_often_as_wished_while_the_money_lasts(
    tenant: Tenant, asking: tuple[ApiToken, Model]
) -> None:
    RoutingSettings.objects.create(tenant=tenant, judge_usd_per_day=Decimal(1), judge_rate=0.2)
    now = datetime.now(UTC)
    assert probability(tenant, now) == 0.2
    traffic = Traffic(tenant)
    for number in range(1_000):
        traffic.decided(now - timedelta(milliseconds=number), "one")
    traffic.write()
    judging_cost(asking, "0.9", now)
    judging_cost(asking, "0.05", now, "shadow")
    judging_cost(asking, "7", now, "serve")
    assert 0.0 < probability(tenant, now + timedelta(seconds=1)) < 0.2
    judging_cost(asking, "0.05", now)
    assert probability(tenant, now + timedelta(seconds=2)) == 0.0


def test_nothing_is_judged_where_nothing_may_be_spent(tenant: Tenant) -> None:
    assert probability(tenant, NOON) == 0.0
    RoutingSettings.objects.create(tenant=tenant, judge_usd_per_day=Decimal(1), judge_rate=0.0)
    assert probability(tenant, NOON) == 0.0


def test_a_tenant_whose_answers_are_few_gets_its_probability_from_the_first_one_on(tenant: Tenant) -> None:
    RoutingSettings.objects.create(tenant=tenant, judge_usd_per_day=Decimal(1), judge_rate=0.2)
    answered(tenant)
    learn(NOON + timedelta(seconds=5), ALL)
    assert state_of(tenant).judge_probability == 0.2
    assert state_of(tenant).observed_id == first_id(NOON + timedelta(milliseconds=500))
