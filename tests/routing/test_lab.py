"""The lab replays a committed slice of public data through the engine."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from routing.lab.bench import Run
from routing.lab.pairs import ranked_figures
from routing.lab.replay import Conditions
from routing.lab.synthetic import WORLDS, made_up

SLICE = Path(__file__).parent / "data" / "zeroeval_slice.jsonl.gz"


def lab(*options: str) -> dict[str, dict]:
    out = StringIO()
    call_command("routerlab", "--data", str(SLICE), "--json", *options, stdout=out)
    return {row["engine"]: row for row in map(json.loads, out.getvalue().splitlines())}


def test_the_engine_beats_moving_averages_and_comes_close_to_the_best_model():
    rows = lab("--orders", "3", "--judged", ".2", "--prior", "noise:.06")
    assert rows["hier"]["utility"] > rows["ema"]["utility"] + 0.02
    assert rows["cheapest"]["utility"] < rows["hier"]["utility"] < rows["oracle"]["utility"]
    assert rows["hier"]["recovered"]["50"] >= 0.6
    assert rows["best-single"]["regret_per_1000"] == 0
    assert rows["hier"]["decision_us"]["p50"] > 0


def test_the_same_command_gives_the_same_figures():
    runs = [lab("--orders", "1", "--engines", "hier") for _ in range(2)]
    for run in runs:
        del run["hier"]["decision_us"]
    assert runs[0] == runs[1]


def test_nobody_is_served_an_exploratory_answer_with_shadow_pairs():
    row = lab("--orders", "1", "--engines", "hier", "--shadow")["hier"]
    assert row["explored_share"] == 0 and row["labels"] > 30


@pytest.mark.parametrize(
    "options",
    [["--drift"], ["--new-model"], ["--price-x10", "gemini-1.5-flash"], ["--wrong-tasks", ".3"], ["--averaged"]],
)
def test_each_change_of_the_stream_runs_to_its_end(options):
    row = lab("--orders", "1", "--engines", "hier", *options)["hier"]
    assert 0.4 < row["utility"] < 1


@pytest.mark.parametrize("world", WORLDS)
def test_a_simulated_world_is_the_same_each_time_and_can_be_replayed(world):
    first, second = (made_up(world, prompts=300) for _ in range(2))
    assert (first.quality == second.quality).all() and (first.cost == second.cost).all()
    assert first.quality.min() >= 0 and first.quality.max() <= 1 and first.cost.min() > 0
    assert np.ptp(first.quality.mean(axis=0)) > 0.03
    run = Run(first, Conditions(judged=0.3), orders=1, engines=("hier", "random", "oracle"))
    hier, random, oracle = run.figures()
    assert max(hier.utility, random.utility) < oracle.utility
    if world != "alike":  # where hardly anything is to be gained, so few prompts do not show it
        assert hier.utility > random.utility


def test_the_command_replays_a_simulated_world():
    out = StringIO()
    call_command("routerlab", "--world", "few", "--orders", "1", "--engines", "random,oracle", "--json", stdout=out)
    assert [json.loads(line)["engine"] for line in out.getvalue().splitlines()] == ["random", "oracle"]


def test_a_pool_of_two_reports_how_well_it_ranks_prompts():
    out = StringIO()
    pool = "claude-3-5-sonnet-20241022,gemini-1.5-flash"
    call_command("routerlab", "--data", str(SLICE), "--models", pool, "--orders", "2", stdout=out, stderr=StringIO())
    assert "APGR 0." in out.getvalue() and "CPT(80%)" in out.getvalue()


def test_a_perfect_ranking_recovers_the_gap_with_the_fewest_calls():
    gain = np.repeat([1.0, 0.0], [20, 80])
    perfect, reverse = ranked_figures(gain, gain), ranked_figures(-gain, gain)
    assert perfect.cpt_50 == pytest.approx(0.1) and perfect.cpt_80 == pytest.approx(0.16)
    assert perfect.apgr > 0.85 and reverse.apgr < 0.15


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "/nowhere.jsonl"], "--data FILE"),
        (["--data", str(SLICE), "--models", "gpt-9,claude-3-5-sonnet-20241022"], "knows no model gpt-9"),
        (["--data", str(SLICE), "--prior", "guess"], "noise:SD"),
        (["--data", str(SLICE), "--engines", "magic"], "no engine magic"),
        (["--data", str(SLICE), "--price-x10", "gpt-9"], "gpt-9"),
        (["--data", __file__], "line 1"),
    ],
)
def test_what_cannot_be_replayed_is_said_in_one_line(options, said):
    with pytest.raises(CommandError, match=said):
        call_command("routerlab", *options)
