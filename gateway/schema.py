"""What the database itself guarantees, as SQL for migrations: Django's models cannot express these.

Tables whose rows never end are partitioned by month on their UUIDv7 key; references between rows of one
tenant are composite; row-level security shows a tenant's role only that tenant's rows; a change of anything
the hot path remembers raises the tenant's policy epoch in the same transaction.

Three roles: the owner of the tables (migrations only), ``pointsman_system`` (the gateway, jobs, operators)
and ``pointsman_tenant`` (pages and API of one tenant, entered by ``SET ROLE``). See docs/adr/0002.
"""

from collections.abc import Iterable

SYSTEM_ROLE = "pointsman_system"
TENANT_ROLE = "pointsman_tenant"
TENANT_SETTING = "app.tenant_id"

_CURRENT_TENANT = f"nullif(current_setting('{TENANT_SETTING}', true), '')::uuid"

# Partition bounds are UUIDv7s made of a month's first millisecond and zeros: keys sort by time, so a key range
# is a time range, the key alone stays unique over all partitions, and a settlement can share its attempt's key.
PARTITIONING_SQL = """
CREATE FUNCTION pointsman_first_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;

CREATE FUNCTION pointsman_make_partitions(through date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE parent regclass; month timestamptz; name text; made integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('pointsman_make_partitions'));
  FOR parent IN SELECT partrelid::regclass FROM pg_partitioned_table LOOP
    month := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    WHILE month <= through LOOP
      name := parent::text || to_char(month AT TIME ZONE 'UTC', '_"y"YYYY"m"MM');
      IF to_regclass(name) IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', name, parent,
          pointsman_first_id(month),
          pointsman_first_id((month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'));
        made := made + 1;
      END IF;
      month := (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    END LOOP;
  END LOOP;
  RETURN made;
END $$;
"""

EPOCH_SQL = """
CREATE FUNCTION pointsman_raise_policy_epoch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE tenants_tenant SET policy_epoch = policy_epoch + 1
  WHERE id IN (SELECT tenant_id FROM changed) OR EXISTS (SELECT FROM changed WHERE tenant_id IS NULL);
  RETURN NULL;
END $$;

CREATE FUNCTION pointsman_raise_own_policy_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.policy_epoch := OLD.policy_epoch + 1;
  RETURN NEW;
END $$;
"""

APPEND_ONLY_SQL = """
CREATE FUNCTION pointsman_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
"""

SAME_TENANT_SQL = """
CREATE FUNCTION pointsman_refuse_foreign_reference() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE owner uuid; target text := to_jsonb(NEW) ->> TG_ARGV[0];
BEGIN
  IF target IS NULL THEN RETURN NEW; END IF;
  EXECUTE format('SELECT tenant_id FROM %I WHERE id = $1', TG_ARGV[1]) INTO owner USING target::uuid;
  IF owner IS NOT NULL AND owner IS DISTINCT FROM NEW.tenant_id THEN
    RAISE EXCEPTION '%.% points at a row of another tenant', TG_TABLE_NAME, TG_ARGV[0]
      USING ERRCODE = 'foreign_key_violation';
  END IF;
  RETURN NEW;
END $$;
"""


def create_roles() -> str:
    """The two roles the application works as. Where the migrating role may not create roles, an operator makes
    them beforehand (docs/configuration.md); that they exist is then enough."""
    statements = [
        f"""
        DO $$ BEGIN
          IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF;
        END $$;"""
        for role in (SYSTEM_ROLE, TENANT_ROLE)
    ]
    return "\n".join(statements)


def partition_by_key(table: str, key: str = "id") -> str:
    """Turn the still empty ``table`` into one partitioned by range of its UUIDv7 ``key``.

    Copies columns, defaults and checks, then primary key and secondary indexes; foreign keys are added
    afterwards by the caller of this builder. A default partition takes what no month holds, so that an
    insert never fails for want of a partition (``doctor`` warns when it is not empty).
    """
    return f"""
    ALTER TABLE {table} RENAME TO {table}_template;
    CREATE TABLE {table} (LIKE {table}_template INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE ({key});
    ALTER TABLE {table} ADD PRIMARY KEY ({key});
    CREATE TABLE {table}_default PARTITION OF {table} DEFAULT;
    DROP TABLE {table}_template CASCADE;
    """


