"""The router that learns: which model answers a request, why, and with what probability it was chosen.

The gateway and ``manage.py routerlab`` run this very class. It holds no lock and reads no clock; one applier calls
``learn`` in the order of the labels, and readers take what ``to_bytes`` gives.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from routing.decision import Decision, Exploration, Label
from routing.features import FeatureSpace, RequestFeatures, Vector
from routing.odds import Caution, least_shares, odds_of
from routing.priors import decades_dearer
from routing.regression import Combined, Posterior, StoredPosterior
from routing.scores import Candidate, Experience, Taste
from routing.slate import Scoring, Slate

STATE_VERSION = 2
UNKNOWN_QUALITY = 0.7
_USUAL_INPUT_TOKENS = 300


class UnreadableState(ValueError):
    """Bytes that are no state of this version."""


class EngineSettings(msgspec.Struct, frozen=True):
    """The constants of the engine; standard deviations are on the 0-1 scale of quality."""

    shared_sd: tuple[float, float, float, float] = (0.3, 0.2, 0.1, 0.3)
    own_sd: tuple[float, float, float] = (0.05, 0.03, 0.05)
    published_sd: float = 0.08
    unpublished_sd: float = 0.2
    priced_sd: float = 0.1
    quality_per_price_decade: float = 0.1
    price_decade_sd: float = 0.1  # of the line above, which the labels of all priced models tell
    prior_scales: tuple[float, ...] = (1.0,)  # several: averaged by how well each foretells
    kept_per_label: float = 0.9995
    thompson_shrink: float = 0.7
    hopeless_margin: float = 0.15
    draws: int = 200
    judge_sd: float = 0.12
    change_threshold: float = 11.0
    change_slack: float = 0.25
    reopened_sd: float = 0.3
    unfamiliar_sd: float = 0.1  # of a model's bias
    unfamiliar_share: float = 0.3  # of the judged requests
    reopened_share: float = 0.3
    labels_when_reopened: int = 10
    caution: float = 1.1  # standard deviations, of a model without a published score, at the first label
    published_caution: float = 0.3
    caution_fades: float = 60.0  # labels
    incumbent_share: float = 0.4  # of the judged requests
    incumbent_known: float = 0.07  # sd of the distance from the incumbent
    labels_of_incumbent: int = 100


@dataclass(frozen=True, slots=True)
class Learned:
    """What one label did."""

    expected: float
    surprise: float
    changed: bool


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What is believed of a model: ``quality`` (0-1) and ``sd`` over requests like those labelled so far.

    ``drop`` is how far labels have stayed under what was expected, as a share (0-1) of what is too much; ``reopened``
    is the number of the pool's labels when the model was last re-opened.
    """

    model: str
    quality: float
    sd: float
    labels: int
    drop: float
    reopened: int | None


