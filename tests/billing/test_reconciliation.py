"""A vendor's export beside the ledger: what agrees, what does not, and the likely cause."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from billing.models import Adjustment, Attempt, PriceVersion
from billing.reconciliation.causes import Cause
from billing.reconciliation.comparison import NothingToCompare, Reconciliation, reconcile
from billing.reconciliation.exports import Export, ExportError, ExportRow, read_export
from gateway.models import Model, Provider
from tenants.models import ApiToken, Tenant
from tests.ledger_rows import open_attempt, settle

EXPORTS = Path(__file__).parent / "exports"
DAY = date(2026, 9, 28)
NOON = datetime(2026, 9, 28, 12, tzinfo=UTC)
ONE_DAY = timedelta(days=1)
EXACT = Decimal("0.000000000001")


# ------------------------------------------------------------------------------ files


def cells(name: str) -> list[tuple[Any, ...]]:
    rows = read_export(EXPORTS / name).rows
    return [(row.day.day, row.model, row.token_class, row.tokens, row.usd, row.key) for row in rows]


def test_openais_usage_is_split_into_disjoint_classes() -> None:
    mini, audio = "gpt-4o-mini-2024-07-18", "gpt-4o-audio-preview"
    assert cells("openai_usage.csv") == [
        (28, mini, "input", 600, None, "key_ours"),
        (28, mini, "cached_input", 400, None, "key_ours"),
        (28, mini, "output", 200, None, "key_ours"),
        (30, audio, "input", 100, None, "key_ours"),
        (30, audio, "output", 40, None, "key_ours"),
        (30, audio, "audio_input", 50, None, "key_ours"),
        (30, audio, "audio_output", 50, None, "key_ours"),
    ]


def test_openais_line_items_name_model_and_class_and_other_charges_stand_by_themselves() -> None:
    mini = "gpt-4o-mini-2024-07-18"
    assert [row[:4] for row in cells("openai_cost.csv")] == [
        (28, mini, "input", 600),
        (28, mini, "cached_input", 400),
        (28, mini, "output", 200),
        (28, "web search tool calls", "other", None),
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("gpt-5-nano, input_tokens", ("gpt-5-nano", "input")),
        ("priority | gpt-5.6, output, long context", ("gpt-5.6", "output")),
        ("gpt-audio-mini-2025-12-15 audio, input", ("gpt-audio-mini-2025-12-15", "audio_input")),
        ("gpt-5.4, cache writes", ("gpt-5.4", "cache_write_5m")),
        ("Vector storage", ("Vector storage", "other")),
        ("", ("", "")),
    ],
)
def test_line_items_are_read_in_all_their_shapes(tmp_path: Path, item: str, expected: tuple[str, str]) -> None:
    path = tmp_path / "cost.csv"
    path.write_text(f'line_item,amount_value,start_time\n"{item}",0.5,1790553600\n')
    (row,) = read_export(path).rows
    assert (row.model, row.token_class, row.day) == (*expected, DAY)


def test_anthropics_usage_has_both_kinds_of_cache_writes() -> None:
    rows = cells("anthropic_usage.csv")
    assert [(row[2], row[3]) for row in rows if row[5] == "gateway"] == [
        ("input", 600), ("cached_input", 400), ("cache_write_5m", 30), ("cache_write_1h", 40), ("output", 200),
    ]  # fmt: skip


def test_anthropics_costs_are_by_token_type_and_rounded_to_cents() -> None:
    export = read_export(EXPORTS / "anthropic_cost.csv")
    assert export.precision == Decimal("0.01")
    assert [row.token_class for row in export.rows] == [
        "input", "cached_input", "cache_write_5m", "cache_write_1h", "output",
    ]  # fmt: skip


def test_a_generic_file_may_have_other_separators_orders_and_columns() -> None:
    assert cells("generic.csv")[:3] == [
        (28, "small-1", "input", 1000, None, ""),
        (28, "small-1", "output", 100, None, ""),
        (28, "small-1", "", None, Decimal("0.0012"), ""),
    ]


@pytest.mark.parametrize(
    ("text", "format", "complaint"),
    [
        ("usage_date_utc,model_version,usage_output_tokens\n", "auto", "has no column 'usage_input_tokens_no_cache'"),
        ("usage_date_utc,token_type,cost_usd\n", "auto", "read as anthropic-cost, has no column 'model'"),
        ("start_time,input_tokens,output_tokens\n", "auto", "read as openai-usage, has no column 'model'"),
        ("amount_value,amount_currency\n", "auto", "has no column 'start_time_iso' or 'start_time'"),
        ("date,cost_usd\n", "openai-cost", "read as openai-cost, has no column 'start_time_iso'"),
        ("when,model,cost_usd\n", "auto", "read as generic, has no column 'date' or 'day' or 'time'"),
        ("date,model,cost_usd\n2026-09-28,m,1\nsoon,m,1\n", "auto", ":3: 'soon' is not a date."),
        ("date,model,cost_usd\n2026-09-28,m,many\n", "auto", ":2: 'many' is not an amount of USD."),
        ("date,model,input_tokens\n2026-09-28,m,1.5\n", "auto", ":2: '1.5' is not a whole number of tokens."),
        ("start_time,amount_value,amount_currency\n1790553600,1,eur\n", "auto", ":2: the amount is in eur, not in USD."),
        ("", "auto", "is empty."),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_what_is_missing_and_where(
    tmp_path: Path, text: str, format: str, complaint: str
) -> None:
    path = tmp_path / "export.csv"
    path.write_text(text)
    with pytest.raises(ExportError) as refused:
        read_export(path, format)
    assert complaint in str(refused.value)


# ------------------------------------------------------------------------- comparison

Line = Callable[..., Attempt]


@pytest.fixture
def price(tenant: Tenant, model: Model) -> PriceVersion:
    return PriceVersion.objects.create(
        tenant=tenant, model=model, effective_from=NOON - 99 * ONE_DAY, input=1, output=2, cached_input=Decimal("0.1"),
        tiers=[{"above_input_tokens": 10_000, "input": "2", "output": "4"}], batch={"input": "0.5"},
    )  # fmt: skip


@pytest.fixture
def line(token: ApiToken, model: Model, price: PriceVersion) -> Line:
    """By default 1000 input and 100 output tokens of ``small-1``: 0.0012 USD."""

    def line(at: datetime = NOON, vendor_model: str = "small-1", **settlement: Any) -> Attempt:
        renamed = Model(pk=model.pk, provider=model.provider, vendor_model=vendor_model)
        attempt = open_attempt(token, renamed, at)
        facts = {"input_tokens": 1000, "output_tokens": 100, "cost_usd": Decimal("0.0012"), "price_version": price}
        settle(attempt, **facts | settlement)
        return attempt

    return line


@pytest.fixture
def compare(provider: Provider) -> Callable[..., Reconciliation]:
    def compare(*rows: ExportRow, precision: Decimal = EXACT, **options: Any) -> Reconciliation:
        return reconcile(Export("generic", list(rows), precision), [provider.pk], **options)

    return compare


Compare = Callable[..., Reconciliation]


def test_what_was_served_as_a_batch_is_compared_at_that_price(line: Line, compare: Compare) -> None:
    line(service_tier="batch", cost_usd=Decimal("0.0007"))
    line()
    assert compare(billed("0.0015"), billed("0.0004", "output")).differences == []


def used(tokens: int, token_class: str = "input", day: date = DAY, model: str = "small-1", **more: Any) -> ExportRow:
    return ExportRow(day, model, token_class, tokens, **more)


def billed(usd: str, token_class: str = "input", day: date = DAY, model: str = "small-1", **more: Any) -> ExportRow:
    return ExportRow(day, model, token_class, usd=Decimal(usd), **more)


def causes(result: Reconciliation) -> list[Cause]:
    return [difference.cause for difference in result.differences]


pytestmark = pytest.mark.django_db


def test_equal_tokens_and_money_agree(line: Line, compare: Compare) -> None:
    line(reasoning_tokens=20, output_tokens=80)
    by_tokens = compare(used(1000), used(100, "output"))
    assert by_tokens.agrees
    assert by_tokens.differences == []
    assert by_tokens.totals["tokens"].ours == 1100
    by_money = compare(billed("0.001"), billed("0.0002", "output"))
    assert by_money.differences == []
    assert by_money.totals["usd"].ours == Decimal("0.0012")


def test_money_of_all_classes_together_is_compared_with_the_sum(line: Line, compare: Compare) -> None:
    line()
    assert compare(used(1000), used(100, "output"), billed("0.0012", "")).differences == []
    assert compare(billed("0.0012", "", model="")).differences == []


def test_long_prompts_are_compared_at_their_tiers_price(line: Line, compare: Compare) -> None:
    line(input_tokens=20_000, cost_usd=Decimal("0.0404"))
    assert compare(billed("0.04"), billed("0.0004", "output")).differences == []


def test_a_repriced_line_is_compared_at_its_new_price(line: Line, model: Model, compare: Compare) -> None:
    attempt = line()
    new = PriceVersion.objects.create(tenant=model.tenant, model=model, effective_from=NOON, input=3, output=2)
    Adjustment.objects.create(
        tenant=model.tenant, attempt=attempt, reason="reprice", amount_usd=Decimal("0.002"), price_version=new
    )
    assert compare(billed("0.003"), billed("0.0002", "output")).differences == []


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
        ("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5"),
        ("claude-3-5-haiku-20241022", "Claude Haiku 3.5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku-20241022"),
    ],
)
def test_a_model_is_known_by_each_of_its_names(line: Line, compare: Compare, ours: str, theirs: str) -> None:
    line(vendor_model=ours)
    assert compare(used(1000, model=theirs), used(100, "output", model=theirs)).differences == []


def test_use_of_which_we_have_nothing_is_named_missing(line: Line, compare: Compare) -> None:
    line()
    result = compare(used(1000), used(100, "output"), used(500, model="large-1"))
    assert causes(result) == [Cause.MISSING_LINES]
    assert not result.agrees
    assert result.totals["tokens"].unexplained == 500


def test_what_the_vendor_does_not_list_is_named(line: Line, compare: Compare) -> None:
    line()
    assert causes(compare(used(1000))) == [Cause.NOT_EXPORTED]


def test_equal_tokens_at_another_price_are_price_drift_with_the_implied_price(line: Line, compare: Compare) -> None:
    line()
    result = compare(ExportRow(DAY, "small-1", "input", 1000, Decimal("0.003")), billed("0.0002", "output"))
    (difference,) = result.differences
    assert difference.cause is Cause.PRICE
    assert difference.detail == "tokens agree; implied 3.0000 USD per million, ours 1.0000"
    assert not result.agrees


def test_money_off_by_the_same_factor_every_day_is_price_drift(line: Line, compare: Compare) -> None:
    line()
    line(NOON + ONE_DAY)
    result = compare(billed("0.003"), billed("0.003", day=DAY + ONE_DAY), billed("0.0002", "output"))
    assert causes(result)[0] is Cause.PRICE
    assert "by the same factor every day; implied 3.0000" in result.differences[0].detail


def test_what_our_estimates_may_be_wrong_by_is_harmless(line: Line, compare: Compare) -> None:
    line()
    line(input_tokens=500, output_tokens=0, usage_source="estimated")
    result = compare(used(1300), used(100, "output"))
    assert causes(result) == [Cause.ESTIMATES]
    assert result.differences[0].detail == "33.3 % of our tokens are estimates"
    assert result.agrees
    assert causes(compare(used(2100), used(100, "output"))) == [Cause.UNEXPLAINED]


def test_less_than_the_exports_own_precision_is_rounding(line: Line, compare: Compare) -> None:
    line()
    cent = Decimal("0.01")
    result = compare(billed("0.00"), billed("0.00", "output"), precision=cent)
    assert causes(result) == [Cause.ROUNDING, Cause.ROUNDING]
    assert result.agrees
    assert not compare(billed("0.02"), billed("0.00", "output"), precision=cent).agrees


def test_a_call_over_midnight_is_counted_on_the_neighbouring_day(line: Line, compare: Compare) -> None:
    line()
    line(NOON + ONE_DAY)
    result = compare(used(1400), used(600, day=DAY + ONE_DAY), used(100, "output"), used(100, "output", DAY + ONE_DAY))
    assert causes(result) == [Cause.NEIGHBOURING_DAY, Cause.NEIGHBOURING_DAY]
    assert result.agrees


def test_lines_without_a_price_are_named(line: Line, compare: Compare) -> None:
    line(price_version=None, cost_usd=None)
    result = compare(billed("0.001"))
    assert result.differences[0].cause is Cause.UNPRICED
    assert "1000 tokens: import_prices, then reprice" in result.differences[0].detail


def test_what_is_billed_beside_tokens_is_told_and_harmless(line: Line, compare: Compare) -> None:
    line()
    result = compare(billed("0.001"), billed("0.0002", "output"), billed("5", "other", model="web search tool calls"))
    assert causes(result) == [Cause.NOT_TOKENS]
    assert result.agrees


def test_a_small_difference_is_told_and_tolerated(line: Line, compare: Compare) -> None:
    line()
    result = compare(used(1005), used(100, "output"))
    assert causes(result) == [Cause.UNEXPLAINED]
    assert result.agrees
    assert not compare(used(1005), used(100, "output"), tolerance_percent=Decimal("0.1")).agrees


def test_keys_that_are_not_ours_are_left_out_where_ours_are_named(line: Line, compare: Compare) -> None:
    line()
    rows = (used(1000, key="gateway"), used(100, "output", key="gateway"), used(9000, key="laptop", project="lab"))
    result = compare(*rows, known=["gateway"])
    assert result.not_ours == {"laptop of lab": {"tokens": Decimal(9000)}}
    assert (result.differences, result.guessed) == ([], False)
    assert len(compare(*rows, known=["gateway", "lab"]).differences) == 1


def test_keys_without_which_both_agree_are_presumed_not_to_be_ours(line: Line, compare: Compare) -> None:
    line()
    rows = (used(1000, key="a"), used(100, "output", key="a"), used(700, key="b"), used(900, key="c"), used(5, key="d"))
    result = compare(*rows)
    assert set(result.not_ours) == {"b", "c"}
    assert result.guessed
    assert result.agrees
    nobodys = compare(used(1000, key="a"), used(100, "output", key="a"), used(700))
    assert nobodys.not_ours == {}


def test_days_outside_the_range_are_left_out(line: Line, compare: Compare) -> None:
    line(NOON - ONE_DAY)
    line()
    rows = (used(7, day=DAY - ONE_DAY), used(1000), used(100, "output"), used(7, day=DAY + ONE_DAY))
    assert compare(*rows, first=DAY, last=DAY).differences == []
    with pytest.raises(NothingToCompare):
        compare(*rows, first=DAY + 9 * ONE_DAY)


def test_another_providers_lines_do_not_count(line: Line, provider: Provider, compare: Compare) -> None:
    line()
    other = Provider.objects.create(
        tenant=provider.tenant, name="other", kind=provider.kind, base_url=provider.base_url
    )
    result = reconcile(Export("generic", [used(1000)], EXACT), [other.pk])
    assert causes(result) == [Cause.MISSING_LINES]


# ---------------------------------------------------------------------------- command


def run(name: str, *options: str) -> str:
    out = StringIO()
    call_command(
        "reconcile", "--provider", "lab", "--tenant", "acme", "--file", str(EXPORTS / name), *options, stdout=out
    )
    return out.getvalue()


def test_the_command_agrees_with_an_export_that_agrees(line: Line) -> None:
    line()
    line(NOON + ONE_DAY)
    assert run("generic.csv").endswith("\nBoth agree.\n")


def test_the_command_tells_every_difference_and_fails_when_they_matter(line: Line) -> None:
    line(
        vendor_model="claude-sonnet-4-5",
        input_tokens=600,
        cached_input_tokens=400,
        cache_write_5m_tokens=30,
        output_tokens=200,
    )
    out = StringIO()
    arguments = (
        "--provider",
        "lab",
        "--tenant",
        "acme",
        "--file",
        str(EXPORTS / "anthropic_usage.csv"),
        "--key",
        "gateway",
    )
    with pytest.raises(CommandError, match=r"They differ by more than 0\.5 %: missing lines"):
        call_command("reconcile", *arguments, stdout=out)
    text = out.getvalue()
    assert "not ours: laptop of Default, 10000 tokens" in text
    assert "cache_write_1h" in text
    assert "missing lines: the ledger has none" in text
    assert "in question 40 (3.15 %)" in text
    told = json.loads(run("anthropic_usage.csv", "--key", "gateway", "--tolerance", "4", "--json"))
    assert told["agrees"] is True
    assert told["differences"][0]["cause"] == "missing lines"
    assert told["totals"]["tokens"]["theirs"] == "1270"


def test_openais_bill_agrees_with_lines_under_the_models_plain_name(line: Line) -> None:
    line(vendor_model="gpt-4o-mini", input_tokens=600, cached_input_tokens=400, output_tokens=150, reasoning_tokens=50)
    told = json.loads(run("openai_cost.csv", "--key", "proj_a", "--json"))
    assert told["agrees"] is True
    assert [(each["model"], each["cause"]) for each in told["differences"]] == [
        ("web search tool calls", "not tokens"),
    ]  # fmt: skip


def test_anthropics_bill_in_cents_agrees_with_exact_lines(line: Line, model: Model) -> None:
    flat = PriceVersion.objects.create(
        tenant=model.tenant, model=model, effective_from=NOON, input=1, output=2, cached_input=Decimal("0.1")
    )
    line(
        vendor_model="claude-sonnet-4-5-20250929", price_version=flat, input_tokens=600_400, output_tokens=200_100,
        cached_input_tokens=401_000, cache_write_5m_tokens=28_000, cache_write_1h_tokens=42_000,
    )  # fmt: skip
    told = json.loads(run("anthropic_cost.csv", "--json", "--tolerance", "0"))
    assert told["agrees"] is True
    assert {each["cause"] for each in told["differences"]} == {"rounding"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--provider", "nobody"), "There is no provider 'nobody' in acme"),
        (("--tolerance", "much"), "--tolerance must be a number of per cent"),
        (("--format", "openai-usage"), "read as openai-usage, has no column"),
        (("--from", "2027-01-01"), "has no rows in this range"),
    ],
)
def test_the_command_says_what_is_wrong(provider: Provider, options: tuple[str, str], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        run("generic.csv", *options)
