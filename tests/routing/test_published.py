"""Published scores: the shipped table, ``import_scores``, and what a new installation has."""

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from audit.models import AuditEvent
from audit.record import Actor
from gateway import first_run
from routing.models import PublishedScore
from routing.published import SHIPPED, UnusableFigures, import_scores, read_figures
from tenants.models import Tenant

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("import_scores", *arguments, stdout=out)
    return out.getvalue().strip()


def one(**changes: object) -> dict[str, object]:
    return {"vendor_models": ["lab-*"], "quality": 0.5, "source": "The lab, a paper"} | changes


def test_the_shipped_scores_are_imported_once() -> None:
    first = run()
    there = PublishedScore.objects.count()
    assert first == f"{there} scores added, 0 were there."
    assert there > 100
    events = AuditEvent.objects.count()
    assert run() == f"0 scores added, {there} were there."
    assert (PublishedScore.objects.count(), AuditEvent.objects.count()) == (there, events)
    event = AuditEvent.objects.get(action="published_scores.imported")
    assert (event.actor_label, event.changes) == ("manage.py import_scores", {"added": [None, there]})


def test_every_shipped_score_is_valid_and_says_where_it_is_from() -> None:
    run()
    for row in PublishedScore.objects.all():
        row.full_clean()
        assert "," in row.source
        assert 0.4 < row.quality < 0.95


def test_a_model_of_a_family_has_its_own_score_rather_than_its_bigger_sisters() -> None:
    by_name = {name: figure.quality for figure in read_figures(SHIPPED.read_bytes()) for name in figure.vendor_models}
    assert by_name["gpt-4o-mini"] < by_name["gpt-4o"]
    assert not [name for name in by_name if name in ("gpt-4o*", "gpt-4*", "*claude*", "o1*")]


def test_a_score_of_the_operators_own_stays(actor: Actor) -> None:
    mine = PublishedScore.objects.create(vendor_model_pattern="gpt-4o", quality=0.3, source="our own tests")
    result = import_scores(actor)
    mine.refresh_from_db()
    assert (mine.quality, mine.source, result.kept) == (0.3, "our own tests", 1)


def test_a_tenants_score_does_not_stand_for_the_installations(tenant: Tenant, actor: Actor) -> None:
    PublishedScore.objects.create(tenant=tenant, vendor_model_pattern="gpt-4o", quality=0.3, source="our own tests")
    assert import_scores(actor).kept == 0
    assert set(PublishedScore.objects.filter(vendor_model_pattern="gpt-4o").values_list("quality", flat=True)) == {
        0.3, 0.887,
    }  # fmt: skip


def test_another_file_can_be_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text(json.dumps([one(vendor_models=["lab-1", "lab-2*"])]))
    assert run("--file", str(file)) == "2 scores added, 0 were there."
    row = PublishedScore.objects.get(vendor_model_pattern="lab-2*")
    assert (row.tenant, row.quality, row.source) == (None, 0.5, "The lab, a paper")


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ([one(quality=87)], r"<= 1.*\.quality"),
        ([one(quality="good")], "Expected `float`"),
        ([one(source="")], r"length >= 1.*\.source"),
        ([one(vendor_models=["a\0b"])], "matching regex"),
        ([one(colour="red")], "unknown field `colour`"),
        ([one(), one(quality=0.6)], r"'lab-\*' has two figures"),
        ({"gpt-4o": 0.9}, "Expected `array`"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_nothing_is_taken_from_it(
    figures: object, message: str, actor: Actor
) -> None:
    with pytest.raises(UnusableFigures, match=message):
        import_scores(actor, json.dumps(figures).encode())
    assert not PublishedScore.objects.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_what_is_not_json_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "scores.json"
    file.write_bytes(content)
    with pytest.raises(CommandError, match=r"scores\.json: "):
        run("--file", str(file))


def test_a_file_that_is_missing_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"none\.json: No such file or directory"):
        run("--file", str(tmp_path / "none.json"))


def test_a_new_installation_has_the_shipped_scores() -> None:
    first_run.prepare()
    assert PublishedScore.objects.filter(tenant=None, vendor_model_pattern="gpt-4o-mini", quality=0.82).exists()


def test_scores_that_an_operator_took_away_do_not_come_back_by_themselves() -> None:
    first_run.prepare()
    PublishedScore.objects.filter(vendor_model_pattern="gpt-4o-mini").delete()
    first_run.prepare()
    assert not PublishedScore.objects.filter(vendor_model_pattern="gpt-4o-mini").exists()