@dataclass(slots=True)
class Engine:
    """Beliefs about the models of one pool. ``version`` counts labels; ``usual`` is the mean of their vectors;
    ``labels_since`` counts a model's labels since it was let in or re-opened."""

    space: FeatureSpace
    settings: EngineSettings
    models: list[str]
    posterior: Posterior
    experience: Experience = field(default_factory=Experience)
    version: int = 0
    usual: Vector = field(default_factory=lambda: np.zeros(0))
    labels_of: dict[str, int] = field(default_factory=dict)
    drops: dict[str, float] = field(default_factory=dict)
    reopened: dict[str, int] = field(default_factory=dict)
    labels_since: dict[str, int] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict, repr=False)
    _last_slate: Slate | None = field(default=None, repr=False, compare=False)
    _doubts: "_Doubts | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def begin(
        cls,
        models: Sequence[str],
        *,
        published: Mapping[str, float] | None = None,
        prices: Mapping[str, float] | None = None,
        space: FeatureSpace | None = None,
        settings: EngineSettings | None = None,
    ) -> "Engine":
        """An engine without labels.

        ``published`` are scores (0-1) of the models that have any. Of the others, ``prices`` (in any one unit) tell
        something: dearer models are better as a rule, and labels tell by how much. Without either, all are taken for
        equal.
        """
        space, settings = space or FeatureSpace(), settings or EngineSettings()
        known = {model: quality for model, quality in (published or {}).items() if model in models}
        usual = float(np.mean(list(known.values()))) if known else UNKNOWN_QUALITY
        bias, task, cell, rest = settings.shared_sd
        means, sds = [np.eye(1, space.size)[0] * usual], [space.by_block(bias=bias, task=task, cell=cell, rest=rest)]
        decades = decades_dearer(models, known, prices or {})
        hints = {model: decade for model, decade in decades.items() if model not in known}
        for model in models:
            hinted = settings.priced_sd if model in hints else None
            expected = usual + settings.quality_per_price_decade * hints[model] if model in hints else known.get(model)
            mean, sd = _block(space, settings, usual, expected, hinted)
            means.append(mean)
            sds.append(sd)
        posterior = Posterior.begin(np.concatenate(means), np.concatenate(sds), space.size, settings.prior_scales)
        posterior.tie_biases(settings.price_decade_sd * np.array([hints.get(model, 0.0) for model in models]))
        return cls(space, settings, list(models), posterior)

    def __post_init__(self) -> None:
        self._places = {model: place for place, model in enumerate(self.models)}
        if not len(self.usual):
            self.usual = np.eye(1, self.space.size)[0]

    def decide(
        self,
        features: RequestFeatures,
        candidates: Sequence[Candidate] | Slate,
        *,
        taste: Taste,
        explore: Exploration = Exploration.NONE,
        rng: np.random.Generator | None = None,
        points: Sequence[float] | None = None,
    ) -> Decision:
        """Rank the candidates for a request; ``features`` are of this engine's space.

        ``points`` (of quality, by candidate) are added to the scores. Without exploration there is no randomness.
        Raises ValueError without candidates or, when exploring, without ``rng``; KeyError for a candidate that is not
        in the pool.
        """
        slate = candidates if isinstance(candidates, Slate) else self.slate(candidates)
        scoring = slate.scoring(features, taste, self.posterior.combined(), self.experience)
        decision = Decision(scoring, features, points)
        if explore is Exploration.NONE or len(slate.models) == 1:
            return decision
        if rng is None:
            raise ValueError("exploring needs a random generator")
        drawn, least = self._drawn(scoring, features, decision, rng), self._least_shares(slate.models)
        caution = scoring.caution
        if caution.incumbent is not None and self._unsettled(caution, decision.scores, slate.models[caution.incumbent]):
            least[caution.incumbent] = max(least[caution.incumbent], self.settings.incumbent_share)
        if explore is Exploration.SHADOW:
            drawn[:, decision.chosen] = -np.inf
            if not np.isfinite(drawn[0]).any():
                return decision
        odds = odds_of(drawn, least)
        picked = int(rng.choice(len(odds), p=odds))
        if explore is Exploration.SHADOW:
            decision.challenge(picked, float(odds[picked]))
        else:
            decision.draw(picked, odds.tolist())
        return decision

    def slate(self, candidates: Sequence[Candidate]) -> Slate:
        """Candidates ready for ``decide``: who keeps a slate for the same candidates saves the work of making it.

        Raises ValueError without candidates; KeyError for a candidate that is not in the pool.
        """
        last = self._last_slate
        if last is not None and (last.candidates is candidates or last.candidates == tuple(candidates)):
            return last
        places = [self._places[one.model] for one in candidates]
        self._last_slate = Slate(candidates, places, self.space, self._caution)
        return self._last_slate

    def forecast(self, requests: Sequence[RequestFeatures], candidates: Sequence[Candidate]) -> tuple[Vector, Vector]:
        """Expected quality and cost (USD per 1,000 requests) of many requests (rows) by candidate (columns)."""
        places = [self._places[one.model] for one in candidates]
        vectors = np.stack([features.vector for features in requests])
        means: Vector = vectors @ self.posterior.combined().mean[places].T
        return means, np.stack([self.experience.costs(features, candidates) for features in requests])

    def leads(self, requests: Sequence[RequestFeatures], candidates: Sequence[Candidate], taste: Taste) -> Vector:
        """How far (points of quality) a candidate (column) must be ahead of the cheapest to answer a request (row)."""
        slate, believed, found = self.slate(candidates), self.posterior.combined(), dict[tuple[str, str], list[float]]()
        for one in requests:
            cell = (one.task, one.complexity)
            if cell not in found:
                found[cell] = list(slate.scoring(one, taste, believed, self.experience).caution.leads)
        return np.array([found[one.task, one.complexity] for one in requests])

    def pool_summary(self) -> list[ModelSummary]:
        """One row per model, in the order of the pool."""
        mean, sd = self.posterior.combined().expected(self.usual)
        rows = zip(self.models, mean.tolist(), sd.tolist(), strict=True)
        return [
            ModelSummary(
                model,
                mean,
                sd,
                self.labels_of.get(model, 0),
                self.drops.get(model, 0.0) / self.settings.change_threshold,
                self.reopened.get(model),
            )
            for model, mean, sd in rows
        ]

    def learn(self, label: Label) -> Learned:
        """Apply one label. Raises KeyError for a model that is not in the pool."""
        place = self._places[label.model]
        extra = self.settings.judge_sd**2 if label.rater_variance is None else label.rater_variance
        foretold = self.posterior.update(
            place, label.vector, label.value, extra_variance=extra, kept=self.settings.kept_per_label
        )
        self.version += 1
        self.usual = self.usual + (label.vector - self.usual) / self.version
        self.labels_of[label.model] = self.labels_of.get(label.model, 0) + 1
        self.labels_since[label.model] = self.labels_since.get(label.model, 0) + 1
        surprise = foretold.surprise(label.value)
        return Learned(foretold.mean, surprise, self._watch(label.model, surprise))

    def observe(self, model: str, task: str, output_tokens: int, latency_s: float | None = None) -> None:
        """Take any answer, judged or not, into the averages of output length and latency."""
        self.experience.observe(model, task, output_tokens, latency_s)

    def add_model(self, model: str, *, published: float | None = None, sd: float | None = None) -> None:
        """Let a new model in: it starts from what is known of all. Raises ValueError when it is in already."""
        if model in self._places:
            raise ValueError(f"{model} is in the pool already")
        usual = float(self.posterior.combined().mean[:, 0].mean())
        self.posterior = self.posterior.with_model(*_block(self.space, self.settings, usual, published, sd))
        self._places[model] = len(self.models)
        self.models.append(model)

    def reopen(self, model: str, *, bias_sd: float = 0.0) -> None:
        """The model may have changed: keep the mean, be unsure again, of its bias by at least ``bias_sd``. It is tried
        out before others until it has some labels again."""
        self.posterior.reopen(self._places[model], bias_sd)
        self.drops[model] = 0.0
        self.reopened[model] = self.version
        self.labels_since[model] = 0

    def to_bytes(self) -> bytes:
        """The whole state; equal states give equal bytes."""
        stored = _Stored(
            version=STATE_VERSION,
            tasks=self.space.tasks,
            complexities=self.space.complexities,
            settings=self.settings,
            models=self.models,
            labels_applied=self.version,
            posterior=self.posterior.stored(),
            output_tokens=[(model, task, *known) for (model, task), known in self.experience.output_tokens.items()],
            log_latency=self.experience.log_latency,
            usual=self.usual.tobytes(),
            labels_of=self.labels_of,
            drops=self.drops,
            reopened=self.reopened,
            labels_since=self.labels_since,
        )
        return zlib.compress(msgspec.msgpack.encode(stored), 1)

    @classmethod
    def from_bytes(cls, state: bytes) -> "Engine":
        """The engine that ``to_bytes`` wrote. Raises UnreadableState for anything else or for another version."""
        try:
            stored = msgspec.msgpack.decode(zlib.decompress(state), type=_Stored)
        except (zlib.error, msgspec.DecodeError) as exc:
            raise UnreadableState(f"this is no state of a router: {exc}") from None
        if stored.version != STATE_VERSION:
            raise UnreadableState(f"the state has version {stored.version}; this code reads {STATE_VERSION}")
        space = FeatureSpace(stored.tasks, stored.complexities)
        try:
            posterior = Posterior.restored(stored.posterior, space.size, stored.settings.prior_scales)
        except ValueError as exc:
            raise UnreadableState(f"this is no state of a router: {exc}") from None
        experience = Experience(
            {(model, task): (a, n) for model, task, a, n in stored.output_tokens}, stored.log_latency
        )
        return cls(
            space,
            stored.settings,
            stored.models,
            posterior,
            experience,
            version=stored.labels_applied,
            usual=np.frombuffer(stored.usual).copy(),
            labels_of=stored.labels_of,
            drops=stored.drops,
            reopened=stored.reopened,
            labels_since=dict(stored.labels_of) if stored.labels_since is None else stored.labels_since,
        )

    def _watch(self, model: str, surprise: float) -> bool:
        """Sum up how far a model stays under what is expected of it; re-open it when that is too much for chance."""
        drop = max(0.0, self.drops.get(model, 0.0) - surprise - self.settings.change_slack)
        self.drops[model] = drop
        if drop <= self.settings.change_threshold:
            return False
        self.reopen(model, bias_sd=self.settings.reopened_sd)
        return True

    def _unsettled(self, caution: Caution, cautious: Sequence[float], incumbent: str) -> bool:
        settings = self.settings
        few = self.labels_since.get(incumbent, 0) < settings.labels_of_incumbent
        return few and caution.unsettled(cautious, settings.incumbent_known)

    def _caution(self, scoring: Scoring) -> Caution:
        models = scoring.slate.models
        costs = scoring.costs(_USUAL_INPUT_TOKENS)
        incumbent = costs.index(min(costs))
        if max(costs) <= costs[incumbent] or self._anew(models)[incumbent]:
            return Caution.none(len(models))  # nobody is the cheapest, or it may have broken
        doubts, places = self._doubts_now(), [self._places[model] for model in models]
        apart = doubts.apart[places[incumbent]]
        # Who asks for quality alone, whatever it costs, is not given the cheapest for want of evidence.
        sure = [doubts.published[place] or scoring.taste.cost_weight == 0 for place in places]
        bounds = [self.settings.published_caution if one else self.settings.caution for one in sure]
        return Caution(
            incumbent,
            [round(doubts.weight * bound * apart[place], 6) for bound, place in zip(bounds, places, strict=True)],
            [0.0 if one else apart[place] for one, place in zip(sure, places, strict=True)],
        )

    def _doubts_now(self) -> "_Doubts":
        believed = self.posterior.combined()
        if self._doubts is None or self._doubts.believed is not believed:
            settings = self.settings
            published = (self.posterior.prior_bias_sds() <= settings.published_sd * (1.0 + 1e-9)).tolist()
            # The more labels, the sooner a mistake is found out; without any, prices and published scores are all
            # there is to go by.
            weight = 1.0 / math.sqrt(1.0 + self.version / settings.caution_fades) if self.version else 0.0
            self._doubts = _Doubts(believed, self.posterior.biases_apart().tolist(), published, weight)
        return self._doubts

    def _drawn(
        self, scoring: Scoring, features: RequestFeatures, decision: Decision, rng: np.random.Generator
    ) -> Vector:
        """Draws (draws, candidates) of the scores, without caution; minus infinity for what is hopeless."""
        settings, expected = self.settings, scoring.of_text(features)
        scores = decision.scores_without_caution()
        text = scoring.text_part(features)
        drawn: Vector = scoring.beliefs.draws(text, settings.draws, settings.thompson_shrink, rng)
        drawn += scores - np.array(expected.means)
        hopeless = scores + 1.96 * np.array(expected.sds) < scores.max() - settings.hopeless_margin
        drawn[:, hopeless & ~np.array(self._anew(scoring.slate.models))] = -np.inf
        return drawn

    def _anew(self, models: Sequence[str]) -> list[bool]:
        """Who has been re-opened and has hardly been rated since."""
        enough, since = self.settings.labels_when_reopened, self.labels_since
        return [model in self.reopened and since.get(model, 0) < enough for model in models]

    def _least_shares(self, models: Sequence[str]) -> Vector:
        settings = self.settings
        sds = self.posterior.bias_sds()
        return least_shares(
            [sds[self._places[model]] > settings.unfamiliar_sd for model in models],
            self._anew(models),
            unfamiliar_share=settings.unfamiliar_share,
            reopened_share=settings.reopened_share,
        )


