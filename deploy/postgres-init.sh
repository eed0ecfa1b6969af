#!/bin/bash
# Runs once, when the PostgreSQL container makes its data directory: the database and the two roles that use it.
# The owner of the tables migrates; the gateway's own role can neither change the schema nor read around
# row-level security.
set -euo pipefail
psql --set ON_ERROR_STOP=1 --username postgres \
  --set owner_password="$POSTGRES_OWNER_PASSWORD" --set app_password="$POSTGRES_APP_PASSWORD" <<'SQL'
CREATE ROLE pointsman_owner LOGIN CREATEROLE PASSWORD :'owner_password';
CREATE ROLE pointsman_system LOGIN PASSWORD :'app_password';
CREATE DATABASE pointsman OWNER pointsman_owner;
\connect pointsman
CREATE EXTENSION IF NOT EXISTS vector;
SQL
