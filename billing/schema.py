"""The ledger's functions inside PostgreSQL, as SQL for migrations: what must happen together, in one round trip.

Admission and settlement of a batch each are one transaction. Both touch the rows of budget periods, and always in the
order of their keys, so that processes wait for each other and never for ever.

A change here needs a migration that runs :func:`ledger_functions` again.
"""

_ATTEMPT_COLUMNS = """
  id, request_id, tenant_id, project_id, token_id, end_user, tags, purpose, provider_id, provider_key_id, model_id,
  vendor_model, price_version_id, discount_bp, task_type, complexity, process_id, started_at"""

_ATTEMPT_VALUES = """
  r.id, r.request_id, r.tenant_id, r.project_id, r.token_id, left(r.end_user, 200), r.tags, r.purpose,
  r.provider_id, r.provider_key_id, r.model_id, r.vendor_model, r.price_version_id, r.discount_bp,
  left(r.task_type, 32), left(r.complexity, 16), process, to_timestamp(r.started_at)"""

_ATTEMPT_RECORD = """
  id uuid, request_id uuid, tenant_id uuid, policy_epoch bigint, project_id uuid, token_id uuid, end_user text,
  tags jsonb, purpose text, provider_id uuid, provider_key_id uuid, model_id uuid, vendor_model text,
  price_version_id uuid, discount_bp smallint, task_type text, complexity text, started_at double precision"""

_FRESH = "JOIN tenants_tenant t ON t.id = r.tenant_id AND t.policy_epoch = r.policy_epoch AND t.enabled"

# Money is multiplied, not divided: a numeric product is exact.
_PICO = "0.000000000001"

_PERIOD_RECORD = """
  n int, id uuid, budget_id uuid, tenant_id uuid, subject text, starts_at double precision, ends_at double precision,
  rolling_s int"""

