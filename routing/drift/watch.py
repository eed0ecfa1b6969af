"""The weekly run: what models answer today to banked conversations, beside what they answered before."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import exp, log
from typing import Any, Literal, get_args

import msgspec

from routing.drift.shifts import Bets, Look, Series, Values

Signal = Literal["quality", "length", "refusals", "invalid_json", "latency"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)

BETS: Mapping[Signal, Bets] = {
    "quality": Bets((-0.06, -0.1, -0.17, -0.3), usual_sd=0.2, least_sd=0.05, common_sd=0.01),
    "length": Bets((-1.0, -0.5, -0.25, 0.25, 0.5, 1.0), usual_sd=0.4, least_sd=0.1, common_sd=0.05),  # log tokens
    "refusals": Bets((0.1, 0.2, 0.4), usual_sd=0.2, least_sd=0.2, common_sd=0.03),  # share
    "invalid_json": Bets((0.1, 0.2, 0.4), usual_sd=0.2, least_sd=0.2, common_sd=0.03),  # share
    "latency": Bets((0.3, 0.6, 1.2), usual_sd=0.5, least_sd=0.1, common_sd=0.2),  # log seconds
}
CONTROL_BETS = Bets((-0.3, -0.15, -0.08, 0.08, 0.15, 0.3), usual_sd=0.2, least_sd=0.05, common_sd=0.02)

# False alarms a year, of any of a tenant's models, that are put up with. Together one in four years.
RATES: Mapping[Signal, float] = {
    "quality": 0.15,
    "length": 0.025,
    "refusals": 0.025,
    "invalid_json": 0.025,
    "latency": 0.025,
}
CONTROL_RATE = 0.05

# Whole answers sooner than this are all as good as at once; what differs among them is the network and this machine.
LEAST_LATENCY_S = 0.5


class UnreadableWatch(ValueError):
    """What was stored is no watch."""


class RunAlreadyTaken(ValueError):
    """A run that is not later than the last one of a watch."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A model's answer of today to a banked conversation. None: not known, or not asked for.

    ``value`` is the judgement (0-1), ``valid_json`` None where no JSON was wanted.
    """

    conversation: str
    value: float | None
    output_tokens: int | None = None
    refused: bool | None = None
    valid_json: bool | None = None
    latency_s: float | None = None


class Watch(msgspec.Struct):
    """What is remembered of one model (or of the control, of which only quality is) from run to run."""

    yardstick: str = ""
    last_run: date | None = None
    runs: int = 0
    series: dict[str, Series] = {}

    @classmethod
    def from_data(cls, stored: Any) -> "Watch":
        """What :meth:`to_data` gave, by way of JSON; {} is a new watch. Raises UnreadableWatch."""
        try:
            return msgspec.convert(stored, cls, str_keys=True)
        except msgspec.ValidationError as exc:
            raise UnreadableWatch(f"this is no watch: {exc}") from None

    def to_data(self) -> dict[str, Any]:
        """Plain JSON values; some 20 kB for a bank of 30."""
        data: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return data

    def of(self, signal: Signal) -> Series:
        """The series of a signal, begun when first asked for."""
        return self.series.setdefault(signal, Series())


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model's signal stands. ``change`` since ``since`` is the most likely one, in points of quality (net of the
    control), a factor (length, latency) or a share; None while nothing can be compared."""

    model: str
    signal: Signal
    evidence: float
    since: date | None
    change: float | None


@dataclass(frozen=True, slots=True)
class Alarm:
    """A reading that is too much for chance, in words."""

    reading: Reading
    reason: str


@dataclass(frozen=True, slots=True)
class Review:
    """What a run showed. ``restarted``: the control or the judge is another than before, so that all begins anew.
    ``control_moved`` says in words that the judgements of the control's answers have shifted."""

    alarms: tuple[Alarm, ...]
    readings: tuple[Reading, ...]
    control_moved: str
    restarted: bool


def review(
    watches: Mapping[str, Watch],
    control: Watch,
    run: date,
    answers: Mapping[str, Sequence[Replayed]],
    control_values: Values,
    *,
    yardstick: str,
    rates: Mapping[Signal, float] = RATES,
) -> Review:
    """Take one run of a tenant into its watches (by model) and its control's, and see which models have changed.

    ``control_values`` are the judgements (0-1), in this run by the same judge, of the control's answers to the same
    conversations; the control needs no watch among ``watches``. ``yardstick`` names control and judge. Changes the
    watches; store them all in one transaction. A model or conversation may be missing (then it is not tested this
    time); of several answers to one conversation the mean counts, and counts for more. An alarmed signal begins anew
    with the run its change began with.

    Raises RunAlreadyTaken before anything is changed, and KeyError for a model without a watch.
    """
    everyone = (*watches.values(), control)
    _check(run, everyone, set(answers) - set(watches))
    restarted = [_restart(watch, yardstick) for watch in everyone]
    of_control = control.of("quality")
    shown = of_control.look(control_values, BETS["quality"])
    for model, replayed in answers.items():
        watch = watches[model]
        for signal in SIGNALS:
            _take(watch.of(signal), run, _values(replayed, signal), BETS[signal], shown, judged=signal == "quality")
        watch.last_run, watch.runs = run, watch.runs + 1
    if shown is not None:
        of_control.bet(run, shown, None, CONTROL_BETS)
    of_control.remember(run, control_values)
    control.last_run, control.runs = run, control.runs + 1
    readings = tuple(_read(model, watch, signal, of_control) for model, watch in watches.items() for signal in SIGNALS)
    moved = _control_moved(of_control)
    alarms = [alarm for signal in SIGNALS for alarm in _alarms(signal, readings, rates[signal], moved)]
    for alarm in alarms:
        series = watches[alarm.reading.model].series
        series[alarm.reading.signal] = series[alarm.reading.signal].restarted(alarm.reading.since)
    return Review(tuple(alarms), readings, moved, any(restarted))


