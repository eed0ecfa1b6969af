"""Whether a model has changed: the bank, the weekly runs, and how often they are wrong."""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial

import numpy as np
import pytest

from routing.drift import (
    Entry,
    Replayed,
    ResidualWatch,
    Review,
    RunAlreadyTaken,
    UnreadableWatch,
    Watch,
    choose_bank,
    review,
)
from routing.drift.residuals import run_lengths
from routing.drift.shifts import RUNS_A_YEAR, Bets, Series
from routing.drift.watch import BETS, RATES, discoveries

FIRST_RUN = date(2024, 1, 1)
MODELS = tuple("abcde")


def five_steps(quality, rng):
    """A rubric of three criteria in five steps, each seen with noise."""
    noisy = quality[..., None] + rng.normal(0, 0.16, (*quality.shape, 3))
    return (np.clip(np.round(4 * noisy), 0, 4) / 4) @ np.array([0.6, 0.25, 0.15])


def continuous(quality, rng):
    return np.clip(quality + rng.normal(0, 0.12, quality.shape), 0, 1)


def right_or_wrong(quality, rng):
    return (rng.random(quality.shape) < quality).astype(float)


@dataclass
class World:
    """Five models and a control, each conversation with its own quality, answers that vary, a judge with moods."""

    seed: int
    judge: object = continuous
    size: int = 30
    renewed: float = 1.0
    moods: float = 0.03
    together: float = 0.0
    lost: dict[str, float] = field(default_factory=dict)
    judge_shift: float = 0.0
    control_shift: float = 0.0

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.qualities = self.rng.beta(2.5, 0.8, (len(MODELS), self.size))
        self.control_qualities = np.clip(self.qualities + self.rng.normal(0, 0.1, self.qualities.shape), 0, 1)
        self.born = np.zeros(self.qualities.shape, int)
        self.watches, self.control, self.runs, self.yardstick = {name: Watch() for name in MODELS}, Watch(), 0, "judge"

    def week(self, *, with_control: bool = True) -> Review:
        mood = self.rng.normal(0, self.moods) + self.judge_shift
        apart = self.rng.normal(0, self.together, (len(MODELS), 1))
        lost = np.array([self.lost.get(name, 0.0) for name in MODELS])[:, None]
        values = self._judged(self.qualities - lost + apart + mood)
        of_control = self._judged(self.control_qualities + self.control_shift + mood)
        names = [[f"{model}{i}-{self.born[k, i]}" for i in range(self.size)] for k, model in enumerate(MODELS)]
        answers = {
            model: [Replayed(name, value) for name, value in zip(names[k], values[k].tolist(), strict=True)]
            for k, model in enumerate(MODELS)
        }
        control = {
            name: [value]
            for row, found in zip(names, of_control.tolist(), strict=True)
            for name, value in zip(row, found, strict=True)
        }
        run = FIRST_RUN + timedelta(weeks=self.runs)
        self.runs += 1
        seen = review(
            self.watches, self.control, run, answers, control if with_control else {}, yardstick=self.yardstick
        )
        self._renew()
        return seen

    def weeks(self, count: int) -> list:
        return [alarm for _ in range(count) for alarm in self.week().alarms]

    def _judged(self, quality):
        return self.judge(np.clip(quality + self.rng.normal(0, 0.1, quality.shape), 0, 1), self.rng)

    def _renew(self):
        """The oldest conversations of each bank make room for new ones."""
        for _ in range(int(self.renewed)):
            i = self.runs % self.size
            self.qualities[:, i] = self.rng.beta(2.5, 0.8, len(MODELS))
            self.control_qualities[:, i] = np.clip(self.qualities[:, i] + self.rng.normal(0, 0.1, len(MODELS)), 0, 1)
            self.born[:, i] += 1


# --------------------------------------------------------------------------- figures


@pytest.mark.parametrize("judge", [continuous, five_steps, right_or_wrong])
def test_two_hundred_weeks_without_a_change_raise_at_most_two_false_alarms(judge):
    world = World(seed=1, judge=judge, together=0.01)
    assert len(world.weeks(200)) <= 2


def found_share(*, lost: float, history: int, within: int, worlds: int, judge=continuous) -> float:
    found = 0
    for seed in range(worlds):
        world = World(seed=100 + seed, judge=judge)
        world.weeks(history)
        world.lost = {"c": lost}
        found += any(alarm.reading.model == "c" for alarm in world.weeks(within))
    return found / worlds


