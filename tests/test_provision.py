"""The tests' own ground: what they run on is what an installation runs on."""

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from tenants.models import Tenant
from tests import provision
from tests.provision import Database


@pytest.mark.django_db
def test_django_works_as_the_gateways_role_on_a_database_of_this_process() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_database(), rolsuper FROM pg_roles WHERE rolname = current_user")
        user, database, superuser = cursor.fetchone()

    assert (user, superuser) == ("pointsman_system", False)
    assert database.startswith(f"{provision.PREFIX}_")
    assert settings.DATABASE_URL.endswith(f"/{database}") or f"/{database}?" in settings.DATABASE_URL


def test_a_fresh_database_is_migrated_and_empty(fresh_database: Database) -> None:
    with psycopg.connect(fresh_database.url) as session:
        assert session.execute("SELECT count(*) FROM tenants_tenant").fetchone() == (0,)


def test_what_a_test_commits_for_good_is_seen_by_other_connections(real_commits: Database) -> None:
    Tenant.objects.create(slug="acme")

    with psycopg.connect(real_commits.url) as session:
        assert session.execute("SELECT slug FROM tenants_tenant").fetchall() == [("acme",)]


@pytest.mark.django_db
def test_nothing_is_left_of_it_afterwards() -> None:
    assert not Tenant.objects.filter(slug="acme").exists()


def test_a_redis_database_of_ones_own() -> None:
    assert settings.REDIS_URL.rsplit("=")[-1] != "0"
