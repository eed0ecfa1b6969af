"""How requests are routed: a tenant's router, strategies and experiments, and what is known of models beforehand."""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml
from django.db.models import F
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, SequenceNode

from audit.actions import Action
from audit.record import Actor, changes_between, record
from gateway.declaration import document
from gateway.declaration.document import Fault, Problem
from gateway.declaration.entries import Entry, Field, mapping_of
from gateway.declaration.outcome import shown
from gateway.declaration.owner import Owner
from gateway.declaration.writing import Writer
from gateway.models import Model
from routing.experiments.guards import Guard, Metric
from routing.models import Experiment, PublishedScore, RoutingSettings, StrategyChoice
from routing.rules import MOST_RULES, check_rules, llm, model_names
from routing.rules.patterns import matches
from routing.scores import STRATEGIES
from tenants.models import ApiToken, Project, Tenant

_ATTRIBUTES: Final = {
    **{
        key: key
        for key in (
            "engine", "strategy", "rules", "quality_floor", "usd_per_1000_requests", "auto_ab", "auto_migrate",
        )
    },
    "judge.usd_per_day": "judge_usd_per_day",
    "judge.rate": "judge_rate",
    "judge.model": "judge_model",
    "judge.shadow": "shadow",
    "shared_pool.reads": "reads_shared",
    "shared_pool.feeds": "feeds_shared",
    "replay.usd_per_week": "replay_usd_per_week",
    "ema.alpha": "ema_alpha",
    "ema.epsilon": "ema_epsilon",
    "ema.least_samples": "ema_least_samples",
}  # fmt: skip
_COMPARED: Final = ("task", "complexity", "arms", "shares", "mode", "sticky")
_PLACE: Final = re.compile(r"^rule \d+")


# ------------------------------------------------------------------ readers of one value


def figure(node: Node) -> float:
    """A number of at least 0 that need not be exact."""
    return float(document.amount(node))


def share(node: Node) -> float:
    value = figure(node)
    if value > 1:
        raise document.fault(node, f"must be a number from 0 to 1, not {value:g}.")
    return value


def count(node: Node) -> int:
    """A whole number of at least 1."""
    value = document.integer(node)
    if value < 1:
        raise document.fault(node, "must be at least 1.")
    return value


def strategy(node: Node) -> str | None:
    """A strategy; None, like no value at all, for none of one's own."""
    return document.one_of(STRATEGIES)(node) if document.text(node) else None


class Rules(list[Any]):
    """Rules as they are kept, and in which line of the file each stands."""

    lines: list[int]


def rules(node: Node) -> Rules:
    """Rules of :mod:`routing.rules`, each refused at its own line."""
    nodes = document.items(node)
    if len(nodes) > MOST_RULES:
        raise document.fault(node, f"there may be {MOST_RULES} rules at most, these are {len(nodes)}.")
    usable = Rules()
    problems: list[Problem] = []
    for place, item in enumerate(nodes, 1):
        try:
            rule = _plain(item)
            check_rules([*usable, rule])
            usable.append(rule)
        except Fault as found:
            problems += found.problems
        except ValueError as exc:
            problems.append(Problem(document.line_of(item), _sentence(_PLACE.sub(f"rule {place}", str(exc)))))
    if problems:
        raise Fault(problems)
    usable.lines = [document.line_of(item) for item in nodes]
    return usable


def guard(node: Node) -> dict[str, Any]:
    """One metric that must not get worse, as :class:`routing.experiments.guards.Guard` takes it."""
    values: dict[str, Any] = _GUARD(node)
    try:
        Guard(**values)
    except ValueError as exc:
        raise document.fault(node, _sentence(str(exc))) from None
    return values


_GUARD: Final = mapping_of(
    "guard",
    {
        "metric": Field(document.one_of(metric.value for metric in Metric), required=True),
        "worst_relative": Field(figure),
        "worst_absolute": Field(figure),
        "least_requests": Field(count),
    },
)


def _plain(node: Node) -> Any:
    """What JSON can hold. Raises Fault for anything else, and for a key that stands there twice."""
    if isinstance(node, MappingNode):
        return {key: _plain(value) for key, _, value in document.pairs(node)}
    if isinstance(node, SequenceNode):
        return [_plain(item) for item in document.items(node)]
    try:
        value = SafeConstructor().construct_object(node)  # type: ignore[no-untyped-call]
    except (ValueError, yaml.YAMLError):
        raise document.fault(node, "this cannot be read.") from None
    if value is not None and not isinstance(value, str | int | float):
        raise document.fault(node, "must be text, a number, or true or false; put it in quotes.")
    return value


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


# ------------------------------------------------------------------ strategies


def apply_strategy(writer: Writer, entry: Entry, tenant: Tenant, subject: Project | ApiToken) -> None:
    """Give a project or token the strategy that its entry names; an empty one takes its own away."""
    if "strategy" not in entry.values:
        return
    wanted: str | None = entry.values["strategy"]
    of_subject = {"project" if isinstance(subject, Project) else "token": subject}
    row = StrategyChoice.objects.filter(tenant=tenant, **of_subject).first()
    before = row.strategy if row else None
    if wanted == before:
        return
    if wanted is None and row is not None:
        record(writer.actor, Action.STRATEGY_REMOVED, row, tenant=tenant, changes=changes_between(row, None))
        row.delete()
    elif wanted is not None:
        _choose(row or StrategyChoice(tenant=tenant, **of_subject), wanted, writer.actor)
    writer.differ(entry, tenant, "strategy", shown(before), shown(wanted))