@pytest.mark.parametrize("judge", [continuous, five_steps])
def test_a_drop_of_three_tenths_is_found_within_two_runs_even_right_after_the_baseline(judge):
    assert found_share(lost=0.3, history=1, within=2, worlds=40, judge=judge) >= 0.9


@pytest.mark.parametrize("judge", [continuous, five_steps])
def test_a_drop_of_a_tenth_is_found_within_ten_runs_once_there_is_a_history_of_eight(judge):
    assert found_share(lost=0.1, history=8, within=10, worlds=20, judge=judge) >= 0.8


def test_evidence_reaches_a_level_no_more_often_than_it_says():
    level, years, streams = 10.0, 2, 40
    bets, rng, reached = Bets((-0.1, -0.3), 0.2, 0.05, 0.01), np.random.default_rng(5), 0
    for _ in range(streams):
        series, own, most = Series(), rng.random(10), 0.0
        for week in range(years * RUNS_A_YEAR):
            values = {str(i): [x] for i, x in enumerate((rng.random(10) < own).astype(float))}
            run = FIRST_RUN + timedelta(weeks=week)
            if (shown := series.look(values, bets)) is not None:
                series.bet(run, shown, None, bets)
            series.remember(run, values)
            most = max(most, series.evidence)
        reached += most >= level
    assert reached / streams <= years / level


# --------------------------------------------------------------------------- the weekly run


def test_an_alarm_says_what_changed_by_how_much_and_since_when_and_the_watch_begins_anew():
    world = World(seed=3)
    world.weeks(6)
    world.lost = {"b": 0.3}
    [alarm] = world.weeks(2)
    assert alarm.reading.model == "b" and alarm.reading.signal == "quality"
    assert alarm.reading.since == FIRST_RUN + timedelta(weeks=6)
    assert -0.4 < alarm.reading.change < -0.2
    assert alarm.reason.startswith("b: answers are judged worse by 0.")
    assert "since 2024-02-12" in alarm.reason and "0.15 false alarms" in alarm.reason
    assert world.watches["b"].of("quality").evidence < 1
    assert world.weeks(8) == []


def test_a_judge_that_grows_stricter_alarms_for_no_model_but_is_noticed_on_the_control():
    world = World(seed=4)
    world.weeks(8)
    world.judge_shift = -0.15
    reviews = [world.week() for _ in range(6)]
    assert not any(seen.alarms for seen in reviews)
    assert "worse by 0.1" in reviews[-1].control_moved
    assert reviews[0].control_moved != "" or reviews[1].control_moved != ""


def test_a_control_that_grows_better_is_named_in_the_alarms_it_causes():
    world = World(seed=5)
    world.control_qualities *= 0.6
    world.weeks(8)
    world.control_shift = 0.3
    alarms = world.weeks(3)
    assert alarms
    assert all("control's answers are judged better" in alarm.reason for alarm in alarms)


def test_conversations_banked_for_their_high_scores_do_not_alarm_when_they_regress_to_the_mean():
    rng = np.random.default_rng(6)
    quality = rng.beta(2.5, 0.8, 400)
    drawn = np.argsort(-continuous(quality, rng))[:30]  # the draw's scores are all near 1: chance, in part
    watch, control = {"m": Watch()}, Watch()
    for week in range(30):
        values, others = continuous(quality[drawn], rng), continuous(quality[drawn], rng)
        answers = {"m": [Replayed(str(i), float(x)) for i, x in enumerate(values)]}
        of_control = {str(i): [float(x)] for i, x in enumerate(others)}
        seen = review(watch, control, FIRST_RUN + timedelta(weeks=week), answers, of_control, yardstick="j")
        assert seen.alarms == ()


def test_without_a_control_in_the_run_quality_is_not_tested():
    world = World(seed=7)
    world.weeks(4)
    world.lost = dict.fromkeys(MODELS, 0.5)
    assert world.week(with_control=False).alarms == ()


def test_another_judge_or_control_begins_quality_anew_and_says_so():
    world = World(seed=8)
    world.weeks(4)
    world.yardstick, world.judge_shift = "another judge", -0.3
    seen = world.week()
    assert seen.restarted and seen.alarms == ()
    assert not world.week().restarted


