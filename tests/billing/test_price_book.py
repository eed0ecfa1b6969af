from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import SimpleNamespace

import pytest
from genai_prices import data, types

from audit.models import AuditEvent
from audit.record import Actor
from billing import genai_book
from billing.genai_book import KIND_OF_PROVIDER, SINCE_EVER, context_window
from billing.models import PriceVersion
from billing.price_book import import_book
from billing.pricing import PricedVersion, select
from gateway.providers import catalog


def model(match: object, prices: object, name: str = "m-1") -> types.ModelInfo:
    return types.ModelInfo(id=name, match=match, prices=prices)


def use(monkeypatch: pytest.MonkeyPatch, *models: types.ModelInfo) -> None:
    monkeypatch.setattr(data, "providers", [SimpleNamespace(id="openai", models=list(models))])


def price(usd: str = "1", **more: object) -> types.ModelPrice:
    return types.ModelPrice(input_mtok=Decimal(usd), output_mtok=Decimal(2), **more)


def patterns() -> list[str]:
    return [entry.pattern for entry in genai_book.prices([])]


def test_kinds_are_those_of_the_catalogue() -> None:
    assert set(KIND_OF_PROVIDER.values()) <= set(catalog.KINDS)


@pytest.mark.django_db
def test_the_shipped_book_is_taken_over_once(actor: Actor) -> None:
    first = import_book(actor)
    again = import_book(actor)

    assert first.added > 1000
    assert (first.unchanged, PriceVersion.objects.count()) == (0, first.added)
    assert (again.added, again.unchanged) == (0, first.added)
    assert AuditEvent.objects.get().changes == {"added": first.added}


@pytest.mark.django_db
def test_every_name_of_the_book_costs_what_the_book_says(actor: Actor) -> None:
    import_book(actor)
    versions: dict[str, list[PricedVersion]] = {}
    for row in PriceVersion.objects.all():
        versions.setdefault(row.provider_kind, []).append(row.as_priced_version())
    now, compared = datetime.now(UTC), 0
    for provider in data.providers:
        for name in names_of(provider) if provider.id in KIND_OF_PROVIDER else ():
            kind = KIND_OF_PROVIDER[provider.id]
            ours = select(versions[kind], provider_kind=kind, vendor_model=name, model_id="", tenant_id="", at=now)
            if ours is None:  # unknown is allowed, wrong is not
                continue
            theirs = provider.find_model(name).get_prices(now)
            expected = (
                theirs.input_mtok.base if isinstance(theirs.input_mtok, types.TieredPrices) else theirs.input_mtok
            )
            assert ours.prices.input == int(expected * 10**6), (kind, name)
            compared += 1
    assert compared > 1500


def names_of(provider: types.Provider) -> list[str]:
    clauses = [model.match for model in provider.models]
    names = []
    for clause in clauses:
        clauses += getattr(clause, "or_", [])
        names += [name for name in (getattr(clause, "equals", None),) if name]
    return names


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        (types.ClauseEquals("gpt-4o"), ["gpt-4o"]),
        (types.ClauseEquals("a[b]*"), ["a[[]b[]][*]"]),
        (types.ClauseStartsWith("gpt-4o-"), ["gpt-4o-*"]),
        (types.ClauseEndsWith("-mini"), ["*-mini"]),
        (types.ClauseContains("aya"), ["*aya*"]),
        (types.ClauseOr([types.ClauseEquals("a"), types.ClauseStartsWith("b")]), ["a", "b*"]),
        (types.ClauseRegex(r"^o\.1-\d{4}$"), ["o.1-[0-9][0-9][0-9][0-9]"]),
        (types.ClauseRegex(r"^o-5[-@]\d"), ["o-5[-@][0-9]*"]),
        (types.ClauseRegex(r"^m-(?!x).*$"), []),
        (types.ClauseRegex("m-1"), ["m-1"]),
        (types.ClauseAnd([types.ClauseStartsWith("m-"), types.ClauseRegex("^(?!.*x)")]), ["m-1"]),
    ],
    ids=str,
)
def test_rules_become_patterns_where_these_are_exact(
    monkeypatch: pytest.MonkeyPatch, clause: object, expected: list[str]
) -> None:
    use(monkeypatch, model(clause, price()))
    if expected == []:
        expected = ["m-1"]  # a rule that is no pattern leaves the model's own name
    assert patterns() == expected


def test_what_cannot_be_expressed_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    some_hours = types.ConditionalPrice(types.TimeOfDateConstraint(time(1), time(2)), prices=price())
    use(
        monkeypatch,
        model(types.ClauseEquals("night"), [some_hours]),
        model(types.ClauseEquals("pictures"), price(output_image_mtok=Decimal(30))),
        model(types.ClauseEquals("speech"), types.ModelPrice(audio_hours=Decimal(1))),
    )
    skipped: list[str] = []

    assert list(genai_book.prices(skipped)) == []
    assert [reason.partition(": ")[2][:20] for reason in skipped] == [
        "the price depends on", "output_image_mtok ha", "not charged by input",
    ]  # fmt: skip


def test_classes_and_dates_carry_over(monkeypatch: pytest.MonkeyPatch) -> None:
    start = types.StartDateConstraint(date(2026, 3, 1))
    later = price("3", cache_read_mtok=Decimal("0.1"), cache_write_mtok=Decimal(4), requests_kcount=Decimal(5))
    use(
        monkeypatch,
        model(
            types.ClauseEquals("m"),
            [types.ConditionalPrice(prices=price()), types.ConditionalPrice(start, prices=later)],
        ),
    )
    before, after = genai_book.prices([])

    assert (before.effective_from, after.effective_from) == (SINCE_EVER, datetime(2026, 3, 1, tzinfo=UTC))
    assert after.terms == {
        "input": 3, "output": 2, "cached_input": Decimal("0.1"), "cache_write_5m": 4, "cache_write_1h": 4,
        "per_request": Decimal("0.005"), "tiers": [],
    }  # fmt: skip