def foreign_key(table: str, column: str, target: str, target_column: str = "id") -> str:
    return (
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_fk "
        f"FOREIGN KEY ({column}) REFERENCES {target} ({target_column});"
    )


def tenant_foreign_key(table: str, column: str, target: str, on_delete: str = "NO ACTION") -> str:
    """The composite reference behind a ``TenantForeignKey``."""
    return (
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_tenant_fk FOREIGN KEY (tenant_id, {column}) "
        f"REFERENCES {target} (tenant_id, id) ON DELETE {on_delete} DEFERRABLE INITIALLY IMMEDIATE;"
    )


def same_tenant_or_installation(table: str, column: str, target: str) -> str:
    """A reference to a row that the same tenant or the installation (no tenant) owns."""
    return (
        f"CREATE TRIGGER {table}_{column}_same_tenant BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW "
        f"EXECUTE FUNCTION pointsman_refuse_foreign_reference('{column}', '{target}');"
    )


def raise_policy_epoch_on_change(tables: Iterable[str]) -> str:
    """Once per statement, for every tenant it touches; an installation-wide row touches all of them."""
    return "\n".join(
        f"CREATE TRIGGER {table}_policy_epoch_{event.lower()} AFTER {event} ON {table} "
        f"REFERENCING {rows} TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION pointsman_raise_policy_epoch();"
        for table in tables
        for event, rows in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    )


def append_only(tables: Iterable[str]) -> str:
    return "\n".join(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION pointsman_refuse_change();"
        for table in tables
    )


def row_level_security(tables: Iterable[str], tenant_column: str = "tenant_id", shared_rows: bool = False) -> str:
    """Policies by which the tenant role sees its own rows only; with ``shared_rows`` it may also read (never
    write) what the installation offers to all."""
    own = f"{tenant_column} = {_CURRENT_TENANT}"
    statements: list[str] = []
    for table in tables:
        statements += [
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;",
            f"CREATE POLICY system_all ON {table} TO {SYSTEM_ROLE} USING (true) WITH CHECK (true);",
            f"CREATE POLICY own_rows ON {table} TO {TENANT_ROLE} USING ({own}) WITH CHECK ({own});",
        ]
        if shared_rows:
            statements.append(
                f"CREATE POLICY shared_rows ON {table} FOR SELECT TO {TENANT_ROLE} USING ({tenant_column} IS NULL);"
            )
    return "\n".join(statements)


def drop_log_partitions(tables: Iterable[str]) -> str:
    """The function that removes whole months of logs. Only of ``tables``: whoever has got hold of the gateway's role
    cannot drop a month of the ledger with it. One that somebody is reading is left for the next time rather than
    holding up whoever writes to it."""
    parents = ", ".join(f"'{table}'::regclass" for table in tables)
    return f"""
    CREATE OR REPLACE FUNCTION pointsman_drop_log_partitions(before timestamptz) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '2s' AS $$
    DECLARE part record; dropped text[] := '{{}}';
    BEGIN
      FOR part IN
        SELECT c.oid::regclass::text AS name
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ({parents}) AND c.relname ~ '_y[0-9]{{4}}m[0-9]{{2}}$'
          AND (to_date(right(c.relname, 8), '"y"YYYY"m"MM') + interval '1 month') AT TIME ZONE 'UTC' <= before
        ORDER BY 1
      LOOP
        BEGIN
          EXECUTE format('DROP TABLE %s', part.name);
          dropped := dropped || part.name;
        EXCEPTION WHEN lock_not_available THEN
          RAISE NOTICE '% is in use', part.name;
        END;
      END LOOP;
      RETURN dropped;
    END $$;
    """  # noqa: S608 - our own tables' names


def grant_access() -> str:
    """Both roles may use every table; what a tenant sees of it is row-level security's business, and tables
    without a policy for tenants are withheld from them."""
    return f"""
    GRANT USAGE ON SCHEMA public TO {SYSTEM_ROLE}, {TENANT_ROLE};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {SYSTEM_ROLE};
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {SYSTEM_ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {SYSTEM_ROLE};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {SYSTEM_ROLE};
    GRANT {TENANT_ROLE} TO {SYSTEM_ROLE};
    """


def grant_to_tenants(tables: Iterable[str], privileges: str = "SELECT, INSERT, UPDATE, DELETE") -> str:
    return f"GRANT {privileges} ON {', '.join(tables)} TO {TENANT_ROLE};"