def _block(
    space: FeatureSpace, settings: EngineSettings, usual: float, published: float | None, sd: float | None
) -> tuple[Vector, Vector]:
    """Prior mean and standard deviations of what is one model's own."""
    task, cell, rest = settings.own_sd
    bias = sd or (settings.unpublished_sd if published is None else settings.published_sd)
    mean = np.zeros(space.size)
    mean[0] = 0.0 if published is None else published - usual
    return mean, space.by_block(bias=bias, task=task, cell=cell, rest=rest)


@dataclass(frozen=True, slots=True)
class _Doubts:
    """What caution takes from one state of the beliefs: by model the standard deviation of the difference between its
    bias and each other's, and whether its score is published; and how much is left of caution (0-1)."""

    believed: Combined
    apart: list[list[float]]
    published: list[bool]
    weight: float


class _Stored(msgspec.Struct, array_like=True):
    version: int
    tasks: tuple[str, ...]
    complexities: tuple[str, ...]
    settings: EngineSettings
    models: list[str]
    labels_applied: int
    posterior: StoredPosterior
    output_tokens: list[tuple[str, str, float, int]]
    log_latency: dict[str, float]
    usual: bytes
    labels_of: dict[str, int]
    drops: dict[str, float]
    reopened: dict[str, int]
    labels_since: dict[str, int] | None = None  # states from before it was counted have none
