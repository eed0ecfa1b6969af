# The two commands are `make up` and `make test`; each sets up all it needs.
VENV := .venv
PYTHON := $(VENV)/bin/python
BOOTSTRAP ?= python3

.PHONY: up down test lint format bench storm requirements clean

up: $(VENV)/.run
	@exec $(PYTHON) manage.py up

down: $(VENV)/.run
	@$(PYTHON) manage.py down

test: $(VENV)/.dev
	$(PYTHON) -m pytest -n auto --dist loadscope

lint: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy
	HTTPS=1 $(PYTHON) -W ignore manage.py check --deploy --fail-level WARNING
	$(PYTHON) -W ignore manage.py makemigrations --check --dry-run

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.dev
	$(PYTHON) -m bench --routed

storm: $(VENV)/.dev
	$(PYTHON) -m bench.storm

# Pins with hashes, without the addresses they came from.
requirements: $(VENV)/.dev
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  pyproject.toml --output-file requirements/run.txt
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra dev --constraint requirements/run.txt pyproject.toml --output-file requirements/dev.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.uv: requirements/uv.txt
	@$(BOOTSTRAP) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set BOOTSTRAP to one.")'
	$(BOOTSTRAP) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	@touch $@

$(VENV)/.run: requirements/run.txt $(VENV)/.uv
	@$(call install,requirements/run.txt)
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@$(call install,requirements/dev.txt)
	@touch $@

# uv is many times faster; where it does not get through (a mirror only pip is configured for), pip does the same.
define install
echo "Installing $(1)"; \
$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --require-hashes --requirement $(1) || \
$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(1)
endef