def discoveries(evidence: Mapping[str, float], rate: float) -> frozenset[str]:
    """Whose evidence is enough, so that of all that are named at most a share ``rate`` a year is named wrongly
    (the e-BH procedure; it allows for any dependence). The more there are to tell apart, the more is asked of each."""
    ranked = sorted(evidence, key=lambda name: -evidence[name])
    enough = [place for place, name in enumerate(ranked, 1) if place * rate * evidence[name] >= len(ranked)]
    return frozenset(ranked[: max(enough, default=0)])


def _check(run: date, watches: Iterable[Watch], unknown: set[str]) -> None:
    if unknown:
        raise KeyError(f"no watch for {', '.join(sorted(unknown))}")
    latest = max((watch.last_run for watch in watches if watch.last_run), default=None)
    if latest is not None and run <= latest:
        raise RunAlreadyTaken(f"the run of {latest} has been taken; {run} is not later")


def _restart(watch: Watch, yardstick: str) -> bool:
    """Values by another judge, or beside another control, cannot be compared; other signals go on."""
    changed = watch.yardstick not in ("", yardstick)
    if changed:
        watch.series.pop("quality", None)
    watch.yardstick = yardstick
    return changed


def _take(series: Series, run: date, values: Values, bets: Bets, control: Look | None, *, judged: bool) -> None:
    """Without a control to set against it, a run's quality is kept to compare with but not tested."""
    shown = series.look(values, bets)
    if shown is not None and (control is not None or not judged):
        series.bet(run, shown, control if judged else None, bets)
    series.remember(run, values)


def _values(replayed: Iterable[Replayed], signal: Signal) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for one in replayed:
        value = _value(one, signal)
        if value is not None:
            values.setdefault(one.conversation, []).append(value)
    return values


def _value(one: Replayed, signal: Signal) -> float | None:
    if signal == "quality":
        return one.value
    if signal == "length":  # of a refusal it says nothing that refusals do not
        return None if one.output_tokens is None or one.refused else log(1 + one.output_tokens)
    if signal == "refusals":
        return None if one.refused is None else float(one.refused)
    if signal == "invalid_json":
        return None if one.valid_json is None else float(not one.valid_json)
    return None if one.latency_s is None else log(max(one.latency_s, LEAST_LATENCY_S))


def _read(model: str, watch: Watch, signal: Signal, control: Series) -> Reading:
    series = watch.of(signal)
    since = series.likeliest_start
    change = None if since is None else series.change_since(since)
    if change is not None and since is not None and signal == "quality":
        change -= control.change_since(since) or 0.0
    return Reading(model, signal, series.evidence, since, change)


def _control_moved(control: Series) -> str:
    since = control.likeliest_start
    if since is None or control.evidence < 1 / CONTROL_RATE:
        return ""
    change = control.change_since(since) or 0.0
    return (
        f"The control's answers are judged {'better' if change > 0 else 'worse'} by {abs(change):.2f} since {since}: "
        "the judge or the control has changed. Models are compared net of this."
    )


def _alarms(signal: Signal, readings: Sequence[Reading], rate: float, control_moved: str) -> list[Alarm]:
    of_signal = {reading.model: reading for reading in readings if reading.signal == signal}
    found = discoveries({model: reading.evidence for model, reading in of_signal.items()}, rate)
    return [Alarm(of_signal[model], _told(of_signal[model], rate, control_moved)) for model in sorted(found)]


def _told(reading: Reading, rate: float, control_moved: str) -> str:
    change = reading.change or 0.0
    said = {
        "quality": f"answers are judged worse by {-change:.2f} (of 1, net of the control)",
        "length": f"answers are {_factor(change)} as long as they were",
        "refusals": f"refuses {change:+.0%} of the conversations",
        "invalid_json": f"gives invalid JSON to {change:+.0%} of the conversations that want JSON",
        "latency": f"takes {_factor(change)} as long as it did",
    }[reading.signal]
    told = f"{reading.model}: {said}, most likely since {reading.since}"
    told += f" (evidence {reading.evidence:,.0f}; at most {rate:g} false alarms of this kind a year)."
    return f"{told} {control_moved}" if control_moved and reading.signal == "quality" else told


def _factor(log_change: float) -> str:
    return f"{exp(log_change):.2f} times"