# Attempts of `batch` whose tenant's policy is current are written, each unless a hard budget has no room for it.
# `wanted` are the periods of the budgets that hold for any of them; an attempt names them by their number there.
# Returns a line for each attempt that is not stale:
#   <id> admitted <tokens its answer may have>
#   <id> full <n of the period> <cap> <spent> <held>      there is no room, and there will be none
#   <id> waiting <n> <cap> <spent> <held>                 what is held by others may come back
# and, where a rolling window has no room, a line
#   <id of the period> oldest <end of the first slice of the window that something was used in, seconds since 1970>
_ADMIT = f"""
CREATE OR REPLACE FUNCTION pointsman_admit(process uuid, batch json, wanted json) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
  metrics text[]; caps numeric[]; hard boolean[]; spents numeric[]; holds numeric[]; holds_before numeric[]; ids uuid[];
  a record; i int; n int; base numeric; slim numeric; each numeric; room numeric;
  oldests numeric[]; granted bigint; edge boolean; verdict text; blocked int; usd numeric; tokens bigint;
  admitted uuid[] := '{{}}'; usds numeric[] := '{{}}'; token_counts bigint[] := '{{}}';
BEGIN
  IF json_array_length(wanted) = 0 THEN
    RETURN QUERY WITH written AS (
      INSERT INTO billing_attempt ({_ATTEMPT_COLUMNS})
      SELECT {_ATTEMPT_VALUES} FROM json_to_recordset(batch) AS r({_ATTEMPT_RECORD}) {_FRESH}
      RETURNING id
    ) SELECT id || ' admitted 0' FROM written;
    RETURN;
  END IF;

  INSERT INTO billing_budgetperiod (id, tenant_id, budget_id, subject, starts_at, ends_at, spent, held, alerted)
  SELECT w.id, w.tenant_id, w.budget_id, left(w.subject, 200), to_timestamp(w.starts_at), to_timestamp(w.ends_at),
    0, 0, 0
  FROM json_to_recordset(wanted) AS w({_PERIOD_RECORD}) JOIN billing_budget b ON b.id = w.budget_id
  WHERE NOT EXISTS (SELECT FROM billing_budgetperiod p WHERE p.id = w.id)
  ORDER BY w.id ON CONFLICT DO NOTHING;

  -- A rolling window is several rows, of which the next may not be there yet: its users take turns.
  PERFORM pg_advisory_xact_lock(key) FROM (
    SELECT DISTINCT hashtextextended(w.budget_id || w.subject, 0) AS key
    FROM json_to_recordset(wanted) AS w({_PERIOD_RECORD}) WHERE w.rolling_s IS NOT NULL ORDER BY 1) AS rolling;
  PERFORM p.id FROM billing_budgetperiod p
  WHERE p.id IN (SELECT w.id FROM json_to_recordset(wanted) AS w({_PERIOD_RECORD})) ORDER BY p.id FOR UPDATE;

  SELECT array_agg(w.id ORDER BY w.n), array_agg(b.metric ORDER BY w.n), array_agg(b.cap ORDER BY w.n),
    array_agg(coalesce(b.hard AND b.enabled, false) ORDER BY w.n),
    array_agg(coalesce(p.spent, 0) + coalesce(earlier.used, 0) ORDER BY w.n),
    array_agg(coalesce(p.held, 0) ORDER BY w.n),
    array_agg(CASE WHEN w.rolling_s IS NOT NULL THEN coalesce(extract(epoch FROM earlier.oldest),
      CASE WHEN p.spent + p.held > 0 THEN w.ends_at END) END ORDER BY w.n)
  INTO ids, metrics, caps, hard, spents, holds, oldests
  FROM json_to_recordset(wanted) AS w({_PERIOD_RECORD})
  LEFT JOIN billing_budget b ON b.id = w.budget_id
  LEFT JOIN billing_budgetperiod p ON p.id = w.id
  LEFT JOIN LATERAL (
    SELECT sum(e.spent + e.held) AS used, min(e.ends_at) FILTER (WHERE e.spent + e.held > 0) AS oldest
    FROM billing_budgetperiod e
    WHERE w.rolling_s IS NOT NULL AND e.budget_id = w.budget_id AND e.subject = left(w.subject, 200)
      AND e.ends_at > to_timestamp(w.starts_at - w.rolling_s) AND e.starts_at < to_timestamp(w.starts_at)
  ) AS earlier ON true;
  holds_before := holds;

  FOR a IN
    SELECT r.* FROM json_to_recordset(batch) AS r(
      id uuid, tenant_id uuid, policy_epoch bigint, budgets int[], input_pico numeric, likely_pico numeric,
      output_pico numeric, input_tokens bigint, likely_tokens bigint, output_tokens bigint, choices int, requests int,
      patient boolean) {_FRESH}
  LOOP
    granted := a.output_tokens; edge := false; verdict := NULL; blocked := NULL;
    FOREACH i IN ARRAY a.budgets LOOP
      n := i + 1;
      CONTINUE WHEN NOT hard[n];
      IF metrics[n] = 'usd' THEN
        base := a.input_pico * {_PICO}; slim := a.likely_pico * {_PICO}; each := a.output_pico * {_PICO};
      ELSIF metrics[n] = 'tokens' THEN
        base := a.input_tokens; slim := a.likely_tokens; each := a.choices;
      ELSE
        base := a.requests; slim := a.requests; each := 0;
      END IF;
      room := caps[n] - spents[n] - holds[n];
      CONTINUE WHEN base + each * granted <= room AND room > 0;
      IF slim + each * least(granted, 1) > caps[n] - spents[n] OR caps[n] <= spents[n] THEN
        verdict := 'full'; blocked := n;
      ELSIF (holds[n] > 0 AND a.patient) OR slim + each * least(granted, 1) > room THEN
        verdict := 'waiting'; blocked := coalesce(blocked, n);
      ELSE  -- nobody else has a claim on what is left: this one gets it
        edge := true;
        IF each > 0 THEN
          granted := least(granted, floor((room - slim) / each));
        END IF;
      END IF;
      EXIT WHEN verdict = 'full';
    END LOOP;
    IF verdict IS NOT NULL THEN
      RETURN NEXT concat_ws(' ', a.id, verdict, blocked - 1, trim_scale(caps[blocked]), trim_scale(spents[blocked]),
        trim_scale(holds[blocked]));
      IF oldests[blocked] IS NOT NULL THEN
        RETURN NEXT concat_ws(' ', ids[blocked], 'oldest', trim_scale(oldests[blocked]));
      END IF;
      CONTINUE;
    END IF;
    usd := ((CASE WHEN edge THEN a.likely_pico ELSE a.input_pico END) + granted * a.output_pico) * {_PICO};
    tokens := (CASE WHEN edge THEN a.likely_tokens ELSE a.input_tokens END) + granted * a.choices;
    FOREACH i IN ARRAY a.budgets LOOP
      n := i + 1;
      holds[n] := holds[n] + CASE metrics[n] WHEN 'usd' THEN usd WHEN 'tokens' THEN tokens ELSE a.requests END;
    END LOOP;
    admitted := admitted || a.id; usds := usds || usd; token_counts := token_counts || tokens;
    RETURN NEXT concat_ws(' ', a.id, 'admitted', granted);
  END LOOP;

  UPDATE billing_budgetperiod p SET held = h.now
  FROM unnest(ids, holds, holds_before) AS h(id, now, before) WHERE p.id = h.id AND h.now <> h.before;
  INSERT INTO billing_attempt ({_ATTEMPT_COLUMNS}, held_usd, held_tokens, held_requests, budget_periods)
  SELECT {_ATTEMPT_VALUES}, h.usd, h.tokens, coalesce(r.requests, 0),
    coalesce((SELECT array_agg(ids[b + 1]) FROM unnest(r.budgets) AS b), '{{}}')
  FROM json_to_recordset(batch) AS r({_ATTEMPT_RECORD}, budgets int[], requests smallint)
  JOIN unnest(admitted, usds, token_counts) AS h(id, usd, tokens) ON h.id = r.id;
END $$;
"""