def test_prices_of_batches_and_the_flex_tier_carry_over_from_their_day_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start = types.StartDateConstraint(date(2026, 10, 14))
    long = types.TieredPrices(Decimal("0.5"), [types.Tier(100, Decimal("0.7"))])
    batch = types.PriceVariant({"processing": "batch"}, types.ModelPrice(input_mtok=Decimal("0.4")), start)
    flex = types.PriceVariant({"service_tier": "flex"}, types.ModelPrice(input_mtok=long), start)
    fast = types.PriceVariant({"service_tier": "fast"}, types.ModelPrice(input_mtok=Decimal(9)), None)
    both = model(types.ClauseEquals("both"), price())
    only = model(types.ClauseEquals("only"), price())
    both.price_variants, only.price_variants = [batch, flex, fast], [batch, fast]
    use(monkeypatch, both, only)

    told = [(entry.pattern, entry.effective_from, entry.terms.get("batch")) for entry in genai_book.prices([])]
    day = datetime(2026, 10, 14, tzinfo=UTC)
    assert told == [
        ("both", SINCE_EVER, None),
        ("both", day, {"input": "0.5", "tiers": [{"above_input_tokens": 100, "input": "0.7"}]}),
        ("only", SINCE_EVER, None),
        ("only", day, {"input": "0.4"}),
    ]


def test_a_batch_price_that_cannot_be_expressed_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = types.ModelPrice(output_image_mtok=Decimal(30))
    drawing = model(types.ClauseEquals("drawing"), price())
    drawing.price_variants = [types.PriceVariant({"processing": "batch"}, pictures, None)]
    use(monkeypatch, drawing)
    skipped: list[str] = []

    (entry,) = genai_book.prices(skipped)
    assert "batch" not in entry.terms
    assert skipped == [
        "openai/m-1: as batch: output_image_mtok has a price of its own, and usage does not tell such tokens apart"
    ]


def test_the_priority_tier_costs_what_the_book_says_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    since = types.StartDateConstraint(start_date=date(2026, 10, 12))
    dearer = types.ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(4))
    named = []
    for tier in ("priority", "fast"):
        named.append(model(types.ClauseEquals(tier), price()))
        named[-1].price_variants = [types.PriceVariant({"service_tier": tier}, dearer, since)]
    use(monkeypatch, *named)

    told = [(entry.pattern, entry.effective_from, entry.terms.get("priority")) for entry in genai_book.prices([])]
    day = datetime(2026, 10, 12, tzinfo=UTC)
    terms = {"input": "2", "output": "4"}
    assert told == [
        ("priority", SINCE_EVER, None), ("priority", day, terms), ("fast", SINCE_EVER, None), ("fast", day, terms),
    ]  # fmt: skip


@pytest.mark.django_db
def test_the_shipped_book_knows_what_openai_charges_for_priority(actor: Actor) -> None:
    import_book(actor)
    now = datetime.now(UTC)
    versions = [row.as_priced_version() for row in PriceVersion.objects.filter(provider_kind="openai")]
    found = select(versions, provider_kind="openai", vendor_model="gpt-4.1", model_id="", tenant_id="", at=now)
    context = {"service_tier": "priority"}
    (theirs,) = (
        model.get_prices(now, context)
        for provider in data.providers if provider.id == "openai"
        for model in provider.models if model.id == "gpt-4.1"
    )  # fmt: skip
    assert found.priority.prices.input == int(theirs.input_mtok * 10**6) > found.prices.input
    assert found.priority.prices.output == int(theirs.output_mtok * 10**6) > found.prices.output


def test_a_tier_names_every_class_that_has_left_its_base_price(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = types.ModelPrice(
        input_mtok=types.TieredPrices(Decimal(1), [types.Tier(100, Decimal(2))]),
        output_mtok=types.TieredPrices(Decimal(3), [types.Tier(200, Decimal(4))]),
    )
    use(monkeypatch, model(types.ClauseEquals("m"), prices))

    assert next(genai_book.prices([])).terms["tiers"] == [
        {"above_input_tokens": 100, "input": "2"},
        {"above_input_tokens": 200, "input": "2", "output": "4"},
    ]


def test_prices_finer_than_a_price_version_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, model(types.ClauseEquals("m"), price("0.0833333333333333")))
    assert next(genai_book.prices([])).terms["input"] == Decimal("0.083333")


@pytest.mark.django_db
def test_a_price_the_book_corrects_holds_from_now_on(monkeypatch: pytest.MonkeyPatch, actor: Actor) -> None:
    use(monkeypatch, model(types.ClauseEquals("m"), price("1")))
    import_book(actor)
    use(monkeypatch, model(types.ClauseEquals("m"), price("2")))

    assert import_book(actor).added == 1
    assert import_book(actor).unchanged == 1
    first, second = PriceVersion.objects.order_by("effective_from")
    assert (first.effective_from, first.input, second.input) == (SINCE_EVER, 1, 2)
    assert second.effective_from > first.effective_from


def test_context_windows_are_known_where_the_book_knows_them() -> None:
    assert context_window("openai", "gpt-4o-mini") == 128_000
    assert context_window("openai", "no-such-model") is None
    assert context_window("ollama", "llama3") is None