def test_a_run_is_taken_once_and_in_order():
    world = World(seed=9)
    world.weeks(3)
    before = json.dumps(world.watches["a"].to_data())
    with pytest.raises(RunAlreadyTaken):
        review(world.watches, world.control, FIRST_RUN, {}, {}, yardstick="judge")
    with pytest.raises(KeyError, match="nobody"):
        review(world.watches, world.control, date(2030, 1, 1), {"nobody": []}, {}, yardstick="judge")
    assert json.dumps(world.watches["a"].to_data()) == before


def test_a_watch_that_went_through_json_goes_on_to_the_same_end():
    worlds = World(seed=10), World(seed=10)
    for _ in range(5):
        for world in worlds:
            world.week()
        stored = worlds[1]
        stored.watches = {
            name: Watch.from_data(json.loads(json.dumps(one.to_data()))) for name, one in stored.watches.items()
        }
        stored.control = Watch.from_data(json.loads(json.dumps(stored.control.to_data())))
    assert worlds[0].watches == worlds[1].watches and worlds[0].control == worlds[1].control
    assert Watch.from_data({}) == Watch()
    with pytest.raises(UnreadableWatch):
        Watch.from_data({"runs": "many"})


def test_the_state_of_a_watch_stays_small():
    world = World(seed=11)
    world.weeks(60)
    assert len(json.dumps(world.watches["a"].to_data())) < 40_000
    assert len(world.watches["a"].of("quality").history) <= world.size + 9  # a few that left the bank lately


# --------------------------------------------------------------------------- further signals


def answers_of(rng, *, tokens=300.0, refused=0.0, invalid=0.0, latency=2.0):
    return [
        Replayed(
            str(i),
            None,
            output_tokens=int(tokens * np.exp(rng.normal(0, 0.3))),
            refused=bool(rng.random() < refused),
            valid_json=bool(rng.random() >= invalid) if i < 15 else None,
            latency_s=float(latency * np.exp(rng.normal(0, 0.4))),
        )
        for i in range(30)
    ]


def signals_after(seed, weeks=4, **changed):
    rng, watches, control, alarms = np.random.default_rng(seed), {"m": Watch(), "n": Watch()}, Watch(), []
    for week in range(8 + weeks):
        weather = float(np.exp(rng.normal(0, 0.1)))
        then = {"latency": 2.0 * weather} if week < 8 or "latency" not in changed else {}
        answers = {
            "m": answers_of(rng, **(changed if week >= 8 else {}) | then),
            "n": answers_of(rng, latency=2.0 * weather),
        }
        seen = review(watches, control, FIRST_RUN + timedelta(weeks=week), answers, {}, yardstick="")
        alarms += seen.alarms
    return alarms


@pytest.mark.parametrize(
    ("changed", "signal", "told"),
    [
        ({"tokens": 120.0}, "length", "m: answers are 0.4"),
        ({"tokens": 700.0}, "length", "m: answers are 2."),
        ({"refused": 0.4}, "refusals", "m: refuses +"),
        ({"invalid": 0.6}, "invalid_json", "m: gives invalid JSON to +"),
        ({"latency": 7.0}, "latency", "m: takes 3."),
    ],
)
def test_length_refusals_format_and_latency_have_alarms_of_their_own(changed, signal, told):
    alarms = signals_after(12, **changed)
    assert {(alarm.reading.model, alarm.reading.signal) for alarm in alarms} == {("m", signal)}
    assert alarms[0].reason.startswith(told), alarms[0].reason


def test_further_signals_are_silent_while_nothing_changes():
    assert signals_after(13, weeks=60, refused=0.0) == []


def test_a_model_that_grows_faster_or_refuses_less_is_no_alarm():
    assert signals_after(14, weeks=8, latency=0.7) == []


# --------------------------------------------------------------------------- many models at once


def test_the_more_models_are_watched_the_more_is_asked_of_each():
    assert discoveries({"a": 21.0}, 0.05) == {"a"}
    assert discoveries({"a": 21.0, "b": 0.1, "c": 0.1}, 0.05) == frozenset()
    assert discoveries({"a": 21.0, "b": 22.0, "c": 23.0}, 0.05) == {"a", "b", "c"}
    assert discoveries({}, 0.05) == frozenset()