def _choose(row: StrategyChoice, wanted: str, actor: Actor) -> None:
    former = None if row._state.adding else StrategyChoice.objects.get(pk=row.pk)
    row.strategy = wanted
    row.full_clean()
    row.save()
    act = Action.STRATEGY_CHANGED if former else Action.STRATEGY_CREATED
    record(actor, act, row, tenant=row.tenant, changes=changes_between(former, row))


# ------------------------------------------------------------------ what an owner declares


class Published(Owner):
    """What is known of models' quality before anybody has rated them; a tenant's own figures hold for it alone."""

    def apply(self) -> None:
        for entry in self.usable("published_scores"):
            self._apply_score(entry)

    def _apply_score(self, entry: Entry) -> None:
        pattern = entry.values["vendor_model"]
        row = PublishedScore.objects.filter(tenant=self.tenant, vendor_model_pattern=pattern).first()
        values = {"vendor_model_pattern": pattern, **entry.only(("quality", "source"))}
        keys = {"vendor_model_pattern": "vendor_model"}
        self.writer.write(entry, row or PublishedScore(tenant=self.tenant), values, tenant=self.tenant, key_of=keys)


class Routing(Published):
    """One tenant's router and what it tries out. Models must have been applied before."""

    tenant: Tenant

    def apply(self) -> None:
        super().apply()
        if "routing" in self.entry.values:
            self._apply_settings(_flat(self.entry.values["routing"]))
        for entry in self.usable("experiments"):
            self._apply_experiment(entry)

    def _apply_settings(self, entry: Entry) -> None:
        values = {_ATTRIBUTES[key]: value for key, value in entry.values.items()}
        if "judge_model" in values:
            judge: str = values["judge_model"] or ""
            values["judge_model"] = judge
            self._refuse_unknown(entry, "judge.model", [judge] if judge else [])
        self._check_names(entry, values.get("rules"))
        row = RoutingSettings.objects.filter(tenant=self.tenant).first() or RoutingSettings(tenant=self.tenant)
        key_of = {attribute: key for key, attribute in _ATTRIBUTES.items()}
        self.writer.write(entry, row, values, tenant=self.tenant, key_of=key_of)

    def _check_names(self, entry: Entry, given: Rules | None) -> None:
        """A rule that asks a model which is not there is refused; a pattern that means nobody may be for later."""
        if not given:
            return
        known = dict(Model.objects.filter(self.visible).values_list("name", "provider__name"))
        for place, (rule, line) in enumerate(zip(given, given.lines, strict=True), 1):
            if rule["rule"] == llm.NAME and rule["model"] not in known.keys() | self.declared("models"):
                entry.lines[f"rule {place}"] = line
                self.writer.missing(entry, f"rule {place}", rule["model"], "model", known)
            if rule["rule"] == model_names.NAME:
                self._warn_about_patterns(f"line {line}: rule {place}", rule, known)

    def _warn_about_patterns(self, where: str, rule: Mapping[str, Any], known: Mapping[str, str]) -> None:
        for pattern in (*rule.get("allow", ()), *rule.get("deny", ())):
            if not any(matches(pattern, name) or matches(pattern, f"{known[name]}/{name}") for name in known):
                self.writer.warnings.append(f"{where} of {self.tenant.slug}: no model is called '{pattern}'.")

    def _apply_experiment(self, entry: Entry) -> None:
        row = Experiment.objects.filter(tenant=self.tenant, name=entry.values["name"]).first()
        if row is not None and row.status == Experiment.Status.ENDED:
            label = f"{self.tenant.slug}/{row.name}"
            self.writer.warnings.append(f"experiment {label} has ended and is left alone; a new one needs a new name.")
            return
        values: dict[str, Any] = {key: "" if value is None else value for key, value in entry.values.items()}
        if self._refuse_unknown(entry, "arms", values["arms"]) or (
            row is not None and self._differs(entry, row, values)
        ):
            return
        if self.writer.write(entry, row or Experiment(tenant=self.tenant), values, tenant=self.tenant):
            self._warn_about_arms(entry, values["arms"])

    def _warn_about_arms(self, entry: Entry, arms: list[str]) -> None:
        """An arm that the router may not choose never answers."""
        own_last = Model.objects.filter(self.visible, name__in=arms).order_by(F("tenant").asc(nulls_first=True))
        routed = dict(own_last.values_list("name", "routed"))
        for name in (name for name in arms if not routed.get(name, True)):
            label = f"{self.tenant.slug}/{entry.label}"
            self.writer.warnings.append(f"experiment {label}: the model '{name}' is not routed, so it never answers.")

    def _differs(self, entry: Entry, row: Experiment, values: Mapping[str, Any]) -> bool:
        """Whether it is to compare something else than what its evidence so far is about."""
        changed = [key for key in _COMPARED if key in values and values[key] != getattr(row, key)]
        for key in changed:
            self.problem(
                entry, key, "this experiment is running, so what it compares stays; a new one needs a new name."
            )
        return bool(changed)

    def _refuse_unknown(self, entry: Entry, key: str, wanted: list[str]) -> bool:
        """Whether one of these is the name of no model."""
        names = set(Model.objects.filter(self.visible).values_list("name", flat=True))
        unknown = [name for name in wanted if name not in names | self.declared("models")]
        for name in unknown:
            self.writer.missing(entry, key, name, "model", names)
        return bool(unknown)


def _flat(entry: Entry) -> Entry:
    """The same with the keys of its parts as ``part.key``, so that each is told and refused at its own line."""
    flat = Entry(entry.shape, entry.line, lines=dict(entry.lines))
    for key, value in entry.values.items():
        if not isinstance(value, Entry):
            flat.values[key] = value
            continue
        flat.values |= {f"{key}.{name}": given for name, given in value.values.items()}
        flat.lines |= {f"{key}.{name}": line for name, line in value.lines.items()}
    return flat
