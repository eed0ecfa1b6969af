"""Decisions as the request log writes them down: what the router weighed and chose, beside the row of the request."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from routing.features import Vector

# The part for decisions of the statement that writes ``given``, a batch of the request log, of which a decision repeats
# what estimates and pages need; ``$2`` are the rows of those that were routed.
INSERT_DECISIONS = """
INSERT INTO routing_decision (
  request_id, tenant_id, project_id, token_id, end_user, strategy, engine, state_version, task, complexity, confidence,
  vector, input_tokens, chosen, propensity, explored, qualified, weighed, removed, reason, experiment_id, arm, unit,
  judged, judge_probability, challenger, challenger_propensity, model_name, status, finish_reason, output_tokens,
  cost_usd, latency_ms, first_token_ms)
SELECT given.id, given.tenant_id, given.project_id, given.token_id, left(given.end_user, 200), r.strategy, r.engine,
  r.state_version, r.task, r.complexity, r.confidence, decode(r.vector, 'base64'), r.input_tokens, r.chosen,
  r.propensity, r.explored, r.qualified, decode(r.weighed, 'base64'), r.removed, left(r.reason, 500), r.experiment_id,
  coalesce(r.arm, ''), coalesce(r.unit, ''), r.judged, r.judge_probability, coalesce(r.challenger, ''),
  r.challenger_propensity, given.model_name, given.status, left(given.finish_reason, 24), given.output_tokens,
  given.cost_pico * 0.000000000001, given.latency_ms, given.first_token_ms
FROM json_to_recordset($2::json) AS r(
  request_id uuid, strategy text, engine text, state_version integer, task text, complexity text,
  confidence double precision, vector text, input_tokens integer, chosen text, propensity double precision,
  explored boolean, qualified text[], weighed text, removed jsonb, reason text, experiment_id uuid, arm text, unit text,
  judged boolean, judge_probability double precision, challenger text, challenger_propensity double precision)
JOIN given ON given.id = r.request_id
ON CONFLICT (request_id) DO NOTHING
"""


_STORED = np.dtype("<f8")


def stored_vector(vector: Vector) -> bytes:
    """Features as they are kept: 64-bit floats, little-endian."""
    return np.asarray(vector, _STORED).tobytes()


def read_vector(stored: bytes) -> Vector:
    """What :func:`stored_vector` wrote."""
    return np.frombuffer(stored, _STORED).astype(np.float64)


class DecisionRow(Struct, frozen=True):
    """What one row of :class:`routing.models.Decision` says beside the request log's."""

    request_id: str
    strategy: str
    engine: str
    state_version: int
    task: str
    complexity: str
    confidence: float
    vector: bytes
    input_tokens: int
    chosen: str
    propensity: float
    explored: bool
    qualified: Sequence[str]
    weighed: bytes
    removed: dict[str, list[str]]
    reason: str
    experiment_id: str | None
    arm: str | None
    unit: str | None
    judged: bool
    judge_probability: float
    challenger: str | None
    challenger_propensity: float | None