def test_all_kinds_of_alarms_together_are_wrong_once_in_four_years_at_most():
    assert set(RATES) == set(BETS)
    assert sum(RATES.values()) <= 0.25


# --------------------------------------------------------------------------- the bank

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def judged(count, *, seed=0):
    rng = np.random.default_rng(seed)
    tasks = rng.choice(["qa", "coding", "math"], count, p=[0.8, 0.18, 0.02])
    scores = np.clip(rng.normal(0.85, 0.25, count), 0, 1)
    return [Entry(f"r{seed}-{i}", str(tasks[i]), "simple", float(scores[i]), NOW) for i in range(count)]


def test_a_bank_stands_for_all_kinds_of_conversations_and_all_scores():
    entries = judged(2_000)
    by_id = {entry.id: entry for entry in entries}
    chosen = [by_id[name] for name in choose_bank(entries, 60).add]
    assert len(chosen) == 60
    assert set(Counter(entry.task for entry in chosen)) == {"qa", "coding", "math"}
    assert min(entry.score for entry in chosen) < 0.5
    assert sum(entry.score < 0.75 for entry in chosen) >= 15
    assert Counter(entry.task for entry in chosen).most_common(1)[0][0] == "qa"


def test_the_same_conversations_give_the_same_bank_in_whatever_order_they_come():
    entries = judged(300)
    assert choose_bank(entries, 30) == choose_bank(entries[::-1], 30)


def test_a_full_bank_replaces_its_oldest_a_few_at_a_time():
    old = [Entry(f"old{i}", "qa", "simple", 0.9, NOW + timedelta(days=i)) for i in range(60)]
    choice = choose_bank(judged(500), 60, banked=old)
    assert choice.retire == ("old0", "old1")
    assert len(choice.add) == 2
    gone = {*choice.retire}
    again = choose_bank(judged(500), 60, banked=[entry for entry in old if entry.id not in gone])
    assert again.retire == ("old2", "old3") or len(again.add) >= 2


def test_nothing_is_retired_without_something_to_take_its_place_and_a_smaller_bank_lets_go():
    old = judged(10)
    assert choose_bank(old, 10, banked=old).retire == ()
    assert choose_bank([], 10, banked=old) == choose_bank(old, 10, banked=old)
    smaller = choose_bank([], 4, banked=old)
    assert len(smaller.retire) == 6 and smaller.add == ()
    assert choose_bank(old, 0).add == ()
    with pytest.raises(ValueError, match="0"):
        choose_bank(old, -1)


# --------------------------------------------------------------------------- between the runs


def normal(rng, count, *, drop=0.0):
    return rng.normal(0, 1, count) - drop / 0.35


def verdicts(rng, count, *, right, drop=0.0):
    """Right or wrong, as a judge sees it."""
    seen = np.clip((rng.random(count) < right - drop) * 0.6 + 0.35 + rng.normal(0, 0.12, count), 0, 1)
    return (seen - 0.35 - 0.6 * right) / np.sqrt(0.36 * right * (1 - right) + 0.8 * 0.0144)


def coin(rng, count, *, right, drop=0.0):
    return ((rng.random(count) < right - drop) - right) / np.sqrt(right * (1 - right))


SHAPES = {
    "normal": normal,
    "judged .8": partial(verdicts, right=0.8),
    "right .6": partial(coin, right=0.6),
    "right .8": partial(coin, right=0.8),
    "right .9": partial(coin, right=0.9),
}


@pytest.mark.parametrize("draw", SHAPES.values(), ids=SHAPES)
def test_live_labels_alarm_falsely_less_than_once_in_a_thousand_and_find_a_drop_within_sixty(draw):
    lengths = run_lengths(ResidualWatch(), draw, paths=400, at_most=20_000, seed=2)
    assert lengths.mean() >= 1_000
    after = run_lengths(ResidualWatch(), partial(draw, drop=0.3), paths=400, at_most=1_000, seed=3)
    assert np.quantile(after, 0.9) <= 60


def test_a_residual_watch_begins_anew_after_its_alarm_and_one_odd_label_is_no_alarm():
    watch = ResidualWatch()
    assert not watch.take(-100.0)
    alarms = [watch.take(-2.0) for _ in range(20)]
    assert [place for place, alarm in enumerate(alarms) if alarm] == [4, 10, 16]
    assert not watch.take(5.0) and watch.shortfall >= 0.0