# Gives back what attempts that have just been settled held, and counts what they used, in every period they name.
_RELEASE = """
CREATE OR REPLACE FUNCTION pointsman_release(settled uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE periods uuid[];
BEGIN
  SELECT array_agg(DISTINCT u.period ORDER BY u.period) INTO periods
  FROM billing_attempt a CROSS JOIN unnest(a.budget_periods) AS u(period) WHERE a.id = ANY (settled);
  IF periods IS NULL THEN RETURN; END IF;
  PERFORM p.id FROM billing_budgetperiod p WHERE p.id = ANY (periods) ORDER BY p.id FOR UPDATE;
  UPDATE billing_budgetperiod p SET held = p.held - moved.back, spent = p.spent + moved.used
  FROM (
    SELECT u.period,
      sum(CASE b.metric WHEN 'usd' THEN coalesce(a.held_usd, 0) WHEN 'tokens' THEN coalesce(a.held_tokens, 0)
        ELSE a.held_requests END) AS back,
      sum(CASE b.metric WHEN 'usd' THEN coalesce(s.cost_usd, 0) WHEN 'tokens' THEN s.input_tokens
        + s.cached_input_tokens + s.cache_write_5m_tokens + s.cache_write_1h_tokens + s.output_tokens
        + s.reasoning_tokens + s.audio_input_tokens + s.audio_output_tokens
        ELSE CASE WHEN s.error_code = 'not_sent' THEN 0 ELSE a.held_requests END END) AS used
    FROM billing_attempt a
    JOIN billing_settlement s ON s.attempt_id = a.id
    CROSS JOIN unnest(a.budget_periods) AS u(period)
    JOIN billing_budgetperiod q ON q.id = u.period
    JOIN billing_budget b ON b.id = q.budget_id
    WHERE a.id = ANY (settled) GROUP BY u.period
  ) AS moved WHERE p.id = moved.period;
END $$;
"""

_SETTLEMENT_COLUMNS = """
  attempt_id, tenant_id, outcome, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
  output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, usage_source, cost_usd,
  price_version_id, saved_usd, status_code, error_code, first_token_at, ended_at"""

# Writes settlements; the first one of an attempt counts. Returns how many counted.
_SETTLE = f"""
CREATE OR REPLACE FUNCTION pointsman_settle(batch json) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE settled uuid[];
BEGIN
  WITH written AS (
    INSERT INTO billing_settlement ({_SETTLEMENT_COLUMNS}, service_tier)
    SELECT r.attempt_id, r.tenant_id, r.outcome, u.input, u.cached_input, u.cache_write_5m, u.cache_write_1h, u.output,
      u.reasoning, u.audio_input, u.audio_output, u.source, r.cost_pico * {_PICO}, r.price_version_id,
      r.saved_pico * {_PICO}, r.status_code, left(r.error_code, 64), to_timestamp(r.first_token_at),
      to_timestamp(r.ended_at), coalesce(u.service_tier, '')
    FROM json_to_recordset(batch) AS r(
      attempt_id uuid, tenant_id uuid, outcome text, usage json, cost_pico numeric, price_version_id uuid,
      status_code smallint, error_code text, first_token_at double precision, ended_at double precision,
      saved_pico numeric),
    json_to_record(r.usage) AS u(
      input bigint, cached_input bigint, cache_write_5m bigint, cache_write_1h bigint, output bigint, reasoning bigint,
      audio_input bigint, audio_output bigint, source text, service_tier text)
    ON CONFLICT (attempt_id) DO NOTHING RETURNING attempt_id
  ) SELECT array_agg(attempt_id) INTO settled FROM written;
  IF settled IS NULL THEN RETURN 0; END IF;
  PERFORM pointsman_release(settled);
  RETURN cardinality(settled);
END $$;
"""

# Settles attempts after which nothing was sent, at no cost; not all of these ids need exist.
_WITHDRAW = f"""
CREATE OR REPLACE FUNCTION pointsman_withdraw(ids json) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE settled uuid[];
BEGIN
  WITH written AS (
    INSERT INTO billing_settlement ({_SETTLEMENT_COLUMNS})
    SELECT id, tenant_id, 'cancelled', 0, 0, 0, 0, 0, 0, 0, 0, 'counted', 0, price_version_id, 0, NULL, 'not_sent',
      NULL, now()
    FROM billing_attempt WHERE id IN (SELECT value::uuid FROM json_array_elements_text(ids))
    ON CONFLICT (attempt_id) DO NOTHING RETURNING attempt_id
  ) SELECT array_agg(attempt_id) INTO settled FROM written;
  IF settled IS NULL THEN RETURN 0; END IF;
  PERFORM pointsman_release(settled);
  RETURN cardinality(settled);
END $$;
"""


# A tenant may not change its own limits, and may well replace a token that has some: they go with it. Nothing happens
# unless the one is revoked and both are the same tenant's.
_FOLLOW = "".join(
    f"""
CREATE OR REPLACE FUNCTION pointsman_{table}_follows(before uuid, after uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
  UPDATE billing_{table} SET token_id = after, updated_at = now()
  WHERE token_id = before AND EXISTS (
    SELECT FROM tenants_apitoken old JOIN tenants_apitoken new USING (tenant_id)
    WHERE old.id = before AND new.id = after AND old.revoked_at IS NOT NULL);
$$;
"""
    for table in ("budget", "ratelimit")
)


def ledger_functions() -> str:
    """Create or replace them all."""
    return _ADMIT + _RELEASE + _SETTLE + _WITHDRAW + _FOLLOW
